"""Discord: whether it accepts the bot's token, and its time."""

from __future__ import annotations

from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from app.domain.diagnosis import Check, failed, ok, warning
from app.domain.secrets import SecretText
from app.infrastructure.clock import SystemClock

_API: Final = "https://discord.com/api/v10"
_WITHIN_SECONDS: Final = 5.0


async def discord(token: SecretText | None, base: str | None) -> tuple[Check, timedelta | None]:
    """Ask Discord who the token is, once; the second part is how far this machine's clock is ahead of Discord's."""
    if token is None:
        return ok("discord", "DISCORD_BOT_TOKEN is not set: the web runs without a bot"), None
    import aiohttp  # noqa: PLC0415 - only where there is a token

    timeout = aiohttp.ClientTimeout(total=_WITHIN_SECONDS)
    headers = {"Authorization": f"Bot {token.reveal()}", "User-Agent": "DiscordBot (keyhall, 1)"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base or _API}/users/@me", headers=headers, allow_redirects=False) as answer,
        ):
            status, date = answer.status, answer.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return (
            warning(
                "discord",
                f"Discord did not answer ({type(error).__name__})",
                "let this machine reach discord.com over https; the bot tries again by itself",
            ),
            None,
        )
    return _judged(status), _ahead(date)


def _judged(status: int) -> Check:
    if status == 200:
        return ok("discord", "Discord accepts the bot's token")
    if status == 401:
        return failed(
            "discord",
            "Discord refuses the bot's token",
            "reset the token under Bot at https://discord.com/developers/applications and set it again",
        )
    return warning("discord", f"Discord answered {status}", "try again later")


def _ahead(date: str | None) -> timedelta | None:
    try:
        theirs = parsedate_to_datetime(date) if date is not None else None
    except ValueError:
        return None
    return None if theirs is None or theirs.tzinfo is None else SystemClock().now() - theirs
