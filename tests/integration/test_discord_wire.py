"""The simulator against the client library that it is for: an unmodified discord.py, in this process and in another.

One file: every section drives the same small bot, which is written out below.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import discord
import pytest
import yarl
from discord import app_commands

from tests.support.discord_wire import File, Guild, NotOffered, Role, User, WireSimulator

CONTENT_GRANTED = 1 << 19
MEMBERS_GRANTED = 1 << 15
LABELS = ("prod-main", "prod-spare", "staging")


Choices = list[app_commands.Choice[str]]


class KeyForm(discord.ui.Modal, title="Add a key"):
    label = discord.ui.TextInput[discord.ui.Modal](label="Label", custom_id="label", default="work", max_length=20)
    secret = discord.ui.Label[discord.ui.Modal](
        text="Secret", description="Nobody sees it.", component=discord.ui.TextInput(custom_id="secret", max_length=200)
    )
    kind = discord.ui.Label[discord.ui.Modal](
        text="Kind",
        component=discord.ui.Select(
            custom_id="kind", options=[discord.SelectOption(label=name) for name in ("read", "write")]
        ),
    )

    def __init__(self, provider: str) -> None:
        super().__init__(custom_id=f"add:{provider}")

    async def on_submit(self, interaction: discord.Interaction) -> None:
        assert isinstance(self.secret.component, discord.ui.TextInput)
        assert isinstance(self.kind.component, discord.ui.Select)
        said = f"{self.label.value} {self.kind.component.values[0]} of {len(self.secret.component.value)} characters"
        await interaction.response.send_message(said, ephemeral=True)


def note(text: str) -> discord.ui.LayoutView:
    view = discord.ui.LayoutView()
    view.add_item(discord.ui.TextDisplay(text))
    return view


class Panel(discord.ui.LayoutView):
    row = discord.ui.ActionRow["Panel"]()

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.add_item(discord.ui.Container(discord.ui.TextDisplay("Remove **prod**?"), accent_color=0xFF0000))

    @row.button(label="Remove", style=discord.ButtonStyle.danger, custom_id="remove:yes")
    async def remove(self, interaction: discord.Interaction, _: discord.ui.Button[Panel]) -> None:
        await interaction.response.edit_message(view=note("Removed."))

    @row.button(label="Later", custom_id="remove:later")
    async def later(self, interaction: discord.Interaction, _: discord.ui.Button[Panel]) -> None:
        await interaction.response.defer()
        await interaction.edit_original_response(view=note("Another time."))


class Key(app_commands.Group):
    @app_commands.command(description="Add a key")
    async def add(self, interaction: discord.Interaction, provider: str) -> None:
        await interaction.response.send_modal(KeyForm(provider))

    @app_commands.command(description="List the keys")
    async def list(self, interaction: discord.Interaction, provider: str | None = None, limit: int = 5) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        await interaction.followup.send(f"{limit} of {provider}", ephemeral=True)
        await interaction.followup.send(embed=discord.Embed(title="Second", description="page"), ephemeral=True)

    @app_commands.command(description="Remove a key")
    async def remove(self, interaction: discord.Interaction, label: str) -> None:
        await interaction.response.send_message(view=Panel(), ephemeral=True)

    @remove.autocomplete("label")
    async def labels(self, _: discord.Interaction, current: str) -> Choices:
        return [app_commands.Choice(name=one, value=one) for one in LABELS if one.startswith(current)]


class Bot(discord.Client):
    """A client with a command tree, which remembers the events that it receives."""

    def __init__(self, intents: discord.Intents | None = None, **options: Any) -> None:
        super().__init__(intents=intents or discord.Intents.default(), guild_ready_timeout=0.05, **options)
        self.heard: list[str] = []
        self._hears = asyncio.Event()
        self.tree = app_commands.CommandTree(self)
        self.tree.add_command(Key(name="key", description="Keys"))
        self.tree.add_command(app_commands.Command(name="who", description="Who asks", callback=who))
        self.tree.add_command(app_commands.Command(name="share", description="Share", callback=share))

    async def setup_hook(self) -> None:
        await self.tree.sync()

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Do not wait 5 s between sessions."""

    async def on_message(self, message: discord.Message) -> None:
        if message.author != self.user:
            self._hear(message.content)

    async def on_resumed(self) -> None:
        self._hear("resumed")

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self._hears.set()

    async def has_heard(self, count: int) -> list[str]:
        async with asyncio.timeout(60):
            while len(self.heard) < count:
                self._hears.clear()
                await self._hears.wait()
        return self.heard


class ShardedBot(discord.AutoShardedClient):
    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Do not wait 5 s between shards."""


def place_of(context: app_commands.AppCommandContext) -> int:
    return [context.guild, context.dm_channel, context.private_channel].index(True)


@app_commands.allowed_installs(guilds=True, users=True)
async def who(interaction: discord.Interaction, picture: discord.Attachment | None = None) -> None:
    place = interaction.guild.name if interaction.guild else "a private channel"
    held = [str(role.id) for role in getattr(interaction.user, "roles", [])]
    size = len(await picture.read()) if picture else 0
    facts = [interaction.user.name, place, f"manages={interaction.permissions.manage_guild}", *held, f"{size} bytes"]
    facts += [f"personal={interaction.is_user_integration()}", f"context={place_of(interaction.context)}"]
    await interaction.response.send_message(", ".join(facts), ephemeral=True)


@app_commands.guild_only
@app_commands.default_permissions(manage_guild=True)
async def share(interaction: discord.Interaction, role: discord.Role, cap: app_commands.Range[int, 1, 50] = 20) -> None:
    await interaction.response.send_message(f"{role.name} may, {cap} a day")


@asynccontextmanager
async def running(bot: discord.Client, wire: WireSimulator) -> AsyncIterator[None]:
    """The bot, READY; what ended it too early is raised."""
    session, seen = asyncio.create_task(bot.start(wire.token)), len(wire.identifies)
    ready = asyncio.create_task(wire.wait_ready(identifies=seen + 1))
    try:
        await asyncio.wait({session, ready}, return_when=asyncio.FIRST_COMPLETED)
        await (ready if ready.done() else session)
        yield
    finally:
        ready.cancel()
        await bot.close()
        await asyncio.wait({session, ready})


def point_at(wire: WireSimulator, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(discord.http.Route, "BASE", wire.api_base)
    patch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(wire.gateway_url))


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireSimulator]:
    async with await WireSimulator.start() as simulator:
        point_at(simulator, monkeypatch)
        yield simulator


@pytest.fixture
def alice(wire: WireSimulator) -> User:
    return wire.user(1001, "alice")


@pytest.fixture
def guild(wire: WireSimulator, alice: User) -> Guild:
    return wire.add_guild(id=2001, name="Hall", members={alice: [3001]}, roles=[Role(3001, "Keepers")])


@pytest.fixture
async def bot(wire: WireSimulator, guild: Guild) -> AsyncIterator[Bot]:
    client = Bot()
    async with running(client, wire):
        yield client


# ---------------------------------------------------------------------------------------------------------------------
# Logging in
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_bot_logs_in_and_sees_its_guild(wire: WireSimulator, guild: Guild, bot: Bot) -> None:
    await asyncio.wait_for(bot.wait_until_ready(), 60)
    assert [seen.name for seen in bot.guilds] == ["Hall"]
    assert bot.application_id == wire.application_id
    assert bot.application is not None
    assert bot.application.flags.value == 0
    assert wire.identifies[0]["intents"] == discord.Intents.default().value


async def test_a_wrong_token_is_refused_at_login(wire: WireSimulator) -> None:
    bot = Bot()
    with pytest.raises(discord.LoginFailure):
        await bot.start("another-token")
    await bot.close()
    assert [(call.path, call.status) for call in wire.calls] == [("/users/@me", 401)]


async def test_a_token_reset_meanwhile_is_refused_at_the_gateway(wire: WireSimulator, guild: Guild) -> None:
    bot = Bot()
    await bot.login(wire.token)
    wire.token = "reset"
    with pytest.raises(discord.ConnectionClosed) as refusal:
        await bot.connect()
    assert refusal.value.code == 4004


async def test_an_intent_that_was_not_granted_closes_with_4014(wire: WireSimulator) -> None:
    intents = discord.Intents.default()
    intents.message_content = True
    bot = Bot(intents)
    with pytest.raises(discord.PrivilegedIntentsRequired):
        await bot.start(wire.token)
    await bot.close()


async def test_json_is_sent_without_a_charset(wire: WireSimulator) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{wire.api_base}/nowhere") as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (401, "application/json")


async def test_commands_are_counted_and_keep_their_ids(wire: WireSimulator, guild: Guild, bot: Bot) -> None:
    before = {command["name"]: command["id"] for command in wire.commands[None]}
    assert before.keys() == {"key", "who", "share"}
    bot.tree.remove_command("share")
    await bot.tree.sync()
    bot.tree.copy_global_to(guild=discord.Object(guild.id))
    synced = await bot.tree.sync(guild=discord.Object(guild.id))
    assert wire.syncs == [None, None, guild.id]
    assert {command["name"]: command["id"] for command in wire.commands[None]} == {
        name: before[name] for name in ("key", "who")
    }
    assert [command.name for command in await bot.tree.fetch_commands(guild=discord.Object(guild.id))] == [
        command.name for command in synced
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Interactions
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_deferred_answer_is_waited_for(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    reply = await wire.slash(alice, "key list", {"provider": "openai", "limit": 3}, guild=guild)
    assert (reply.type, reply.ephemeral, reply.flags) == (5, True, 64)
    assert reply.text.startswith("3 of openai")
    await wire.until(lambda: reply.followups)
    assert reply.text == "3 of openai\nSecond\npage"
    assert reply.ephemeral


async def test_a_modal_is_filled_in_and_submitted_in_its_own_shape(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot
) -> None:
    form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
    assert (form.type, form.modal.title, form.modal.custom_id) == (9, "Add a key", "add:openai")
    assert {name: field["label"] for name, field in form.modal.fields.items()} == {
        "label": "Label",
        "secret": "Secret",
        "kind": "Kind",
    }
    answer = await wire.submit_modal(form, {"secret": "sk-123456", "kind": "write"})
    assert (answer.text, answer.ephemeral) == ("work write of 9 characters", True)
    assert [row["type"] for row in answer.interaction["data"]["components"]] == [1, 18, 18]


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"secret": "", "kind": "read"}, ValueError),
        ({"secret": "x" * 201, "kind": "read"}, ValueError),
        ({"secret": "x", "kind": "execute"}, ValueError),
        ({"secret": "x", "kind": "read", "colour": "red"}, LookupError),
    ],
)
async def test_a_modal_takes_only_what_the_form_would(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot, *, values: dict[str, str], refusal: type[Exception]
) -> None:
    form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
    with pytest.raises(refusal):
        await wire.submit_modal(form, values)


async def test_autocomplete_offers_what_fits(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    choices = await wire.autocomplete(alice, "key remove", focused="label", value="pro", guild=guild)
    assert [choice["value"] for choice in choices] == ["prod-main", "prod-spare"]


async def test_a_button_of_a_layout_edits_its_message(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    shown = await wire.slash(alice, "key remove", {"label": "prod"}, guild=guild)
    assert "Remove **prod**?" in shown.text
    assert shown.flags & (1 << 15)
    pressed = await wire.click(shown, custom_id="remove:yes")
    assert (pressed.type, pressed.text, pressed.ephemeral) == (7, "Removed.", True)
    assert shown.text == "Removed."
    with pytest.raises(LookupError, match="remove:yes"):
        await wire.click(shown, custom_id="remove:yes")


async def test_a_deferred_update_settles_with_the_edit(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot
) -> None:
    shown = await wire.slash(alice, "key remove", {"label": "prod"}, guild=guild)
    pressed = await wire.click(shown, custom_id="remove:later")
    assert (pressed.type, pressed.text, shown.text) == (6, "Another time.", "Another time.")


async def test_nobody_else_can_use_an_ephemeral_answer(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot
) -> None:
    shown = await wire.slash(alice, "key remove", {"label": "prod"}, guild=guild)
    with pytest.raises(NotOffered):
        await wire.click(shown, custom_id="remove:yes", user=wire.owner)


async def test_a_member_brings_roles_and_permissions(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    plain = await wire.slash(alice, "who", guild=guild)
    assert plain.text.startswith("alice, Hall, manages=False, 2001, 3001, 0 bytes, personal=False, context=0")
    raised = await wire.slash(alice, "who", guild=guild, permissions=1 << 5, roles=[])
    assert raised.text.startswith("alice, Hall, manages=True, 2001, 0 bytes")
    owner = await wire.slash(wire.owner, "who", guild=guild)
    assert "manages=True" in owner.text


async def test_a_direct_message_has_no_member(wire: WireSimulator, alice: User, bot: Bot) -> None:
    reply = await wire.slash(alice, "who")
    assert reply.text == "alice, a private channel, manages=False, 0 bytes, personal=False, context=1"
    assert "guild_id" not in reply.interaction
    assert reply.interaction["authorizing_integration_owners"] == {"0": "0"}


async def test_a_user_installed_command_works_where_the_bot_is_not(wire: WireSimulator, alice: User, bot: Bot) -> None:
    elsewhere = wire.add_guild(id=2002, name="Elsewhere", members=[alice], has_bot=False)
    reply = await wire.slash(alice, "who", guild=elsewhere, user_install=True)
    assert reply.text.startswith("alice, ")
    assert "personal=True" in reply.text
    assert reply.interaction["authorizing_integration_owners"] == {"1": "1001"}
    assert "context=2" in (await wire.slash(alice, "who", user_install=True, context=2)).text
    with pytest.raises(NotOffered):
        await wire.slash(alice, "who", guild=elsewhere)


async def test_an_attachment_can_be_read_by_the_bot(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    reply = await wire.slash(alice, "who", {"picture": File("a.png", b"12345")}, guild=guild)
    assert "5 bytes" in reply.text


async def test_a_command_is_offered_to_whom_discord_would(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot
) -> None:
    role = guild.roles[3001]
    with pytest.raises(NotOffered, match="permissions"):
        await wire.slash(alice, "share", {"role": role}, guild=guild)
    with pytest.raises(NotOffered, match=r"contexts|direct"):
        await wire.slash(alice, "share", {"role": role})
    role.permissions = 1 << 5
    reply = await wire.slash(alice, "share", {"role": role, "cap": 50}, guild=guild)
    assert (reply.text, reply.ephemeral) == ("Keepers may, 50 a day", False)


@pytest.mark.parametrize(
    ("command", "options", "refusal"),
    [
        ("key", {}, LookupError),
        ("key add", {}, ValueError),
        ("key list", {"colour": "red"}, LookupError),
        ("key list", {"limit": "many"}, ValueError),
        ("share", {"role": 3001, "cap": 51}, ValueError),
    ],
)
async def test_a_command_takes_only_what_the_client_would_send(
    wire: WireSimulator, guild: Guild, bot: Bot, *, command: str, options: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await wire.slash(wire.owner, command, options, guild=guild)


async def test_a_command_that_was_never_synced_is_not_there(wire: WireSimulator, guild: Guild, bot: Bot) -> None:
    with pytest.raises(TimeoutError, match="/nothing among the synced commands"):
        await wire.slash(wire.owner, "nothing", guild=guild, within=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# Requests of the bot that are refused
# ---------------------------------------------------------------------------------------------------------------------


class Rash(discord.Client):
    """Answers /rash with ``act`` and keeps the error."""

    def __init__(self, act: Any) -> None:
        super().__init__(intents=discord.Intents.default(), guild_ready_timeout=0.05)
        self.act = act
        self.error: discord.HTTPException | None = None
        self.done = asyncio.Event()
        self.tree = app_commands.CommandTree(self)
        self.tree.add_command(app_commands.Command(name="rash", description="Rash", callback=self._rash))

    async def setup_hook(self) -> None:
        await self.tree.sync()

    async def _rash(self, interaction: discord.Interaction) -> None:
        try:
            await self.act(interaction)
        except discord.HTTPException as error:
            self.error = error
        self.done.set()


async def callback(interaction: discord.Interaction, kind: int, **data: Any) -> None:
    """The callback as bytes on the wire, past the library's own checks."""
    url = f"{discord.http.Route.BASE}/interactions/{interaction.id}/{interaction.token}/callback"
    async with aiohttp.ClientSession() as session, session.post(url, json={"type": kind, "data": data}) as response:
        if response.status >= 400:
            raise discord.HTTPException(response, await response.json())


async def twice(interaction: discord.Interaction) -> None:
    await callback(interaction, 4, content="once")
    await callback(interaction, 4, content="again")


async def choices(interaction: discord.Interaction) -> None:
    await callback(interaction, 8, choices=[])


async def update(interaction: discord.Interaction) -> None:
    await callback(interaction, 7, content="nothing to update")


async def at_length(interaction: discord.Interaction) -> None:
    await interaction.response.send_message("x" * 2001)


async def empty(interaction: discord.Interaction) -> None:
    await callback(interaction, 4)


async def unannounced(interaction: discord.Interaction) -> None:
    await interaction.followup.send("before any acknowledgement")


async def wide(interaction: discord.Interaction) -> None:
    row = {"type": 1, "components": [{"type": 2, "style": 1, "label": "x", "custom_id": str(n)} for n in range(6)]}
    await callback(interaction, 4, content="six", components=[row])


async def long_title(interaction: discord.Interaction) -> None:
    await callback(interaction, 9, title="x" * 46, custom_id="m", components=[{"type": 10, "content": "text"}])


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (twice, 40060),
        (choices, 50035),
        (update, 50035),
        (at_length, 50035),
        (empty, 50006),
        (unannounced, 10015),
        (wide, 50035),
        (long_title, 50035),
    ],
)
async def test_a_faulty_answer_is_refused(wire: WireSimulator, guild: Guild, act: Any, code: int) -> None:
    bot = Rash(act)
    async with running(bot, wire):
        asking = asyncio.create_task(wire.slash(wire.owner, "rash", guild=guild, within=30))
        await asyncio.wait_for(bot.done.wait(), 60)
        asking.cancel()
        await asyncio.wait([asking])
    assert bot.error is not None
    assert bot.error.code == code


async def test_an_acknowledgement_after_three_seconds_is_too_late(wire: WireSimulator, guild: Guild) -> None:
    assert wire.ack_within == 3.0
    wire.ack_within = 0.0
    bot = Rash(lambda interaction: interaction.response.defer())
    async with running(bot, wire):
        with pytest.raises(TimeoutError, match="the answer to /rash"):
            await wire.slash(wire.owner, "rash", guild=guild, within=0.2)
        await asyncio.wait_for(bot.done.wait(), 60)
    assert isinstance(bot.error, discord.NotFound)
    assert bot.error.code == 10062


async def test_a_follow_up_after_the_token_expired_is_refused(wire: WireSimulator, guild: Guild) -> None:
    assert wire.token_lifetime == 900.0
    wire.token_lifetime = 0.0

    async def late(interaction: discord.Interaction) -> None:
        await interaction.response.defer()
        await interaction.edit_original_response(content="late")

    bot = Rash(late)
    async with running(bot, wire):
        reply = await wire.slash(wire.owner, "rash", guild=guild, settle=False)
        await asyncio.wait_for(bot.done.wait(), 60)
    assert (reply.type, reply.settled) == (5, False)
    assert bot.error is not None
    assert (bot.error.status, bot.error.code) == (401, 50027)


async def test_commands_with_bad_names_are_refused(wire: WireSimulator, bot: Bot) -> None:
    bad = {"name": "Upper Case", "description": "x", "type": 1}
    with pytest.raises(discord.HTTPException, match="Invalid name"):
        await bot.http.bulk_upsert_global_commands(wire.application_id, [bad])
    assert len(wire.syncs) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Messages, members
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_direct_message_is_sent_edited_and_deleted(wire: WireSimulator, alice: User, bot: Bot) -> None:
    user = await bot.fetch_user(alice.id)
    message = await user.send("one", file=discord.File(__file__, "key.txt"))
    (seen,) = wire.sent_to(alice)
    assert (seen.text, len(seen.files["key.txt"])) == ("one\nkey.txt", message.attachments[0].size)
    assert await message.attachments[0].read() == seen.files["key.txt"]
    await message.edit(content="two", attachments=[])
    assert (seen.text, seen.files) == ("two", {})
    assert (await message.channel.fetch_message(message.id)).content == "two"
    await message.delete()
    assert wire.sent_to(alice) == []


async def test_a_button_in_a_direct_message_works(wire: WireSimulator, alice: User, bot: Bot) -> None:
    user = await bot.fetch_user(alice.id)
    await user.send(view=Panel())
    (seen,) = wire.sent_to(alice)
    pressed = await wire.click(seen, custom_id="remove:yes")
    assert (pressed.text, seen.text) == ("Removed.", "Removed.")


async def test_a_user_who_takes_no_messages_gets_none(wire: WireSimulator, alice: User, bot: Bot) -> None:
    alice.accepts_dms = False
    user = await bot.fetch_user(alice.id)
    with pytest.raises(discord.Forbidden) as refusal:
        await user.send("hello")
    assert refusal.value.code == 50007


async def test_membership_can_be_looked_up(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    seen = await bot.fetch_guild(guild.id)
    assert [role.id for role in (await seen.fetch_member(alice.id)).roles] == [guild.id, 3001]
    wire.join(guild, alice, roles=[])
    assert [role.id for role in (await seen.fetch_member(alice.id)).roles] == [guild.id]
    wire.leave(guild, alice)
    with pytest.raises(discord.NotFound) as refusal:
        await seen.fetch_member(alice.id)
    assert refusal.value.code == 10007


async def test_the_bot_hears_that_it_was_added_and_removed(wire: WireSimulator, bot: Bot) -> None:
    await asyncio.wait_for(bot.wait_until_ready(), 60)
    joined, left = bot.wait_for("guild_join", timeout=60), bot.wait_for("guild_remove", timeout=60)
    other = wire.add_guild(id=2002, name="Other")
    assert (await joined).name == "Other"
    wire.remove_guild(other)
    assert (await left).id == 2002
    with pytest.raises(discord.NotFound):
        await bot.fetch_guild(2002)


async def test_content_is_withheld_without_the_intent(wire: WireSimulator, alice: User, guild: Guild, bot: Bot) -> None:
    wire.say(alice, "sk-secret", guild=guild)
    wire.say(alice, f"<@{wire.bot.id}> help", guild=guild)
    wire.say(alice, "in private")
    assert await bot.has_heard(3) == ["", f"<@{wire.bot.id}> help", "in private"]


async def test_granted_intents_bring_content_and_members(wire: WireSimulator, alice: User, guild: Guild) -> None:
    wire.application_flags = CONTENT_GRANTED | MEMBERS_GRANTED
    intents = discord.Intents.default()
    intents.message_content = intents.members = True
    bot = Bot(intents)
    async with running(bot, wire):
        message = wire.say(alice, "sk-secret", guild=guild)
        assert await bot.has_heard(1) == ["sk-secret"]
        channel = bot.get_partial_messageable(guild.channel_id)
        await channel.get_partial_message(message.id).delete()
        assert message.deleted
        seen = bot.get_guild(guild.id)
        assert seen is not None
        assert seen.get_member(alice.id) is not None
        assert [found.id for found in await seen.query_members("ali", cache=False)] == [alice.id]


# ---------------------------------------------------------------------------------------------------------------------
# Trouble
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["kick", "reconnect", "invalidate"])
async def test_a_lost_connection_is_resumed(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot, trouble: str
) -> None:
    if trouble == "kick":
        await wire.kick(4000)
    elif trouble == "reconnect":
        await wire.reconnect()
    else:
        await wire.invalidate(resumable=True)
    assert await bot.has_heard(1) == ["resumed"]
    assert (len(wire.identifies), len(wire.resumes)) == (1, 1)
    assert (await wire.slash(alice, "who", guild=guild)).text.startswith("alice")


async def test_resume_replays_what_was_missed(wire: WireSimulator, alice: User, bot: Bot) -> None:
    wire.say(alice, "before")
    assert await bot.has_heard(1) == ["before"]
    await wire.kick(4000)
    wire.say(alice, "missed")
    assert not wire.sessions[-1].ready
    assert await bot.has_heard(3) == ["before", "missed", "resumed"]


@pytest.mark.parametrize("trouble", ["invalidate", 4009])
async def test_a_lost_session_is_identified_again(
    wire: WireSimulator, alice: User, guild: Guild, bot: Bot, trouble: str | int
) -> None:
    await (wire.kick(trouble) if isinstance(trouble, int) else wire.invalidate(resumable=False))
    await wire.wait_ready(identifies=2)
    assert (await wire.slash(alice, "who", guild=guild)).text.startswith("alice")


async def test_a_rate_limit_is_waited_out(wire: WireSimulator, alice: User, bot: Bot) -> None:
    wire.rate_limit(f"/users/{alice.id}", retry_after=0.01, times=2)
    assert (await bot.fetch_user(alice.id)).name == "alice"
    assert [call.status for call in wire.called("GET", f"/users/{alice.id}")] == [429, 429, 200]


async def test_a_ban_is_not_retried(wire: WireSimulator, alice: User, bot: Bot) -> None:
    wire.rate_limit(f"/users/{alice.id}", banned=True)
    with pytest.raises(discord.HTTPException) as refusal:
        await bot.fetch_user(alice.id)
    assert refusal.value.status == 429


async def test_a_fault_hits_as_often_as_asked(wire: WireSimulator, alice: User, bot: Bot) -> None:
    wire.fault("/users/", 503, method="GET")
    with pytest.raises(discord.DiscordServerError):
        await bot.fetch_user(alice.id)
    assert (await bot.fetch_user(alice.id)).name == "alice"
    wire.fault("/users/", 0, times=2)  # aiohttp repeats a GET once when a kept connection drops
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await bot.fetch_user(alice.id)


async def test_guilds_are_spread_over_shards(wire: WireSimulator, alice: User, guild: Guild) -> None:
    wire.shards = 2
    other = wire.add_guild(id=1 << 22, name="Other", members=[alice])
    bot = ShardedBot(intents=discord.Intents.default(), guild_ready_timeout=0.05)
    async with running(bot, wire):
        await asyncio.wait_for(bot.wait_until_ready(), 60)
        assert {seen.id: seen.shard_id for seen in bot.guilds} == {guild.id: 0, other.id: 1}
        assert [identify["shard"] for identify in wire.identifies] == [[0, 2], [1, 2]]
        frames = [len(session.frames) for session in wire.sessions]
        wire.say(alice, "hello", guild=other)
        assert [len(session.frames) for session in wire.sessions] == [frames[0], frames[1] + 1]


async def test_a_failure_of_the_simulator_surfaces_when_it_stops(wire: WireSimulator) -> None:
    url, headers = f"{wire.api_base}/users/@me/channels", {"Authorization": f"Bot {wire.token}"}
    async with aiohttp.ClientSession() as session, session.post(url, json={}, headers=headers) as answer:
        assert answer.status == 500
    with pytest.raises(ExceptionGroup) as failure:
        await wire.stop()
    assert isinstance(failure.value.exceptions[0], KeyError)


# ---------------------------------------------------------------------------------------------------------------------
# OAuth2
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_user_signs_in_with_discord(wire: WireSimulator, alice: User, guild: Guild) -> None:
    """The code works once, with its redirect and verifier; a refresh token rotates; a revoked token is dead."""
    wire.consenting = alice
    verifier, redirect = "v" * 43, "http://127.0.0.1/callback"
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {"client_id": str(wire.application_id), "response_type": "code", "scope": "identify guilds", "state": "s1"}
    asked |= {"redirect_uri": redirect, "code_challenge": challenge, "code_challenge_method": "S256"}
    client = {"client_id": str(wire.application_id), "client_secret": wire.client_secret}
    async with aiohttp.ClientSession() as session:

        async def code() -> str:
            async with session.get(f"{wire.origin}/oauth2/authorize", params=asked, allow_redirects=False) as answer:
                query = parse_qs(urlsplit(answer.headers["Location"]).query)
            assert query["state"] == ["s1"]
            return query["code"][0]

        async def token(**form: str) -> tuple[int, dict[str, Any]]:
            async with session.post(f"{wire.api_base}/oauth2/token", data=client | form) as answer:
                return answer.status, await answer.json()

        async def get(path: str, bearer: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {bearer}"}
            async with session.get(f"{wire.api_base}{path}", headers=headers) as answer:
                return answer.status, await answer.json()

        exchange = {"grant_type": "authorization_code", "redirect_uri": redirect, "code_verifier": verifier}
        for wrong in ({"code_verifier": "w" * 43}, {"redirect_uri": "http://127.0.0.1/other"}):
            assert await token(**{**exchange, "code": await code(), **wrong}) == (400, {"error": "invalid_grant"})
        once = await code()
        status, granted = await token(**exchange, code=once)
        assert status == 200
        assert (await token(**exchange, code=once))[0] == 400
        assert (await get("/users/@me", granted["access_token"]))[1]["username"] == "alice"
        assert [one["name"] for one in (await get("/users/@me/guilds", granted["access_token"]))[1]] == ["Hall"]
        assert (await get("/oauth2/applications/@me", granted["access_token"]))[0] == 401

        status, renewed = await token(grant_type="refresh_token", refresh_token=granted["refresh_token"])
        assert status == 200
        assert (await token(grant_type="refresh_token", refresh_token=granted["refresh_token"]))[0] == 400
        revoke = client | {"token": renewed["access_token"]}
        async with session.post(f"{wire.api_base}/oauth2/token/revoke", data=revoke) as answer:
            assert answer.status == 200
        assert (await get("/users/@me", renewed["access_token"]))[0] == 401
        wrong = {"client_secret": "wrong", "grant_type": "refresh_token"}
        assert (await token(**wrong))[1] == {"error": "invalid_client"}


# ---------------------------------------------------------------------------------------------------------------------
# In another process
# ---------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, env=os.environ | environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_a_bot_in_another_process_answers_dies_and_comes_back(
    wire: WireSimulator, alice: User, guild: Guild
) -> None:
    async with process("tests.integration.test_discord_wire", **wire.environment) as child:
        await wire.wait_ready()
        assert (await wire.slash(alice, "who", guild=guild)).text.startswith("alice")
        child.kill()
        await child.wait()
    async with process("tests.integration.test_discord_wire", **wire.environment):
        await wire.wait_ready(identifies=2)
        assert (await wire.slash(alice, "key list", guild=guild)).ephemeral
    assert wire.syncs == [None, None]


async def test_the_simulator_serves_a_bot_tried_by_hand() -> None:
    module = "tests.support.discord_wire"
    async with process(module, "--token", "by-hand") as child, aiohttp.ClientSession() as session:
        assert child.stdout is not None
        lines = [(await child.stdout.readline()).decode() for _ in range(2)]
        settings = {name: value for name, _, value in (line.strip().partition("=") for line in lines)}
        assert settings.keys() == {"DISCORD_API_BASE", "DISCORD_GATEWAY_URL"}
        origin = settings["DISCORD_API_BASE"].removesuffix("/api/v10")

        async def act(name: str, body: dict[str, Any]) -> dict[str, Any]:
            async with session.post(f"{origin}/wire/{name}", json=body) as answer:
                data: dict[str, Any] = await answer.json()
                return data

        async with process("tests.integration.test_discord_wire", DISCORD_BOT_TOKEN="by-hand", **settings):
            shown = await act("slash", {"command": "key add", "options": {"provider": "openai"}})
            assert shown["fields"] == ["kind", "label", "secret"]
            answer = await act("submit", {"values": {"secret": "sk-1", "kind": "read"}})
            assert (answer["text"], answer["ephemeral"]) == ("work read of 4 characters", True)
            assert "NotOffered" not in str(await act("click", {"custom_id": "nothing"}))
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 30) == 0


async def _serve() -> None:
    """Be the bot of the tests above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discord.http.Route, "BASE", os.environ["DISCORD_API_BASE"])
        gateway = yarl.URL(os.environ["DISCORD_GATEWAY_URL"])
        patch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
        async with Bot() as bot:
            await bot.start(os.environ["DISCORD_BOT_TOKEN"])


if __name__ == "__main__":
    asyncio.run(_serve())
