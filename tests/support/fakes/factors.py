"""The repository of second factors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from app.domain.errors import UniqueViolation
from app.domain.second_factor import TotpFactor
from app.infrastructure.database.errors import ConstraintBroken
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeFactorRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, user_id: str) -> TotpFactor | None:
        return next((each for each in self._tables.factors.values() if each.user_id == user_id), None)

    async def locked(self, user_id: str) -> TotpFactor | None:
        return await self.get(user_id)

    async def start(self, factor: TotpFactor) -> bool:
        present = await self.get(factor.user_id)
        if present is not None:
            if present.confirmed_at is not None:
                return False
            del self._tables.factors[present.id]
        if factor.id in self._tables.factors:
            raise UniqueViolation
        self._require_user(factor.user_id)
        self._tables.factors[factor.id] = factor
        return True

    async def confirm(self, factor_id: str, step: int, at: datetime) -> bool:
        factor = self._tables.factors.get(factor_id)
        if factor is None or factor.confirmed_at is not None:
            return False
        self._tables.factors[factor_id] = replace(factor, confirmed_at=at, last_step=step)
        return True

    async def use_step(self, factor_id: str, step: int) -> bool:
        factor = self._tables.factors.get(factor_id)
        if factor is None or factor.confirmed_at is None:
            return False
        if factor.last_step is not None and factor.last_step >= step:
            return False
        self._tables.factors[factor_id] = replace(factor, last_step=step)
        return True

    async def put_codes(self, user_id: str, hashes: Collection[bytes], at: datetime) -> None:
        self._drop_codes(user_id)
        if hashes:
            self._require_user(user_id)
        self._tables.recovery_codes.update(dict.fromkeys((user_id, each) for each in hashes))

    async def has_code(self, user_id: str, code_hash: bytes) -> bool:
        return (user_id, code_hash) in self._tables.recovery_codes

    async def use_code(self, user_id: str, code_hash: bytes) -> bool:
        if (user_id, code_hash) not in self._tables.recovery_codes:
            return False
        del self._tables.recovery_codes[user_id, code_hash]
        return True

    async def codes_left(self, user_id: str) -> int:
        return sum(owner == user_id for owner, _ in self._tables.recovery_codes)

    async def clear(self, user_id: str) -> bool:
        self._drop_codes(user_id)
        factor = await self.get(user_id)
        if factor is None:
            return False
        del self._tables.factors[factor.id]
        return factor.confirmed_at is not None

    async def encrypted_by_others(self, key_versions: Sequence[int]) -> Sequence[str]:
        confirmed = [each for each in self._tables.factors.values() if each.confirmed_at is not None]
        return sorted(each.user_id for each in confirmed if each.key_version not in key_versions)

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        pending = [each for each in self._tables.factors.values() if each.confirmed_at is None]
        gone = [each.id for each in pending if each.created_at < before][:limit]
        for each in gone:
            del self._tables.factors[each]
        return len(gone)

    def _drop_codes(self, user_id: str) -> None:
        codes = self._tables.recovery_codes
        self._tables.recovery_codes = {each: None for each in codes if each[0] != user_id}

    def _require_user(self, user_id: str) -> None:
        if user_id not in self._tables.users:
            raise ConstraintBroken
