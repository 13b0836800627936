"""The real services on an embedded database, and a Discord on loopback for the bot to meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import discord
import pytest
import simcord
from simcord.results import InteractionResult

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.bot import BotOptions
from app.bot.client import KeyhallBot
from app.domain.credentials import CredentialView
from app.domain.errors import AppError
from app.domain.identity import Actor, GuildContext
from app.domain.secrets import SecretText
from app.services import Services
from app.services.identity import DiscordEvent
from app.settings import Settings
from tests.support.discord_wire import WireSimulator
from tests.support.installs import Place
from tests.support.samples import SECRET


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SimCord waits until the bot is idle: as long as a busy machine takes."""
    for item in items:
        if "simcord_env" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.simcord(settle_timeout=60))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a check before a form takes long. Tests that are about giving up set their own time."""
    monkeypatch.setattr("app.bot.session._CHECK_WITHIN", 60)


@pytest.fixture
async def services(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Services]:
    await Place(sqlite_url, tmp_path / "data").install()
    settings = Settings.load({"APP_ENV": "test", "DATA_DIR": tmp_path / "data", "DATABASE_URL": SecretText(sqlite_url)})
    async with (
        open_keys(settings, may_create=True) as opened,
        open_services(settings, opened, kind="bot") as services,
    ):
        yield services


@pytest.fixture
async def wire() -> AsyncIterator[WireSimulator]:
    async with await WireSimulator.start() as simulator:
        yield simulator


@pytest.fixture
def options(wire: WireSimulator) -> BotOptions:
    return BotOptions(
        token=SecretText(wire.token),
        api_base=wire.api_base,
        gateway_url=wire.gateway_url,
        public_url="https://keys.example.org",
        restart_after=0.01,
    )


class _Heard(logging.Handler):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.event = asyncio.Event()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()


@pytest.fixture
def until_logged() -> Callable[[str], AbstractAsyncContextManager[None]]:
    """A block that ends when the bot has logged a message with these words since the block began."""

    @asynccontextmanager
    async def block(words: str) -> AsyncIterator[None]:
        heard, logger = _Heard(words), logging.getLogger("app.bot")
        logger.addHandler(heard)
        try:
            yield
            async with asyncio.timeout(60):
                await heard.event.wait()
        finally:
            logger.removeHandler(heard)

    return block


# ---------------------------------------------------------------------------------------------------------------------
# Members at their screens, without a network: SimCord drives the unmodified bot in this process
# ---------------------------------------------------------------------------------------------------------------------


def component_of(answer: InteractionResult, action: str) -> str:
    """The id of the button or menu of an answer that leads to this action."""
    assert answer.response is not None, "there is no answer"
    found = [each for each in custom_ids(answer.response.components) if each.startswith(f"keyhall:{action}:")]
    assert found, f"no component leads to {action}"
    return found[0]


def custom_ids(node: Any) -> Iterator[str]:
    """The ids of all components, in their order."""
    if isinstance(node, dict):
        if "custom_id" in node:
            yield node["custom_id"]
        for value in node.values():
            yield from custom_ids(value)
    elif isinstance(node, list):
        for item in node:
            yield from custom_ids(item)


class Community:
    """One server with the bot in it: Alice and Bob are members, Mona manages it, Otto is a member of another one."""

    def __init__(self, env: simcord.Env, bot: KeyhallBot) -> None:
        self.env = env
        self.bot = bot
        self.services = bot.services
        self.guild = env.create_guild()
        self.channel = self.guild.create_text_channel("general")
        self.manager = manager = self.guild.create_role("managers", permissions=discord.Permissions(manage_guild=True))
        self.alice = self.guild.add_member(env.create_user("alice"))
        self.bob = self.guild.add_member(env.create_user("bob"))
        self.mona = self.guild.add_member(env.create_user("mona"), roles=[manager])
        self.elsewhere = env.create_guild()
        self.other_channel = self.elsewhere.create_text_channel("general")
        self.otto = self.elsewhere.add_member(env.create_user("otto"))
        self.crashes_expected = 0

    async def add(self, member: Any = None, *, secret: str = SECRET, **fields: Any) -> InteractionResult:
        """Store a key through `/key add`; ``for_server`` goes to the command, the rest into the form."""
        member = member or self.alice
        options = {"for_server": fields.pop("for_server")} if "for_server" in fields else {}
        form = await member.slash(self.channel, "key add", **options)
        values = {"provider": "openai", "label": "work"} | fields
        answer: InteractionResult = await member.submit_modal(form, values | {"secret": secret})
        return answer

    async def views(self, member: Any = None, **more: Any) -> Sequence[CredentialView]:
        """The stored credentials of a member, as the service returns them."""
        actor = await self.actor(member or self.alice)
        return (await self.services.credentials.page(actor, **more)).items

    async def press(self, member: Any, answer: InteractionResult, action: str) -> InteractionResult:
        """Press the button of an answer that leads to this action."""
        pressed: InteractionResult = await member.click(answer.response, custom_id=component_of(answer, action))
        return pressed

    async def choose(self, member: Any, answer: InteractionResult, value: str) -> InteractionResult:
        """Choose a key of a list."""
        custom_id = component_of(answer, "pick")
        chosen: InteractionResult = await member.select(answer.response, [value], custom_id=custom_id)
        return chosen

    async def actor(self, member: Any, guild: GuildContext | None = None) -> Actor:
        """The member as an Actor of the services."""

        async def known() -> bool:
            return True

        event = DiscordEvent(discord_id=str(member.id), guild=guild, member_of_known_guild=known)
        return await self.services.identity.from_discord(event)


@pytest.fixture
def simcord_bot(services: Services) -> KeyhallBot:
    """The bot that `simcord_env` runs."""
    options = BotOptions(token=SecretText("simulated"), public_url="https://keys.example.org")
    return KeyhallBot(services, options)


@pytest.fixture
async def community(simcord_env: simcord.Env, simcord_bot: KeyhallBot) -> AsyncIterator[Community]:
    """A server with its members. Refusals are expected; any other failure fails the test, unless it says so."""
    crashes = _Crashes()
    logging.getLogger("app.bot").addHandler(crashes)
    # SimCord's clock begins at a fixed date, and a key's expiry is counted from the time of the interaction.
    await simcord_env.advance_time((datetime.now(UTC) - simcord_env.now()).total_seconds())
    community = Community(simcord_env, simcord_bot)
    yield community
    logging.getLogger("app.bot").removeHandler(crashes)
    raised = [getattr(error, "original", error) for error in simcord_env.errors]
    assert all(isinstance(error, AppError) for error in raised) or community.crashes_expected, raised
    assert len(crashes.messages) == community.crashes_expected, crashes.messages


class _Crashes(logging.Handler):
    """The failures that nobody foresaw, as the bot logs them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def shown() -> Callable[[InteractionResult], str]:
    """Everything that can be read in an answer, which nobody but its reader may see."""
    return _shown


@pytest.fixture
def form_texts() -> Callable[[InteractionResult], str]:
    """Everything that can be read in a form, what is filled in already included."""
    return _form_texts


def _shown(answer: InteractionResult) -> str:
    assert answer.response is not None, "there is no answer"
    assert answer.response.ephemeral
    return "\n".join(_texts(answer.response.components))


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"content", "label", "description", "placeholder", "value", "title"} and isinstance(value, str):
                yield value
            else:
                yield from _texts(value)
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item)


def _form_texts(form: InteractionResult) -> str:
    assert form.modal is not None, "there is no form"
    return "\n".join(_texts(form.modal))
