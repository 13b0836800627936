"""The gateway: one WebSocket per session, from HELLO over IDENTIFY or RESUME to the close code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from tests.support.discord_wire.actors import Json
from tests.support.discord_wire.rules import GRANTED_BY, GUILD_MEMBERS, GUILDS, SESSION_ENDED_BY
from tests.support.discord_wire.world import Session, World

HEARTBEAT, IDENTIFY, PRESENCE, VOICE, RESUME, RECONNECT, REQUEST_MEMBERS, INVALID_SESSION, HELLO, HEARTBEAT_ACK = (
    *(1, 2, 3, 4, 6),
    *(7, 8, 9, 10, 11),
)


class _Close(Exception):
    """The gateway closes the connection with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Gateway:
    """The WebSocket side of a world: what ``World.dispatch`` logs, it writes out."""

    def __init__(self, world: World) -> None:
        self._world = world

    def sockets(self) -> list[web.WebSocketResponse]:
        """The connections of all sessions."""
        return [session.socket for session in self._world.sessions if session.socket is not None]

    async def close(self, code: int) -> None:
        """Close every connection; a code that ends sessions makes their RESUME fail."""
        sockets = self.sockets()
        if code in SESSION_ENDED_BY:
            self._world.sessions = [session for session in self._world.sessions if session.socket is None]
        for session in self._world.sessions:
            session.socket = None  # from here on everything waits for RESUME
        await asyncio.gather(*(socket.close(code=code) for socket in sockets))

    async def ask_to_reconnect(self) -> None:
        for socket in self.sockets():
            await socket.send_json({"op": RECONNECT, "d": None})

    async def invalidate(self, *, resumable: bool) -> None:
        sockets = self.sockets()
        if not resumable:
            self._world.sessions.clear()
        for socket in sockets:
            await socket.send_json({"op": INVALID_SESSION, "d": resumable})

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection."""
        socket = web.WebSocketResponse(timeout=1)
        await socket.prepare(request)
        session: Session | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            with contextlib.suppress(ConnectionError):  # the bot is gone; its session waits for RESUME
                await self._greet(request, socket)
                async for message in socket:
                    known = session
                    session = await self._receive(message, session, socket)
                    if session is not None and known is None:
                        pumps.append(asyncio.create_task(self._pump(session, socket)))
        except _Close as refusal:
            await socket.close(code=refusal.code)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._disconnected(session, socket)
        return socket

    async def _greet(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        if request.query.get("v") != "10" or request.query.get("encoding") != "json":
            raise _Close(4012)
        await socket.send_json({"op": HELLO, "d": {"heartbeat_interval": self._world.heartbeat_interval}})

    async def _receive(
        self, message: WSMessage, session: Session | None, socket: web.WebSocketResponse
    ) -> Session | None:
        """Act on one frame of the bot's; returns the session that the connection has from now on."""
        opcode, data = _parsed(message.data if message.type is WSMsgType.TEXT else "")
        if opcode == HEARTBEAT:
            await socket.send_json({"op": HEARTBEAT_ACK})
        elif opcode in {IDENTIFY, RESUME}:
            if session is not None:
                raise _Close(4005)
            session = self._identify(data) if opcode == IDENTIFY else self._resume(data)
            if session is None:
                await socket.send_json({"op": INVALID_SESSION, "d": False})
            else:
                session.socket = socket
        elif session is None:
            raise _Close(4003)
        elif opcode == REQUEST_MEMBERS:
            self._send_members(session, data)
        return session

    def _disconnected(self, session: Session | None, socket: web.WebSocketResponse) -> None:
        if session is not None and session.socket is socket:
            session.socket = None
            if socket.close_code in SESSION_ENDED_BY and session in self._world.sessions:
                self._world.sessions.remove(session)
        self._world.changed()

    async def _pump(self, session: Session, socket: web.WebSocketResponse) -> None:
        """Write the session's frames in order; once the connection is not the session's, the rest waits for RESUME."""
        with contextlib.suppress(ConnectionError):
            while session.socket is socket:
                if session.delivered < len(session.frames):
                    frame = session.frames[session.delivered]
                    session.delivered += 1  # lost on the way or not: RESUME says what arrived
                    await socket.send_str(frame)
                else:
                    session.wake.clear()
                    self._world.changed()
                    await session.wake.wait()

    def _identify(self, data: Json) -> Session:
        world = self._world
        world.identifies.append(data)
        if data.get("token") != world.token:
            raise _Close(4004)
        number, count = data.get("shard", (0, 1))
        if not 0 <= number < count:
            raise _Close(4010)
        intents = data.get("intents")
        if not isinstance(intents, int):
            raise _Close(4013)
        if any(intents & intent and not world.application_flags & flags for intent, flags in GRANTED_BY.items()):
            raise _Close(4014)
        session = Session(secrets.token_hex(16), (number, count), intents)
        world.sessions.append(session)
        guilds = [guild for guild in world.guilds.values() if guild.has_bot and session.sees(guild)]
        ready: Json = {
            "v": 10,
            "user": world.bot.payload(),
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
            "session_id": session.id,
            "resume_gateway_url": f"{world.origin.replace('http', 'ws', 1)}/gateway",
            "application": {"id": str(world.application_id), "flags": world.application_flags},
        }
        session.push("READY", ready | ({"shard": data["shard"]} if "shard" in data else {}))
        for guild in guilds if intents & GUILDS else ():
            visible = guild.members if intents & GUILD_MEMBERS else [world.bot]
            session.push("GUILD_CREATE", guild.created(visible) | {"unavailable": False})
        session.ready_at = len(session.frames)
        return session

    def _resume(self, data: Json) -> Session | None:
        world = self._world
        world.resumes.append(data)
        if data.get("token") != world.token:
            raise _Close(4004)
        session = next((session for session in world.sessions if session.id == data.get("session_id")), None)
        if session is None:
            return None
        if not isinstance(data.get("seq"), int) or not 0 <= data["seq"] <= len(session.frames):
            raise _Close(4007)
        session.delivered = data["seq"]
        session.push("RESUMED", {})
        return session

    def _send_members(self, session: Session, asked: Json) -> None:
        guild = self._world.guilds[int(asked["guild_id"])]
        wanted, query = asked.get("user_ids"), asked.get("query", "").lower()
        ids = None if wanted is None else {int(one) for one in (wanted if isinstance(wanted, list) else [wanted])}
        found = [one for one in guild.members if one.name.lower().startswith(query) and (ids is None or one.id in ids)]
        chunk: Json = {"guild_id": str(guild.id), "chunk_index": 0, "chunk_count": 1}
        chunk["members"] = [guild.member(member) for member in found[: asked.get("limit") or None]]
        session.push("GUILD_MEMBERS_CHUNK", chunk | ({"nonce": asked["nonce"]} if "nonce" in asked else {}))


def _parsed(text: str) -> tuple[int, Any]:
    if len(text.encode()) > 4096:
        raise _Close(4002)
    try:
        frame = json.loads(text)
    except ValueError:
        raise _Close(4002) from None
    known = {HEARTBEAT, IDENTIFY, PRESENCE, VOICE, RESUME, REQUEST_MEMBERS}
    if not isinstance(frame, dict) or frame.get("op") not in known:
        raise _Close(4001)
    return frame["op"], frame.get("d")
