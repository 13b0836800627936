"""The ports in memory: a clock that is told the time, a storage that commits or does not, nothing that is slow.

``FakeStorage`` keeps the promises of ``app.services.ports`` and holds the services to theirs: a unit of work in which
the loop got to run something else fails, for then the service awaited something that is not the database.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from app.domain.audit import Action, AuditEvent, Result
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind, Status
from app.domain.encrypted_columns import CREDENTIAL_SECRETS, EncryptedColumn, EncryptedRow, Reencrypted
from app.domain.errors import StorageError, StorageFull, UniqueViolation
from app.domain.identity import Session, User
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.domain.keys import KeyName, KeySchedule
from app.domain.secrets import SecretBytes
from app.services.ports import IdempotentRequest, PasswordCheck, RefreshUse, RememberedInstall, SessionAndUser

if TYPE_CHECKING:
    from collections.abc import Iterator

_T = TypeVar("_T")

EPOCH = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""When every test begins."""


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._passed = timedelta()

    def now(self) -> datetime:
        return EPOCH + self._passed

    def monotonic(self) -> float:
        return 1_000.0 + self._passed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    def advance(self, by: timedelta) -> None:
        self._passed += by


class FakeRandomness:
    """The same bytes and ids in every run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def new_id(self) -> str:
        return str(uuid.UUID(bytes=self._random.randbytes(16), version=4))


class FakeMasterKeys:
    """One master key, given from outside."""

    def __init__(self) -> None:
        self.keys = [SecretBytes(bytes(range(32)))]

    def given(self) -> Sequence[SecretBytes]:
        return self.keys

    def create(self) -> SecretBytes:
        raise AssertionError("a master key is given")


class FakeInstallRecord:
    """install.json without a file."""

    def __init__(self) -> None:
        self.remembered: RememberedInstall | None = None

    def read(self) -> RememberedInstall | None:
        return self.remembered

    def remember(self, install_id: str, epochs: Mapping[str, int]) -> None:
        before = self.remembered.epochs if self.remembered else {}
        kept = {name: max(epoch, before.get(name, 0)) for name, epoch in epochs.items()}
        self.remembered = RememberedInstall(install_id=install_id, epochs=kept)

    def prove(self) -> None:
        return None


class FakePasswords:
    """As slow as one turn of the loop: enough for an open unit of work to notice."""

    async def hash(self, password: str) -> str:
        await asyncio.sleep(0)
        return f"$fake${password[::-1]}"

    async def verify(self, phc: str | None, password: str) -> PasswordCheck:
        await asyncio.sleep(0)
        return PasswordCheck(ok=phc == f"$fake${password[::-1]}", needs_rehash=False)

    def is_common(self, password: str) -> bool:
        return password == "password1234"


class FakeChangeFeed:
    """Hears what the test tells it."""

    def __init__(self) -> None:
        self._subscriptions: list[FakeSubscription] = []

    def subscribe(self) -> FakeSubscription:
        self._subscriptions.append(FakeSubscription())
        return self._subscriptions[-1]

    def tell(self) -> None:
        """Somebody changed something."""
        for each in self._subscriptions:
            each.told.set()


class FakeSubscription:
    """Waits in real time."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def changed(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self.told.wait()
        except TimeoutError:
            return False
        self.told.clear()
        return True


# ---------------------------------------------------------------------------------------------------------------------
# Storage
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Tables:
    """Everything that is stored. Rows are immutable, so a copy of the containers is a snapshot."""

    config: dict[str, str] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    owner_claim: str | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    cookies: dict[bytes, str] = field(default_factory=dict)
    refresh_tokens: dict[bytes, tuple[str, datetime, bool]] = field(default_factory=dict)
    credentials: dict[str, CredentialRecord] = field(default_factory=dict)
    history: dict[str, HistoryRecord] = field(default_factory=dict)
    audit: list[AuditEvent] = field(default_factory=list)
    instances: dict[str, Instance] = field(default_factory=dict)
    attempts: dict[tuple[str, datetime], int] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], IdempotentRequest] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    claims: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    schedules: dict[str, KeySchedule] = field(default_factory=dict)
    bot_state: dict[str, str] = field(default_factory=dict)

    def snapshot(self) -> Tables:
        copy = replace(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | list):
                setattr(copy, name, value.copy())
        return copy


class FakeStorage:
    """One writer at a time, readers on a snapshot; what a unit of work wrote is there only once it has committed."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.tables = Tables()
        self.commits = 0
        self.units = 0
        self._writer = asyncio.Lock()
        self._unreadable: StorageError | None = None
        self._unwritable: StorageError | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[FakeUnitOfWork]:
        await asyncio.sleep(0)
        if self._unreadable:
            raise self._unreadable
        with self._nothing_slow():
            yield FakeUnitOfWork(self.tables.snapshot(), self.clock)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[FakeUnitOfWork]:
        async with self._writer:
            await asyncio.sleep(0)
            if self._unwritable:
                raise self._unwritable
            tables = self.tables.snapshot()
            with self._nothing_slow():
                yield FakeUnitOfWork(tables, self.clock)
            self.tables = tables
            self.commits += 1

    @contextmanager
    def _nothing_slow(self) -> Iterator[None]:
        """Fail if the loop came round while this unit of work was open: the fake storage itself never waits."""
        self.units += 1
        rounds: list[bool] = []
        came_round = asyncio.get_running_loop().call_soon(rounds.append, True)
        try:
            yield
        finally:
            came_round.cancel()
        assert not rounds, "something else than the database was awaited inside a unit of work"

    def data_version(self) -> int | None:
        return self.commits

    async def cached(self, kind: str, key: str, load: Callable[[FakeUnitOfWork], Awaitable[_T | None]]) -> _T | None:
        async with self.read() as uow:
            return await load(uow)

    # -- what tests do to it -------------------------------------------------------------------------------------------

    @contextmanager
    def full(self) -> Iterator[None]:
        """No write goes through."""
        self._unwritable = StorageFull()
        try:
            yield
        finally:
            self._unwritable = None

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Neither reads nor writes go through."""
        self._unreadable = self._unwritable = StorageError()
        try:
            yield
        finally:
            self._unreadable = self._unwritable = None

    def trail(self) -> list[tuple[Action, Result]]:
        """What the audit trail holds, without the start's own rows."""
        return [(each.action, each.result) for each in self.tables.audit if each.action is not Action.INSTALL_CREATED]


class FakeUnitOfWork:
    """Every repository on one set of tables."""

    def __init__(self, tables: Tables, clock: FakeClock) -> None:
        self.keys = FakeKeyRepository(tables)
        self.users = FakeUserRepository(tables)
        self.sessions = FakeSessionRepository(tables)
        self.credentials = FakeCredentialRepository(tables)
        self.encrypted_rows = FakeSealedRepository(tables)
        self.audit = FakeAuditRepository(tables)
        self.instances = FakeInstanceRepository(tables, clock)
        self.attempts = FakeAttemptRepository(tables)
        self.idempotency = FakeIdempotencyRepository(tables)
        self.jobs = FakeJobRepository(tables, clock)
        self.schedules = FakeKeyScheduleRepository(tables)
        self.bot_state = FakeBotStateRepository(tables)


class FakeKeyRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def exists(self) -> bool:
        return True

    async def lock(self) -> None:
        return None

    async def get_manifest(self, *, share_lock: bool = False) -> str | None:
        return self._tables.config.get("manifest")

    async def get_keyset(self, name: KeyName) -> str | None:
        return self._tables.config.get(f"keyset/{name.value}")

    async def get_jwt_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.JWT_SECRET_KEY)

    async def get_aes_key(self) -> str | None:
        return await self.get_keyset(KeyName.AES_KEY)

    async def get_encryption_key(self) -> str | None:
        return await self.get_keyset(KeyName.ENCRYPTION_KEY)

    async def get_api_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.API_SECRET_KEY)

    async def keyset_names(self) -> frozenset[str]:
        return frozenset(row.removeprefix("keyset/") for row in self._tables.config if row.startswith("keyset/"))

    async def guarded_rows(self) -> int:
        return len(self._tables.users) + len(self._tables.credentials)

    async def put(self, row: str, value: str, at: datetime) -> None:
        self._tables.config[row] = value

    async def rows(self) -> Mapping[str, str]:
        return self._tables.config.copy()

    async def clear(self) -> None:
        self._tables.config.clear()


class FakeUserRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, user: User) -> None:
        for each in self._tables.users.values():
            if each.name_key == user.name_key or (user.discord_id and each.discord_id == user.discord_id):
                raise UniqueViolation
        self._tables.users[user.id] = user

    async def get(self, user_id: str) -> User | None:
        return self._tables.users.get(user_id)

    async def by_name(self, name_key: str) -> User | None:
        return next((each for each in self._tables.users.values() if each.name_key == name_key), None)

    async def by_discord(self, discord_id: str) -> User | None:
        return next((each for each in self._tables.users.values() if each.discord_id == discord_id), None)

    async def page(self, *, after: str | None, limit: int) -> Sequence[User]:
        return [self._tables.users[key] for key in sorted(self._tables.users) if key > (after or "")][:limit]

    async def set_password(self, user_id: str, password_hash: str, at: datetime) -> None:
        self._change(user_id, password_hash=password_hash)

    async def set_discord(self, user_id: str, discord_id: str | None, at: datetime) -> None:
        self._change(user_id, discord_id=discord_id)

    async def disable(self, user_id: str, at: datetime) -> None:
        user = self._tables.users[user_id]
        self._change(user_id, disabled_at=user.disabled_at or at, token_version=user.token_version + 1)

    async def claim_owner(self, user_id: str, at: datetime) -> None:
        if self._tables.owner_claim is not None:
            raise UniqueViolation
        self._tables.owner_claim = user_id

    async def owner_ever_existed(self) -> bool:
        return self._tables.owner_claim is not None

    def _change(self, user_id: str, **values: Any) -> None:
        self._tables.users[user_id] = replace(self._tables.users[user_id], **values)


class FakeSessionRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, session: Session, *, cookie_hash: bytes | None) -> None:
        self._tables.sessions[session.id] = session
        if cookie_hash is not None:
            self._tables.cookies[cookie_hash] = session.id

    async def get(self, session_id: str) -> SessionAndUser | None:
        session = self._tables.sessions.get(session_id)
        return SessionAndUser(session, self._tables.users[session.user_id]) if session else None

    async def by_cookie(self, cookie_hash: bytes) -> SessionAndUser | None:
        return await self.get(self._tables.cookies.get(cookie_hash, ""))

    async def live_of(self, user_id: str, now: datetime) -> Sequence[Session]:
        live = [
            each
            for each in self._tables.sessions.values()
            if each.user_id == user_id and each.revoked_at is None and each.expires_at > now
        ]
        return sorted(live, key=lambda each: each.last_seen_at, reverse=True)

    async def touch(self, session_id: str, at: datetime) -> None:
        self._change(session_id, last_seen_at=at)

    async def prove(self, session_id: str, at: datetime) -> None:
        self._change(session_id, authenticated_at=at)

    async def revoke(self, session_id: str, at: datetime) -> bool:
        session = self._tables.sessions.get(session_id)
        for token, (owner, _, _) in list(self._tables.refresh_tokens.items()):
            if owner == session_id:
                del self._tables.refresh_tokens[token]
        if session is None or session.revoked_at is not None or session.expires_at <= at:
            return False
        self._change(session_id, revoked_at=at)
        return True

    async def revoke_all(self, at: datetime) -> int:
        return sum([await self.revoke(session_id, at) for session_id in list(self._tables.sessions)])

    async def add_refresh(self, token_hash: bytes, session_id: str, *, at: datetime, expires_at: datetime) -> None:
        self._tables.refresh_tokens[token_hash] = (session_id, expires_at, False)

    async def use_refresh(self, token_hash: bytes, at: datetime) -> RefreshUse | None:
        if token_hash not in self._tables.refresh_tokens:
            return None
        session_id, expires_at, used = self._tables.refresh_tokens[token_hash]
        self._tables.refresh_tokens[token_hash] = (session_id, expires_at, True)
        return RefreshUse(session_id=session_id, first=not used, expires_at=expires_at)

    async def purge(self, before: datetime) -> int:
        ended = [
            each.id
            for each in self._tables.sessions.values()
            if each.expires_at < before or (each.revoked_at is not None and each.revoked_at < before)
        ]
        for session_id in ended:
            del self._tables.sessions[session_id]
        return len(ended)

    def _change(self, session_id: str, **values: Any) -> None:
        self._tables.sessions[session_id] = replace(self._tables.sessions[session_id], **values)


class FakeCredentialRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, record: CredentialRecord) -> None:
        self._store(record)

    async def get(self, credential_id: str) -> CredentialRecord | None:
        record = self._tables.credentials.get(credential_id)
        return None if record is None else await self._told(record)

    async def of_owner(
        self,
        owner: Owner,
        *,
        provider: str | None = None,
        label: str | None = None,
        removed: bool = False,
        created_by: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Sequence[CredentialRecord]:
        return [
            each
            for each in await self.page(after=after, limit=len(self._tables.credentials))
            if each.owner == owner
            and (each.deleted_at is not None) is removed
            and provider in {None, each.provider}
            and created_by in {None, each.created_by}
            and (label is None or each.label.casefold() == label.casefold())
        ][:limit]

    async def lock_owner(self, owner: Owner) -> None:
        return None

    async def reassign_sharer(self, source: str, target: str) -> int:
        shared = [
            each
            for each in self._tables.credentials.values()
            if each.created_by == source and each.owner.kind is OwnerKind.GUILD
        ]
        for each in shared:
            self._tables.credentials[each.id] = replace(each, created_by=target)
        return len(shared)

    async def count(self, owner: Owner) -> int:
        return sum(each.owner == owner for each in self._tables.credentials.values())

    async def change(
        self, credential_id: str, *, expected_version: int, label: str, expires_at: datetime | None, at: datetime
    ) -> bool:
        return self._swap(credential_id, expected_version, at, label=label, expires_at=expires_at)

    async def replace(
        self,
        credential_id: str,
        *,
        expected_version: int,
        encrypted_value: bytes,
        key_version: int,
        fingerprint: str | None,
        expires_at: datetime | None,
        at: datetime,
    ) -> bool:
        return self._swap(
            credential_id,
            expected_version,
            at,
            encrypted_value=encrypted_value,
            key_version=key_version,
            fingerprint=fingerprint,
            expires_at=expires_at,
            status=Status.UNCHECKED,
            last_used_at=None,
            last_verified_at=None,
        )

    async def set_removed(self, credential_id: str, *, expected_version: int, at: datetime, removed: bool) -> bool:
        return self._swap(credential_id, expected_version, at, deleted_at=at if removed else None)

    async def move(
        self,
        credential_id: str,
        *,
        expected_version: int,
        owner: Owner,
        label: str,
        encrypted_value: bytes,
        key_version: int,
        at: datetime,
    ) -> bool:
        return self._swap(
            credential_id,
            expected_version,
            at,
            owner=owner,
            label=label,
            encrypted_value=encrypted_value,
            key_version=key_version,
        )

    async def mark_used(self, credential_id: str, at: datetime) -> None:
        self._put(credential_id, last_used_at=at)

    async def set_status(self, credential_id: str, status: Status, at: datetime) -> None:
        self._put(credential_id, status=status)

    async def set_fingerprint(self, credential_id: str, *, expected_version: int, fingerprint: str | None) -> bool:
        record = self._tables.credentials.get(credential_id)
        if record is None or record.version != expected_version:
            return False
        self._tables.credentials[credential_id] = replace(record, fingerprint=fingerprint)
        return True

    async def forget_keys(self, *, opening: Sequence[int]) -> None:
        for key, record in self._tables.credentials.items():
            status = record.status if record.key_version in opening else Status.UNREADABLE
            self._tables.credentials[key] = replace(record, fingerprint=None, status=status)

    async def page(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        ids = [key for key in sorted(self._tables.credentials) if key > (after or "")]
        return [await self._told(self._tables.credentials[key]) for key in ids[:limit]]

    async def purge_removed(self, before: datetime) -> int:
        gone = [
            each.id
            for each in self._tables.credentials.values()
            if each.deleted_at is not None and each.deleted_at < before
        ]
        for credential_id in gone:
            del self._tables.credentials[credential_id]
        for former in [each for each in self._tables.history.values() if each.credential_id in gone]:
            del self._tables.history[former.id]
        return len(gone)

    async def add_history(self, record: HistoryRecord) -> None:
        self._tables.history[record.id] = record

    async def history(self, credential_id: str) -> Sequence[HistoryRecord]:
        rows = [each for each in self._tables.history.values() if each.credential_id == credential_id]
        return sorted(rows, key=lambda each: each.version, reverse=True)

    async def replace_history(self, record_id: str, *, encrypted_value: bytes, key_version: int) -> None:
        former = self._tables.history[record_id]
        self._tables.history[record_id] = replace(former, encrypted_value=encrypted_value, key_version=key_version)

    async def drop_history(self, record_id: str) -> None:
        del self._tables.history[record_id]

    async def _told(self, record: CredentialRecord) -> CredentialRecord:
        history = await self.history(record.id)
        return replace(record, replaced_at=history[0].replaced_at if history else None)

    def _store(self, record: CredentialRecord) -> None:
        for each in self._tables.credentials.values():
            if each.id != record.id and _live_name(each) is not None and _live_name(each) == _live_name(record):
                raise UniqueViolation
        self._tables.credentials[record.id] = record

    def _put(self, credential_id: str, **values: Any) -> None:
        self._store(replace(self._tables.credentials[credential_id], **values))

    def _swap(self, credential_id: str, expected_version: int, at: datetime, **values: Any) -> bool:
        if self._tables.credentials[credential_id].version != expected_version:
            return False
        self._put(credential_id, version=expected_version + 1, updated_at=at, **values)
        return True


def _live_name(record: CredentialRecord) -> tuple[Owner, str, str] | None:
    return None if record.deleted_at is not None else (record.owner, record.provider, record.label.casefold())


class FakeSealedRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def batch(
        self, column: EncryptedColumn, *, primary: int, after: str | None, limit: int
    ) -> Sequence[EncryptedRow]:
        return [each for each in self._rows(column, after) if each.key_version != primary][:limit]

    async def all(self, column: EncryptedColumn, *, after: str | None, limit: int) -> Sequence[EncryptedRow]:
        return self._rows(column, after)[:limit]

    async def swap(self, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
        table: Any = self._table(column)
        swapped = 0
        for new in rows:
            stored = table.get(new.row.id)
            if stored and (stored.version, stored.key_version) == (new.row.version, new.row.key_version):
                table[new.row.id] = replace(stored, encrypted_value=new.value, key_version=new.key_version)
                swapped += 1
        return swapped

    async def counts(self, column: EncryptedColumn) -> Mapping[int, int]:
        return Counter(each.key_version for each in self._table(column).values())

    def _table(self, column: EncryptedColumn) -> Mapping[str, CredentialRecord] | Mapping[str, HistoryRecord]:
        return self._tables.credentials if column == CREDENTIAL_SECRETS else self._tables.history

    def _rows(self, column: EncryptedColumn, after: str | None) -> list[EncryptedRow]:
        found = []
        table: Mapping[str, CredentialRecord | HistoryRecord] = self._table(column)
        for key, each in sorted(table.items()):
            if key > (after or ""):
                of = each if isinstance(each, CredentialRecord) else self._tables.credentials[each.credential_id]
                place = (each.id, of.owner.kind.value, of.owner.id)
                found.append(EncryptedRow(*place, each.version, each.key_version, each.encrypted_value))
        return found


class FakeAuditRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def append(self, event: AuditEvent) -> None:
        self._tables.audit.append(event)


class FakeInstanceRepository:
    def __init__(self, tables: Tables, clock: FakeClock) -> None:
        self._tables = tables
        self._clock = clock

    async def register(self, instance: Instance, lease: timedelta) -> None:
        now = self._clock.now()
        self._tables.instances[instance.id] = replace(instance, started_at=now, lease_until=now + lease)

    async def renew(
        self, instance_id: str, epochs: Mapping[str, int], lease: timedelta, *, master_key_ids: Sequence[str] = ()
    ) -> bool:
        instance = self._tables.instances.get(instance_id)
        if instance is None:
            return False
        renewed = replace(
            instance,
            epochs=dict(epochs),
            master_key_ids=tuple(master_key_ids),
            lease_until=self._clock.now() + lease,
        )
        self._tables.instances[instance_id] = renewed
        return True

    async def leave(self, instance_id: str) -> None:
        self._tables.instances.pop(instance_id, None)

    async def live(self) -> Sequence[Instance]:
        return [each for each in self._tables.instances.values() if each.lease_until > self._clock.now()]

    async def purge(self, lapsed_for: timedelta) -> int:
        lapsed = self._clock.now() - lapsed_for
        gone = [each.id for each in self._tables.instances.values() if each.lease_until < lapsed]
        for instance_id in gone:
            del self._tables.instances[instance_id]
        return len(gone)


class FakeAttemptRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def hit(self, key: str, window: datetime) -> int:
        self._tables.attempts[key, window] = await self.count(key, window) + 1
        return self._tables.attempts[key, window]

    async def count(self, key: str, window: datetime) -> int:
        return self._tables.attempts.get((key, window), 0)

    async def take_back(self, key: str, window: datetime) -> None:
        self._tables.attempts[key, window] = max(await self.count(key, window) - 1, 0)

    async def purge(self, before: datetime) -> int:
        gone = [each for each in self._tables.attempts if each[1] < before]
        for each in gone:
            del self._tables.attempts[each]
        return len(gone)


class FakeIdempotencyRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, user_id: str, key: str) -> IdempotentRequest | None:
        return self._tables.idempotency.get((user_id, key))

    async def add(self, request: IdempotentRequest) -> None:
        if (request.user_id, request.key) in self._tables.idempotency:
            raise UniqueViolation
        self._tables.idempotency[request.user_id, request.key] = request

    async def purge(self, before: datetime) -> int:
        gone = [each for each, request in self._tables.idempotency.items() if request.created_at < before]
        for each in gone:
            del self._tables.idempotency[each]
        return len(gone)


class FakeJobRepository:
    def __init__(self, tables: Tables, clock: FakeClock) -> None:
        self._tables = tables
        self._clock = clock

    async def add(self, job: Job, *, at: datetime | None = None) -> bool:
        if job.unique_key is not None and await self.unfinished(job.unique_key) is not None:
            return False
        self._tables.jobs[job.id] = replace(job, run_at=at or self._clock.now())
        return True

    async def get(self, job_id: str) -> Job | None:
        return self._tables.jobs.get(job_id)

    async def unfinished(self, unique_key: str) -> Job | None:
        jobs = self._tables.jobs.values()
        return next((each for each in jobs if each.unique_key == unique_key and not each.state.over), None)

    async def unfinished_of(self, kind: JobKind) -> Sequence[Job]:
        found = [each for each in self._tables.jobs.values() if each.kind is kind and not each.state.over]
        return sorted(found, key=lambda job: job.id, reverse=True)

    async def page(self, *, before: str | None, limit: int) -> Sequence[Job]:
        ids = sorted((key for key in self._tables.jobs if before is None or key < before), reverse=True)
        return [self._tables.jobs[key] for key in ids[:limit]]

    async def claim(self, claim: str, lease: timedelta, *, job_id: str | None = None) -> Job | None:
        now = self._clock.now()
        due = [
            each
            for each in self._tables.jobs.values()
            if (job_id in {None, each.id})
            and (
                (each.state is JobState.WAITING and each.run_at <= now)
                or (each.state is JobState.RUNNING and self._tables.claims[each.id][1] <= now)
            )
        ]
        if not due:
            return None
        first = min(due, key=lambda each: (each.run_at, each.id))
        self._tables.claims[first.id] = (claim, now + lease)
        return self._change(first.id, state=JobState.RUNNING, attempts=first.attempts + 1)

    async def hold(self, job_id: str, claim: str, lease: timedelta, progress: Progress | None = None) -> bool:
        if not self._held(job_id, claim):
            return False
        self._tables.claims[job_id] = (claim, self._clock.now() + lease)
        if progress is not None:
            self._change(job_id, progress=progress)
        return True

    async def free_key(self, job_id: str, claim: str) -> None:
        if self._held(job_id, claim):
            self._change(job_id, unique_key=None)

    async def release(
        self,
        job_id: str,
        claim: str,
        state: JobState,
        *,
        pause: timedelta | None = None,
        error: str | None = None,
        counted: bool = True,
    ) -> bool:
        if not self._held(job_id, claim):
            return False
        del self._tables.claims[job_id]
        now = self._clock.now()
        self._change(job_id, state=state, error=error)
        if state.over:
            self._change(job_id, finished_at=now)
        else:
            self._change(job_id, run_at=now + (pause or timedelta()))
            if error is None:
                self._change(job_id, attempts=0)
            elif not counted:
                self._change(job_id, attempts=self._tables.jobs[job_id].attempts - 1)
        return True

    async def bring_forward(self, job_id: str) -> bool:
        job = self._tables.jobs.get(job_id)
        if job is None or job.state is not JobState.WAITING:
            return False
        self._change(job_id, run_at=self._clock.now())
        return True

    async def cancel(self, job_id: str) -> bool:
        job = self._tables.jobs.get(job_id)
        if job is None or job.state is not JobState.WAITING or job.attempts or job.progress.step:
            return False
        self._change(job_id, state=JobState.CANCELLED, finished_at=self._clock.now())
        return True

    async def cancel_all(self, kind: JobKind) -> int:
        unfinished = [each for each in self._tables.jobs.values() if each.kind is kind and not each.state.over]
        for each in unfinished:
            self._tables.jobs[each.id] = replace(each, state=JobState.CANCELLED, finished_at=self._clock.now())
            self._tables.claims.pop(each.id, None)
        return len(unfinished)

    async def purge(self, finished_before: datetime) -> int:
        over = [
            each.id for each in self._tables.jobs.values() if each.finished_at and each.finished_at < finished_before
        ]
        for job_id in over:
            del self._tables.jobs[job_id]
        return len(over)

    def _held(self, job_id: str, claim: str) -> bool:
        return self._tables.claims.get(job_id, ("", None))[0] == claim

    def _change(self, job_id: str, **values: Any) -> Job:
        self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], **values)
        return self._tables.jobs[job_id]


class FakeKeyScheduleRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def all(self) -> Mapping[str, KeySchedule]:
        return dict(self._tables.schedules)

    async def put(self, schedule: KeySchedule, at: datetime) -> None:
        self._tables.schedules[schedule.name.value] = schedule


class FakeBotStateRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, key: str) -> str | None:
        return self._tables.bot_state.get(key)

    async def put(self, key: str, value: str, at: datetime) -> None:
        self._tables.bot_state[key] = value
