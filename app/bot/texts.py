"""The bot's texts in German; the English ones stand where they are used.

As with gettext, the English text is the key: a text that is not in the table is shown in English. ``test_texts`` finds
every text that is missing here. More than 400 lines, because all of them are here.
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
        "Everything that is stored about you here": "Alles, was hier über dich gespeichert ist",
        "Get everything that is stored about you, as a file": "Alles, was über dich gespeichert ist, als Datei",
        "Erase everything that is stored about you, for good": (
            "Alles, was über dich gespeichert ist, endgültig löschen"
        ),
        "Link your Discord account with your account on the web": (
            "Dein Discord-Konto mit deinem Konto im Web verbinden"
        ),
        "The code that your account page on the web shows, for ten minutes": (
            "Der Code von deiner Kontoseite im Web; er gilt zehn Minuten"
        ),
        # Linking
        "**Link this Discord account with the account “{username}” on the web?** Both are one from then on: the same "
        "keys here and there, and Discord signs you in on the web.": (
            "**Dieses Discord-Konto mit dem Konto „{username}“ im Web verbinden?** Beide sind dann eins: hier wie dort "
            "dieselben Schlüssel, und im Web meldest du dich mit Discord an."
        ),
        "**Did somebody else give you this code?** Then choose Cancel. The account “{username}” gets your keys, and "
        "its owner can use them.": (
            "**Hat dir jemand anders diesen Code gegeben?** Dann wähle Abbrechen. Das Konto „{username}“ bekommt deine "
            "Schlüssel, und wem es gehört, kann sie benutzen."
        ),
        "Cancel": "Abbrechen",
        "Link them": "Verbinden",
        "Nothing was linked.": "Nichts wurde verbunden.",
        "**Linked** with the account “{username}”.": "**Verbunden** mit dem Konto „{username}“.",
        "Keys that moved: {count}.": "Schlüssel, die umgezogen sind: {count}.",
        "Keys that move to that account: {count}.": "Schlüssel, die zu diesem Konto umziehen: {count}.",
        "… and {more} more.": "… und {more} weitere.",
        "No keys are stored from this Discord account, so none move.": (
            "Von diesem Discord-Konto sind keine Schlüssel abgelegt, also ziehen keine um."
        ),
        "Removed keys that can still be restored move along: {count}.": (
            "Entfernte Schlüssel, die noch wiederherstellbar sind, ziehen mit um: {count}."
        ),
        "Keys that you gave to servers stay there; that account is billed for them from then on: {count} in {servers} "
        "servers.": (
            "Schlüssel, die du Servern gegeben hast, bleiben dort; dann zahlt sie dieses Konto: {count} auf {servers} "
            "Servern."
        ),
        "called “{label}” there, since its name is taken": "heißt dort „{label}“, weil sein Name vergeben ist",
        "- “{label}” ({provider}) is called “{new}” now, since its name was taken.": (
            "- „{label}“ ({provider}) heißt jetzt „{new}“, weil sein Name vergeben war."
        ),
        "**Nothing was linked.**": "**Nichts wurde verbunden.**",
        "**It is not certain yet whether this was linked.** Your account page on the web shows it in a minute.": (
            "**Es steht noch nicht fest, ob das verbunden wurde.** Deine Kontoseite im Web zeigt es in einer Minute."
        ),
        "**Linked**, but Discord lost the answer on the way. {list} shows your keys.": (
            "**Verbunden**, aber Discord hat die Antwort unterwegs verloren. {list} zeigt deine Schlüssel."
        ),
        "This code was used, has expired or never was: make another one on your account page.": (
            "Diesen Code gibt es nicht, er wurde benutzt oder ist abgelaufen: hol dir auf deiner Kontoseite im Web "
            "einen neuen."
        ),
        "This user is linked to another Discord account: unlink it first": (
            "Dieses Konto ist mit einem anderen Discord-Konto verbunden: löse das zuerst"
        ),
        "This Discord account is linked to another user: unlink it first": (
            "Dieses Discord-Konto ist mit einem anderen Konto verbunden: löse das zuerst"
        ),
        "This Discord account has more rights here than the account it would be linked with": (
            "Dieses Discord-Konto hat hier mehr Rechte als das Konto, mit dem es verbunden würde"
        ),
        "This Discord account has a second factor of its own here: switch it off there first": (
            "Dieses Discord-Konto hat hier einen eigenen zweiten Faktor: schalte ihn dort zuerst ab"
        ),
        "This Discord account is disabled": "Dieses Discord-Konto ist gesperrt",
        # Forms
        "Erase everything": "Alles löschen",
        "Your name": "Dein Name",
        "Type your Discord name, {name}": "Tippe deinen Discord-Namen, {name}",
        "**This is gone for good, and nobody can restore it:** your account, your keys and their former versions, "
        "and the keys that you share with servers. Erasing does not revoke a key at its provider.": (
            "**Das ist endgültig weg, und niemand kann es wiederherstellen:** dein Konto, deine Schlüssel mit ihren "
            "früheren Fassungen und die Schlüssel, die du mit Servern teilst. Beim Anbieter bleibt ein gelöschter "
            "Schlüssel gültig."
        ),
        "-# Keys: {own}, shared: {shared}": "-# Schlüssel: {own}, geteilte: {shared}",
        "Store a key": "Schlüssel ablegen",
        "Store a key for this server": "Schlüssel für diesen Server ablegen",
        "Encrypt a text": "Text verschlüsseln",
        "Open a token": "Token öffnen",
        "Key": "Schlüssel",
        "New key": "Neuer Schlüssel",
        "Paste only the key: no quotes, no “Bearer”, no NAME=": (
            "Nur den Schlüssel einfügen: ohne Anführungszeichen, ohne „Bearer“, ohne NAME="
        ),
        "Provider": "Anbieter",
        "Whose key is it?": "Von welchem Anbieter ist er?",
        "Label": "Name",
        "How you recognise it in lists; everybody who may use it sees this": (
            "Woran du ihn in Listen erkennst; wer ihn benutzen darf, sieht das"
        ),
        "Expires in days": "Läuft ab in Tagen",
        "Empty: it does not expire": "Leer: läuft nicht ab",
        "Empty: as before (in {days} days)": "Leer: wie bisher (in {days} Tagen)",
        "Text": "Text",
        "Token": "Token",
        "Replace “{label}” · {provider}": "Ersetze „{label}“ · {provider}",
        "Replace “{label}”": "„{label}“ ersetzen",
        "**Who can read it?** Discord carries what you type here, and the person who runs this Keyhall could "
        "technically "
        "read it. "
        "No member, moderator or server admin can. Afterwards even you see only its first and last characters.\n"
        "**Safer:** make a key just for this at the provider, with a spending limit.": (
            "**Wer kann ihn lesen?** Was du hier eingibst, geht durch Discord, und wer dieses Keyhall betreibt, "
            "könnte es "
            "technisch lesen. Kein Mitglied, kein Moderator und kein Server-Admin kann das. Danach siehst selbst du "
            "nur "
            "noch die ersten und letzten Zeichen.\n"
            "**Sicherer:** Lege beim Anbieter einen eigenen Schlüssel dafür an, mit Ausgabengrenze."
        ),
        "**This key will be the server's.** You and the people who manage this server can use it here, and nobody "
        "can read "
        "it. You stay its owner: your account at the provider is billed.\n"
        "**Who can read it?** Discord carries what you type here, and the person who runs this Keyhall could "
        "technically "
        "read it. "
        "No member or admin can.": (
            "**Dieser Schlüssel wird dem Server gehören.** Du und alle, die diesen Server verwalten, können ihn hier "
            "benutzen, lesen kann ihn niemand. Er bleibt deiner: Beim Anbieter zahlt dein Konto.\n"
            "**Wer kann ihn lesen?** Was du hier eingibst, geht durch Discord, und wer dieses Keyhall betreibt, "
            "könnte es "
            "technisch lesen. Kein Mitglied und kein Admin kann das."
        ),
        "-# Rather not type it into Discord? [Add it on the web]({address})": (
            "-# Lieber nicht in Discord eintippen? [Im Web eintragen]({address})"
        ),
        "**This server's key:** {name}\n"
        "The old one stays in the history. Everything in this server that uses this key uses the new one from now "
        "on.": (
            "**Schlüssel dieses Servers:** {name}\n"
            "Der alte bleibt im Verlauf. Alles, was auf diesem Server den Schlüssel benutzt, benutzt ab jetzt den "
            "neuen."
        ),
        "**Your key:** {name}\n"
        "The old one stays in the history. Everything that uses this key uses the new one from now on.": (
            "**Dein Schlüssel:** {name}\n"
            "Der alte bleibt im Verlauf. Alles, was den Schlüssel benutzt, benutzt ab jetzt den neuen."
        ),
        "-# Discord carries what you type here; the person who runs this Keyhall could technically read it.": (
            "-# Was du hier eingibst, geht durch Discord; wer dieses Keyhall betreibt, könnte es technisch lesen."
        ),
        # Answers
        "**Stored.**": "**Abgelegt.**",
        "**Stored.** The old one is in the history.": "**Abgelegt.** Der alte steht im Verlauf.",
        "**Stored:** the new expiry. That secret is in force already.": (
            "**Abgelegt:** der neue Ablauf. Dieses Geheimnis gilt bereits."
        ),
        "**Nothing changed:** that secret is in force already.": "**Nichts geändert:** Dieses Geheimnis gilt bereits.",
        "You find it in {list}.": "Du findest ihn unter {list}.",
        "**Restored.**": "**Wiederhergestellt.**",
        "**Remove this key?** Everything that uses it stops at once. You can restore it until {day}.": (
            "**Diesen Schlüssel entfernen?** Was ihn benutzt, hört sofort auf. Bis {day} kannst du ihn "
            "wiederherstellen."
        ),
        "-# This does not cancel it at {provider}: revoke it there too.": (
            "-# Bei {provider} wird er dadurch nicht ungültig: widerrufe ihn auch dort."
        ),
        "**Removed.** It can be restored for 7 days.": "**Entfernt.** Er ist 7 Tage lang wiederherstellbar.",
        "Kept.": "Behalten.",
        "Keep": "Behalten",
        "Remove": "Entfernen",
        "Restore": "Wiederherstellen",
        "Undo": "Rückgängig",
        "Replace": "Ersetzen",
        "All keys": "Alle Schlüssel",
        "Add a key": "Schlüssel ablegen",
        "Back": "Zurück",
        "Next": "Weiter",
        "Open it again": "Noch einmal öffnen",
        "Another label": "Anderer Name",
        "Replace or remove a key …": "Schlüssel ersetzen oder entfernen …",
        "Add on the web": "Im Web eintragen",
        "**You have no keys yet.** Store one; nobody in this server will ever see it.": (
            "**Du hast noch keine Schlüssel.** Lege einen ab; niemand auf diesem Server wird ihn je sehen."
        ),
        "**This server has no keys** that you may see.": "**Dieser Server hat keine Schlüssel**, die du sehen darfst.",
        "Your keys · {first}\u2013{last} of {total}": "Deine Schlüssel · {first}\u2013{last} von {total}",
        "This server's keys · {first}\u2013{last} of {total}": (
            "Schlüssel dieses Servers · {first}\u2013{last} von {total}"
        ),
        "this server's": "von diesem Server",
        "yours": "deiner",
        "billed to you": "zahlst du",
        "billed to <@{payer}>": "zahlt <@{payer}>",
        "billed to the one who added it": "zahlt, wer ihn abgelegt hat",
        "works": "funktioniert",
        "✕ refused: replace it": "✕ abgelehnt: ersetze ihn",
        "✕ expired: replace it": "✕ abgelaufen: ersetze ihn",
        "✕ unreadable: replace it": "✕ nicht lesbar: ersetze ihn",
        "too simple for a fingerprint": "zu einfach für einen Fingerabdruck",
        "Not checked with the provider yet.": "Noch nicht beim Anbieter geprüft.",
        "The provider accepts it.": "Der Anbieter nimmt ihn an.",
        "The provider refuses it: replace it.": "Der Anbieter lehnt ihn ab: ersetze ihn.",
        "The provider could not be asked.": "Der Anbieter war nicht zu erreichen.",
        "Expired: replace it.": "Abgelaufen: ersetze ihn.",
        "Unreadable: replace it.": "Nicht lesbar: ersetze ihn.",
        "added {when}": "abgelegt {when}",
        "expires {when}": "läuft ab {when}",
        "⚠ expires {when}": "⚠ läuft ab {when}",
        "used {when}": "benutzt {when}",
        "never used": "nie benutzt",
        "Encrypted. Only you can open it, with `/decrypt`.": "Verschlüsselt. Nur du kannst es öffnen, mit `/decrypt`.",
        "Encrypted. Members of this server can open it here, with `/decrypt`.": (
            "Verschlüsselt. Mitglieder dieses Servers können es hier öffnen, mit `/decrypt`."
        ),
        "Opened. Only you see this.": "Geöffnet. Nur du siehst das.",
        "Everything that is stored about you, without the secrets of your keys.": (
            "Alles, was über dich gespeichert ist, ohne die Geheimnisse deiner Schlüssel."
        ),
        "This is more than Discord takes as a file. The page /privacy on the web has it.": (
            "Das ist mehr, als Discord als Datei annimmt. Auf der Seite /privacy im Web gibt es alles."
        ),
        "**Erased.** Keys: {own}, shared: {shared}. Nothing about {name} is stored here any more; a command that "
        "you use later begins a new account.": (
            "**Gelöscht.** Schlüssel: {own}, geteilte: {shared}. Über {name} ist hier nichts mehr gespeichert; ein "
            "Befehl, den du später benutzt, beginnt ein neues Konto."
        ),
        # The state of things after a failure
        "**Nothing was erased.**": "**Nichts wurde gelöscht.**",
        "**It is not certain yet whether this was erased.** Run the command once more to see.": (
            "**Es steht noch nicht fest, ob das gelöscht wurde.** Rufe den Befehl noch einmal auf, um es zu sehen."
        ),
        "**Erased**, but Discord lost the answer on the way.": (
            "**Gelöscht**, aber Discord hat die Antwort unterwegs verloren."
        ),
        "You are the last owner of this Keyhall: make somebody else an owner first.": (
            "Du bist der letzte Eigentümer dieses Keyhall: mache zuerst jemand anderen dazu."
        ),
        "That is not your name, so nothing was erased.": "Das ist nicht dein Name, also wurde nichts gelöscht.",
        "This account has a second factor: erase it on the web, on the page /privacy": (
            "Dieses Konto hat einen zweiten Faktor: lösche es im Web, auf der Seite /privacy"
        ),
        "This account has a password: erase it on the web, on the page /privacy": (
            "Dieses Konto hat ein Passwort: lösche es im Web, auf der Seite /privacy"
        ),
        "This account has a second factor: export it on the web, on the page /privacy": (
            "Dieses Konto hat einen zweiten Faktor: exportiere es im Web, auf der Seite /privacy"
        ),
        "This account has a password: export it on the web, on the page /privacy": (
            "Dieses Konto hat ein Passwort: exportiere es im Web, auf der Seite /privacy"
        ),
        "**Nothing was stored.**": "**Nichts wurde abgelegt.**",
        "**Nothing was removed.**": "**Nichts wurde entfernt.**",
        "**Nothing was restored.**": "**Nichts wurde wiederhergestellt.**",
        "**It is not certain yet whether this was stored.** {list} shows it in a minute.": (
            "**Es steht noch nicht fest, ob das abgelegt wurde.** {list} zeigt es in einer Minute."
        ),
        "**It is not certain yet whether this was removed.** {list} shows it in a minute.": (
            "**Es steht noch nicht fest, ob das entfernt wurde.** {list} zeigt es in einer Minute."
        ),
        "**It is not certain yet whether this was restored.** {list} shows it in a minute.": (
            "**Es steht noch nicht fest, ob das wiederhergestellt wurde.** {list} zeigt es in einer Minute."
        ),
        "**Stored**, but Discord lost the answer on the way. {list} shows it; you need not enter it again.": (
            "**Abgelegt**, aber Discord hat die Antwort unterwegs verloren. {list} zeigt ihn; du musst ihn nicht noch "
            "einmal eingeben."
        ),
        "**Removed**, but Discord lost the answer on the way. It can be restored for 7 days on the web.": (
            "**Entfernt**, aber Discord hat die Antwort unterwegs verloren. Im Web ist er 7 Tage lang "
            "wiederherstellbar."
        ),
        "**Restored**, but Discord lost the answer on the way. {list} shows it.": (
            "**Wiederhergestellt**, aber Discord hat die Antwort unterwegs verloren. {list} zeigt ihn."
        ),
        # Refusals
        "This form or button is too old: run the command again.": (
            "Dieses Formular oder dieser Knopf ist zu alt: rufe den Befehl noch einmal auf."
        ),
        "This command has changed: try it again in a minute.": (
            "Dieser Befehl hat sich geändert: versuche es in einer Minute noch einmal."
        ),
        "Something went wrong. If it happens again, give the person who runs this Keyhall the reference {reference}.": (
            "Etwas ist schiefgegangen. Wenn es wieder passiert, nenne dem Betreiber dieses Keyhall die Nummer "
            "{reference}."
        ),
        "Discord is slow right now: try again in a minute.": (
            "Discord ist gerade langsam: versuche es in einer Minute noch einmal."
        ),
        "Keyhall is catching up; try again in a few seconds.": (
            "Keyhall holt gerade etwas nach; versuche es in ein paar Sekunden noch einmal."
        ),
        "Keyhall is restarting: try again in a minute.": (
            "Keyhall startet gerade neu: versuche es in einer Minute noch einmal."
        ),
        "Keyhall cannot reach its storage. Your keys are safe; try again in a minute.": (
            "Keyhall erreicht seinen Speicher nicht. Deine Schlüssel sind sicher; versuche es in einer Minute noch "
            "einmal."
        ),
        "Keyhall cannot save anything right now. Your keys are safe; notify the person who runs it.": (
            "Keyhall kann gerade nichts speichern. Deine Schlüssel sind sicher; sage dem Betreiber Bescheid."
        ),
        "This took too long, so it was not carried out; try again in a few seconds.": (
            "Das hat zu lange gedauert und wurde deshalb nicht ausgeführt; versuche es in ein paar Sekunden noch "
            "einmal."
        ),
        "Keyhall is too busy right now; try again in a few seconds.": (
            "Keyhall ist gerade überlastet; versuche es in ein paar Sekunden noch einmal."
        ),
        "Too many attempts. Try again in {seconds} seconds.": (
            "Zu viele Versuche. Versuche es in {seconds} Sekunden noch einmal."
        ),
        "You may not do this": "Das darfst du nicht",
        "Only people who may manage this server can do that with its keys.": (
            "Das dürfen mit den Schlüsseln dieses Servers nur Leute, die ihn verwalten."
        ),
        "This account is disabled": "Dieses Konto ist gesperrt",
        "This account was disabled or joined to another: sign in again": (
            "Dieses Konto wurde gesperrt oder mit einem anderen verbunden: versuche es noch einmal"
        ),
        "Ask the owner to link your account again": "Bitte den Eigentümer, dein Konto noch einmal zu verbinden",
        "Link your Discord account first: a token is made for a Discord member or server": (
            "Verbinde zuerst dein Discord-Konto: ein Token ist für ein Discord-Mitglied oder einen Server"
        ),
        "This Keyhall is by invitation. Ask the person who runs it, and give them your Discord id: `{user}`.": (
            "Für dieses Keyhall braucht man eine Einladung. Frage, wer es betreibt, und nenne deine Discord-ID: "
            "`{user}`."
        ),
        "I only serve members of the servers I am in. Are you in one? Run the command once there.": (
            "Ich diene nur Mitgliedern der Server, auf denen ich bin. Bist du auf einem? Rufe den Befehl einmal dort "
            "auf."
        ),
        "There is no such key, or it is not yours. {list} shows what there is.": (
            "Diesen Schlüssel gibt es nicht, oder er gehört dir nicht. {list} zeigt, was da ist."
        ),
        "There is a key of this provider with this label already.": (
            "Es gibt schon einen Schlüssel dieses Anbieters mit diesem Namen."
        ),
        "You already have a key for {provider} called **{label}**.": (
            "Du hast schon einen Schlüssel für {provider} mit dem Namen **{label}**."
        ),
        "This server already has a key for {provider} called **{label}**.": (
            "Dieser Server hat schon einen Schlüssel für {provider} mit dem Namen **{label}**."
        ),
        "This form was sent before, with something else in it. {list} shows what is stored.": (
            "Dieses Formular wurde schon einmal abgeschickt, mit anderem Inhalt. {list} zeigt, was abgelegt ist."
        ),
        "This key was changed in the meantime. {list} shows it as it is now.": (
            "Dieser Schlüssel wurde inzwischen geändert. {list} zeigt, wie er jetzt ist."
        ),
        "The quota is used up: remove a key, and delete it for good on the web or wait for 7 days.": (
            "Das Kontingent ist ausgeschöpft: entferne einen Schlüssel, und lösche ihn im Web endgültig oder warte 7 "
            "Tage."
        ),
        "This key cannot be read: enter it again with {replace}.": (
            "Dieser Schlüssel ist nicht lesbar: gib ihn mit {replace} neu ein."
        ),
        "This token cannot be opened here: it was made for somebody else, was changed, or is not a token.": (
            "Dieses Token lässt sich hier nicht öffnen: es ist für jemand anderen, wurde verändert oder ist keines."
        ),
        "This only works in a server.": "Das geht nur auf einem Server.",
        "I am not in this server, or may not serve it, so it can have no keys here.": (
            "Ich bin nicht auf diesem Server oder darf ihm nicht dienen, also kann er hier keine Schlüssel haben."
        ),
        "Not accepted: {detail}": "Nicht angenommen: {detail}",
        # Typed text that is not accepted
        "“{field}” is not accepted: {reason}": "„{field}“ wird nicht angenommen: {reason}",
        "“{field}” must be text.": "„{field}“ muss Text sein.",
        "“{field}” takes at most {0} characters.": "„{field}“ fasst höchstens {0} Zeichen.",
        "“{field}” takes {0} to {1} characters.": "„{field}“ braucht {0} bis {1} Zeichen.",
        "“{field}” has invisible characters in it: type it instead of pasting it.": (
            "„{field}“ enthält unsichtbare Zeichen: tippe es, statt es einzufügen."
        ),
        "“{field}” has an invisible character in it: copy it again, without formatting.": (
            "„{field}“ enthält ein unsichtbares Zeichen: kopiere es noch einmal, ohne Formatierung."
        ),
        "That is a mask, not the key itself: copy the whole key.": (
            "Das ist nur die gekürzte Anzeige eines Schlüssels: kopiere den ganzen Schlüssel."
        ),
        "“{field}” takes only the key: no quotes, no “Bearer”, no NAME=": (
            "„{field}“ nimmt nur den Schlüssel: ohne Anführungszeichen, ohne „Bearer“, ohne NAME="
        ),
        "“{field}” takes only the key, without the quotes around it.": (
            "„{field}“ nimmt nur den Schlüssel, ohne die Anführungszeichen darum."
        ),
        "That label shows the key itself, and labels are shown openly: choose another one.": (
            "Dieser Name zeigt den Schlüssel selbst, und Namen sind offen sichtbar: wähle einen anderen."
        ),
        "“{field}” is too long: it takes {0} bytes, and an emoji has four.": (
            "„{field}“ ist zu lang: es fasst {0} Bytes, und ein Emoji hat vier."
        ),
        "“{field}” is empty or too long: it takes {0} to {1} bytes, and an emoji has four.": (
            "„{field}“ ist leer oder zu lang: es fasst {0} bis {1} Bytes, und ein Emoji hat vier."
        ),
        "“{field}” has characters in it that nobody can type: copy it again.": (
            "„{field}“ enthält Zeichen, die niemand tippen kann: kopiere es noch einmal."
        ),
        "“{field}” takes {0} to {1} letters, digits, dots, hyphens and underscores, such as openai.": (
            "„{field}“ fasst {0} bis {1} Buchstaben, Ziffern, Punkte, Binde- und Unterstriche, zum Beispiel openai."
        ),
        "“{field}” looks like a key, and it is shown openly. Did the key slip into the wrong field?": (
            "„{field}“ sieht aus wie ein Schlüssel und ist offen sichtbar. Ist der Schlüssel ins falsche Feld "
            "gerutscht?"
        ),
        "“{field}” is empty.": "„{field}“ ist leer.",
        "“{field}” must lie in the future.": "„{field}“ muss in der Zukunft liegen.",
        "“{field}” lies too far in the future.": "„{field}“ liegt zu weit in der Zukunft.",
        "“{field}” takes a number from {0} to {1}, or nothing.": (
            "„{field}“ nimmt eine Zahl von {0} bis {1} oder nichts."
        ),
        "Several keys have this label: choose one of the suggestions.": (
            "Mehrere Schlüssel heißen so: wähle einen der Vorschläge."
        ),
    }
)
