"""The rules for every interaction on the wire: acknowledged in time, served once, answered to its user alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.bot import BotOptions
from app.bot.supervisor import run_bot
from app.domain.credentials import CredentialView
from app.domain.errors import BotLoginFailed
from app.domain.identity import Registration
from app.domain.secrets import SecretText
from app.services import Services
from app.services.identity import DiscordEvent
from tests.support.discord_wire import Guild, Reply, User, Where, WireSimulator
from tests.support.samples import SECRET

TEXT = "a canary text that nobody else may read"
DEFER, OPEN_MODAL = 5, 9  # interaction callback types

UntilLogged = Callable[[str], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Stage:
    """A server with Alice, who owns it, and Bob; the bot's services, and the Discord that it is to meet."""

    wire: WireSimulator
    services: Services
    options: BotOptions
    alice: User
    bob: User
    guild: Guild

    @asynccontextmanager
    async def running(self, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
        """The bot, connected, until the block ends; what it raised by itself is raised here."""
        seen = len(self.wire.identifies)
        task = asyncio.create_task(run_bot(self.services, replace(self.options, **changes)))
        try:
            await self.wire.wait_ready(identifies=seen + 1)
            yield task
        finally:
            if not task.cancelling():
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def add(self, **where: Any) -> Reply:
        """Alice stores a key."""
        form = await self.wire.slash(self.alice, "key add", {"provider": "openai"}, **where)
        return await self.wire.submit_modal(form, {"label": "work", "secret": SECRET})

    async def list_keys(self, **where: Any) -> Reply:
        """Alice lists her keys in the server."""
        return await self.wire.slash(self.alice, "key list", guild=self.guild, **where)

    async def stored(self) -> list[CredentialView]:
        """The stored credentials of Alice, as the service returns them."""

        async def known() -> bool:
            return True

        event = DiscordEvent(discord_id=str(self.alice.id), guild=None, member_of_known_guild=known)
        actor = await self.services.identity.from_discord(event)
        return [*(await self.services.credentials.page(actor)).items]

    def callbacks(self, reply: Reply) -> list[int]:
        """The statuses with which Discord answered the acknowledgements of an interaction."""
        return [call.status for call in self.wire.called("POST", f"/interactions/{reply.interaction['id']}/")]


@pytest.fixture
def stage(wire: WireSimulator, services: Services, options: BotOptions) -> Stage:
    """All is there but the bot."""
    alice, bob = wire.user(1001, "alice"), wire.user(1002, "bob")
    guild = wire.add_guild(id=2001, name="Hall", owner=alice, members=[bob])
    return Stage(wire, services, options, alice, bob, guild)


@pytest.fixture
async def live(stage: Stage) -> AsyncIterator[Stage]:
    """The bot runs."""
    async with stage.running():
        yield stage


class Gate:
    """Holds every call that passes through it until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self) -> None:
        self.reached.set()
        await self._open.wait()


# ---------------------------------------------------------------------------------------------------------------------


class TestToItsUserAlone:
    async def test_whatever_a_command_leads_to_is_ephemeral(self, live: Stage) -> None:
        """Walks every registered command, so that a new one cannot be forgotten here."""
        wire, alice, guild = live.wire, live.alice, live.guild
        await live.add(guild=guild)
        walked = set()
        for command, options in leaves(wire):
            reply = await wire.slash(alice, command, dict.fromkeys(options, "work"), guild=guild)
            if reply.type == OPEN_MODAL:
                filled = {name: "3" if name == "expires" else f"{name} 1" for name in reply.modal.fields}
                reply = await wire.submit_modal(reply, filled)
            assert reply.messages, f"/{command} was not answered"
            assert reply.ephemeral, f"/{command}"
            for _ in range(3):
                if buttons := [part["custom_id"] for part in reply.components if "custom_id" in part]:
                    await wire.click(reply, custom_id=buttons[-1])
            walked.add(command)
        assert walked >= {"key add", "key list", "key replace", "key remove", "encrypt", "decrypt"}
        assert all(message.ephemeral for reply in wire.replies.values() for message in reply.messages)
        assert wire.called("POST", "/channels") == []

    @pytest.mark.parametrize(
        ("locale", "said"), [("en-US", "You have no stored keys"), ("de", "Du hast keine abgelegten Schlüssel")]
    )
    async def test_answers_are_in_the_language_of_their_reader(self, live: Stage, locale: str, said: str) -> None:
        assert said in (await live.list_keys(locale=locale)).text


def leaves(wire: WireSimulator) -> list[tuple[str, list[str]]]:
    """Every command that can be called, with its required options."""
    found = []

    def walk(node: dict[str, Any], path: str) -> None:
        options = node.get("options", [])
        inner = [option for option in options if option["type"] in {1, 2}]
        for option in inner:
            walk(option, f"{path} {option['name']}")
        if not inner:
            found.append((path, [option["name"] for option in options if option.get("required")]))

    for command in wire.commands[None]:
        walk(command, command["name"])
    return found


class TestInTime:
    @pytest.fixture
    def gate(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Gate:
        """A database that answers when it is let."""
        gate = Gate()
        monkeypatch.setattr(stage.services.instances, "catch_up", gate)
        return gate

    async def test_a_stalled_database_delays_the_answer_but_not_the_acknowledgement(
        self, gate: Gate, live: Stage
    ) -> None:
        reply = await live.list_keys(settle=False)
        assert reply.type == DEFER
        assert not reply.settled
        gate.open()
        await live.wire.until(lambda: reply.settled, what="the answer")
        assert "no stored keys" in reply.text

    @pytest.mark.parametrize(
        ("command", "given"),
        [("key add", {}), ("key replace", {"label": "work"}), ("encrypt", {}), ("decrypt", {})],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_forms_open_without_the_database(
        self, gate: Gate, live: Stage, command: str, given: dict[str, str]
    ) -> None:
        reply = await live.wire.slash(live.alice, command, given, guild=live.guild)
        assert reply.type == OPEN_MODAL
        assert not gate.reached.is_set()

    async def test_suggestions_that_take_too_long_are_none(
        self, gate: Gate, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.errors.SUGGEST_WITHIN", 0.05)
        assert await live.wire.autocomplete(live.alice, "key remove", focused="label", guild=live.guild) == []
        assert gate.reached.is_set()

    async def test_what_cannot_be_acknowledged_in_time_is_not_done(
        self, live: Stage, until_logged: UntilLogged, caplog: pytest.LogCaptureFixture
    ) -> None:
        form = await live.wire.slash(live.alice, "key add", guild=live.guild)
        live.wire.ack_within = -1.0
        with caplog.at_level(logging.INFO, logger="app.bot"):
            async with until_logged("came too late"):
                filled = {"provider": "openai", "label": "work", "secret": SECRET}
                submitting = asyncio.create_task(live.wire.submit_modal(form, filled))
        submitting.cancel()
        assert await live.stored() == []
        assert errors_in(caplog) == []


class TestOnce:
    async def test_a_repeated_delivery_is_served_once(self, live: Stage) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        added = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET})
        listed = await live.list_keys()
        for reply in (form, added, listed):
            live.wire.dispatch("INTERACTION_CREATE", reply.interaction, guild=live.guild)
        await live.list_keys()  # events are served in their order, so the repeated ones are through by now
        assert [live.callbacks(reply) for reply in (form, added, listed)] == [[200], [200], [200]]
        assert len(await live.stored()) == 1

    async def test_two_processes_that_hear_the_same_serve_it_once(
        self, live: Stage, until_logged: UntilLogged, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger="app.bot"):
            async with live.running(), until_logged("served elsewhere"):
                listed = await live.list_keys()
        assert sorted(live.callbacks(listed)) == [200, 400]
        assert errors_in(caplog) == []
        assert len(listed.messages) == 1


class TestAcrossRestarts:
    async def test_a_form_that_outlived_its_process_is_explained_and_does_nothing(self, stage: Stage) -> None:
        async with stage.running():
            form = await stage.wire.slash(stage.alice, "key add", {"provider": "openai"}, guild=stage.guild)
        async with stage.running():
            reply = await stage.wire.submit_modal(form, {"label": "work", "secret": SECRET})
        assert "no longer in use" in reply.text
        assert reply.ephemeral
        assert await stage.stored() == []

    async def test_a_button_that_outlived_its_process_is_explained_and_does_nothing(self, stage: Stage) -> None:
        async with stage.running():
            await stage.add(guild=stage.guild)
            question = await stage.wire.slash(stage.alice, "key remove", {"label": "work"}, guild=stage.guild)
        async with stage.running():
            reply = await stage.wire.click(question, custom_id="keyhall:remove")
        assert "no longer in use" in reply.text
        assert len(await stage.stored()) == 1

    @pytest.mark.parametrize("shard_count", [None, 1], ids=["one session", "shards"])
    async def test_what_was_acknowledged_is_answered_before_the_bot_leaves(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, shard_count: int | None
    ) -> None:
        gate = Gate()
        monkeypatch.setattr(stage.services.instances, "catch_up", gate)
        async with stage.running(shard_count=shard_count) as task:
            reply = await stage.list_keys(settle=False)
            await asyncio.wait_for(gate.reached.wait(), 60)
            task.cancel()
            if shard_count:  # shards receive events until they are closed
                assert "Keyhall is not ready" in (await stage.list_keys()).text
            gate.open()
        assert "no stored keys" in reply.text

    async def test_a_service_that_never_answers_does_not_keep_the_bot_from_leaving(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.session._DRAIN_WITHIN", 0.1)
        gate = Gate()
        monkeypatch.setattr(stage.services.instances, "catch_up", gate)
        async with stage.running() as task:
            await stage.list_keys(settle=False)
            await asyncio.wait_for(gate.reached.wait(), 60)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}


class TestWhoAsks:
    async def test_commands_work_in_direct_messages_and_where_only_the_member_installed_the_bot(
        self, live: Stage
    ) -> None:
        elsewhere = live.wire.add_guild(id=2002, name="Elsewhere", owner=live.alice, has_bot=False)
        await live.add()
        for where in (Where(), Where(context=2, user_install=True), Where(guild=elsewhere, user_install=True)):
            reply = await live.wire.slash(live.alice, "key list", **where)
            assert "**work**" in reply.text
            assert reply.ephemeral

    async def test_a_stranger_is_refused_and_told_why(self, live: Stage) -> None:
        mallory = live.wire.user(1666, "mallory")
        foreign = live.wire.add_guild(id=2003, name="Foreign", owner=mallory, has_bot=False)
        for where in (Where(), Where(guild=foreign, user_install=True)):
            reply = await live.wire.slash(mallory, "key list", **where)
            assert reply.text == "Only members of this bot's servers can use it."

    async def test_an_allowlist_narrows_whose_members_may_come(self, stage: Stage) -> None:
        carol = stage.wire.user(1003, "carol")
        other = stage.wire.add_guild(id=2004, name="Other", owner=carol)
        async with stage.running(guild_allowlist=frozenset({str(stage.guild.id)})):
            refused = await stage.wire.slash(carol, "key list", guild=other)
            assert "Only members" in refused.text
            assert "no stored keys" in (await stage.list_keys()).text

    async def test_when_discord_cannot_tell_nobody_is_let_in_or_turned_away_for_good(self, live: Stage) -> None:
        live.wire.fault(f"/guilds/{live.guild.id}/members", 503)
        first = await live.wire.slash(live.alice, "key list")
        assert "Discord did not answer" in first.text
        second = await live.wire.slash(live.alice, "key list")
        assert "no stored keys" in second.text

    @pytest.mark.parametrize(
        ("permissions", "said"), [(0, "You may not do this."), (1 << 5, "Stored."), (1 << 3, "Stored.")]
    )
    async def test_rights_come_from_the_event_and_not_from_what_the_bot_remembers(
        self, live: Stage, permissions: int, said: str
    ) -> None:
        where = Where(guild=live.guild, permissions=permissions)
        form = await live.wire.slash(live.bob, "key add", {"provider": "openai", "for_server": True}, **where)
        reply = await live.wire.submit_modal(form, {"label": "shared", "secret": SECRET})
        assert said in reply.text

    async def test_registration_by_invitation_turns_newcomers_away(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live.services.identity, "_registration", Registration.INVITE)
        assert (await live.list_keys()).text == "Ask the owner for an account first."


class TestCanary:
    @pytest.fixture
    def everything_logged(self, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
        """The root and every logger that the library has, at DEBUG."""
        caplog.set_level(logging.DEBUG)
        for name in ("discord", "discord.http", "discord.gateway", "discord.client", "discord.webhook.async_", "app"):
            caplog.set_level(logging.DEBUG, logger=name)
        return caplog

    async def test_no_secret_and_no_token_reaches_a_log_at_debug(
        self, everything_logged: pytest.LogCaptureFixture, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def failing(*_: object, **__: object) -> None:
            raise RuntimeError("an inner detail")

        wire, alice, guild = live.wire, live.alice, live.guild
        await live.add(guild=guild)
        form = await wire.slash(alice, "key replace", {"label": "work"}, guild=guild)
        await wire.submit_modal(form, {"secret": SECRET[::-1]})
        form = await wire.slash(alice, "encrypt", guild=guild)
        token = (await wire.submit_modal(form, {"text": TEXT})).text.split("```")[1].strip()
        form = await wire.slash(alice, "decrypt", guild=guild)
        assert TEXT in (await wire.submit_modal(form, {"token": token})).text
        monkeypatch.setattr(live.services.credentials, "add", failing)
        assert "Something went wrong" in (await live.add(guild=guild)).text
        wire.dispatch("INTERACTION_CREATE", {"type": 5, "data": {"components": [{"value": SECRET}]}})
        await wire.wait_ready(identifies=2)

        lines = text_of(everything_logged)
        assert "an inner detail" in lines
        assert "Dispatching event" in lines, "the library's harmless debug messages are there"
        tokens = [reply.interaction["token"] for reply in wire.replies.values()]
        for canary in (SECRET, SECRET[::-1], SECRET[8:-4], TEXT, token, wire.token, *tokens):
            assert canary not in lines

    async def test_a_refused_token_is_in_no_log(
        self, everything_logged: pytest.LogCaptureFixture, stage: Stage
    ) -> None:
        with pytest.raises(BotLoginFailed):
            await run_bot(stage.services, replace(stage.options, token=SecretText("wrong.token.of-somebody")))
        assert "wrong.token" not in text_of(everything_logged)

    async def test_the_library_logs_as_before_once_the_bot_has_left(self, stage: Stage) -> None:
        loggers = [logging.getLogger(name) for name in ("discord.gateway", "discord.http", "discord.webhook.async_")]
        before = [list(logger.filters) for logger in loggers]
        async with stage.running():
            assert all(logger.filters for logger in loggers)
        assert [list(logger.filters) for logger in loggers] == before


async def test_an_answer_that_discord_does_not_take_is_logged_and_nothing_breaks(
    live: Stage, until_logged: UntilLogged
) -> None:
    live.wire.fault("/webhooks", 404, times=2, method="PATCH")
    async with until_logged("could not be answered"):
        await live.list_keys(settle=False)
    assert "no stored keys" in (await live.list_keys()).text


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def text_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(logging.Formatter().format(record) for record in caplog.records)
