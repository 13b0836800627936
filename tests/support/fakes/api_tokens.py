"""The repository of API tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from app.domain.api_tokens import ApiToken
from app.domain.errors import UniqueViolation
from app.infrastructure.database.errors import ConstraintBroken
from app.services.ports import ApiTokenAndUser
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeApiTokenRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, token: ApiToken, mac: bytes) -> None:
        if token.user_id not in self._tables.users:
            raise ConstraintBroken
        if mac in self._tables.api_tokens or any(each.id == token.id for each in self._tables.api_tokens.values()):
            raise UniqueViolation
        self._tables.api_tokens[mac] = token

    async def by_macs(self, macs: Collection[bytes]) -> ApiTokenAndUser | None:
        token = next((self._tables.api_tokens[each] for each in macs if each in self._tables.api_tokens), None)
        return None if token is None else ApiTokenAndUser(token, self._tables.users[token.user_id])

    async def get(self, token_id: str) -> ApiToken | None:
        return next((each for each in self._tables.api_tokens.values() if each.id == token_id), None)

    async def locked(self, token_id: str) -> ApiTokenAndUser | None:
        token = await self.get(token_id)
        return None if token is None else ApiTokenAndUser(token, self._tables.users[token.user_id])

    async def page(self, user_id: str, *, after: str | None, limit: int) -> Sequence[ApiToken]:
        theirs = [each for each in self._tables.api_tokens.values() if each.user_id == user_id]
        newest_first = sorted(theirs, key=lambda each: each.id, reverse=True)
        return [each for each in newest_first if after is None or each.id < after][:limit]

    async def count(self, user_id: str, now: datetime) -> int:
        return sum(each.user_id == user_id and not each.expired(now) for each in self._tables.api_tokens.values())

    async def touch(self, token_id: str, at: datetime) -> None:
        for mac, token in self._tables.api_tokens.items():
            if token.id == token_id and (token.last_used_at is None or token.last_used_at < at):
                self._tables.api_tokens[mac] = replace(token, last_used_at=at)

    async def renew(self, token_id: str, *, former: int, mac: bytes, key_version: int) -> None:
        for old, token in list(self._tables.api_tokens.items()):
            if token.id == token_id and token.key_version == former:
                del self._tables.api_tokens[old]
                self._tables.api_tokens[mac] = replace(token, key_version=key_version)

    async def delete(self, token_id: str) -> bool:
        return self._drop(lambda each: each.id == token_id) == 1

    async def end_all_of(self, user_id: str) -> int:
        return self._drop(lambda each: each.user_id == user_id)

    async def key_versions(self, now: datetime) -> Mapping[int, int]:
        return Counter(each.key_version for each in self._tables.api_tokens.values() if not each.expired(now))

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        ended = [
            each.id
            for each in self._tables.api_tokens.values()
            if each.expires_at is not None and each.expires_at < before
        ][:limit]
        return self._drop(lambda each: each.id in ended)

    def _drop(self, those: Callable[[ApiToken], bool]) -> int:
        gone = [mac for mac, token in self._tables.api_tokens.items() if those(token)]
        for each in gone:
            del self._tables.api_tokens[each]
        return len(gone)
