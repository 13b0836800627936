"""The simulator as a test holds it: serve, make trouble, and do what users do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Self, Unpack

from aiohttp import web

from tests.support.discord_wire.actors import ADMINISTRATOR, ALL_PERMISSIONS, File, Guild, Json, Role, User
from tests.support.discord_wire.gateway import Gateway
from tests.support.discord_wire.rest import Fault, Rest
from tests.support.discord_wire.rules import (
    ATTACHMENT_LIMIT,
    AUTOCOMPLETE,
    COMMAND,
    COMPONENT,
    MODAL,
    OPTION_TYPE_OF,
    SELECTS,
)
from tests.support.discord_wire.screen import Message, NotOffered, Reply, Where
from tests.support.discord_wire.world import Call, World

STRING, INTEGER, BOOLEAN, USER, CHANNEL, ROLE, MENTIONABLE, NUMBER, ATTACHMENT = 3, 4, 5, 6, 7, 8, 9, 10, 11
TAKES: dict[int, tuple[type, ...]] = {STRING: (str,), INTEGER: (int,), BOOLEAN: (bool,), NUMBER: (int, float)}


class WireSimulator(World):
    """Discord, for one application and its bot. Build it with ``start``, or construct it and ``serve``."""

    def __init__(self, token: str, *, application_flags: int = 0, shards: int = 1) -> None:
        super().__init__(token, application_flags=application_flags, shards=shards)
        self._gateway = Gateway(self)
        self._rest = Rest(self)
        self.application = web.Application(middlewares=[self._rest.edge], client_max_size=4 * ATTACHMENT_LIMIT)
        self.application.router.add_get("/gateway", self._gateway.connect)
        self._rest.add_to(self.application.router)
        self._runner = web.AppRunner(self.application, access_log=None, shutdown_timeout=1)

    @classmethod
    async def start(
        cls, *, token: str = "wire-bot-token", application_flags: int = 0, shards: int = 1, port: int = 0
    ) -> Self:
        """Serve on loopback; ``application_flags`` grant privileged intents (members 1 << 15, content 1 << 19)."""
        self = cls(token, application_flags=application_flags, shards=shards)
        await self.serve(port)
        return self

    async def serve(self, port: int = 0) -> None:
        """Open the port; 0 takes a free one."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def api_base(self) -> str:
        return f"{self.origin}/api/v10"

    @property
    def gateway_url(self) -> str:
        return f"{self.origin.replace('http', 'ws', 1)}/gateway"

    @property
    def environment(self) -> dict[str, str]:
        """The settings that point a bot in another process here."""
        return {
            "DISCORD_API_BASE": self.api_base,
            "DISCORD_GATEWAY_URL": self.gateway_url,
            "DISCORD_BOT_TOKEN": self.token,
            "DISCORD_CLIENT_ID": str(self.application_id),
            "DISCORD_CLIENT_SECRET": self.client_secret,
        }

    async def stop(self) -> None:
        """Close everything. An error inside the simulator surfaces here, instead of hiding as a 500 to the bot."""
        await self._gateway.close(1001)
        await self._runner.cleanup()
        errors, self._rest.errors = self._rest.errors, []
        if errors:
            raise ExceptionGroup("the Discord simulator failed", errors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # --- trouble -----------------------------------------------------------------------------------------------------

    def fault(
        self, prefix: str, status: int, *, times: int = 1, method: str | None = None, taken: bool = False
    ) -> None:
        """Fail the next calls under this path (relative to the API base); status 0 drops the connection.

        A call that is ``taken`` has its effect all the same.

        An aiohttp client repeats an idempotent request once when a kept connection drops: take ``times=2`` for those.
        """
        body = {"message": f"{status}: simulated", "code": 0}
        self._rest.faults.append(Fault(prefix, method, times, status, body, {}, taken))

    def rate_limit(
        self,
        prefix: str,
        *,
        retry_after: float = 0.05,
        times: int = 1,
        method: str | None = None,
        everywhere: bool = False,
        banned: bool = False,
    ) -> None:
        """Answer 429 with ``retry_after`` seconds; ``everywhere``: the global limit; ``banned``: Cloudflare's ban."""
        body = {"message": "You are being rate limited.", "retry_after": retry_after, "global": everywhere}
        headers = {"Retry-After": str(retry_after), "X-RateLimit-Scope": "global" if everywhere else "user"}
        headers |= {} if banned else {"Via": "1.1 google"}
        self._rest.faults.append(Fault(prefix, method, times, 429, body, headers))

    async def kick(self, code: int) -> None:
        """Close every connection with this code; sessions can be resumed, unless it is one that ends them."""
        await self._gateway.close(code)

    async def reconnect(self) -> None:
        """Opcode 7: please connect again and resume."""
        await self._gateway.ask_to_reconnect()

    async def invalidate(self, *, resumable: bool) -> None:
        """Opcode 9: the session is broken; unless ``resumable``, only a new IDENTIFY helps."""
        await self._gateway.invalidate(resumable=resumable)

    def called(self, method: str, prefix: str) -> list[Call]:
        """The calls so far with this method under this path."""
        return [call for call in self.calls if call.method == method and call.path.startswith(prefix)]

    async def wait_ready(self, *, identifies: int = 1, within: float = 10.0) -> None:
        """Until the session of IDENTIFY number ``identifies`` (from the start, 1-based) or a later one is READY."""
        await self.until(
            lambda: len(self.identifies) >= identifies and self.sessions and self.sessions[-1].ready,
            within=within,
            what=f"READY after identify number {identifies}",
        )

    # --- what users do -----------------------------------------------------------------------------------------------

    def say(self, user: User, content: str, *, guild: Guild | None = None, files: Iterable[File] = ()) -> Message:
        """The user writes in the guild's channel, or to the bot."""
        channel = guild.channel_id if guild else self.dm_channel(user)
        return self.create_message(user, channel, {"content": content}, files)

    async def slash(
        self, user: User, command: str, options: Mapping[str, object] | None = None, **where: Unpack[Where]
    ) -> Reply:
        """Run ``"group command"`` as the user and wait for the answer, deferred or not.

        Values are str, int, bool, float, or User, Role, Guild (its channel) and File where the option takes one.
        Raises NotOffered where the client hides the command, LookupError and ValueError for options that it would not
        let through, TimeoutError for a command that is not synced in time and without an answer.
        """
        await self._synced(command, where)
        data = self._command_data(command, options or {}, user, where)
        return await self._interact(COMMAND, data, user, where, what=f"the answer to /{command}")

    async def autocomplete(
        self,
        user: User,
        command: str,
        *,
        focused: str,
        value: str = "",
        options: Mapping[str, object] | None = None,
        **where: Unpack[Where],
    ) -> list[Json]:
        """The choices (``name``, ``value``) offered while the user types ``value`` into the option ``focused``."""
        await self._synced(command, where)
        data = self._command_data(command, {**(options or {}), focused: value}, user, where, focused=focused)
        what = f"choices for {focused} of /{command}"
        choices: list[Json] = (await self._interact(AUTOCOMPLETE, data, user, where, what=what)).data["choices"]
        return choices

    async def submit_modal(self, form: Reply, values: Mapping[str, object], **where: Unpack[Where]) -> Reply:
        """Fill in the modal that ``form`` opened, by custom_id; a field left out keeps its default."""
        modal, around = form.modal, Where(**{**form.where, **where})
        resolved = Resolved(self, around.get("guild"))
        data: Json = {"custom_id": modal.custom_id, "components": modal.filled(values, resolved.encode)}
        data["resolved"] = resolved.found
        what = f"the answer to the modal {modal.title!r}"
        return await self._interact(MODAL, data, form.user, around, source=form.source, what=what)

    async def click(
        self,
        shown: Reply | Message,
        *,
        custom_id: str,
        values: Iterable[object] = (),
        user: User | None = None,
        **where: Unpack[Where],
    ) -> Reply:
        """Press a button, or choose ``values`` in a select, of an answer or a message.

        ``user`` is the receiver of the answer or the DM, unless another one is named; for a message in a guild's
        channel name the ``user`` and the ``guild``.
        """
        around = Where(**{**(shown.where if isinstance(shown, Reply) else {}), **where})
        owner = shown.user if isinstance(shown, Reply) else self.dm_channels.get(shown.channel_id)
        actor = user or owner
        if actor is None:
            raise ValueError("name the user who clicks in a guild's channel")
        message, part = _displayed(shown.messages if isinstance(shown, Reply) else [shown], custom_id)
        if message.ephemeral and actor is not owner:
            raise NotOffered("an ephemeral message is on nobody else's screen")
        data: Json = {"custom_id": custom_id, "component_type": part["type"]}
        if part["type"] in SELECTS:
            resolved = Resolved(self, around.get("guild"))
            data["values"] = [resolved.encode(OPTION_TYPE_OF[part["type"]], value) for value in values]
            data["resolved"] = resolved.found
        return await self._interact(COMPONENT, data, actor, around, source=message, what=f"the answer to {custom_id}")

    async def _synced(self, command: str, where: Where) -> None:
        """A bot may sync before it identifies, or after: wait for the command and for a session to receive it."""
        guild = where.get("guild")
        await self.until(
            lambda: self._find(command, where) and any(session.sees(guild) for session in self.sessions),
            within=where.get("within", 60.0),
            what=f"/{command} among the synced commands",
        )

    def _find(self, command: str, where: Where) -> tuple[Json, list[Json]] | None:
        """The synced command and the subcommand nodes down to the one named; a guild's own hides a global one."""
        first, *rest = command.split()
        scopes = ([where["guild"].id] if "guild" in where else []) + [None]
        for top in (entry for scope in scopes for entry in self.commands.get(scope, ())):
            if (top["name"], top["type"]) != (first, 1):
                continue
            path = [top]
            for name in rest:
                path += [one for one in path[-1].get("options", ()) if one["name"] == name and one["type"] in {1, 2}]
            if [node["name"] for node in path] == [first, *rest]:
                return top, path[1:]
        return None

    def _command_data(
        self, command: str, values: Mapping[str, object], user: User, where: Where, *, focused: str | None = None
    ) -> Json:
        found = self._find(command, where)
        assert found is not None
        top, path = found
        self._check_offered(command, top, user, where)
        known = {option["name"]: option for option in (path or [top])[-1].get("options", ())}
        if any(option["type"] in {1, 2} for option in known.values()):
            raise LookupError(f"/{command} is a group of {sorted(known)}")
        if unknown := values.keys() - known.keys():
            raise LookupError(f"/{command} has no option {sorted(unknown)}, only {sorted(known)}")
        missing = [name for name, option in known.items() if option.get("required") and name not in values]
        if missing and focused is None:
            raise ValueError(f"/{command} requires {missing}")
        resolved = Resolved(self, where.get("guild"))
        options: list[Json] = []
        for name, value in values.items():
            option = known[name]
            entry = {"name": name, "type": option["type"], "value": value}
            if name != focused:
                entry["value"] = _accepted(option, resolved.encode(option["type"], value))
            elif option.get("autocomplete"):
                entry["focused"] = True  # the value is as typed so far, for an option of any type
            else:
                raise ValueError(f"{name} of /{command} has no autocomplete")
            options.append(entry)
        for node in reversed(path):
            options = [{"name": node["name"], "type": node["type"], "options": options}]
        data = {"id": top["id"], "name": top["name"], "type": 1, "options": options, "resolved": resolved.found}
        return data | ({"guild_id": top["guild_id"]} if "guild_id" in top else {})

    def _check_offered(self, command: str, top: Json, user: User, where: Where) -> None:
        guild, personal = where.get("guild"), where.get("user_install", False)
        context = where.get("context", 0 if guild else 1)
        installs, contexts = top.get("integration_types") or [0], top.get("contexts")
        if contexts is not None and context not in contexts:
            raise NotOffered(f"/{command} has the contexts {contexts}, not {context}")
        if contexts is None and context == 1 and top.get("dm_permission") is False:
            raise NotOffered(f"/{command} is not for direct messages")
        if int(personal) not in installs:
            raise NotOffered(f"/{command} is for the integration types {installs}, not {int(personal)}")
        if not personal and (context == 2 or (guild and not guild.has_bot)):
            raise NotOffered("the bot is not here")
        needed = top.get("default_member_permissions")
        if guild and needed is not None:
            held, bits = where.get("permissions", guild.permissions(user, where.get("roles"))), int(needed)
            if not (held & ADMINISTRATOR or (bits and held & bits == bits)):  # "0" leaves administrators only
                raise NotOffered(f"/{command} needs the permissions {needed}")

    async def _interact(
        self, kind: int, data: Json, user: User, where: Where, *, what: str, source: Message | None = None
    ) -> Reply:
        payload = self._interaction(kind, data, user, where)
        if source is not None:
            payload["message"] = source.payload
        reply = Reply(user, where, payload, sent_at=asyncio.get_running_loop().time(), source=source)
        self.replies[payload["token"]] = reply
        self.dispatch("INTERACTION_CREATE", payload, guild=where.get("guild"))
        settle = where.get("settle", True)
        await self.until(
            lambda: reply.settled if settle else reply.type is not None, within=where.get("within", 60.0), what=what
        )
        return reply

    def _interaction(self, kind: int, data: Json, user: User, where: Where) -> Json:
        guild, identity = where.get("guild"), self.snowflake()
        owners = {"1": str(user.id)} if where.get("user_install") else {"0": str(guild.id) if guild else "0"}
        payload: Json = {
            "id": str(identity),
            "application_id": str(self.application_id),
            "type": kind,
            "token": f"interaction-{identity}-{secrets.token_hex(8)}",
            "version": 1,
            "data": data,
            "context": where.get("context", 0 if guild else 1),
            "authorizing_integration_owners": owners,
            "locale": where.get("locale", "en-US"),
            "app_permissions": str(ALL_PERMISSIONS),
            "attachment_size_limit": ATTACHMENT_LIMIT,
            "entitlements": [],
        }
        if guild is None:
            channel = self.dm_payload(self.dm_channel(user))
            return payload | {"user": user.payload(), "channel": channel, "channel_id": channel["id"]}
        if user not in guild.members:
            raise LookupError(f"{user.name} is not a member of {guild.name}")
        bits = str(where.get("permissions", guild.permissions(user, where.get("roles"))))
        return payload | {
            "guild_id": str(guild.id),
            "guild": {"id": str(guild.id), "locale": guild.locale, "features": []},
            "guild_locale": guild.locale,
            "channel": guild.channel() | {"permissions": bits},
            "channel_id": str(guild.channel_id),
            "member": guild.member(user, where.get("roles")) | {"permissions": bits},
        }


def _displayed(messages: Iterable[Message], custom_id: str) -> tuple[Message, Json]:
    """The message that shows this component, and the component."""
    seen = []
    for message in messages:
        for part in () if message.deleted else message.components:
            if part.get("custom_id") == custom_id:
                if part.get("disabled"):
                    raise ValueError(f"{custom_id} is disabled")
                return message, part
            seen += [part["custom_id"]] if "custom_id" in part else []
    raise LookupError(f"no component {custom_id!r} on display, only {seen}")


def _accepted(option: Json, value: Any) -> Any:
    """The value, if the client would let it through: its type, the choices, and the bounds."""
    name, kind = option["name"], option["type"]
    if kind in TAKES and (not isinstance(value, TAKES[kind]) or (kind != BOOLEAN and isinstance(value, bool))):
        raise ValueError(f"{name} takes {TAKES[kind][-1].__name__}, not {type(value).__name__}")
    offered = [choice["value"] for choice in option.get("choices") or ()]
    if offered and value not in offered:
        raise ValueError(f"{name} offers {offered}, not {value!r}")
    size, low, high = (
        (len(value), option.get("min_length"), option.get("max_length"))
        if kind == STRING
        else (value, option.get("min_value"), option.get("max_value"))
    )
    if (low is not None and size < low) or (high is not None and size > high):
        raise ValueError(f"{name} takes {low} to {high}, not {size}")
    return value


class Resolved:
    """Options and selects carry ids; ``found`` collects the objects behind them, as the interaction's ``resolved``."""

    def __init__(self, world: World, guild: Guild | None) -> None:
        self._world = world
        self._guild = guild
        self.found: dict[str, Json] = {}

    def encode(self, kind: int, value: Any) -> Any:
        """The value for an option of this type; ids may stand for users and roles of the simulator."""
        guild = self._guild
        if kind == ATTACHMENT:
            attachment = self._world.upload(value)
            return self._add("attachments", attachment["id"], attachment)
        if kind in {ROLE, MENTIONABLE} and guild and (isinstance(value, Role) or value in guild.roles):
            role = value if isinstance(value, Role) else guild.roles[value]
            return self._add("roles", role.id, role.payload())
        if kind in {USER, MENTIONABLE}:
            user = value if isinstance(value, User) else self._world.users[value]
            if guild and user in guild.members:
                self._add("members", user.id, {key: part for key, part in guild.member(user).items() if key != "user"})
            return self._add("users", user.id, user.payload())
        if kind == CHANNEL and guild:
            return self._add("channels", guild.channel_id, guild.channel() | {"permissions": str(ALL_PERMISSIONS)})
        return value

    def _add(self, group: str, key: object, payload: Json) -> str:
        self.found.setdefault(group, {})[str(key)] = payload
        return str(key)
