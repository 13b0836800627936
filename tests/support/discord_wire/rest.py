"""The REST side, relative to ``/api/v10``: authentication, the log of calls, and the answer of every route.

One file: every route works on the messages, replies and faults that this class keeps together.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, web

from tests.support.discord_wire.actors import File, Guild, Json, User
from tests.support.discord_wire.oauth import OAuth
from tests.support.discord_wire.rules import (
    ALLOWED_CALLBACKS,
    CHOICES,
    COMMAND,
    DEFER,
    DEFER_UPDATE,
    EPHEMERAL,
    LOADING,
    MESSAGE,
    OPEN_MODAL,
    UPDATE,
    Refused,
    check_choices,
    check_commands,
    check_modal,
    require,
)
from tests.support.discord_wire.screen import Message, Reply
from tests.support.discord_wire.world import Call, World

API = "/api/v10"
OPEN = ("/interactions/", "/webhooks/", "/oauth2/token", "/oauth2/authorize")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], Any]

CALL = web.RequestKey("call", Call)
GRANT = web.RequestKey("grant", dict)


@dataclass(eq=False)
class Fault:
    """The fate of the next ``times`` calls under a path: this answer, or with status 0 a dropped connection.

    A call that is ``taken`` has its effect before it is answered so.
    """

    prefix: str
    method: str | None
    times: int
    status: int
    body: Json
    headers: dict[str, str]
    taken: bool = False


class Rest:
    """The HTTP side of a world. An error in the simulator itself is kept in ``errors``, for ``stop`` to raise."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.faults: list[Fault] = []
        self.errors: list[Exception] = []
        self._oauth = OAuth(world)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register every route."""
        app, hook = r"/applications/{app:\d+}", r"/webhooks/{app:\d+}/{token}"
        guild, channel = r"/guilds/{guild:\d+}", r"/channels/{channel:\d+}"
        table: list[tuple[str, str, Answer]] = [
            ("GET", "/users/@me", self._get_me),
            ("GET", "/users/@me/guilds", self._get_my_guilds),
            ("POST", "/users/@me/channels", self._post_dm),
            ("GET", r"/users/{user:\d+}", self._get_user),
            ("GET", "/oauth2/applications/@me", self._get_application),
            ("GET", "/applications/@me", self._get_application),
            ("GET", "/gateway", self._get_gateway),
            ("GET", "/gateway/bot", self._get_gateway),
            ("GET", app + "/commands", self._get_commands),
            ("PUT", app + "/commands", self._put_commands),
            ("GET", app + guild + "/commands", self._get_commands),
            ("PUT", app + guild + "/commands", self._put_commands),
            ("POST", r"/interactions/{id:\d+}/{token}/callback", self._post_callback),
            ("POST", hook, self._post_followup),
            ("GET", hook + "/messages/{message}", lambda request: self._answer(request)[1].payload),
            ("PATCH", hook + "/messages/{message}", self._patch_answer),
            ("DELETE", hook + "/messages/{message}", self._delete_answer),
            ("GET", guild, lambda request: self._guild(request).payload()),
            ("GET", guild + "/roles", lambda request: self._guild(request).payload()["roles"]),
            ("GET", guild + "/channels", lambda request: [self._guild(request).channel()]),
            ("GET", guild + r"/members/{user:\d+}", self._get_member),
            ("GET", channel, self._get_channel),
            ("POST", channel + "/messages", self._post_message),
            ("GET", channel + r"/messages/{message:\d+}", lambda request: self._message(request).payload),
            ("PATCH", channel + r"/messages/{message:\d+}", self._patch_message),
            ("DELETE", channel + r"/messages/{message:\d+}", self._delete_message),
            ("POST", "/oauth2/token", lambda request: self._oauth.token(request, request[CALL].body)),
            ("POST", "/oauth2/token/revoke", lambda request: self._oauth.revoke(request, request[CALL].body)),
        ]
        for method, path, answer in table:
            router.add_route(method, API + path, _as_route(answer))
        for prefix in ("", API):
            router.add_get(prefix + "/oauth2/authorize", self._oauth.authorize)
        router.add_get("/attachments/{key}/{name}", self._get_attachment)

    # --- every call --------------------------------------------------------------------------------------------------

    @web.middleware
    async def edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Everything that is served passes here, so that no error of the simulator's own goes unseen."""
        try:
            return await (self._api(request, handler) if request.path.startswith(API) else handler(request))
        except web.HTTPException:
            raise
        except Exception as error:
            self.errors.append(error)
            raise

    async def _api(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log the call, apply faults, authenticate, and turn every refusal into Discord's error body."""
        call = request[CALL] = Call(request.method, request.path.removeprefix(API), dict(request.query), None, [])
        self._world.calls.append(call)
        response: web.StreamResponse
        try:
            call.body, call.files = await _read(request)
            if (fault := self._due(call)) is not None:
                if fault.taken:
                    await handler(request)
                response = _as_json(fault.body, fault.status or 500, fault.headers)
                if fault.status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
            else:
                self._authenticate(request)
                response = await handler(request)
        except Refused as refusal:
            response = _as_json(refusal.body, refusal.status)
        except web.HTTPException as error:
            if error.status < 400:
                response = web.Response(status=error.status, headers=error.headers)
            else:
                response = _as_json(_plain(error.status, error.reason), error.status)
        call.status = response.status
        self._world.changed()
        return response

    def _due(self, call: Call) -> Fault | None:
        for fault in self.faults:
            if call.path.startswith(fault.prefix) and fault.method in {None, call.method} and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _authenticate(self, request: web.Request) -> None:
        """The bot's token everywhere, a user's grant for what it covers, nothing where a secret is in the path."""
        path = request[CALL].path
        if path == "/gateway" or path.startswith(OPEN):
            return
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bot" and hmac.compare_digest(credential.encode(), self._world.token.encode()):
            return
        grant = self._oauth.grant(credential) if scheme == "Bearer" else None
        scope = {"/users/@me": "identify", "/users/@me/guilds": "guilds"}.get(path)
        if grant is None or scope is None or scope not in grant["scope"].split():
            raise Refused(401, 0, "401: Unauthorized")
        request[GRANT] = grant

    # --- who and where -----------------------------------------------------------------------------------------------

    def _get_me(self, request: web.Request) -> Json:
        grant = request.get(GRANT)
        if grant is None:
            return self._world.bot.payload() | {"verified": True, "mfa_enabled": True, "locale": "en-US", "flags": 0}
        user: User = grant["user"]
        shown = {"email": user.email, "verified": user.verified} if "email" in grant["scope"].split() else {}
        return user.payload() | {"locale": "en-US", "flags": 0} | shown

    def _get_my_guilds(self, request: web.Request) -> list[Json]:
        who = request[GRANT]["user"] if GRANT in request else self._world.bot
        return [
            {
                "id": str(guild.id),
                "name": guild.name,
                "icon": None,
                "owner": guild.owner is who,
                "permissions": str(guild.permissions(who)),
                "features": [],
            }
            for guild in self._world.guilds.values()
            if who in guild.members
        ]

    def _get_user(self, request: web.Request) -> Json:
        user = self._world.users.get(int(request.match_info["user"]))
        if user is None:
            raise Refused(404, 10013, "Unknown User")
        return user.payload()

    def _get_application(self, _: web.Request) -> Json:
        install = {"scopes": ["bot", "applications.commands"], "permissions": "0"}
        return {
            "id": str(self._world.application_id),
            "name": self._world.bot.name,
            "icon": None,
            "description": "",
            "summary": "",
            "verify_key": "0" * 64,
            "owner": self._world.owner.payload(),
            "bot": self._world.bot.payload(),
            "bot_public": True,
            "bot_require_code_grant": False,
            "flags": self._world.application_flags,
            "install_params": install,
            "integration_types_config": {"0": {"oauth2_install_params": install}, "1": {}},
        }

    def _get_gateway(self, request: web.Request) -> Json:
        url = {"url": f"{self._world.origin.replace('http', 'ws', 1)}/gateway"}
        limit = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
        plain = request.path.endswith("/gateway")
        return url if plain else url | {"shards": self._world.shards, "session_start_limit": limit}

    def _guild(self, request: web.Request) -> Guild:
        guild = self._world.guilds.get(int(request.match_info["guild"]))
        if guild is None or not guild.has_bot:
            raise Refused(404, 10004, "Unknown Guild")
        return guild

    def _get_member(self, request: web.Request) -> Json:
        guild = self._guild(request)
        user = self._world.users.get(int(request.match_info["user"]))
        if user not in guild.members:
            raise Refused(404, 10007, "Unknown Member")
        return guild.member(user)

    def _get_channel(self, request: web.Request) -> Json:
        channel = self._channel(request)
        guild = self._world.guild_of(channel)
        return guild.channel() if guild else self._world.dm_payload(channel)

    def _channel(self, request: web.Request) -> int:
        channel = int(request.match_info["channel"])
        guild = self._world.guild_of(channel)
        if channel not in self._world.dm_channels and (guild is None or not guild.has_bot):
            raise Refused(404, 10003, "Unknown Channel")
        return channel

    def _post_dm(self, request: web.Request) -> Json:
        user = self._world.users.get(int(request[CALL].body["recipient_id"]))
        if user is None or user.bot:
            raise Refused(400, 50033, "Invalid Recipient(s)")
        return self._world.dm_payload(self._world.dm_channel(user))

    # --- commands ----------------------------------------------------------------------------------------------------

    def _scope(self, request: web.Request) -> int | None:
        if int(request.match_info["app"]) != self._world.application_id:
            raise Refused(403, 20012, "You are not authorized to perform this action on this application")
        if "guild" not in request.match_info:
            return None
        guild = self._world.guilds.get(int(request.match_info["guild"]))
        if guild is None or not guild.has_bot:
            raise Refused(403, 50001, "Missing Access")
        return guild.id

    def _get_commands(self, request: web.Request) -> list[Json]:
        return self._world.commands.get(self._scope(request), [])

    def _put_commands(self, request: web.Request) -> list[Json]:
        """A bulk overwrite; a command that was there under the same name keeps its id."""
        scope, commands = self._scope(request), request[CALL].body
        check_commands(commands)
        before = {(entry["name"], entry["type"]): entry["id"] for entry in self._world.commands.get(scope, [])}
        own: Json = {"application_id": str(self._world.application_id), "version": str(self._world.snowflake())}
        own |= {} if scope is None else {"guild_id": str(scope)}
        synced = []
        for command in commands:
            kind = command.get("type", 1)
            identity = before.get((command["name"], kind)) or str(self._world.snowflake())
            synced.append({"description": "", **command, **own, "type": kind, "id": identity})
        self._world.commands[scope] = synced
        self._world.syncs.append(scope)
        return synced

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message(self, request: web.Request) -> Message:
        channel = self._channel(request)
        message = self._world.messages.get(int(request.match_info["message"]))
        if message is None or message.channel_id != channel or message.deleted or message.ephemeral:
            raise Refused(404, 10008, "Unknown Message")
        return message

    def _post_message(self, request: web.Request) -> Json:
        channel, call = self._channel(request), request[CALL]
        recipient = self._world.dm_channels.get(channel)
        if recipient is not None and not recipient.accepts_dms:
            raise Refused(403, 50007, "Cannot send messages to this user")
        reference = call.body.get("message_reference")
        more: Json = {}
        if reference is not None:
            answered = {"channel_id": str(channel), "message_id": str(reference["message_id"])}
            more = {"type": 19, "message_reference": answered}
        return self._world.create_message(self._world.bot, channel, call.body, call.files, **more).payload

    def _patch_message(self, request: web.Request) -> Json:
        message = self._message(request)
        if message.payload["author"]["id"] != str(self._world.bot.id):
            raise Refused(403, 50005, "Cannot edit a message authored by another user")
        self._world.edit_message(message, request[CALL].body, request[CALL].files)
        return message.payload

    def _delete_message(self, request: web.Request) -> None:
        message = self._message(request)
        if message.channel_id in self._world.dm_channels and message.payload["author"]["id"] != str(self._world.bot.id):
            raise Refused(403, 50003, "Cannot execute action on a DM channel")
        self._world.delete_message(message)

    async def _get_attachment(self, request: web.Request) -> web.Response:
        if (content := self._world.uploads.get(request.match_info["key"])) is None:
            raise web.HTTPNotFound
        return web.Response(body=content, content_type="application/octet-stream")

    # --- interactions ------------------------------------------------------------------------------------------------

    def _post_callback(self, request: web.Request) -> Json | None:
        """The one acknowledgement: in time, once, of a type that this interaction allows, within the limits."""
        world, body = self._world, request[CALL].body
        reply = world.replies.get(request.match_info["token"])
        if reply is None or reply.interaction["id"] != request.match_info["id"] or self._age(reply) > world.ack_within:
            raise Refused(404, 10062, "Unknown interaction")
        if reply.type is not None:
            raise Refused(400, 40060, "Interaction has already been acknowledged.")
        kind, data = body["type"], body.get("data") or {}
        updates = kind in {DEFER_UPDATE, UPDATE}
        require(kind in ALLOWED_CALLBACKS[reply.interaction["type"]], "type", "Not for this type of interaction.")
        require(not updates or reply.source is not None, "type", "There is no message to update.")
        if kind in {MESSAGE, DEFER}:
            flags = data.get("flags", 0) & EPHEMERAL | (LOADING if kind == DEFER else 0)
            reply.message = self._write_answer(reply, data if kind == MESSAGE else {}, request[CALL].files, flags)
        elif updates:
            reply.message = reply.source
            if kind == UPDATE and reply.source is not None:
                world.edit_message(reply.source, data, request[CALL].files)
        elif kind == OPEN_MODAL:
            check_modal(data)
            reply.data = data
        elif kind == CHOICES:
            check_choices(data.get("choices"))
            reply.data = data
        reply.type, reply.settled = kind, kind not in {DEFER, DEFER_UPDATE}
        return _callback_result(reply) if request.query.get("with_response") in {"1", "true"} else None

    def _age(self, reply: Reply) -> float:
        return asyncio.get_running_loop().time() - reply.sent_at

    def _write_answer(self, reply: Reply, body: Json, files: list[File], flags: int) -> Message:
        """A new message under the interaction."""
        about = {key: reply.interaction[key] for key in ("id", "type", "authorizing_integration_owners")}
        return self._world.create_message(
            self._world.bot,
            int(reply.interaction["channel_id"]),
            body,
            files,
            flags=flags,
            type=20 if reply.interaction["type"] == COMMAND else 0,
            application_id=str(self._world.application_id),
            webhook_id=str(self._world.application_id),
            interaction_metadata=about | {"user": reply.user.payload()},
        )

    def _reply(self, request: web.Request) -> Reply:
        """The acknowledged interaction that the webhook's token stands for, for 15 minutes."""
        reply = self._world.replies.get(request.match_info["token"])
        right_application = int(request.match_info["app"]) == self._world.application_id
        if reply is None or reply.type is None or reply.type == CHOICES or not right_application:
            raise Refused(404, 10015, "Unknown Webhook")
        if self._age(reply) > self._world.token_lifetime:
            raise Refused(401, 50027, "Invalid Webhook Token")
        return reply

    def _answer(self, request: web.Request) -> tuple[Reply, Message]:
        reply, wanted = self._reply(request), request.match_info["message"]
        for message in reply.messages:
            if message.payload["id"] == wanted or (wanted == "@original" and message is reply.message):
                return reply, message
        raise Refused(404, 10008, "Unknown Message")

    def _post_followup(self, request: web.Request) -> Json | None:
        """A further message; the first one after a deferral takes the announced message's place, and its privacy."""
        reply, call = self._reply(request), request[CALL]
        if reply.type == DEFER and not reply.settled and reply.message is not None:
            message = reply.message
            self._world.edit_message(message, call.body, call.files)
        else:
            message = self._write_answer(reply, call.body, call.files, call.body.get("flags", 0) & EPHEMERAL)
            reply.followups.append(message)
        reply.settled = True
        return message.payload if request.query.get("wait") in {"1", "true"} else None

    def _patch_answer(self, request: web.Request) -> Json:
        reply, message = self._answer(request)
        self._world.edit_message(message, request[CALL].body, request[CALL].files)
        reply.settled = True
        return message.payload

    def _delete_answer(self, request: web.Request) -> None:
        reply, message = self._answer(request)
        self._world.delete_message(message)
        reply.settled = True


def _callback_result(reply: Reply) -> Json:
    interaction = {"id": reply.interaction["id"], "type": reply.interaction["type"]}
    resource: Json = {"type": reply.type}
    if reply.message is not None:
        interaction |= {
            "response_message_id": reply.message.payload["id"],
            "response_message_loading": bool(reply.message.flags & LOADING),
            "response_message_ephemeral": reply.message.ephemeral,
        }
        resource["message"] = reply.message.payload
    return {"interaction": interaction, "resource": resource}


async def _read(request: web.Request) -> tuple[Any, list[File]]:
    """The body and the files: JSON, multipart with ``payload_json`` and ``files[n]``, or a form."""
    if request.content_type == "application/json" and request.can_read_body:
        try:
            return await request.json(), []
        except ValueError:
            raise Refused(400, 50109, "The request body contains invalid JSON.") from None
    if request.content_type == "multipart/form-data":
        body: Any = {}
        files: list[File] = []
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name == "payload_json":
                body = json.loads(await part.text())
            else:
                kind = part.headers.get("Content-Type", "application/octet-stream")
                files.append(File(part.filename or "file", bytes(await part.read()), kind))
        return body, files
    if request.content_type == "application/x-www-form-urlencoded":
        return {key: str(value) for key, value in (await request.post()).items()}, []
    return None, []


def _plain(status: int, reason: str) -> Json:
    return {"message": f"{status}: {reason}", "code": 0}


def _as_json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Content-Type is exactly this, as Discord's: with a charset discord.py would leave the body a string."""
    exact = {"Content-Type": "application/json"} | (headers or {})
    return web.Response(body=json.dumps(data).encode(), status=status, headers=exact)


def _as_route(answer: Answer) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        data = answer(request)
        return web.Response(status=204) if data is None else _as_json(data)

    return route
