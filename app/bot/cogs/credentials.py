"""`/key`: a member's commands for stored credentials. Secrets come in through forms only and are never shown again."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import discord
from discord import app_commands, ui
from discord.ext import commands

from app.bot import layout, panels, views
from app.bot.component_ids import ComponentId
from app.bot.errors import Outdated, or_none
from app.bot.progress import REMOVE, RESTORE, STORE, Change, Progress, Steps, progress_of
from app.bot.router import Handler, chosen, form_values
from app.bot.session import BotSession, Interaction
from app.domain.credentials import CredentialView, OwnerKind, label_name, provider_name
from app.domain.errors import AlreadyExists, InvalidInput, NotFound, OutcomeUnknown, Overloaded
from app.domain.identity import Actor
from app.domain.text import whole_number
from app.localisation import mark
from app.services.credentials import UNSET, LabelChoice

_SNOWFLAKE_LONGEST: Final = 20


class KeyCommands(commands.GroupCog, group_name="key", group_description=mark("Keep API keys where nobody reads them")):
    """The group `/key`, and every button, menu and form that it leads to."""

    def __init__(self, session: BotSession) -> None:
        super().__init__()
        self._session = session
        self._credentials = session.services.credentials

    @property
    def handlers(self) -> dict[str, Handler]:
        """The handler of every button, menu and form, by its action."""
        return {
            "add": self.open_add_form,
            "store": self.store,
            "renew": self.open_replace_form,
            "replace": self.store_replacement,
            "list": self.turn_to,
            "pick": self.show_chosen,
            "ask": self.ask_before_removal,
            "keep": self.keep,
            "remove": self.remove_asked,
            "restore": self.restore,
        }

    # -- commands ------------------------------------------------------------------------------------------------------

    @app_commands.command(name="add", description=mark("Store an API key; you type it into a private form"))
    @app_commands.describe(
        provider=mark("The service that the key is for, such as openai"),
        label=mark("A name for the key, shown openly"),
        for_server=mark("For this server instead of for you (server managers)"),
    )
    async def add(
        self,
        interaction: Interaction,
        provider: app_commands.Range[str, 1, 32] | None = None,
        label: app_commands.Range[str, 1, 64] | None = None,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Open the form. The options are checked first, so that a secret given as one is not echoed into the form."""
        _begin(interaction, STORE)
        guild_id = self._session.guild_id(interaction, for_server=for_server)
        await self._open_add_form(interaction, guild_id, provider or "", label or "")

    @app_commands.command(name="list", description=mark("Show your stored keys"))
    @app_commands.describe(for_server=mark("For this server instead of for you (server managers)"))
    async def list_keys(
        self,
        interaction: Interaction,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Show the first ones."""
        guild_id = self._session.guild_id(interaction, for_server=for_server)
        await self._show_list(interaction, guild_id, begin=0)

    @app_commands.command(name="replace", description=mark("Replace the secret of a stored key"))
    @app_commands.describe(label=mark("Which key"))
    async def replace(self, interaction: Interaction, label: app_commands.Range[str, 1, 100]) -> None:
        """Open the form for the key, which it names."""
        _begin(interaction, STORE)

        async def view(actor: Actor) -> CredentialView:
            return await self._credentials.get(actor, await self._find(actor, label))

        await self._open_replace_form(interaction, view)

    @app_commands.command(name="remove", description=mark("Remove a key; it can be restored for 7 days"))
    @app_commands.describe(label=mark("Which key"))
    async def remove(self, interaction: Interaction, label: app_commands.Range[str, 1, 100]) -> None:
        """Ask first."""
        _begin(interaction, REMOVE)
        actor = await self._session.admit(interaction)
        view = await self._credentials.get(actor, await self._find(actor, label))
        await views.show(interaction, panels.removal_question(interaction.locale, view, interaction.created_at))

    @replace.autocomplete("label")
    @remove.autocomplete("label")
    async def suggest(self, interaction: Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """Suggest credentials that the member may reach, and say whose each is; nothing of a secret is in them."""

        async def choices() -> list[app_commands.Choice[str]]:
            actor = await self._session.identify(interaction)
            found = await self._credentials.lists.labels(actor, typed)
            return [
                app_commands.Choice(
                    name=layout.choice(interaction.locale, each.label, each.provider, shared=each.shared), value=each.id
                )
                for each in found
            ]

        return await or_none(interaction, choices())

    # -- storing -------------------------------------------------------------------------------------------------------

    async def open_add_form(self, interaction: Interaction, named: ComponentId) -> None:
        """Open the form, filled in from the id of the button."""
        _begin(interaction, STORE)
        provider, _, label = named.text.partition(":")
        await self._open_add_form(interaction, self._session.whose(interaction, named), provider, label)

    async def _open_add_form(self, interaction: Interaction, guild_id: str | None, provider: str, label: str) -> None:
        provider = provider_name(provider) if provider else ""
        label = label_name(label) if label else ""
        progress = progress_of(interaction)
        progress.names |= {"guild": guild_id}

        async def judge(actor: Actor) -> None:
            if provider and label:
                progress.names |= panels.names(provider, label, guild_id)
                progress.steps = self._after_refusal(interaction, actor, guild_id, provider, label)
            await self._credentials.check_add(actor, provider=provider, label=label, guild_id=guild_id)

        await self._session.beforehand(interaction, judge)
        form = panels.add_form(
            interaction.locale,
            views.form_id(interaction, "store", guild_id=guild_id),
            provider=provider or None,
            label=label or None,
            public_url=self._session.options.public_url,
        )
        await interaction.response.send_modal(form)

    async def store(self, interaction: Interaction, named: ComponentId) -> None:
        """Store what was typed. A form that is sent twice, to this or another process, stores nothing twice."""
        progress = _begin(interaction, STORE)
        typed, guild_id = form_values(interaction), self._session.whose(interaction, named)
        provider, label = typed.get("provider", ""), typed.get("label", "")
        actor = await self._session.admit(interaction)
        progress.names |= panels.names(provider.strip().lower(), label.strip(), guild_id)
        progress.steps = self._after_refusal(interaction, actor, guild_id, provider, label)
        progress.begun = True
        added = await self._credentials.add(
            actor,
            provider=provider,
            label=label,
            secret=typed.get("secret", ""),
            expires_at=_expiry(named, typed.get("expires", "")),
            guild_id=guild_id,
            idempotency_key=f"discord:{named.text}",
        )
        progress.done = True
        listed = self._session.command("key list")
        await views.show(
            interaction, panels.stored(interaction.locale, mark("**Stored.**"), added.view, listed, undo=True)
        )

    def _after_refusal(
        self, interaction: Interaction, actor: Actor, guild_id: str | None, provider: str, label: str
    ) -> Steps:
        """The buttons after a refusal: the form once more, or the key that has the label."""
        locale = interaction.locale
        provider, label = _shown_again(provider_name, provider), _shown_again(label_name, label)

        async def steps(error: Exception) -> Sequence[ui.Button[Any]]:
            if isinstance(error, OutcomeUnknown):
                return [panels.all_keys(locale, guild_id)]
            if not isinstance(error, AlreadyExists):
                return [panels.add_again(locale, mark("Open it again"), guild_id, provider=provider, label=label)]
            buttons = [panels.add_again(locale, mark("Another label"), guild_id, provider=provider)]
            having = [
                each
                for each in await self._credentials.lists.labels(actor, label)
                if (each.provider, each.label.casefold()) == (provider, label.casefold())
                and each.shared is (guild_id is not None)
            ]
            buttons += [panels.replace_instead(locale, each.label, guild_id, each.id) for each in having]
            return buttons

        return steps

    def outdated(self, interaction: Interaction) -> None:
        """Prepare the answer to a form of an earlier version: its secret is lost, provider and label need not be."""
        typed = form_values(interaction)
        if "secret" not in typed:
            return
        provider, label = (
            _shown_again(provider_name, typed.get("provider", "")),
            _shown_again(label_name, typed.get("label", "")),
        )

        async def steps(_: Exception) -> Sequence[ui.Button[Any]]:
            return [panels.add_again(interaction.locale, mark("Open it again"), None, provider=provider, label=label)]

        _begin(interaction, STORE).steps = steps

    async def open_replace_form(self, interaction: Interaction, named: ComponentId) -> None:
        """Open the form for the key that the button is about."""
        _begin(interaction, STORE)
        self._session.whose(interaction, named)

        async def view(actor: Actor) -> CredentialView:
            return await self._named(actor, named)

        await self._open_replace_form(interaction, view)

    async def _open_replace_form(
        self, interaction: Interaction, look_up: Callable[[Actor], Awaitable[CredentialView]]
    ) -> None:
        view = await self._session.beforehand(interaction, look_up)
        if view is None:  # a form that does not say which key it replaces could replace a wrong one
            raise Overloaded
        guild_id = view.owner.id if view.owner.kind is OwnerKind.GUILD else None
        form_id = views.form_id(interaction, "replace", guild_id=guild_id, credential_id=view.id, number=view.version)
        form = panels.replace_form(interaction.locale, form_id, view, interaction.created_at)
        await interaction.response.send_modal(form)

    async def store_replacement(self, interaction: Interaction, named: ComponentId) -> None:
        """Store the new secret of the version that the form was opened for."""
        progress = _begin(interaction, STORE)
        self._session.whose(interaction, named)
        actor = await self._session.admit(interaction)
        typed = form_values(interaction)
        before = await self._named(actor, named)

        async def steps(error: Exception) -> Sequence[ui.Button[Any]]:
            if isinstance(error, OutcomeUnknown):
                return [panels.all_keys(interaction.locale, named.guild_id)]
            return [panels.replace_instead(interaction.locale, before.label, named.guild_id, before.id)]

        progress.steps = steps
        payer = await self._payer(actor, before)
        progress.begun = True
        replaced = await self._credentials.replace(
            actor,
            before.id,
            typed.get("secret", ""),
            expected_version=named.number,
            expires_at=_expiry(named, typed.get("expires", "")) or UNSET,
            idempotency_key=f"discord:{named.text}",
        )
        progress.done = True
        headline = (
            mark("**Stored.** The old one is in the history.")
            if replaced.new_secret
            else mark("**Stored:** the new expiry. That secret is in force already.")
            if replaced.new_expiry
            else mark("**Nothing changed:** that secret is in force already.")
        )
        listed = self._session.command("key list")
        await views.show(
            interaction, panels.stored(interaction.locale, headline, replaced.view, listed, undo=False, payer=payer)
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    async def turn_to(self, interaction: Interaction, named: ComponentId) -> None:
        """Show another stretch of the list."""
        await self._show_list(interaction, self._session.whose(interaction, named), begin=named.number or 0)

    async def _show_list(self, interaction: Interaction, guild_id: str | None, *, begin: int) -> None:
        actor = await self._session.admit(interaction)
        found = await self._credentials.lists.stretch(actor, begin=begin, size=panels.PAGE, guild_id=guild_id)
        answer = panels.listed(interaction.locale, found, guild_id, self._session.options.public_url)
        await views.show(interaction, answer)

    async def show_chosen(self, interaction: Interaction, named: ComponentId) -> None:
        """Show the key that was chosen of a list."""
        self._session.whose(interaction, named)
        actor = await self._session.admit(interaction)
        view = await self._credentials.get(actor, chosen(interaction) or "")
        await views.show(interaction, panels.one(interaction.locale, view, payer=await self._payer(actor, view)))

    # -- removing ------------------------------------------------------------------------------------------------------

    async def ask_before_removal(self, interaction: Interaction, named: ComponentId) -> None:
        """Ask whether to remove the key that the button is about."""
        _begin(interaction, REMOVE)
        self._session.whose(interaction, named)
        view = await self._named(await self._session.admit(interaction), named)
        await views.show(interaction, panels.removal_question(interaction.locale, view, interaction.created_at))

    async def keep(self, interaction: Interaction, named: ComponentId) -> None:
        """Remove nothing."""
        self._session.whose(interaction, named)
        actor = await self._session.admit(interaction)
        view = await self._named(actor, named)
        payer = await self._payer(actor, view)
        await views.show(interaction, panels.one(interaction.locale, view, mark("Kept."), payer=payer))

    async def remove_asked(self, interaction: Interaction, named: ComponentId) -> None:
        """Remove the version that was shown. A second press finds it removed."""
        progress = _begin(interaction, REMOVE)
        self._session.whose(interaction, named)
        actor = await self._session.admit(interaction)
        progress.begun = True
        await self._credentials.remove(actor, named.credential_id or "", expected_version=named.number)
        progress.done = True
        await views.show(interaction, panels.removed(interaction.locale, named))

    async def restore(self, interaction: Interaction, named: ComponentId) -> None:
        """Restore what was removed. A second press finds it restored."""
        progress = _begin(interaction, RESTORE)
        self._session.whose(interaction, named)
        actor = await self._session.admit(interaction)
        progress.begun = True
        view = await self._credentials.restore(actor, named.credential_id or "", expected_version=named.number)
        progress.done = True
        payer = None if view.sharer_id in {None, actor.user_id} else ""  # nothing is looked up after a change
        await views.show(interaction, panels.one(interaction.locale, view, mark("**Restored.**"), payer=payer))

    # -- which ---------------------------------------------------------------------------------------------------------

    async def _named(self, actor: Actor, named: ComponentId) -> CredentialView:
        """The credential that a component names. Raises NotFound, also where it is no longer the same owner's."""
        view = await self._credentials.get(actor, named.credential_id or "")
        if named.guild_id != (view.owner.id if view.owner.kind is OwnerKind.GUILD else None):
            raise NotFound
        return view

    async def _payer(self, actor: Actor, view: CredentialView) -> str | None:
        """The Discord id of whose account at the provider is billed; "" for one without, None for the actor."""
        if view.sharer_id is None or view.sharer_id == actor.user_id:
            return None
        return await self._session.services.identity.discord_id_of(view.sharer_id) or ""

    async def _find(self, actor: Actor, key: str) -> str:
        """The id of a chosen suggestion, or of the one credential whose label was typed.

        Raises NotFound, InvalidInput.
        """
        try:
            return str(uuid.UUID(key))
        except ValueError:
            typed = key.strip().casefold()
        found: Sequence[LabelChoice] = await self._credentials.lists.labels(actor, typed)
        match [each.id for each in found if each.label.casefold() == typed]:
            case [only]:
                return only
            case []:
                raise NotFound
            case _:
                raise InvalidInput("label", "fits several keys; choose one of the suggestions")


# ---------------------------------------------------------------------------------------------------------------------
# Parsing
# ---------------------------------------------------------------------------------------------------------------------


def _begin(interaction: Interaction, change: Change) -> Progress:
    """From here on, a failure says that nothing was changed, until the change is done."""
    progress = progress_of(interaction)
    progress.change = change
    return progress


def _expiry(form: ComponentId, days: str) -> datetime | None:
    """So many days after the form was opened; None for an empty text. Raises InvalidInput, Outdated.

    The time when a form was opened is the same however often it is sent, so that a repeated one is recognised.
    """
    if not (form.text.isascii() and form.text.isdigit() and len(form.text) <= _SNOWFLAKE_LONGEST):
        raise Outdated
    text = days.strip()
    if not text:
        return None
    number = whole_number(text)
    if number is None or not 1 <= number <= panels.EXPIRY_LONGEST:
        raise InvalidInput("expires", f"must be a whole number of days, 1 to {panels.EXPIRY_LONGEST}, or empty")
    return discord.utils.snowflake_time(int(form.text)) + timedelta(days=number)


def _shown_again(parse: Callable[[object], str], typed: str) -> str:
    """The typed text if it is acceptable, otherwise nothing: a secret in the wrong field must not be repeated."""
    try:
        return parse(typed)
    except InvalidInput:
        return ""
