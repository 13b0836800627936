"""Keep a bot running: restart it when it ends, give up if only the operator can help, leave when cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from app.bot.client import KeyhallBot, make_bot
from app.bot.options import BotOptions
from app.domain.errors import BotLoginFailed, StartupError, StorageError
from app.services import Services

log = logging.getLogger(__name__)

_CLOSE_WITHIN: Final = 5.0
# Discord allows 1,000 identifications a day and resets the token of a bot that needs more; this is 288.
_LONGEST_PAUSE: Final = 300.0
# These write whole events, which include forms with secrets, and the tokens of interactions into debug messages.
_TALKATIVE: Final = ("discord.gateway", "discord.http", "discord.webhook.async_")

_PORTAL: Final = "https://discord.com/developers/applications"
_HOPELESS: Final = {
    4004: ("Discord refused the token", f"set DISCORD_BOT_TOKEN to the bot's token from {_PORTAL}"),
    4010: ("Discord refused the shards", "correct SHARD_IDS and SHARD_COUNT"),
    4011: ("Discord demands shards for this many servers", "set SHARD_COUNT"),
    4012: ("Discord no longer speaks this version of its protocol", "upgrade Keyhall"),
    4013: ("Discord refused the intents", "upgrade Keyhall"),
    4014: ("Discord refused a privileged intent", f"enable it for the bot at {_PORTAL}"),
}
"""Close codes of the gateway after which trying again cannot help, with what happened and what to do."""


async def run_bot(
    services: Services,
    options: BotOptions,
    *,
    sync: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run the bot until cancelled; it leaves within 5 s.

    ``ready`` is called once, with the address that invites the bot, when the gateway first accepts it. ``sync``
    registers the commands with Discord even if they did not change. Raises BotLoginFailed if Discord refuses the
    token, the shards or an intent that is not optional, and the web shows why; ConfigInvalid for an extension that does
    not load.
    """
    try:
        await _run(services, options, sync=sync, ready=ready)
    except BotLoginFailed as failed:
        try:
            await services.bot_state.stopped(failed.happened, failed.remedy)
        except StorageError as error:
            log.warning("could not note for the web that the bot stopped: %s", error)
        raise


async def _run(services: Services, options: BotOptions, *, sync: bool, ready: Callable[[str], None] | None) -> None:
    token = _fit_token(options)
    now = asyncio.get_running_loop().time
    announced = False

    def connected(invite: str) -> None:
        nonlocal announced
        if not announced:
            announced = True
            log.info("connected to Discord; invite the bot with %s", invite)
            if ready is not None:
                ready(invite)

    with _discord_at(options), _payloads_unlogged():
        message_content, pause = options.message_content, options.restart_after
        while True:
            started = now()
            bot = make_bot(services, options, message_content=message_content, sync=sync, connected=connected)
            try:
                await _session(bot, token)
            except discord.PrivilegedIntentsRequired:
                if not message_content:
                    raise _login_failed(4014) from None
                log.warning(
                    "DISCORD_MESSAGE_CONTENT asks for an intent that Discord has not granted: going on without it; "
                    "enable MESSAGE CONTENT INTENT at %s",
                    _PORTAL,
                )
                message_content = False
                continue
            if now() - started > _LONGEST_PAUSE:
                pause = options.restart_after
            log.warning("starting the bot again in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            sync = False


async def _session(bot: KeyhallBot, token: str) -> None:
    """Run one connection to its end; return if a new one is worth trying.

    Raises BotLoginFailed and ConfigInvalid if a new one cannot help, and discord.PrivilegedIntentsRequired.
    """
    session = asyncio.timeout(None)
    bot.thrown_out = partial(session.reschedule, 0)  # the past: the session ends as if its time were over
    try:
        async with session:
            await bot.start(token)
    except (discord.PrivilegedIntentsRequired, StartupError):
        raise
    except discord.LoginFailure:
        raise _login_failed(4004) from None
    except discord.ConnectionClosed as closed:
        if closed.code in _HOPELESS:
            raise _login_failed(closed.code) from None
        log.warning("Discord closed the connection with code %d", closed.code)
    except Exception:
        if session.expired():
            log.warning("Discord closes one connection after the other")
        else:  # an error in one of discord.py's own parsers ends the client
            log.exception("the bot stopped unexpectedly")
    finally:
        await _leave(bot)


def _fit_token(options: BotOptions) -> str:
    token = options.token.reveal().strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BotLoginFailed("DISCORD_BOT_TOKEN cannot be a token", remedy=_HOPELESS[4004][1])
    return token


def _login_failed(code: int) -> BotLoginFailed:
    happened, remedy = _HOPELESS[code]
    return BotLoginFailed(happened, remedy=remedy)


async def _leave(bot: KeyhallBot) -> None:
    try:
        async with asyncio.timeout(_CLOSE_WITHIN):
            await bot.close()
    except TimeoutError:
        log.warning("Discord did not close the connection in time")
    finally:  # also when time ran out, nothing stays open
        await bot.http.close()


@contextmanager
def _discord_at(options: BotOptions) -> Iterator[None]:
    """Connect to another Discord if the options name one. discord.py keeps both addresses in its classes."""
    base, gateway = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE = options.api_base or base
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(options.gateway_url) if options.gateway_url else gateway
    # Keyhall has no voice, so it needs no warning that voice is not installed.
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = base, gateway


@contextmanager
def _payloads_unlogged() -> Iterator[None]:
    """Keep the library's debug messages about payloads out of every log, at any level."""

    def from_info_on(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.INFO

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(from_info_on)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(from_info_on)
