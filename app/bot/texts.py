"""The bot's texts in German; the English ones stand where they are used.

As with gettext, the English text is the key: a text that is not in the table is shown in English. ``test_texts`` finds
every text that is missing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import discord
from discord import app_commands

_MARKUP: Final = re.compile(r"([!-/:-@\[-`{-~])")


def say(locale: discord.Locale, text: str, /, **values: object) -> str:
    """The text in the reader's language, with its values filled in.

    ``text`` is a constant of the program; text that people typed is passed as a value and through `inert`.
    """
    return translated(locale, text).format(**values)


def translated(locale: discord.Locale, text: str) -> str:
    """The text in the reader's language if it is translated, unchanged otherwise."""
    return _GERMAN.get(text, text) if locale is discord.Locale.german else text


def inert(text: str) -> str:
    """Somebody's text as plain characters: no markdown, mention, link, timestamp or emoji takes effect."""
    return _MARKUP.sub(r"\\\1", text)


class CommandTexts(app_commands.Translator):
    """Descriptions of commands and options in German; names stay as they are documented."""

    async def translate(
        self,
        string: app_commands.locale_str,
        locale: discord.Locale,
        context: app_commands.TranslationContextTypes,  # noqa: ARG002 - the library's signature
    ) -> str | None:
        """The German text, or None without one."""
        return _GERMAN.get(string.message) if locale is discord.Locale.german else None


_GERMAN: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Commands and options
        "Keep API keys where nobody reads them": "API-Schlüssel aufbewahren, wo sie niemand liest",
        "Store an API key; you type it into a private form": "Einen API-Schlüssel in einem privaten Formular ablegen",
        "Show your stored keys": "Deine abgelegten Schlüssel zeigen",
        "Replace the secret of a stored key": "Einen abgelegten Schlüssel durch einen neuen ersetzen",
        "Remove a key; it can be restored for 7 days": "Einen Schlüssel entfernen; 7 Tage lang wiederherstellbar",
        "The service that the key is for, such as openai": "Für welchen Dienst, zum Beispiel openai",
        "A name for the key, shown openly": "Ein Name für den Schlüssel, offen sichtbar",
        "Which key": "Welcher Schlüssel",
        "For this server instead of for you (server managers)": "Für diesen Server statt für dich (Serververwaltung)",
        "Encrypt a text so that only you or this server can open it": (
            "Einen Text verschlüsseln, den nur du oder dieser Server öffnen kann"
        ),
        "Open a token that /encrypt made": "Ein Token von /encrypt öffnen",
        "Members of this server can open it, instead of only you": (
            "Mitglieder dieses Servers können es öffnen, nicht nur du"
        ),
        # Forms
        "Store a key": "Schlüssel ablegen",
        "Replace a key": "Schlüssel ersetzen",
        "Encrypt a text": "Text verschlüsseln",
        "Open a token": "Token öffnen",
        "Secret": "Geheimnis",
        "The key itself; it is never shown again": "Der Schlüssel selbst; er wird nie wieder angezeigt",
        "The new key; the old one stays in the history": "Der neue Schlüssel; der alte bleibt im Verlauf",
        "Provider": "Anbieter",
        "Label": "Name",
        "Expires in days": "Läuft ab in Tagen",
        "Empty: never": "Leer: nie",
        "Empty: as before": "Leer: wie bisher",
        "Text": "Text",
        "Token": "Token",
        "**Who could read this key?** Everything that you type here passes through Discord. Keyhall keeps it "
        "encrypted; the person who runs this Keyhall could technically read it. Nobody else can, and it is never shown "
        "again.\n"
        "**Safer:** make a key only for this at your provider, with a spending limit and no more rights than needed.": (
            "**Wer könnte diesen Schlüssel lesen?** Alles, was du hier eingibst, geht durch Discord. Keyhall bewahrt "
            "es verschlüsselt auf; wer dieses Keyhall betreibt, könnte es technisch lesen. Sonst niemand, und es wird "
            "nie wieder angezeigt.\n"
            "**Sicherer:** Lege bei deinem Anbieter einen eigenen Schlüssel dafür an, mit Ausgabengrenze und nicht "
            "mehr Rechten als nötig."
        ),
        "Or keep it away from Discord: add it on the web at {address}": (
            "Oder an Discord vorbei: trage ihn im Web ein unter {address}"
        ),
        # Answers
        "Stored.": "Abgelegt.",
        "Replaced; the old secret is in the history.": "Ersetzt; das alte Geheimnis steht im Verlauf.",
        "That secret is in force already; its expiry is changed.": (
            "Dieses Geheimnis gilt bereits; sein Ablauf ist geändert."
        ),
        "Nothing changed: that secret is in force already.": "Nichts geändert: Dieses Geheimnis gilt bereits.",
        "Restored.": "Wiederhergestellt.",
        "Remove this key? Everything that uses it stops working. It can be restored for 7 days.": (
            "Diesen Schlüssel entfernen? Alles, was ihn benutzt, funktioniert dann nicht mehr. Er ist 7 Tage lang "
            "wiederherstellbar."
        ),
        "Removed. It can be restored for 7 days.": "Entfernt. Er ist 7 Tage lang wiederherstellbar.",
        "Kept.": "Behalten.",
        "Keep": "Behalten",
        "Remove": "Entfernen",
        "Restore": "Wiederherstellen",
        "Next page": "Nächste Seite",
        "First page": "Erste Seite",
        "Add on the web": "Im Web eintragen",
        "You have no stored keys. `/key add` stores one.": (
            "Du hast keine abgelegten Schlüssel. `/key add` legt einen ab."
        ),
        "This server has no stored keys that you may see.": (
            "Dieser Server hat keine abgelegten Schlüssel, die du sehen darfst."
        ),
        "No further keys.": "Keine weiteren Schlüssel.",
        "Your keys": "Deine Schlüssel",
        "This server's keys": "Schlüssel dieses Servers",
        "You pay for its use.": "Für die Nutzung zahlst du.",
        "This server's key: its sharer pays for its use.": (
            "Schlüssel dieses Servers: Für die Nutzung zahlt, wer ihn geteilt hat."
        ),
        "Not checked with the provider yet.": "Noch nicht beim Anbieter geprüft.",
        "The provider accepts it.": "Der Anbieter nimmt ihn an.",
        "The provider refuses it: replace it.": "Der Anbieter lehnt ihn ab: ersetze ihn.",
        "The provider could not be asked.": "Der Anbieter war nicht zu erreichen.",
        "Expired: replace it.": "Abgelaufen: ersetze ihn.",
        "Unreadable: enter it again with `/key replace`.": "Nicht lesbar: gib ihn mit `/key replace` neu ein.",
        "changed {when}": "geändert {when}",
        "expires {when}": "läuft ab {when}",
        "Encrypted. Only you can open it, with `/decrypt`.": "Verschlüsselt. Nur du kannst es öffnen, mit `/decrypt`.",
        "Encrypted. Members of this server can open it here, with `/decrypt`.": (
            "Verschlüsselt. Mitglieder dieses Servers können es hier öffnen, mit `/decrypt`."
        ),
        "Opened. Only you see this.": "Geöffnet. Nur du siehst das.",
        # Refusals
        "This form or button is no longer in use: run the command again.": (
            "Dieses Formular oder dieser Knopf gilt nicht mehr: rufe den Befehl noch einmal auf."
        ),
        "This command has changed: try it again in a minute.": (
            "Dieser Befehl hat sich geändert: versuche es in einer Minute noch einmal."
        ),
        "Something went wrong. If it happens again, give the person who runs this Keyhall the reference {reference}.": (
            "Etwas ist schiefgegangen. Wenn es wieder passiert, nenne dem Betreiber dieses Keyhall die Nummer "
            "{reference}."
        ),
        "Discord did not answer. Try again in a moment.": (
            "Discord hat nicht geantwortet. Versuche es gleich noch einmal."
        ),
        "Keyhall is not ready: try again in a few seconds.": (
            "Keyhall ist gerade nicht bereit: versuche es in ein paar Sekunden noch einmal."
        ),
        "The database does not answer. Try again in a moment.": (
            "Die Datenbank antwortet nicht. Versuche es gleich noch einmal."
        ),
        "The database was lost, so this may have taken effect or not. Look with `/key list` before you do it again.": (
            "Die Verbindung zur Datenbank ging verloren, es ist also ungewiss, ob das wirksam wurde. Sieh mit "
            "`/key list` nach, bevor du es wiederholst."
        ),
        "The database takes no changes right now. Notify the person who runs this Keyhall.": (
            "Die Datenbank nimmt gerade keine Änderungen an. Sage dem Betreiber dieses Keyhall Bescheid."
        ),
        "Keyhall is too busy right now. Try again in a moment.": (
            "Keyhall ist gerade überlastet. Versuche es gleich noch einmal."
        ),
        "Too many attempts. Try again in {seconds} seconds.": (
            "Zu viele Versuche. Versuche es in {seconds} Sekunden noch einmal."
        ),
        "You may not do this": "Das darfst du nicht",
        "This account is disabled": "Dieses Konto ist gesperrt",
        "Ask the owner for an account first": "Bitte zuerst den Eigentümer um ein Konto",
        "Only members of this bot's servers can use it": "Nur Mitglieder der Server dieses Bots können ihn benutzen",
        "There is no such key, or it is not yours. `/key list` shows what there is.": (
            "Diesen Schlüssel gibt es nicht, oder er gehört dir nicht. `/key list` zeigt, was da ist."
        ),
        "There is a key of this provider with this label already. Choose another label, or use `/key replace`.": (
            "Es gibt schon einen Schlüssel dieses Anbieters mit diesem Namen. Wähle einen anderen Namen oder nimm "
            "`/key replace`."
        ),
        "This key was changed in the meantime. Look again with `/key list`.": (
            "Dieser Schlüssel wurde inzwischen geändert. Sieh mit `/key list` noch einmal nach."
        ),
        "The quota is used up: remove a key first. Removed keys count for 7 days.": (
            "Das Kontingent ist ausgeschöpft: entferne erst einen Schlüssel. Entfernte zählen noch 7 Tage lang mit."
        ),
        "This key cannot be read: enter it again with `/key replace`.": (
            "Dieser Schlüssel ist nicht lesbar: gib ihn mit `/key replace` neu ein."
        ),
        "This token cannot be opened here: it was made for somebody else, was changed, or is not a token.": (
            "Dieses Token lässt sich hier nicht öffnen: es ist für jemand anderen, wurde verändert oder ist keines."
        ),
        "This only works in a server.": "Das geht nur auf einem Server.",
        "Not accepted: {detail}": "Nicht angenommen: {detail}",
    }
)
