"""A Discord of our own on loopback: the real wire (HTTP and WebSocket), so the bot under test is the unmodified one.

A test starts it in its own event loop, points a bot at it (``DISCORD_API_BASE`` and ``DISCORD_GATEWAY_URL``; in the
same process or another one) and plays the users::

    async with await WireSimulator.start() as wire:
        alice = wire.user(1001, "alice")
        guild = wire.add_guild(id=2001, name="Hall", owner=alice)
        ...                                                     # start the bot with wire.environment
        await wire.wait_ready()
        form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
        answer = await wire.submit_modal(form, {"label": "work", "secret": "sk-..."})
        assert answer.ephemeral and "work" in answer.text

It is an oracle, not a convenience: it imports nothing of discord.py and nothing of Keyhall, and it refuses what
Discord refuses (a second acknowledgement, one after 3 s, an answer of the wrong type, a form over its size limits, a
follow-up after 15 minutes, an intent that was not granted). Likewise it refuses to act for a user as the Discord
client would: a command that was never synced or is not offered here, an option that does not exist, a button that is
not on the message. Every dispatch is kept per session, so RESUME replays; several sessions of one shard all get it.

Sources: the Discord API documentation, version 10 (names, numbers, limits, error codes), and what discord.py 2.7.1
turned out to need. Left out: voice, presence, threads, reactions, polls, context menus, compression (which a gateway
may decline), and preventive rate-limit buckets (``rate_limit`` answers 429 on demand).

``python -m tests.support.discord_wire --port 8123 --token T`` serves it for a bot that is tried by hand.
"""

from __future__ import annotations

from tests.support.discord_wire.actors import File, Guild, Role, User
from tests.support.discord_wire.screen import Message, Modal, NotOffered, Reply, Where
from tests.support.discord_wire.simulator import WireSimulator
from tests.support.discord_wire.world import Call, Session

__all__ = [
    "Call",
    "File",
    "Guild",
    "Message",
    "Modal",
    "NotOffered",
    "Reply",
    "Role",
    "Session",
    "User",
    "Where",
    "WireSimulator",
]
