"""The bot over a real wire: it comes back, gives up where only the operator can help, and leaves when asked to."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route

from app.bot import BotOptions
from app.bot.supervisor import run_bot
from app.domain.errors import BotLoginFailed, ConfigInvalid, StorageError
from app.domain.secrets import SecretText
from app.services import Services
from app.services.identity import DiscordEvent
from tests.support.discord_wire import WireSimulator
from tests.support.documents import python_of
from tests.support.samples import PASSWORD, SECRET

CONTENT_GRANTED = 1 << 19
GUILDS, GUILD_MESSAGES, MESSAGE_CONTENT = 1 << 0, 1 << 9, 1 << 15


UntilLogged = Callable[[str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def running(services: Services, options: BotOptions, **more: Any) -> AsyncIterator[asyncio.Task[None]]:
    """The bot, until the block ends; what it raised by itself is raised here."""
    task = asyncio.create_task(run_bot(services, options, **more))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def failure(services: Services, options: BotOptions, **more: Any) -> BotLoginFailed:
    with pytest.raises(BotLoginFailed) as caught:
        await asyncio.wait_for(run_bot(services, options, **more), 60)
    return caught.value


class TestGivingUp:
    async def test_a_refused_token_ends_the_bot_at_once_and_is_not_repeated(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        halted = await failure(services, replace(options, token=SecretText("wrong.token.of-somebody")))
        assert halted.slug == "bot_login_failed"
        assert "DISCORD_BOT_TOKEN" in halted.line()
        assert "wrong.token" not in halted.line()
        assert len(wire.called("GET", "/users/@me")) == 1
        assert wire.identifies == []

    async def test_the_web_learns_why_it_ended_and_that_it_logged_in(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        await failure(services, replace(options, token=SecretText("wrong.token.of-somebody")))
        stopped = await services.bot_state.connection()
        assert stopped.state == "stopped"
        assert "refused the token" in str(stopped.happened)
        async with running(services, options):
            await wire.wait_ready()
            connected = await services.bot_state.connection()
            assert connected.state == "logged_in"
            assert f"client_id={wire.application_id}" in str(connected.invite)

    async def test_a_database_that_does_not_answer_hides_neither_a_refusal_nor_the_bot(
        self, wire: WireSimulator, options: BotOptions, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(*_: object) -> None:
            raise StorageError

        monkeypatch.setattr(services.bot_state, "_store", away)
        await failure(services, replace(options, token=SecretText("wrong.token.of-somebody")))
        async with running(services, options):
            await wire.wait_ready()

    @pytest.mark.parametrize("token", ["", "  ", "two words", "línea", "with\nbreak", "nul\0"], ids=repr)
    async def test_what_cannot_be_a_token_is_never_sent(
        self, wire: WireSimulator, options: BotOptions, services: Services, token: str
    ) -> None:
        await failure(services, replace(options, token=SecretText(token)))
        assert wire.calls == []

    async def test_a_token_that_is_reset_while_the_bot_runs_ends_it(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        task = asyncio.create_task(run_bot(services, options))
        await wire.wait_ready()
        wire.token = "another.token.now-valid"
        await wire.kick(4004)
        with pytest.raises(BotLoginFailed, match="refused the token"):
            await asyncio.wait_for(task, 60)

    @pytest.mark.parametrize("code", [4010, 4011, 4012, 4013, 4014])
    async def test_a_close_code_that_waiting_cannot_cure_ends_the_bot_with_a_remedy(
        self, wire: WireSimulator, options: BotOptions, services: Services, code: int
    ) -> None:
        task = asyncio.create_task(run_bot(services, options))
        await wire.wait_ready()
        await wire.kick(code)
        with pytest.raises(BotLoginFailed) as caught:
            await asyncio.wait_for(task, 60)
        assert caught.value.remedy
        assert len(wire.identifies) == 1


class TestComingBack:
    async def test_a_lost_connection_is_resumed(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        async with running(services, options):
            await wire.wait_ready()
            await wire.kick(4000)
            await wire.until(lambda: len(wire.resumes) == 1, what="a resume")
            assert len(wire.identifies) == 1

    async def test_an_exception_in_a_parser_of_the_library_starts_a_new_session(
        self, wire: WireSimulator, options: BotOptions, services: Services, until_logged: UntilLogged
    ) -> None:
        invites: list[str] = []
        async with running(services, options, ready=invites.append):
            await wire.wait_ready()
            async with until_logged("starting the bot again"):
                wire.dispatch("INTERACTION_CREATE", {"type": 2})
            await wire.wait_ready(identifies=2)
        assert len(invites) == 1, "the invitation is announced once, however often the bot starts"

    async def test_a_gateway_that_keeps_throwing_the_bot_out_gets_a_pause_and_a_new_session(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        def resumed(times: int) -> bool:
            return len(wire.resumes) >= times

        async with running(services, options):
            await wire.wait_ready()
            for times in range(1, 10):
                await wire.kick(4000)
                await wire.until(partial(resumed, times), what=f"resume {times}")
            assert len(wire.identifies) == 1
            await wire.kick(4000)
            await wire.wait_ready(identifies=2)

    async def test_an_outage_at_login_is_waited_out(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        wire.fault("/users/@me", 503, times=3)
        async with running(services, options):
            await wire.wait_ready()
        assert len(wire.called("GET", "/users/@me")) == 4

    async def test_pauses_double_up_to_a_bound_that_spares_the_daily_identifications(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire.fault("/users/@me", 503, times=4)
        async with running(services, replace(options, restart_after=0.05)):
            await wire.wait_ready()
        pauses = [record.args for record in caplog.records if "starting the bot again" in record.msg]
        assert pauses == [(0.05,), (0.1,), (0.2,), (0.4,)]

    async def test_a_session_that_lasted_makes_the_next_pause_short_again(
        self,
        wire: WireSimulator,
        options: BotOptions,
        services: Services,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        wire.fault("/users/@me", 503, times=2)
        async with running(services, options):
            await wire.wait_ready()
            monkeypatch.setattr("app.bot.supervisor._LONGEST_PAUSE", 0.0)  # so that this session has lasted
            wire.dispatch("INTERACTION_CREATE", {"type": 2})
            await wire.wait_ready(identifies=2)
        pauses = [record.args for record in caplog.records if "starting the bot again" in record.msg]
        assert pauses == [(0.01,), (0.02,), (0.01,)]


class TestLeaving:
    async def test_a_cancelled_bot_closes_its_session_and_restores_the_library(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
        async with running(services, options) as task:
            await wire.wait_ready()
            assert wire.api_base == Route.BASE
            started = asyncio.get_running_loop().time()
            task.cancel()
            await asyncio.wait([task])
            assert asyncio.get_running_loop().time() - started < 5
            await wire.until(lambda: not any(each.socket for each in wire.sessions), what="the end of the connection")
        assert before == (Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY)

    async def test_a_gateway_that_does_not_take_leave_does_not_keep_the_bot(
        self,
        wire: WireSimulator,
        options: BotOptions,
        services: Services,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("app.bot.supervisor._CLOSE_WITHIN", 0.1)
        async with running(services, options) as task:
            await wire.wait_ready()
            with monkeypatch.context() as patch:
                patch.setattr(DiscordWebSocket, "close", never)
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}
        assert "did not close the connection in time" in caplog.text
        await wire.until(lambda: not any(each.socket for each in wire.sessions), what="the end of the connection")

    async def test_a_bot_that_waits_for_its_next_start_leaves_at_once(
        self, wire: WireSimulator, options: BotOptions, services: Services, until_logged: UntilLogged
    ) -> None:
        wire.fault("/users/@me", 503, times=100)
        async with until_logged("starting the bot again"):
            task = asyncio.create_task(run_bot(services, replace(options, restart_after=3600)))
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}
        assert task.cancelled()


class TestIntents:
    async def test_message_content_is_asked_for_where_it_was_granted(self, services: Services) -> None:
        async with await WireSimulator.start(application_flags=CONTENT_GRANTED) as wire:
            options = BotOptions(
                token=SecretText(wire.token),
                api_base=wire.api_base,
                gateway_url=wire.gateway_url,
                message_content=True,
            )
            async with running(services, options):
                await wire.wait_ready()
            assert wire.identifies[0]["intents"] == GUILDS | GUILD_MESSAGES | MESSAGE_CONTENT

    async def test_without_the_grant_the_bot_runs_on_without_the_intent(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running(services, replace(options, message_content=True)):
            await wire.wait_ready()
        assert [identify["intents"] for identify in wire.identifies] == [GUILDS]
        assert "MESSAGE CONTENT INTENT" in caplog.text

    async def test_a_grant_that_is_withdrawn_costs_only_the_intent(self, services: Services) -> None:
        async with await WireSimulator.start(application_flags=CONTENT_GRANTED) as wire:
            options = BotOptions(
                token=SecretText(wire.token),
                api_base=wire.api_base,
                gateway_url=wire.gateway_url,
                message_content=True,
            )
            async with running(services, options):
                await wire.wait_ready()
                await wire.kick(4014)
                await wire.wait_ready(identifies=2)
            assert wire.identifies[-1]["intents"] == GUILDS


class TestStarting:
    async def test_the_invitation_asks_for_the_bot_its_commands_and_no_permission(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        invited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with caplog.at_level(logging.INFO):
            async with running(services, options, ready=invited.set_result):
                invite = await asyncio.wait_for(invited, 60)
        query = parse_qs(urlsplit(invite).query)
        assert query == {
            "client_id": [str(wire.application_id)],
            "scope": ["bot applications.commands"],
            "permissions": ["0"],
        }
        assert invite in caplog.text

    async def test_another_applications_id_in_the_settings_is_pointed_out(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running(services, replace(options, client_id="1")):
            await wire.wait_ready()
        assert "DISCORD_CLIENT_ID" in caplog.text

    async def test_one_process_can_serve_some_of_the_shards(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        async with running(services, replace(options, shard_ids=(1,), shard_count=2)):
            await wire.wait_ready()
        assert [identify["shard"] for identify in wire.identifies] == [[1, 2]]

    async def test_a_start_gives_no_warning(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running(services, options):
            await wire.wait_ready()
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


EXTENSION = """
from discord import app_commands
from discord.ext import commands

class Greeting(commands.Cog):
    def __init__(self, bot):
        self.bot = bot

    @app_commands.command(description="From an extension")
    async def greet(self, interaction):
        actor = await self.bot.session.admit(interaction)
        await interaction.edit_original_response(content=f"for {actor.discord_id}")

async def setup(bot):
    await bot.add_cog(Greeting(bot))
"""


class TestExtensions:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
        monkeypatch.syspath_prepend(tmp_path)

        def write(name: str, source: str) -> None:
            (tmp_path / f"{name}.py").write_text(source)

        return write

    async def test_an_extensions_cog_gets_the_same_services_and_actor(
        self, wire: WireSimulator, options: BotOptions, services: Services, module: Callable[[str, str], None]
    ) -> None:
        module("keyhall_greeting", EXTENSION)
        alice = wire.user(1001, "alice")
        guild = wire.add_guild(id=2001, name="Hall", owner=alice)
        async with running(services, replace(options, extensions=("keyhall_greeting",))):
            await wire.wait_ready()
            reply = await wire.slash(alice, "greet", guild=guild)
            assert reply.text == "for 1001"
            assert reply.ephemeral

    async def test_the_command_in_the_documentation_works_as_it_is_printed(
        self,
        wire: WireSimulator,
        options: BotOptions,
        services: Services,
        module: Callable[[str, str], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async def count(key: str) -> int:
            return len(key)

        module("documented_command", python_of("extend.md", "A command"))

        async def known() -> bool:
            return True

        event = DiscordEvent(discord_id="1001", guild=None, member_of_known_guild=known)
        member = await services.identity.from_discord(event)
        await services.credentials.add(member, provider="openai", label="work", secret=SECRET)
        alice = wire.user(1001, "alice")
        guild = wire.add_guild(id=2001, name="Hall", owner=alice)
        async with running(services, replace(options, extensions=("documented_command",))):
            await wire.wait_ready()
            # discord.py keeps a module of its own, so it is found by what the command is a method of.
            monkeypatch.setitem(sys.modules["documented_command"].__dict__, "count_models", count)
            reply = await wire.slash(alice, "models", guild=guild)
            assert reply.text == f"{len(SECRET)} models"
            assert reply.ephemeral

    @pytest.mark.parametrize("source", ["raise RuntimeError('broken')", "x = 1"], ids=["raises", "no setup"])
    async def test_an_extension_that_does_not_load_halts_the_bot_and_is_named(
        self,
        wire: WireSimulator,
        options: BotOptions,
        services: Services,
        module: Callable[[str, str], None],
        source: str,
    ) -> None:
        module("keyhall_broken", source)
        with pytest.raises(ConfigInvalid, match="keyhall_broken") as caught:
            await asyncio.wait_for(run_bot(services, replace(options, extensions=("keyhall_broken",))), 60)
        assert "BOT_EXTENSIONS" in caught.value.remedy
        assert wire.identifies == []


class TestSync:
    async def start(self, wire: WireSimulator, services: Services, options: BotOptions, **more: Any) -> None:
        seen = len(wire.identifies)
        async with running(services, options, **more):
            await wire.wait_ready(identifies=seen + 1)

    async def test_commands_are_synced_once_and_then_only_when_they_changed(
        self,
        wire: WireSimulator,
        options: BotOptions,
        services: Services,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await self.start(wire, services, options)
        await self.start(wire, services, options)
        assert wire.syncs == [None]
        assert {command["name"] for command in wire.commands[None]} == {"key", "encrypt", "decrypt", "link", "privacy"}

        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "keyhall_more.py").write_text(EXTENSION)
        await self.start(wire, services, replace(options, extensions=("keyhall_more",)))
        assert wire.syncs == [None, None]
        assert "greet" in {command["name"] for command in wire.commands[None]}

    @pytest.mark.parametrize("change", ["deleted", "one deleted", "edited", "made anew", "one more"])
    async def test_what_another_process_did_to_the_commands_at_discord_is_noticed_at_the_next_start(
        self, wire: WireSimulator, options: BotOptions, services: Services, change: str
    ) -> None:
        await self.start(wire, services, options)
        here = [{**command} for command in wire.commands[None]]
        wire.commands[None] = {
            "deleted": [],
            "one deleted": here[1:],
            "edited": [{**here[0], "description": "By somebody else"}, *here[1:]],
            "made anew": [{**here[0], "id": "4711"}, *here[1:]],
            "one more": [*here, {**here[0], "name": "another", "id": "4712"}],
        }[change]
        await self.start(wire, services, options)
        assert wire.syncs == [None, None]
        assert {command["name"] for command in wire.commands[None]} == {"key", "encrypt", "decrypt", "link", "privacy"}
        await self.start(wire, services, options)
        assert wire.syncs == [None, None], "then it is known"

    async def test_answers_name_commands_that_can_be_clicked(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        alice = wire.user(1001, "alice")
        guild = wire.add_guild(id=2001, name="Hall", owner=alice)
        async with running(services, options):
            await wire.wait_ready()
            form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
            reply = await wire.submit_modal(form, {"secret": SECRET})
        number = next(command["id"] for command in wire.commands[None] if command["name"] == "key")
        assert f"</key list:{number}>" in reply.text

    async def test_the_operator_can_insist(self, wire: WireSimulator, options: BotOptions, services: Services) -> None:
        await self.start(wire, services, options)
        await self.start(wire, services, options, sync=True)
        assert wire.syncs == [None, None]

    async def test_a_failed_sync_does_not_keep_the_bot_from_starting_and_is_tried_again(
        self, wire: WireSimulator, options: BotOptions, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire.fault("/applications", 403, method="PUT")
        await self.start(wire, services, options)
        assert "could not be synced" in caplog.text
        assert wire.commands[None] == []
        await self.start(wire, services, options)
        assert wire.commands[None] != []

    async def test_another_application_is_told_too(self, services: Services) -> None:
        for _ in range(2):
            async with await WireSimulator.start() as wire:
                options = BotOptions(token=SecretText(wire.token), api_base=wire.api_base, gateway_url=wire.gateway_url)
                await self.start(wire, services, options)
                assert wire.syncs == [None]


class TestFirstRun:
    async def test_a_server_that_invited_the_bot_ticks_its_line_in_the_hall(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        operator = await services.identity.operator()
        await services.identity.create_owner("alice", PASSWORD, operator.client)
        pair = await services.authentication.login("alice", PASSWORD, operator.client)
        owner = await services.requests.authenticate(pair.access_token.reveal(), operator.client)
        wire.add_guild(id=900, name="Smiths", owner=wire.user(1, "smith"))

        async def invited() -> bool:
            steps = (await services.dashboard.dashboard(owner)).first_run
            return steps is not None and steps.bot_invited

        assert not await invited()
        async with running(services, options), asyncio.timeout(60):
            while not await invited():  # noqa: ASYNC110 - the dashboard has no event to wait for
                await asyncio.sleep(0.05)

    async def test_a_server_that_removes_the_bot_is_noted_until_it_invites_it_again(
        self, wire: WireSimulator, options: BotOptions, services: Services
    ) -> None:
        async def noted() -> list[str]:
            async with services.bot_state._storage.read() as uow:
                return list(await uow.bot_state.starting_with("left/", limit=9))

        guild = wire.add_guild(id=900, name="Smiths", owner=wire.user(1, "smith"))
        async with running(services, options), asyncio.timeout(60):
            await wire.wait_ready()
            wire.remove_guild(guild)
            while await noted() != ["left/900"]:  # noqa: ASYNC110 - the database has no event to wait for
                await asyncio.sleep(0.05)
            wire.add_guild(id=900, name="Smiths", owner=guild.owner)
            while await noted():  # noqa: ASYNC110 - the database has no event to wait for
                await asyncio.sleep(0.05)
