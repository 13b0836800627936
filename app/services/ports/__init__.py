"""What the services need from outside, as promises: infrastructure keeps them, tests fake them.

Two promises hold for every method of every repository. A read that fails raises StorageError: it is never "nothing
there". A write that would break a uniqueness rule raises UniqueViolation and leaves the unit of work usable only for
rolling back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from app.domain.audit import AuditEvent
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, Status
from app.domain.encrypted_columns import EncryptedColumn, EncryptedRow, Reencrypted
from app.domain.identity import Session, User
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.domain.keys import KeyName, KeySchedule
from app.domain.secrets import SecretBytes, SecretText

_T = TypeVar("_T")


# ---------------------------------------------------------------------------------------------------------------------
# Clock and randomness
# ---------------------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The time, so that tests can decide it."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back and count while the process is stopped or the machine sleeps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Come back after that time."""
        ...


class Randomness(Protocol):
    """The operating system's CSPRNG."""

    def token_bytes(self, size: int) -> bytes:
        """That many unpredictable bytes."""
        ...

    def new_id(self) -> str:
        """A UUID in its canonical form."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Cryptography
# ---------------------------------------------------------------------------------------------------------------------


class KeyWrapping(Protocol):
    """One master key (KEK), already split into its sub-keys."""

    @property
    def master_key_id(self) -> str:
        """16 hex digits that name this master key and reveal nothing of it."""
        ...

    def wrap(self, material: SecretBytes, *, install_id: str, name: KeyName, version: int) -> bytes:
        """AES-256-GCM under a sub-key; the AAD binds install, name and version."""
        ...

    def unwrap(self, wrapped: bytes, *, install_id: str, name: KeyName, version: int) -> SecretBytes:
        """The material. Raises CryptoError for anything that was not wrapped for exactly this place."""
        ...

    def row_mac(self, row: str, install_id: str, value: bytes) -> bytes:
        """HMAC-SHA256 over row name, install id and value, each length-prefixed."""
        ...

    def canary(self, install_id: str) -> bytes:
        """Bytes that only this master key can have made for this install."""
        ...

    def opens_canary(self, canary: bytes, install_id: str) -> bool:
        """Whether this master key made that canary for this install."""
        ...

    def setup_token(self, install_id: str) -> SecretText:
        """The token that claims the first owner: the same in every process of an install."""
        ...


class KeyDerivation(Protocol):
    """What is derived from application keys; one label, one use."""

    def fingerprint(self, name: KeyName, material: SecretBytes) -> str:
        """16 hex digits that identify a version of an application key."""
        ...

    def mac(self, material: SecretBytes, label: str, *parts: bytes) -> bytes:
        """HMAC-SHA256 of the length-prefixed parts under the sub-key for ``label``: 32 bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionContext:
    """Where an encrypted value belongs. The ciphertext opens nowhere else."""

    install_id: str
    table: str
    row_id: str
    owner_kind: str
    owner_id: str
    field: str
    key_name: str


class Envelope(Protocol):
    """A value at rest, bound to its place (docs/envelope.md)."""

    def encrypt(self, plaintext: bytes, place: EncryptionContext, *, key_version: int, material: SecretBytes) -> bytes:
        """The envelope: salt and nonce are new with every call."""
        ...

    def key_version(self, envelope: bytes) -> int:
        """Which version sealed it, read from the header. Raises CryptoError if it is no envelope."""
        ...

    def open(self, envelope: bytes, place: EncryptionContext, *, material: SecretBytes) -> bytes:
        """The plaintext. Raises CryptoError, whatever is wrong."""
        ...

    def reencrypt(
        self,
        items: Sequence[tuple[bytes, EncryptionContext]],
        *,
        materials: Mapping[int, SecretBytes],
        key_version: int,
        material: SecretBytes,
    ) -> Sequence[bytes | None]:
        """Each opened by the version that its header names and sealed by this one; None for what does not open."""
        ...

    def verify(
        self, items: Sequence[tuple[bytes, EncryptionContext]], *, materials: Mapping[int, SecretBytes]
    ) -> Sequence[bool]:
        """Whether each opens, by the version that its header names."""
        ...


class MessageCipher(Protocol):
    """Fernet tokens, keyed per scope by HKDF(version, "fernet", scope)."""

    def encrypt(self, plaintext: bytes, scope: str, material: SecretBytes) -> str:
        """A Fernet token."""
        ...

    def decrypt(self, token: str, scope: str, materials: Sequence[SecretBytes]) -> bytes:
        """The plaintext, by whichever version made it. Raises CryptoError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """The claims of an access token (RFC 9068 names where it has them)."""

    user_id: str
    role: str
    session_id: str
    token_version: int
    token_id: str
    issued_at: datetime
    expires_at: datetime


class UnknownKeyId(Exception):
    """A well-formed token names a key version that is not loaded."""


class AccessTokens(Protocol):
    """HS256 JWTs of type ``at+jwt``."""

    def issue(self, claims: AccessClaims, *, key_version: int, material: SecretBytes) -> str:
        """The token, in compact serialisation."""
        ...

    def read(self, token: str, materials: Mapping[int, SecretBytes], now: datetime) -> AccessClaims:
        """The claims of a valid token.

        Raises InvalidToken for anything else, and UnknownKeyId where only the key version is not known.
        """
        ...


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """Whether it matches, and whether the stored hash has outdated parameters."""

    ok: bool
    needs_rehash: bool


class PasswordHasher(Protocol):
    """Argon2id, off the event loop, a bounded number at once. Raises Overloaded when too many wait."""

    async def hash(self, password: str) -> str:
        """A PHC string."""
        ...

    async def verify(self, phc: str | None, password: str) -> PasswordCheck:
        """Check a password; None takes as long as a real hash and never matches."""
        ...

    def is_common(self, password: str) -> bool:
        """Whether it is one of the passwords that everybody tries first."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# What lies outside the database
# ---------------------------------------------------------------------------------------------------------------------


class MasterKeySource(Protocol):
    """Where the master key comes from (docs/keys.md)."""

    def given(self) -> Sequence[SecretBytes]:
        """The current and, during a change, the previous master key; empty when none is given.

        Raises InsecureKey or ConfigInvalid.
        """
        ...

    def create(self) -> SecretBytes:
        """Make the default key file, or read it where another process was faster."""
        ...


class ChangeableMasterKey(MasterKeySource, Protocol):
    """A source whose default file Keyhall itself may change. Raises ConfigInvalid, InsecureKey, as ``given`` does."""

    @property
    def default_file(self) -> Path: ...

    @property
    def previous_file(self) -> Path: ...

    @property
    def in_default_file(self) -> bool:
        """Whether the current key comes from the default file and not from the settings."""
        ...

    def begin_change(self) -> SecretBytes:
        """Put a fresh key into the default file, the old one beside it; or the one that was begun before."""
        ...

    def finish_change(self, current: SecretBytes) -> None:
        """Let the old key go, where that one is still the current one."""
        ...

    def start_over(self, at: datetime) -> tuple[SecretBytes, Sequence[Path]]:
        """Put a fresh key into the default file; what was there before is moved aside, to the paths that are told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedInstall:
    """What DATA_DIR/install.json remembers."""

    install_id: str
    epochs: Mapping[str, int]


class InstallRecord(Protocol):
    """DATA_DIR/install.json: outside the database on purpose."""

    def read(self) -> RememberedInstall | None:
        """What is remembered, or None where there is no file. Raises InstallMismatch if the file is damaged."""
        ...

    def remember(self, install_id: str, epochs: Mapping[str, int]) -> None:
        """Write atomically; an epoch never goes down."""
        ...

    def prove(self) -> None:
        """Make sure that it could be written, before anything depends on it. Raises ConfigInvalid."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Storage
# ---------------------------------------------------------------------------------------------------------------------


class KeyRepository(Protocol):
    """The only reader and writer of `app_config`. Values are canonical JSON text, verified by the service."""

    async def exists(self) -> bool:
        """Whether the table is there (it is not before the first migration)."""
        ...

    async def lock(self) -> None:
        """Exclude every other creator or changer of keys until the unit of work ends."""
        ...

    async def get_manifest(self, *, share_lock: bool = False) -> str | None:
        """The manifest row; with ``share_lock`` nobody can change it until the unit of work ends."""
        ...

    async def get_keyset(self, name: KeyName) -> str | None:
        """The row `keyset/<NAME>`."""
        ...

    async def get_jwt_secret_key(self) -> str | None: ...

    async def get_aes_key(self) -> str | None: ...

    async def get_encryption_key(self) -> str | None: ...

    async def get_api_secret_key(self) -> str | None: ...

    async def keyset_names(self) -> frozenset[str]:
        """The names of all `keyset/…` rows, known or not."""
        ...

    async def guarded_rows(self) -> int:
        """How many users and credentials there are: with any of them nothing may be generated."""
        ...

    async def put(self, row: str, value: str, at: datetime) -> None:
        """Insert or replace a row: `manifest` or `keyset/<NAME>`."""
        ...

    async def rows(self) -> Mapping[str, str]:
        """Every row as it stands, for who starts over because they cannot be read as keys."""
        ...

    async def clear(self) -> None:
        """Take every row away, for who puts others in their place in this unit of work."""
        ...


class UserRepository(Protocol):
    async def add(self, user: User) -> None:
        """Store a new user with a subject of its own. Raises UniqueViolation for a taken name or Discord id."""
        ...

    async def get(self, user_id: str) -> User | None: ...

    async def by_name(self, name_key: str) -> User | None: ...

    async def by_discord(self, discord_id: str) -> User | None: ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[User]:
        """Users in the order of their ids, those after ``after``."""
        ...

    async def set_password(self, user_id: str, password_hash: str, at: datetime) -> None: ...

    async def set_discord(self, user_id: str, discord_id: str | None, at: datetime) -> None: ...

    async def disable(self, user_id: str, at: datetime) -> None:
        """Mark as disabled and count the token version up, so that every session ends."""
        ...

    async def claim_owner(self, user_id: str, at: datetime) -> None:
        """Record, once for ever, that an owner exists. Raises UniqueViolation if one ever did."""
        ...

    async def owner_ever_existed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class SessionAndUser:
    """A session together with the user it speaks for."""

    session: Session
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshUse:
    """What presenting a refresh token led to; ``first`` is False when it was used before."""

    session_id: str
    first: bool
    expires_at: datetime


class SessionRepository(Protocol):
    async def add(self, session: Session, *, cookie_hash: bytes | None) -> None: ...

    async def get(self, session_id: str) -> SessionAndUser | None: ...

    async def by_cookie(self, cookie_hash: bytes) -> SessionAndUser | None: ...

    async def live_of(self, user_id: str, now: datetime) -> Sequence[Session]:
        """Sessions that are neither revoked nor expired, latest seen first."""
        ...

    async def touch(self, session_id: str, at: datetime) -> None: ...

    async def prove(self, session_id: str, at: datetime) -> None:
        """Note that a password was proven in this session."""
        ...

    async def revoke(self, session_id: str, at: datetime) -> bool:
        """End a session and its refresh tokens; False if it was not alive."""
        ...

    async def revoke_all(self, at: datetime) -> int:
        """End every session and its refresh tokens; tells how many were alive."""
        ...

    async def add_refresh(self, token_hash: bytes, session_id: str, *, at: datetime, expires_at: datetime) -> None: ...

    async def use_refresh(self, token_hash: bytes, at: datetime) -> RefreshUse | None:
        """Use up a refresh token, atomically; None if there is no such token."""
        ...

    async def purge(self, before: datetime) -> int:
        """Drop sessions that ended before then, with their refresh tokens."""
        ...


class CredentialRepository(Protocol):
    """Rows of `api_credentials`; removed ones are there until purged and only come back where asked for.

    Whatever gives records tells of each, in the same query, when the latest row of its history was replaced.
    """

    async def add(self, record: CredentialRecord) -> None:
        """Raises UniqueViolation where the owner has a live one of that provider and label."""
        ...

    async def get(self, credential_id: str) -> CredentialRecord | None:
        """Also a removed one."""
        ...

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
        """In the order of their ids; ``removed`` asks for the removed ones instead of the live ones."""
        ...

    async def lock_owner(self, owner: Owner) -> None:
        """Exclude every other who would add for this owner until the unit of work ends: a quota holds at once."""
        ...

    async def count(self, owner: Owner) -> int:
        """Live and restorable ones."""
        ...

    async def change(
        self, credential_id: str, *, expected_version: int, label: str, expires_at: datetime | None, at: datetime
    ) -> bool:
        """Relabel; False when the version moved. Raises UniqueViolation."""
        ...

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
        """A new secret, unchecked; False when the version moved."""
        ...

    async def set_removed(self, credential_id: str, *, expected_version: int, at: datetime, removed: bool) -> bool:
        """Remove or restore; False when the version moved. Raises UniqueViolation on restoring."""
        ...

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
        """A change of owner, re-encrypted for it; False when the version moved."""
        ...

    async def mark_used(self, credential_id: str, at: datetime) -> None: ...

    async def reassign_sharer(self, source: str, target: str) -> int:
        """Name one user instead of another as who shared credentials with guilds; tells how many."""
        ...

    async def set_status(self, credential_id: str, status: Status, at: datetime) -> None: ...

    async def set_fingerprint(self, credential_id: str, *, expected_version: int, fingerprint: str | None) -> bool:
        """The fingerprint under another key; no change that people make. False when the version moved."""
        ...

    async def forget_keys(self, *, opening: Sequence[int]) -> None:
        """Drop every fingerprint, and note as unreadable what none of these key versions sealed."""
        ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        """All rows of all owners, removed ones too, in the order of their ids."""
        ...

    async def purge_removed(self, before: datetime) -> int: ...

    async def add_history(self, record: HistoryRecord) -> None: ...

    async def history(self, credential_id: str) -> Sequence[HistoryRecord]:
        """Latest first."""
        ...

    async def replace_history(self, record_id: str, *, encrypted_value: bytes, key_version: int) -> None:
        """The same secret, sealed anew after a change of owner."""
        ...

    async def drop_history(self, record_id: str) -> None: ...


class EncryptedRowRepository(Protocol):
    """Every encrypted column, in bulk. Pages are in the order of ids and begin after ``after``."""

    async def batch(
        self, column: EncryptedColumn, *, primary: int, after: str | None, limit: int
    ) -> Sequence[EncryptedRow]:
        """Rows that another key version than ``primary`` sealed; removed credentials are among them."""
        ...

    async def all(self, column: EncryptedColumn, *, after: str | None, limit: int) -> Sequence[EncryptedRow]:
        """Rows, whoever sealed them."""
        ...

    async def swap(self, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
        """Replace envelopes and their key versions, nothing else; tells how many.

        A row that was changed, moved, re-encrypted or removed since it was read is left as it is.
        """
        ...

    async def counts(self, column: EncryptedColumn) -> Mapping[int, int]:
        """How many rows each key version sealed."""
        ...


class AuditRepository(Protocol):
    async def append(self, event: AuditEvent) -> None:
        """Store a row, unsealed, in this unit of work."""
        ...


class InstanceRepository(Protocol):
    """All times are the database's."""

    async def register(self, instance: Instance, lease: timedelta) -> None: ...

    async def renew(
        self, instance_id: str, epochs: Mapping[str, int], lease: timedelta, *, master_key_ids: Sequence[str] = ()
    ) -> bool:
        """Extend the lease and acknowledge the epochs and master keys; False when the row is gone."""
        ...

    async def leave(self, instance_id: str) -> None: ...

    async def live(self) -> Sequence[Instance]: ...

    async def purge(self, lapsed_for: timedelta) -> int: ...


class AttemptRepository(Protocol):
    """Counters for limits, in fixed windows, exact under concurrency."""

    async def hit(self, key: str, window: datetime) -> int:
        """Count one more and tell how many there are in this window."""
        ...

    async def count(self, key: str, window: datetime) -> int: ...

    async def take_back(self, key: str, window: datetime) -> None:
        """Count one less, never below nothing: the attempt succeeded."""
        ...

    async def purge(self, before: datetime) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentRequest:
    """A creating request that was done once."""

    user_id: str
    key: str
    mac: bytes
    resource_id: str
    created_at: datetime


class IdempotencyRepository(Protocol):
    async def get(self, user_id: str, key: str) -> IdempotentRequest | None: ...

    async def add(self, request: IdempotentRequest) -> None:
        """Raises UniqueViolation when another process was faster."""
        ...

    async def purge(self, before: datetime) -> int: ...


class JobRepository(Protocol):
    """The queue. Times that decide who works on what are the database's."""

    async def add(self, job: Job, *, at: datetime | None = None) -> bool:
        """Store a job, due at that time or at once; False where one of its unique key is not over."""
        ...

    async def get(self, job_id: str) -> Job | None: ...

    async def unfinished(self, unique_key: str) -> Job | None: ...

    async def unfinished_of(self, kind: JobKind) -> Sequence[Job]:
        """Those that are not over, the latest first."""
        ...

    async def page(self, *, before: str | None, limit: int) -> Sequence[Job]:
        """The latest first, those before ``before``."""
        ...

    async def claim(self, claim: str, lease: timedelta, *, job_id: str | None = None) -> Job | None:
        """Take the job that has been due for longest, or that one if it is due; None where there is none.

        A job whose claim lapsed is due again. No two claims get one job.
        """
        ...

    async def hold(self, job_id: str, claim: str, lease: timedelta, progress: Progress | None = None) -> bool:
        """Renew a claim and note the progress; False where the claim was lost: then nothing may be done for it."""
        ...

    async def free_key(self, job_id: str, claim: str) -> None:
        """Let another job of the same unique key begin while this one goes on."""
        ...

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
        """Give a claim back: over, or waiting for that long; False where the claim was lost.

        A job that waits without an error has got on: its attempts are counted anew. With ``counted`` False this attempt
        was none.
        """
        ...

    async def bring_forward(self, job_id: str) -> bool:
        """Make a waiting job due now; False where it is not waiting."""
        ...

    async def cancel(self, job_id: str) -> bool:
        """End a job that nobody ever claimed; False for any other."""
        ...

    async def cancel_all(self, kind: JobKind) -> int:
        """End every job of that kind that is not over, also one that somebody works on: their claim is lost."""
        ...

    async def purge(self, finished_before: datetime) -> int: ...


class KeyScheduleRepository(Protocol):
    async def all(self) -> Mapping[str, KeySchedule]:
        """By key name; a key without a row follows the settings."""
        ...

    async def put(self, schedule: KeySchedule, at: datetime) -> None: ...


class BotStateRepository(Protocol):
    """Small facts the bot must remember, such as the hash of the command tree that was last synced."""

    async def get(self, key: str) -> str | None: ...

    async def put(self, key: str, value: str, at: datetime) -> None: ...


class UnitOfWork(Protocol):
    """One transaction and everything that can be done in it."""

    @property
    def keys(self) -> KeyRepository: ...
    @property
    def users(self) -> UserRepository: ...
    @property
    def sessions(self) -> SessionRepository: ...
    @property
    def credentials(self) -> CredentialRepository: ...
    @property
    def encrypted_rows(self) -> EncryptedRowRepository: ...
    @property
    def audit(self) -> AuditRepository: ...
    @property
    def instances(self) -> InstanceRepository: ...
    @property
    def attempts(self) -> AttemptRepository: ...
    @property
    def idempotency(self) -> IdempotencyRepository: ...
    @property
    def jobs(self) -> JobRepository: ...
    @property
    def schedules(self) -> KeyScheduleRepository: ...
    @property
    def bot_state(self) -> BotStateRepository: ...


class Storage(Protocol):
    """The database, one unit of work at a time."""

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A consistent view; nothing written in it survives."""
        ...

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Commits at its end, rolls back if anything was raised. Never await anything slow inside."""
        ...

    def data_version(self) -> int | None:
        """A number that changes with every commit by anybody (SQLite `data_version`); None where there is none."""
        ...

    async def cached(self, kind: str, key: str, load: Callable[[UnitOfWork], Awaitable[_T | None]]) -> _T | None:
        """A row, from memory while nobody has committed since it was read; loaded in a read unit of work otherwise.

        Where ``data_version()`` is None nothing is kept. Only ciphertext and metadata may be cached, never plaintext.
        """
        ...


class ChangeFeed(Protocol):
    """Tells the processes that share a database of each other's changes, soon and without a promise: a hint to look.

    What may change unheard, for instance while the connection is lost, is found by who looks when `changed` says False.
    """

    def subscribe(self) -> Subscription:
        """Changes from now on, for one waiter; dropping it ends it."""
        ...


class Subscription(Protocol):
    """One waiter's end of the feed."""

    async def changed(self, within: float) -> bool:
        """True as soon as somebody may have changed keys or queued a job since the last call; False after ``within`` s.

        This process's own changes count. At most ten times a second True. Raises nothing.
        """
        ...
