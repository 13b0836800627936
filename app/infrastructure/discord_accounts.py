"""Discord's OAuth 2.0 and the few questions to its REST that a sign-in needs (Discord API, version 10).

Everything that Discord answers may be late, huge, no JSON or of the wrong shape: that is DiscordUnavailable, and
nothing of an answer is repeated. The access token lives in one local variable. It is dropped and not revoked: revoking
one ends everything that the person allowed this application, also the installation of the bot on their account.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from app.domain.errors import DiscordUnavailable, InvalidInput, InvalidToken, NotConfigured, Overloaded
from app.domain.identity import snowflake
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

CALLBACK: Final = "/auth/discord/callback"
"""The path that is registered at Discord, behind PUBLIC_URL."""
_API: Final = "https://discord.com/api/v10"
_AUTHORIZE: Final = "https://discord.com/oauth2/authorize"
_SCOPE: Final = "identify"
WITHIN_SECONDS: Final = 6.0
"""A sign-in asks twice at most, and a request has fifteen seconds."""
_LARGEST: Final = 262_144
"""Bytes: a page of 200 servers has some 100,000."""
_AT_ONCE: Final = 20
_WAITING: Final = 100
_GUILDS_ASKED: Final = 40
_ASKED_AT_ONCE: Final = 10
_PAGE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscordApplication:
    """The application at Discord. ``api_base`` leads to another Discord (tests)."""

    client_id: str
    client_secret: SecretText
    redirect_uri: str
    bot_token: SecretText | None = None
    guild_allowlist: frozenset[str] = field(default_factory=frozenset)
    api_base: str | None = None


class DiscordAccountsImpl:
    """See `app.services.ports.DiscordAccounts`. ``within`` is the deadline of each of its methods, in seconds."""

    def __init__(self, application: DiscordApplication, *, within: float = WITHIN_SECONDS) -> None:
        self._application = application
        self._api = (application.api_base or _API).rstrip("/")
        self._within = within
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    def authorization_url(self, *, state: str, challenge: str) -> str:
        """Return the address at Discord where a person agrees."""
        page = _AUTHORIZE if self._application.api_base is None else f"{self._api}/oauth2/authorize"
        asked = {
            "response_type": "code",
            "client_id": self._application.client_id,
            "redirect_uri": self._application.redirect_uri,
            "scope": _SCOPE,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{page}?{urlencode(asked)}"

    async def identify(self, code: SecretText, verifier: SecretText) -> str:
        """Return the Discord id of the person who agreed. Raises InvalidToken, NotConfigured, DiscordUnavailable."""
        async with self._asking() as session:
            token = await self._token(session, code, verifier)
            status, who = await _answer(session, "GET", f"{self._api}/users/@me", f"Bearer {token.reveal()}")
        if status != 200 or not isinstance(who, dict):
            raise _unavailable("users/@me", status)
        return _number(who.get("id"))

    async def _token(self, session: ClientSession, code: SecretText, verifier: SecretText) -> SecretText:
        form = {
            "grant_type": "authorization_code",
            "code": code.reveal(),
            "redirect_uri": self._application.redirect_uri,
            "code_verifier": verifier.reveal(),
            "client_id": self._application.client_id,
            "client_secret": self._application.client_secret.reveal(),
        }
        status, granted = await _answer(session, "POST", f"{self._api}/oauth2/token", form=form)
        given: Mapping[str, Any] = granted if isinstance(granted, dict) else {}
        if status == 200:
            token, scope = given.get("access_token"), given.get("scope")
            if not isinstance(token, str) or not token.isascii() or not token.isprintable():
                raise _unavailable("oauth2/token", status)
            if not isinstance(scope, str) or _SCOPE not in scope.split():
                raise InvalidToken("Discord may not say who you are: begin again, and agree there")
            return SecretText(token)
        if given.get("error") == "invalid_client":
            log.error("Discord refuses DISCORD_CLIENT_SECRET: reset it under OAuth2 in the Developer Portal")
            raise NotConfigured("Discord refuses this Keyhall: its owner has to set DISCORD_CLIENT_SECRET again")
        if status in {400, 401} and isinstance(given.get("error"), str):
            raise InvalidToken("Discord does not take this sign-in, or no longer: begin again")
        raise _unavailable("oauth2/token", status)

    async def member_of_known_guild(self, discord_id: str) -> bool:
        """Whether that person is in a server of the bot; at most 40 are asked. Raises DiscordUnavailable."""
        token = self._application.bot_token
        if token is None:  # a first command in a server makes the account
            return False
        number, bot = snowflake(discord_id), f"Bot {token.reveal()}"
        async with self._asking() as session:
            guilds = sorted(self._application.guild_allowlist) or [each async for each in self._guilds(session, bot)]
            for begin in range(0, len(guilds[:_GUILDS_ASKED]), _ASKED_AT_ONCE):
                asked = guilds[begin : min(begin + _ASKED_AT_ONCE, _GUILDS_ASKED)]
                answers = await asyncio.gather(*(self._is_member(session, bot, each, number) for each in asked))
                if True in answers:
                    return True
                if None in answers:
                    raise DiscordUnavailable
        return False

    async def _guilds(self, session: ClientSession, bot: str) -> AsyncIterator[str]:
        """The servers that the bot is in: the first of them, since no more than those are asked."""
        url = f"{self._api}/users/@me/guilds?limit={_PAGE}"
        status, found = await _answer(session, "GET", url, bot)
        if status != 200 or not isinstance(found, list):
            raise _unavailable("users/@me/guilds", status)
        for each in found:
            yield _number(each.get("id") if isinstance(each, dict) else None)

    async def _is_member(self, session: ClientSession, bot: str, guild_id: str, number: str) -> bool | None:
        """Whether that is a member; None where Discord does not say."""
        status, found = await _answer(session, "GET", f"{self._api}/guilds/{guild_id}/members/{number}", bot)
        if status == 200 and isinstance(found, dict) and isinstance(found.get("user"), dict):
            return _number(found["user"].get("id")) == number
        return False if status in {403, 404} else None

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[ClientSession]:
        """A connection for one sign-in; it is closed before anybody is answered."""
        from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar  # noqa: PLC0415 - a start needs none

        if self._waiting >= _WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            async with (
                asyncio.timeout(self._within),
                self._room,
                ClientSession(
                    timeout=ClientTimeout(total=None), cookie_jar=DummyCookieJar(), headers={"User-Agent": _AGENT}
                ) as session,
            ):
                yield session
        except (ClientError, TimeoutError, OSError) as error:
            log.warning("Discord did not answer a sign-in (%s)", type(error).__name__)
            raise DiscordUnavailable from None
        finally:
            self._waiting -= 1


_AGENT: Final = "DiscordBot (keyhall, 1)"


async def _answer(
    session: ClientSession,
    method: str,
    url: str,
    authorization: str | None = None,
    *,
    form: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """The status, and the JSON of the body; None where it has none."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with session.request(method, url, data=form, headers=headers, allow_redirects=False) as answer:
        body = await answer.content.read(_LARGEST + 1)
        while body and len(body) <= _LARGEST and (more := await answer.content.read(_LARGEST + 1 - len(body))):
            body += more
        if len(body) > _LARGEST or answer.content_type != "application/json":
            return answer.status, None
    try:
        return answer.status, json.loads(body)
    except (ValueError, RecursionError):
        return answer.status, None


def _number(value: object) -> str:
    try:
        return snowflake(value)
    except InvalidInput:
        raise _unavailable("an id", 200) from None


def _unavailable(what: str, status: int) -> DiscordUnavailable:
    log.warning("Discord answered %d to %s, not as it is documented", status, what)
    return DiscordUnavailable()
