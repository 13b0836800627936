"""The state of this Discord: accounts, guilds, messages, commands, and the sessions that receive every change."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web

from tests.support.discord_wire.actors import File, Guild, Json, Role, User
from tests.support.discord_wire.rules import (
    COMPONENTS_V2,
    DIRECT_MESSAGES,
    GUILD_MEMBERS,
    GUILD_MESSAGES,
    GUILDS,
    LOADING,
    MESSAGE_CONTENT,
    Refused,
    check_message,
    walk,
)
from tests.support.discord_wire.screen import Message, Reply

T = TypeVar("T")
DISCORD_EPOCH = 1_420_070_400_000  # milliseconds, the first one of 2015
CONTENTS: dict[str, Any] = {"content": "", "embeds": [], "attachments": [], "components": []}


@dataclass(eq=False)
class Call:
    """One REST request: ``path`` is relative to the API base; ``body`` is JSON, a form, or multipart's payload_json."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    files: list[File]
    status: int = 0
    """As answered; 0 while in progress and where the connection was dropped."""


@dataclass(eq=False)
class Session:
    """A gateway session. Frame ``n`` has sequence ``n + 1``; ``delivered`` counts those written to ``socket``."""

    id: str
    shard: tuple[int, int]
    intents: int
    frames: list[str] = field(default_factory=list)
    socket: web.WebSocketResponse | None = None
    delivered: int = 0
    ready_at: int = 0
    """How many frames READY and its guilds take."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ready(self) -> bool:
        return self.socket is not None and self.delivered >= self.ready_at

    def sees(self, guild: Guild | None) -> bool:
        """Whether the guild, or with None everything private, belongs to this shard."""
        return self.shard[0] == ((guild.id >> 22) % self.shard[1] if guild else 0)

    def push(self, event: str, data: Json) -> None:
        self.frames.append(json.dumps({"op": 0, "t": event, "s": len(self.frames) + 1, "d": data}))
        self.wake.set()


class World:
    """The state that all parts of the simulator share; every public attribute may be read, and most set, by a test."""

    origin = ""
    """``http://127.0.0.1:PORT``, once served."""

    def __init__(self, token: str, *, application_flags: int, shards: int) -> None:
        self.token = token
        """The bot token accepted; assign another one, and Discord has reset it."""
        self.client_secret = "wire-client-secret"
        self.application_flags = application_flags
        self.shards = shards
        """The recommendation of /gateway/bot."""
        self.heartbeat_interval = 41_250
        """Milliseconds, sent in HELLO."""
        self.ack_within = 3.0
        """Seconds after which an interaction that was not acknowledged is unknown."""
        self.token_lifetime = 900.0
        """Seconds for which an interaction's token can edit and follow up."""
        self.consenting: User | None = None
        """Who is signed in at Discord and agrees when /oauth2/authorize is visited; with None access is denied."""

        self.calls: list[Call] = []
        self.identifies: list[Json] = []
        self.resumes: list[Json] = []
        self.commands: dict[int | None, list[Json]] = {None: []}
        """The synced commands: global ones under None, a guild's own under its id."""
        self.syncs: list[int | None] = []
        """The scope of every bulk overwrite so far."""
        self.guilds: dict[int, Guild] = {}
        self.users: dict[int, User] = {}
        self.messages: dict[int, Message] = {}
        self.sessions: list[Session] = []
        self.replies: dict[str, Reply] = {}
        """Every interaction by its token, in order."""
        self.dm_channels: dict[int, User] = {}
        self.uploads: dict[str, bytes] = {}

        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self.owner = self.user(self.snowflake(), "application-owner")
        self.bot = self.user(self.snowflake(), "keyhall", bot=True)
        self.application_id = self.bot.id

    # --- waiting -----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Wake everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], T], *, within: float = 5.0, what: str = "the condition") -> T:
        """Wait until something on the wire makes ``condition()`` true, and return its value; else TimeoutError."""
        try:
            async with asyncio.timeout(within):
                while not (value := condition()):
                    await self._changed.wait()
        except TimeoutError:
            recent = [f"{call.method} {call.path} {call.status}" for call in self.calls[-6:]]
            connected = sum(session.socket is not None for session in self.sessions)
            raise TimeoutError(f"{what}: not within {within} s; connected: {connected}; last calls: {recent}") from None
        return value

    def snowflake(self) -> int:
        return (int(time.time() * 1000) - DISCORD_EPOCH << 22) + next(self._numbers)

    # --- who is there ------------------------------------------------------------------------------------------------

    def user(self, id: int, name: str = "", *, bot: bool = False) -> User:  # noqa: A002 - Discord's name for it
        """The account with this snowflake, made on first mention."""
        return self.users.setdefault(id, User(id, name or f"user{id}", bot))

    def add_guild(
        self,
        *,
        id: int,  # noqa: A002 - Discord's name for it
        name: str = "Guild",
        owner: User | None = None,
        members: Iterable[User] | Mapping[User, Iterable[int]] = (),
        roles: Iterable[Role] = (),
        has_bot: bool = True,
    ) -> Guild:
        """A guild; ``members`` may map to role ids. The owner and (with ``has_bot``) the bot are members anyway."""
        guild = Guild(id, name, owner or self.owner, channel_id=self.snowflake(), has_bot=has_bot)
        guild.roles = {role.id: role for role in (Role(id, "@everyone"), *roles)}
        for member in (guild.owner, *([self.bot] if has_bot else []), *members):
            guild.members[member] = set(members.get(member, ()) if isinstance(members, Mapping) else ())
        self.guilds[id] = guild
        if has_bot:
            self.dispatch("GUILD_CREATE", guild.created([self.bot]), guild=guild)
        return guild

    def remove_guild(self, guild: Guild) -> None:
        """The bot is thrown out of the guild."""
        self.dispatch("GUILD_DELETE", {"id": str(guild.id)}, guild=guild)
        del guild.members[self.bot]
        guild.has_bot = False

    def join(self, guild: Guild, user: User, *, roles: Iterable[int] = ()) -> None:
        """Make the user a member with exactly these roles; also changes the roles of one who is."""
        event = "GUILD_MEMBER_UPDATE" if user in guild.members else "GUILD_MEMBER_ADD"
        guild.members[user] = set(roles)
        self.dispatch(event, guild.member(user) | {"guild_id": str(guild.id)}, guild=guild)

    def leave(self, guild: Guild, user: User) -> None:
        """Take the user out of the guild."""
        del guild.members[user]
        self.dispatch("GUILD_MEMBER_REMOVE", {"guild_id": str(guild.id), "user": user.payload()}, guild=guild)

    # --- messages ----------------------------------------------------------------------------------------------------

    def dm_channel(self, user: User) -> int:
        """The private channel between the user and the bot, made on first mention."""
        for channel, recipient in self.dm_channels.items():
            if recipient is user:
                return channel
        channel = self.snowflake()
        self.dm_channels[channel] = user
        return channel

    def dm_payload(self, channel: int) -> Json:
        recipients = [self.dm_channels[channel].payload()]
        return {"id": str(channel), "type": 1, "flags": 0, "last_message_id": None, "recipients": recipients}

    def guild_of(self, channel: int) -> Guild | None:
        return next((guild for guild in self.guilds.values() if guild.channel_id == channel), None)

    def sent_to(self, place: User | Guild) -> list[Message]:
        """The messages that the bot sent to the user or the guild's channel, not as an answer, and did not delete."""
        channel = place.channel_id if isinstance(place, Guild) else self.dm_channel(place)
        return [
            message
            for message in self.messages.values()
            if message.channel_id == channel
            and message.payload["author"]["id"] == str(self.bot.id)
            and "interaction_metadata" not in message.payload
            and not message.deleted
        ]

    def create_message(
        self, author: User, channel: int, body: Json, files: Iterable[File] = (), **more: Any
    ) -> Message:
        """Post a message; ``more`` overrides parts of its payload, such as the flags. Raises Refused."""
        message = Message(
            {
                "id": str(self.snowflake()),
                "channel_id": str(channel),
                "type": 0,
                "author": author.payload(),
                **deepcopy(CONTENTS),
                "flags": 0,
                "timestamp": datetime.now(UTC).isoformat(),
                "edited_timestamp": None,
                "tts": False,
                "pinned": False,
                "mention_everyone": False,
                "mentions": [],
                "mention_roles": [],
                **more,
            }
        )
        self._write(message, body, files, blank=bool(message.flags & LOADING))
        self.messages[message.id] = message
        self._announce("MESSAGE_CREATE", message)
        return message

    def edit_message(self, message: Message, body: Json, files: Iterable[File] = ()) -> None:
        """Replace what ``body`` names. Raises Refused and leaves the message as it was."""
        before = deepcopy(message.payload)
        message.payload["flags"] &= ~LOADING
        try:
            self._write(message, body, files, blank=False)
        except Refused:
            message.payload.update(before)
            raise
        message.history.append(before)
        message.payload["edited_timestamp"] = datetime.now(UTC).isoformat()
        self._announce("MESSAGE_UPDATE", message)

    def delete_message(self, message: Message) -> None:
        message.deleted = True
        self._announce("MESSAGE_DELETE", message)

    def _write(self, message: Message, body: Json, files: Iterable[File], *, blank: bool) -> None:
        payload, described = message.payload, body.get("attachments") or []
        payload["flags"] |= body.get("flags", 0) & COMPONENTS_V2
        for key in {"content", "embeds", "components"} & body.keys():
            payload[key] = deepcopy(body[key] or CONTENTS[key])
        if "attachments" in body:  # it lists what stays, by id, beside the new ones, by number
            stays = {str(entry["id"]) for entry in described}
            payload["attachments"] = [entry for entry in payload["attachments"] if entry["id"] in stays]
        new = [self.upload(file) for file in files]
        payload["attachments"] = payload["attachments"] + new
        check_message(payload, sum(entry["size"] for entry in new), blank=blank)
        message.files = {entry["filename"]: self.uploads[entry["id"]] for entry in payload["attachments"]}
        urls = {f"attachment://{entry['filename']}": entry["url"] for entry in payload["attachments"]}
        for part in walk(payload["components"]):
            media = part.get("file") or part.get("media") or {}
            media |= {"url": urls.get(media["url"], media["url"])} if media else {}

    def upload(self, file: File) -> Json:
        """Keep the file and return it as an attachment object, whose ``url`` serves it."""
        key = str(self.snowflake())
        self.uploads[key] = file.content
        url = f"{self.origin}/attachments/{key}/{file.name}"
        kind = {"filename": file.name, "size": len(file.content), "content_type": file.content_type}
        return {"id": key, "url": url, "proxy_url": url} | kind

    def _announce(self, event: str, message: Message) -> None:
        """Notify the sessions, unless only one user can see it or the bot is not in that guild."""
        guild = self.guild_of(message.channel_id)
        if message.ephemeral or (guild and not guild.has_bot):
            return
        data = message.payload
        if event == "MESSAGE_DELETE":
            data = {"id": data["id"], "channel_id": data["channel_id"]}
        if guild:
            author = self.users[int(message.payload["author"]["id"])]
            data = data | {"guild_id": str(guild.id)}
            data |= {"member": guild.member(author)} if author in guild.members else {}
        self.dispatch(event, data, guild=guild)

    # --- events ------------------------------------------------------------------------------------------------------

    def dispatch(self, event: str, data: Json, *, guild: Guild | None = None) -> None:
        """Give the event to every session whose shard and intents cover it, now or when it resumes."""
        needed = GUILDS if event in {"GUILD_CREATE", "GUILD_DELETE"} else 0
        if event.startswith("GUILD_MEMBER_"):
            needed = GUILD_MEMBERS
        elif event.startswith("MESSAGE_"):
            needed = GUILD_MESSAGES if guild else DIRECT_MESSAGES
        for session in self.sessions:
            if session.sees(guild) and session.intents & needed == needed:
                blind = event.startswith("MESSAGE_") and guild and not session.intents & MESSAGE_CONTENT
                session.push(event, self._without_content(data) if blind else data)
        self.changed()

    def _without_content(self, message: Json) -> Json:
        """A guild's message for a session without the content intent: empty, unless the bot wrote it or is named."""
        mine = message.get("author", {}).get("id") == str(self.bot.id)
        if mine or f"<@{self.bot.id}>" in message.get("content", ""):
            return message
        return message | {key: empty for key, empty in CONTENTS.items() if key in message}
