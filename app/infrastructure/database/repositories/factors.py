"""Second factors: TOTP secrets and recovery codes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, delete, func, insert, or_, select, update

from app.domain.second_factor import TotpFactor
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import PENDING, recovery_codes, totp_factors, users

_TOTP: Final = totp_factors.c
_CODE: Final = recovery_codes.c
_COLUMNS: Final = (
    _TOTP.id,
    _TOTP.user_id,
    _TOTP.encrypted_secret,
    _TOTP.key_version,
    _TOTP.created_at,
    _TOTP.confirmed_at,
    _TOTP.last_step,
    _TOTP.version,
)
# Built once: every sign-in asks.
_OF_USER: Final[Select[*tuple[Any, ...]]] = select(*_COLUMNS).where(_TOTP.user_id == bindparam("user"))
_CONFIRMED: Final = _TOTP.confirmed_at.is_not(None)


class FactorRepositoryImpl:
    """See `app.services.ports.FactorRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, user_id: str) -> TotpFactor | None:
        row = await self._connection.row(_OF_USER, {"user": user_id})
        if row is None:
            return None
        id_, owner, encrypted_secret, key_version, created_at, confirmed_at, last_step, version = row
        return TotpFactor(
            id=id_,
            user_id=owner,
            encrypted_secret=encrypted_secret,
            key_version=key_version,
            created_at=created_at,
            confirmed_at=confirmed_at,
            last_step=last_step,
            version=version,
        )

    async def locked(self, user_id: str) -> TotpFactor | None:
        await self._lock(user_id)
        return await self.get(user_id)

    async def start(self, factor: TotpFactor) -> bool:
        if await self.locked(factor.user_id) is not None:
            replaced = delete(totp_factors).where(_TOTP.user_id == factor.user_id, PENDING)
            if await self._connection.change(replaced) == 0:
                return False
        row = {
            "id": factor.id,
            "user_id": factor.user_id,
            "encrypted_secret": factor.encrypted_secret,
            "key_version": factor.key_version,
            "version": factor.version,
            "created_at": factor.created_at,
            "confirmed_at": factor.confirmed_at,
            "last_step": factor.last_step,
        }
        await self._connection.insert(totp_factors, row)
        return True

    async def confirm(self, factor_id: str, step: int, at: datetime) -> bool:
        pending = update(totp_factors).where(_TOTP.id == factor_id, PENDING)
        return await self._connection.change(pending.values(confirmed_at=at, last_step=step)) == 1

    async def use_step(self, factor_id: str, step: int) -> bool:
        later = or_(_TOTP.last_step.is_(None), _TOTP.last_step < step)
        used = update(totp_factors).where(_TOTP.id == factor_id, _CONFIRMED, later).values(last_step=step)
        return await self._connection.change(used) == 1

    async def put_codes(self, user_id: str, hashes: Collection[bytes], at: datetime) -> None:
        await self._lock(user_id)
        await self._connection.change(delete(recovery_codes).where(_CODE.user_id == user_id))
        rows = [{"user_id": user_id, "code_hash": each, "created_at": at} for each in hashes]
        if rows:
            await self._connection.change(insert(recovery_codes).values(rows))

    async def has_code(self, user_id: str, code_hash: bytes) -> bool:
        this = select(_CODE.user_id).where(_CODE.user_id == user_id, _CODE.code_hash == code_hash)
        return await self._connection.row(this) is not None

    async def use_code(self, user_id: str, code_hash: bytes) -> bool:
        used = delete(recovery_codes).where(_CODE.user_id == user_id, _CODE.code_hash == code_hash)
        return await self._connection.change(used) == 1

    async def codes_left(self, user_id: str) -> int:
        return int(await self._connection.value(select(func.count()).where(_CODE.user_id == user_id)))

    async def clear(self, user_id: str) -> bool:
        await self._lock(user_id)
        await self._connection.change(delete(recovery_codes).where(_CODE.user_id == user_id))
        confirmed = await self._connection.change(delete(totp_factors).where(_TOTP.user_id == user_id, _CONFIRMED))
        await self._connection.change(delete(totp_factors).where(_TOTP.user_id == user_id))
        return confirmed == 1

    async def encrypted_by_others(self, key_versions: Sequence[int]) -> Sequence[str]:
        lost = select(_TOTP.user_id).where(_TOTP.key_version.not_in(key_versions), _CONFIRMED).order_by(_TOTP.user_id)
        return [row[0] for row in await self._connection.rows(lost)]

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(totp_factors, PENDING & (_TOTP.created_at < before), limit)

    async def _lock(self, user_id: str) -> None:
        # On PostgreSQL of two at once the later one waits here. Weaker than FOR UPDATE: a session can begin meanwhile.
        await self._connection.row(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))
