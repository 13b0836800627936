"""The rules for every interaction on the wire: acknowledged in time, served once, answered to its user alone."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from app.bot import BotOptions
from app.bot.supervisor import run_bot
from app.domain.credentials import CredentialView
from app.domain.errors import BotLoginFailed, OutcomeUnknown
from app.domain.identity import Registration
from app.domain.secrets import SecretText
from app.infrastructure.database import engine
from app.services import Services
from app.services.identity import DiscordEvent
from tests.support.discord_wire import Guild, Reply, User, Where, WireSimulator
from tests.support.samples import SECRET

TEXT = "a canary text that nobody else may read"
DEFER, OPEN_MODAL = 5, 9  # interaction callback types
BUTTON = 2
OPENING = ("keyhall:add:", "keyhall:renew:")

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
                # Buttons alone: one that opens a form is followed by no answer.
                shown = [
                    part["custom_id"] for part in reply.components if part["type"] == BUTTON and "custom_id" in part
                ]
                if buttons := [each for each in shown if not each.startswith(OPENING)]:
                    reply = await wire.click(reply, custom_id=buttons[-1])
                    assert reply.ephemeral, buttons[-1]
            walked.add(command)
        assert walked >= {"key add", "key list", "key replace", "key remove", "encrypt", "decrypt"}
        assert all(message.ephemeral for reply in wire.replies.values() for message in reply.messages)
        assert wire.called("POST", "/channels") == []

    @pytest.mark.parametrize(
        ("locale", "said"), [("en-US", "You have no keys yet"), ("de", "Du hast noch keine Schlüssel")]
    )
    async def test_answers_are_in_the_language_of_their_reader(self, live: Stage, locale: str, said: str) -> None:
        assert said in (await live.list_keys(locale=locale)).text


def component_of(reply: Reply, action: str) -> str:
    """The id of the button or menu of an answer that leads to this action."""
    found = [
        part["custom_id"] for part in reply.components if str(part.get("custom_id")).startswith(f"keyhall:{action}:")
    ]
    assert found, f"no component leads to {action}: {reply.text!r}"
    return str(found[0])


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
        assert "no keys yet" in reply.text

    @pytest.mark.parametrize("command", ["key add", "encrypt", "decrypt"])
    async def test_forms_open_in_time_however_long_the_database_takes(
        self, gate: Gate, live: Stage, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.session._CHECK_WITHIN", 0.05)
        reply = await live.wire.slash(live.alice, command, guild=live.guild)
        assert reply.type == OPEN_MODAL
        assert gate.reached.is_set()
        gate.open()

    async def test_a_form_that_could_not_say_which_key_it_replaces_does_not_open(
        self, gate: Gate, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.session._CHECK_WITHIN", 0.05)
        reply = await live.wire.slash(live.alice, "key replace", {"label": "work"}, guild=live.guild)
        assert reply.type != OPEN_MODAL
        assert reply.text.startswith("**Nothing was stored.** Keyhall is too busy right now")
        gate.open()

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
    async def test_a_form_is_served_by_a_process_that_did_not_open_it(self, stage: Stage) -> None:
        async with stage.running():
            form = await stage.wire.slash(stage.alice, "key add", {"provider": "openai"}, guild=stage.guild)
        async with stage.running():
            reply = await stage.wire.submit_modal(form, {"label": "work", "secret": SECRET})
            assert reply.text.startswith("**Stored.**")
            assert reply.ephemeral
            replacing = await stage.wire.slash(stage.alice, "key replace", {"label": "work"}, guild=stage.guild)
        async with stage.running():
            reply = await stage.wire.submit_modal(replacing, {"secret": SECRET[::-1]})
        assert reply.text.startswith("**Stored.** The old one is in the history.")
        assert [view.version for view in await stage.stored()] == [2]

    async def test_every_button_is_served_by_a_process_that_did_not_show_it(self, stage: Stage) -> None:
        async with stage.running():
            await stage.add(guild=stage.guild)
            reply = await stage.list_keys()
        (view,) = await stage.stored()
        for action, expected in [
            ("pick", "Not checked"),
            ("list", "1\u20131 of 1"),
            ("pick", "Not checked"),
            ("ask", "Remove this key?"),
            ("keep", "Kept."),
            ("ask", "Remove this key?"),
            ("remove", "Removed."),
            ("restore", "Restored."),
        ]:
            async with stage.running():
                values = [view.id] if action == "pick" else []
                reply = await stage.wire.click(reply, custom_id=component_of(reply, action), values=values)
            assert expected in reply.text, action
            assert reply.ephemeral
        assert len(await stage.stored()) == 1

    async def test_of_two_processes_each_serves_the_forms_of_the_other(self, live: Stage) -> None:
        """Discord gives an event to every process of a shard; whichever acknowledges first has to know the form."""
        async with live.running():
            for number in range(6):
                form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
                reply = await live.wire.submit_modal(form, {"label": f"work {number}", "secret": SECRET})
                assert reply.text.startswith("**Stored.**")
        assert len(await live.stored()) == 6

    async def test_what_is_sent_or_pressed_twice_is_done_once_and_never_a_failure(self, live: Stage) -> None:
        """A client that was shown a failure keeps the form open, and its user sends it again."""
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        for _ in range(2):
            reply = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET, "expires": "30"})
            assert reply.text.startswith("**Stored.**")
        assert len(await live.stored()) == 1
        form = await live.wire.slash(live.alice, "key replace", {"label": "work"}, guild=live.guild)
        for _ in range(2):
            reply = await live.wire.submit_modal(form, {"secret": SECRET[::-1]})
            assert reply.text.startswith("**Stored.**")
        assert [view.version for view in await live.stored()] == [2]
        question = await live.wire.slash(live.alice, "key remove", {"label": "work"}, guild=live.guild)
        (remove,) = [component_of(question, "remove")]
        removed = [await live.wire.click(question, custom_id=component_of(question, "keep"))]
        again = await live.wire.slash(live.alice, "key remove", {"label": "work"}, guild=live.guild)
        twin = await live.wire.slash(live.alice, "key remove", {"label": "work"}, guild=live.guild)
        removed = [await live.wire.click(each, custom_id=remove) for each in (again, twin)]
        assert all("Removed." in each.text for each in removed)
        restored = [await live.wire.click(each, custom_id=component_of(each, "restore")) for each in removed]
        assert all("Restored." in each.text for each in restored)
        assert [view.version for view in await live.stored()] == [4]

    async def test_what_was_changed_since_a_form_opened_is_not_overwritten(self, live: Stage) -> None:
        await live.add(guild=live.guild)
        old = await live.wire.slash(live.alice, "key replace", {"label": "work"}, guild=live.guild)
        new = await live.wire.slash(live.alice, "key replace", {"label": "work"}, guild=live.guild)
        await live.wire.submit_modal(new, {"secret": SECRET[::-1]})
        reply = await live.wire.submit_modal(old, {"secret": SECRET[::2]})
        assert reply.text.startswith("**Nothing was stored.** This key was changed in the meantime.")
        again = await live.wire.click(reply, custom_id=component_of(reply, "renew"))
        reply = await live.wire.submit_modal(again, {"secret": SECRET[::2]})
        assert reply.text.startswith("**Stored.**")

    async def test_a_form_of_an_earlier_version_says_that_nothing_was_stored_and_opens_again(self, live: Stage) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        form.data["custom_id"] = "keyhall:0123456789abcdef0123456789abcdef"
        reply = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET})
        assert reply.text.startswith("**Nothing was stored.** This form or button is too old")
        assert await live.stored() == []
        again = await live.wire.click(reply, custom_id=component_of(reply, "add"))
        assert [again.modal.fields[name].get("value") for name in ("provider", "label")] == ["openai", "work"]
        stored = await live.wire.submit_modal(again, {"secret": SECRET})
        assert stored.text.startswith("**Stored.**")

    async def test_a_component_of_an_earlier_version_is_explained_and_does_nothing(self, live: Stage) -> None:
        listed = await live.list_keys()
        for button in (part for part in listed.components if part.get("custom_id")):
            button["custom_id"] = "keyhall:0123456789abcdef0123456789abcdef"
        reply = await live.wire.click(listed, custom_id="keyhall:0123456789abcdef0123456789abcdef")
        assert "too old" in reply.text
        assert reply.ephemeral

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
                assert "Keyhall is catching up" in (await stage.list_keys()).text
            gate.open()
        assert "no keys yet" in reply.text

    @pytest.mark.parametrize(
        ("service", "method", "said"),
        [
            ("instances", "catch_up", "**Nothing was stored.** Keyhall is restarting: try again in a minute."),
            ("credentials", "add", "**It is not certain yet whether this was stored.**"),
        ],
    )
    async def test_a_service_that_never_answers_does_not_keep_the_bot_and_the_user_is_notified(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, service: str, method: str, said: str
    ) -> None:
        monkeypatch.setattr("app.bot.session._DRAIN_WITHIN", 0.1)
        gate = Gate()

        async def stuck(*_: object, **__: object) -> None:
            await gate()

        async with stage.running() as task:
            form = await stage.wire.slash(stage.alice, "key add", {"provider": "openai"}, guild=stage.guild)
            monkeypatch.setattr(getattr(stage.services, service), method, stuck)
            reply = await stage.wire.submit_modal(form, {"label": "work", "secret": SECRET}, settle=False)
            await asyncio.wait_for(gate.reached.wait(), 60)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}
        assert reply.settled
        assert reply.text.startswith(said)

    async def test_who_only_looks_is_notified_too_and_a_form_that_waits_for_its_check_is_not_opened(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.session._DRAIN_WITHIN", 0.1)
        monkeypatch.setattr("app.bot.session._CHECK_WITHIN", 60)
        gate = Gate()
        monkeypatch.setattr(stage.services.instances, "catch_up", gate)
        async with stage.running() as task:
            listed = await stage.list_keys(settle=False)
            adding = asyncio.create_task(stage.wire.slash(stage.alice, "key add", guild=stage.guild))
            await stage.wire.until(lambda: len(stage.wire.replies) == 2, what="the second command")
            await asyncio.wait_for(gate.reached.wait(), 60)
            task.cancel()
            await asyncio.wait([task], timeout=60)
        assert listed.text == "Keyhall is restarting: try again in a minute."
        assert (await adding).text.startswith("**Nothing was stored.** Keyhall is ")

    async def test_a_discord_that_takes_no_notice_does_not_keep_the_bot(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.bot.session._DRAIN_WITHIN", 0.1)
        monkeypatch.setattr("app.bot.session._NOTIFY_WITHIN", 0.1)
        gate = Gate()
        monkeypatch.setattr(stage.services.instances, "catch_up", gate)
        async with stage.running() as task:
            await stage.list_keys(settle=False)
            await asyncio.wait_for(gate.reached.wait(), 60)
            stage.wire.fault("/webhooks", 502, method="PATCH", times=100)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}


class TestAfterTheCommit:
    """What is stored is never answered as a failure, whatever Discord does with the answer."""

    @pytest.mark.parametrize("status", [502, 0], ids=["502", "dropped"])
    async def test_an_acknowledgement_that_discord_took_and_answered_with_a_failure_counts(
        self, live: Stage, status: int
    ) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        live.wire.fault("/interactions/", status, method="POST", taken=True)
        reply = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET})
        assert reply.text.startswith("**Stored.**")
        assert len(await live.stored()) == 1

    @pytest.mark.parametrize("status", [502, 0], ids=["502", "dropped"])
    async def test_an_acknowledgement_that_discord_did_not_take_is_repeated_or_nothing_is_done(
        self, live: Stage, status: int, until_logged: UntilLogged
    ) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        live.wire.fault("/interactions/", status, method="POST")
        filled = {"label": "work", "secret": SECRET}
        reply = await live.wire.submit_modal(form, filled)
        said = "**Stored.**" if status else "**Nothing was stored.** Discord is slow right now"
        assert reply.text.startswith(said)
        assert len(await live.stored()) == bool(status)

    async def test_an_answer_that_discord_does_not_take_is_sent_as_a_message_of_its_own(self, live: Stage) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        live.wire.fault("/webhooks", 404, method="PATCH")
        reply = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET})
        assert reply.text.startswith("**Stored.**")
        assert reply.ephemeral

    @pytest.mark.parametrize("change", ["add", "replace", "remove", "restore"])
    async def test_if_discord_loses_every_answer_the_next_one_says_what_was_done(
        self, live: Stage, change: str, until_logged: UntilLogged
    ) -> None:
        wire, alice, where = live.wire, live.alice, Where(guild=live.guild, settle=False)
        if change != "add":
            await live.add(guild=live.guild)
        (said, versions), act = {
            "add": (("Stored", [1]), partial(added, live, where)),
            "replace": (("Stored", [2]), partial(replaced, live, where)),
            "remove": (("Removed", []), partial(removed, live, where)),
            "restore": (("Restored", [3]), partial(restored, live, where)),
        }[change]
        async with until_logged("took neither the answer"):
            await act()
        answers = [await live.list_keys() for _ in range(2)]
        assert answers[0].text.startswith(f"**{said}**, but Discord lost the answer on the way.")
        assert "lost the answer" not in answers[1].text
        assert [view.version for view in await live.stored()] == versions
        assert wire.called("POST", "/webhooks"), "a message of its own was tried"
        assert alice.id not in live.wire.dm_channels

    async def test_a_failure_while_the_answer_is_drawn_is_not_one_of_the_change(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("an error in a layout")

        with monkeypatch.context() as patch:
            patch.setattr("app.bot.panels.stored", broken)
            reply = await live.add(guild=live.guild)
        assert reply.text.startswith("**Stored**, but Discord lost the answer")
        assert len(await live.stored()) == 1

    async def test_a_commit_of_which_nothing_is_known_is_neither_stored_nor_not(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unknown(*_: object, **__: object) -> None:
            raise OutcomeUnknown

        with monkeypatch.context() as patch:
            patch.setattr(live.services.credentials, "add", unknown)
            reply = await live.add(guild=live.guild)
        assert reply.text.startswith("**It is not certain yet whether this was stored.**")
        shown = await live.wire.click(reply, custom_id=component_of(reply, "list"))
        assert "no keys yet" in shown.text


class TestTooLate:
    async def test_what_could_not_be_committed_in_time_is_not_carried_out(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a process that was stopped in the middle of it."""
        await live.add(guild=live.guild)
        form = await live.wire.slash(live.alice, "key replace", {"label": "work"}, guild=live.guild)
        question = await live.wire.slash(live.alice, "key remove", {"label": "work"}, guild=live.guild)
        monkeypatch.setattr("app.services.deadlines.REQUEST_SECONDS", -1.0)
        replies = [
            await live.wire.submit_modal(form, {"secret": SECRET[::-1]}),
            await live.wire.click(question, custom_id=component_of(question, "remove")),
        ]
        said = "This took too long, so it was not carried out; try again in a few seconds."
        assert [reply.text.splitlines()[0] for reply in replies] == [
            f"**Nothing was stored.** {said}",
            f"**Nothing was removed.** {said}",
        ]
        assert [view.version for view in await live.stored()] == [1]


class TestALockedDatabase:
    @pytest.fixture(autouse=True)
    def own_timeouts(self, released: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a parameter
        """A database that is given up as busy soon where it stays locked; requested before the services are."""
        if not released:
            monkeypatch.setattr(engine, "DEFAULT_TIMEOUTS", replace(engine.DEFAULT_TIMEOUTS, busy=3.0))

    @pytest.mark.parametrize("released", [True, False], ids=["for a moment", "for long"])
    async def test_the_answer_says_truly_whether_it_was_stored(
        self, live: Stage, sqlite_url: str, *, released: bool
    ) -> None:
        form = await live.wire.slash(live.alice, "key add", {"provider": "openai"}, guild=live.guild)
        with closing(sqlite3.connect(sqlite_url.partition("///")[2], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            reply = await live.wire.submit_modal(form, {"label": "work", "secret": SECRET}, settle=False)
            if released:
                other.execute("ROLLBACK")
            await live.wire.until(lambda: reply.settled, within=60, what="the answer")
        said = "**Stored.**" if released else "**Nothing was stored.** Keyhall "
        assert reply.text.startswith(said)
        assert len(await live.stored()) == released


async def added(stage: Stage, where: Where) -> None:
    form = await stage.wire.slash(stage.alice, "key add", {"provider": "openai"}, guild=stage.guild)
    lose_answers(stage)
    await stage.wire.submit_modal(form, {"label": "work", "secret": SECRET}, **where)


async def replaced(stage: Stage, where: Where) -> None:
    form = await stage.wire.slash(stage.alice, "key replace", {"label": "work"}, guild=stage.guild)
    lose_answers(stage)
    await stage.wire.submit_modal(form, {"secret": SECRET[::-1]}, **where)


async def removed(stage: Stage, where: Where) -> None:
    question = await stage.wire.slash(stage.alice, "key remove", {"label": "work"}, guild=stage.guild)
    lose_answers(stage)
    await stage.wire.click(question, custom_id=component_of(question, "remove"), **where)


async def restored(stage: Stage, where: Where) -> None:
    question = await stage.wire.slash(stage.alice, "key remove", {"label": "work"}, guild=stage.guild)
    gone = await stage.wire.click(question, custom_id=component_of(question, "remove"))
    lose_answers(stage)
    await stage.wire.click(gone, custom_id=component_of(gone, "restore"), **where)


def lose_answers(stage: Stage) -> None:
    """Take neither the next answer nor the next message of its own."""
    stage.wire.fault("/webhooks", 404, method="PATCH")
    stage.wire.fault("/webhooks", 404, method="POST")


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

    async def test_a_stranger_is_refused_and_told_why(self, live: Stage, sqlite_url: str) -> None:
        mallory = live.wire.user(1666, "mallory")
        foreign = live.wire.add_guild(id=2003, name="Foreign", owner=mallory, has_bot=False)
        for where in (Where(), Where(guild=foreign, user_install=True)):
            reply = await live.wire.slash(mallory, "key list", **where)
            assert reply.text.startswith("I only serve members of the servers I am in.")
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"))) as database:
            denied = "SELECT action, detail, source FROM audit_events WHERE result = 'denied'"
            rows = database.execute(denied).fetchall()
        detail = '{"code":"forbidden","where":"/key list"}'
        assert rows == [("access.refused", detail, "discord")] * 2

    @pytest.mark.parametrize("place", ["without the bot", "not on the allowlist", "the bot was removed"])
    async def test_a_server_that_is_not_served_has_no_keys_and_nothing_is_typed_for_it(
        self, stage: Stage, place: str
    ) -> None:
        wire, alice = stage.wire, stage.alice
        allowed = frozenset({str(stage.guild.id)}) if place == "not on the allowlist" else frozenset()
        elsewhere = wire.add_guild(id=2005, name="Elsewhere", owner=alice, has_bot=place != "without the bot")
        where = Where(guild=elsewhere, user_install=True, permissions=1 << 5)
        for_server = {"for_server": True}
        async with stage.running(guild_allowlist=allowed):
            form = listed = None
            if place == "the bot was removed":
                form = await wire.slash(alice, "key add", for_server, **where)
                filled = {"provider": "openai", "label": "shared", "secret": SECRET}
                await wire.submit_modal(form, filled)
                listed = await wire.slash(alice, "key list", for_server, **where)
                assert "**shared**" in listed.text
                form = await wire.slash(alice, "key add", for_server, **where)
                wire.remove_guild(elsewhere)
                await stage.list_keys()  # events are served in their order
            for command in ("key add", "key list", "encrypt"):
                refused = await wire.slash(alice, command, for_server, **where)
                assert refused.type != OPEN_MODAL
                assert "I am not in this server" in refused.text
            if form and listed:
                refused = await wire.submit_modal(form, {"provider": "openai", "label": "more", "secret": SECRET})
                assert refused.text.startswith("**Nothing was stored.** I am not in this server")
                for action in ("pick", "add"):
                    pressed = await wire.click(listed, custom_id=component_of(listed, action), values=["x"])
                    assert "I am not in this server" in pressed.text
            assert await wire.autocomplete(alice, "key replace", focused="label", value="shared", **where) == []

    async def test_a_member_of_the_last_of_many_servers_is_found_at_the_first_contact_by_direct_message(
        self, stage: Stage
    ) -> None:
        zoe = stage.wire.user(1026, "zoe")
        for number in range(14):
            stage.wire.add_guild(id=3000 + number, name=f"Server {number}", owner=stage.alice)
        stage.wire.add_guild(id=3999, name="The last", owner=stage.alice, members=[zoe])
        async with stage.running():
            await stage.list_keys()
            assert "no keys yet" in (await stage.wire.slash(zoe, "key list")).text

    async def test_a_failure_of_one_server_does_not_turn_away_a_member_of_another(self, live: Stage) -> None:
        live.wire.add_guild(id=3000, name="Another", owner=live.bob)
        await live.list_keys()
        live.wire.fault("/guilds/3000/members", 403)
        assert "no keys yet" in (await live.wire.slash(live.bob, "key list")).text

    async def test_a_stranger_cannot_make_the_bot_ask_discord_again_and_again(self, live: Stage) -> None:
        mallory = live.wire.user(1666, "mallory")
        for _ in range(3):
            assert "I only serve members" in (await live.wire.slash(mallory, "key list")).text
            assert await live.wire.autocomplete(mallory, "key remove", focused="label", value="w") == []
        assert len(live.wire.called("GET", f"/guilds/{live.guild.id}/members/")) == 1
        live.wire.add_guild(id=3001, name="Mallory's", owner=mallory)
        await live.list_keys()  # events are served in their order
        assert "no keys yet" in (await live.wire.slash(mallory, "key list")).text

    async def test_an_allowlist_narrows_whose_members_may_come(self, stage: Stage) -> None:
        carol = stage.wire.user(1003, "carol")
        other = stage.wire.add_guild(id=2004, name="Other", owner=carol)
        async with stage.running(guild_allowlist=frozenset({str(stage.guild.id)})):
            refused = await stage.wire.slash(carol, "key list", guild=other)
            assert "I only serve members" in refused.text
            assert "no keys yet" in (await stage.list_keys()).text

    async def test_when_discord_cannot_tell_nobody_is_let_in_or_turned_away_for_good(self, live: Stage) -> None:
        live.wire.fault(f"/guilds/{live.guild.id}/members", 503)
        first = await live.wire.slash(live.alice, "key list")
        assert "Discord is slow right now" in first.text
        second = await live.wire.slash(live.alice, "key list")
        assert "no keys yet" in second.text

    @pytest.mark.parametrize(("permissions", "said"), [(1 << 5, "Stored."), (1 << 3, "Stored.")])
    async def test_rights_come_from_the_event_and_not_from_what_the_bot_remembers(
        self, live: Stage, permissions: int, said: str
    ) -> None:
        where = Where(guild=live.guild, permissions=permissions)
        form = await live.wire.slash(live.bob, "key add", {"provider": "openai", "for_server": True}, **where)
        reply = await live.wire.submit_modal(form, {"label": "shared", "secret": SECRET})
        assert said in reply.text
        # What Discord says of the submission counts, whatever it said when the form was opened.
        form = await live.wire.slash(live.bob, "key add", {"provider": "openai", "for_server": True}, **where)
        demoted = await live.wire.submit_modal(form, {"label": "another", "secret": SECRET}, permissions=0)
        assert demoted.text.startswith("**Nothing was stored.** Only people who may manage this server")

    @pytest.mark.parametrize("command", ["key add", "key replace", "encrypt", "decrypt"])
    @pytest.mark.parametrize("registration", [Registration.GUILD, Registration.INVITE])
    async def test_who_is_turned_away_learns_it_before_typing_anything(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch, registration: Registration, command: str
    ) -> None:
        monkeypatch.setattr(live.services.identity, "_registration", registration)
        mallory = live.wire.user(1666, "mallory")
        given = {"label": "work"} if command == "key replace" else {}
        reply = await live.wire.slash(mallory, command, given)
        assert reply.type != OPEN_MODAL
        said = "by invitation" if registration is Registration.INVITE else "I only serve members"
        assert said in reply.text
        assert ("Nothing was stored" in reply.text) is command.startswith("key")

    async def test_an_unknown_label_is_said_before_a_secret_is_typed(self, live: Stage) -> None:
        reply = await live.wire.slash(live.alice, "key replace", {"label": "nothing"}, guild=live.guild)
        assert reply.text.startswith("**Nothing was stored.** There is no such key")

    async def test_registration_by_invitation_turns_newcomers_away(
        self, live: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live.services.identity, "_registration", Registration.INVITE)
        assert (await live.list_keys()).text.startswith("This Keyhall is by invitation.")


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
    assert "no keys yet" in (await live.list_keys()).text


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def text_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(logging.Formatter().format(record) for record in caplog.records)
