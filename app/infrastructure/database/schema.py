"""Every table, as SQLAlchemy Core. Migrations are written by hand and compared with this by a test.

Columns with ``info={"encrypted": True}`` hold envelopes (docs/envelope.md); re-encryption covers them all. A partial
index states its condition once, as ``sqlite_where``, and has it on both engines; see the end. More than 400 lines,
because every table is here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    and_,
    event,
    literal_column,
)
from sqlalchemy.engine import Connection

from app.domain.audit import Action, Result
from app.domain.backup import Rehearsal
from app.domain.credentials import OwnerKind
from app.domain.identity import Role
from app.domain.jobs import JobState
from app.infrastructure.database.columns import PlainText, Sealed, UtcDateTime


def _one_of(column: str, values: type[StrEnum] | tuple[str, ...]) -> CheckConstraint:
    """A check for a set that will hardly grow: SQLite changes a check only by copying the table."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _id() -> Column[str]:
    return Column("id", PlainText, primary_key=True)


_ENCRYPTED: Final = {"encrypted": True}

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

schema_info: Final = Table(
    "schema_info",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("min_app", PlainText, nullable=False),
    CheckConstraint("id = 1", name="single"),
)
"""One row: the oldest version of Keyhall that may run on this schema."""

app_config: Final = Table(
    "app_config",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("value", PlainText, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""The key store. Its shape never changes: others read it."""

subjects: Final = Table(
    "subjects",
    metadata,
    _id(),
    Column("kind", PlainText, nullable=False),
    Column("value", PlainText, nullable=False),
    Column("user_id", PlainText),
    _one_of("kind", ("user", "address")),
)
"""Whom the random ids of the audit trail stand for: people by name, and addresses. One that was erased stands for its
own id.
"""

ADDRESSES: Final = subjects.c.kind == literal_column("'address'")
"""Which subjects are addresses. A condition of an index names values literally: with parameters none matches it."""

Index("uq_subjects_address", subjects.c.value, unique=True, sqlite_where=ADDRESSES)

users: Final = Table(
    "users",
    metadata,
    _id(),
    Column("subject_id", PlainText, ForeignKey("subjects.id"), nullable=False),
    Column("username", PlainText, nullable=False),
    Column("name_key", PlainText, nullable=False, unique=True),
    Column("name_skeleton", PlainText),
    Column("role", PlainText, nullable=False),
    Column("password_hash", PlainText),
    Column("discord_id", PlainText, unique=True),
    Column("token_version", Integer, nullable=False),
    Column("disabled_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("language", PlainText),
    Column("time_zone", PlainText),
    _one_of("role", Role),
)

Index("uq_users_name_skeleton", users.c.name_skeleton, unique=True)

OWNERS: Final = users.c.role == literal_column("'owner'")
Index("ix_users_owners", users.c.role, sqlite_where=OWNERS)

owner_claim: Final = Table(
    "owner_claim",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", PlainText, nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    CheckConstraint("id = 1", name="single"),
)
"""At most one row, never deleted: it outlives the owner, so no setup token works twice."""

sessions: Final = Table(
    "sessions",
    metadata,
    _id(),
    Column("user_id", PlainText, ForeignKey("users.id"), nullable=False, index=True),
    Column("cookie_hash", LargeBinary, unique=True),
    Column("token_version", Integer, nullable=False),
    Column("device", PlainText),
    Column("address", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("authenticated_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("revoked_at", UtcDateTime),
)

REVOKED: Final = sessions.c.revoked_at.is_not(None)
Index(None, sessions.c.revoked_at, sqlite_where=REVOKED)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("session_id", PlainText, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("expires_at", UtcDateTime, nullable=False),
)

one_time_links: Final = Table(
    "one_time_links",
    metadata,
    _id(),
    Column("purpose", PlainText, nullable=False),
    Column("user_id", PlainText, ForeignKey("users.id"), index=True),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("used_at", UtcDateTime),
    Column("role", PlainText),
    Column("issued_by", PlainText, index=True),
    CheckConstraint("(user_id IS NULL) = (role IS NOT NULL)", name="account_or_role"),
)
"""Links for an account, and invitations, which have a role and the user who issued them (NULL: the operator)."""

passkeys: Final = Table(
    "passkeys",
    metadata,
    _id(),
    Column("user_id", PlainText, ForeignKey("users.id"), nullable=False, index=True),
    Column("name", PlainText, nullable=False),
    Column("credential_id", LargeBinary, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("transports", PlainText, nullable=False),
    Column("synced", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
)

api_tokens: Final = Table(
    "api_tokens",
    metadata,
    _id(),
    Column("user_id", PlainText, ForeignKey("users.id"), nullable=False),
    Column("name", PlainText, nullable=False),
    Column("prefix", PlainText, nullable=False),
    Column("mac", LargeBinary, nullable=False, unique=True),
    Column("key_version", BigInteger, nullable=False),
    Column("scopes", PlainText, nullable=False),
    Column("guild_id", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, index=True),
    Column("last_used_at", UtcDateTime),
    Index(None, "user_id", "id"),
)
"""API tokens; ``scopes`` are joined by spaces. One that is revoked is deleted."""

spent_tickets: Final = Table(
    "spent_tickets",
    metadata,
    Column("ticket_hash", LargeBinary, primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)
"""The SHA-256 of every ticket of a browser that was used, until it would expire anyway: each works once."""
totp_factors: Final = Table(
    "totp_factors",
    metadata,
    _id(),
    Column("user_id", PlainText, ForeignKey("users.id"), nullable=False, unique=True),
    Column("encrypted_secret", Sealed, nullable=False, info=_ENCRYPTED),
    Column("key_version", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("confirmed_at", UtcDateTime),
    Column("last_step", BigInteger),
)
"""The secrets of authenticator apps. ``version`` is always 1: a secret is replaced by another row, never changed."""

PENDING: Final = totp_factors.c.confirmed_at.is_(None)
Index("ix_totp_factors_pending", totp_factors.c.created_at, sqlite_where=PENDING)

recovery_codes: Final = Table(
    "recovery_codes",
    metadata,
    Column("user_id", PlainText, ForeignKey("users.id"), primary_key=True),
    Column("code_hash", LargeBinary, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)
"""The SHA-256 of every recovery code that was not used; a used one is deleted."""

imported_entries: Final = Table(
    "imported_entries",
    metadata,
    Column("mark", LargeBinary, primary_key=True),
    Column("credential_id", PlainText, nullable=False),
    Column("imported_at", UtcDateTime, nullable=False),
)
"""The MAC of every entry that was imported from another program, so that none is imported twice. Never deleted."""

api_credentials: Final = Table(
    "api_credentials",
    metadata,
    _id(),
    Column("owner_kind", PlainText, nullable=False),
    Column("owner_id", PlainText, nullable=False),
    Column("provider", PlainText, nullable=False),
    Column("label", PlainText, nullable=False),
    Column("label_key", PlainText, nullable=False),
    Column("encrypted_value", Sealed, nullable=False, info=_ENCRYPTED),
    Column("key_version", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", PlainText, index=True),
    Column("status", PlainText, nullable=False),
    Column("created_by", PlainText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("last_verified_at", UtcDateTime),
    Column("deleted_at", UtcDateTime),
    _one_of("owner_kind", OwnerKind),
    Index(None, "owner_kind", "owner_id", "id"),
)
"""Credentials, the removed ones too until they are purged. A key's version goes up to 2**32 - 1."""

LIVE: Final = api_credentials.c.deleted_at.is_(None)
REMOVED: Final = api_credentials.c.deleted_at.is_not(None)
SHARED: Final = api_credentials.c.owner_kind == literal_column("'guild'")
UNREADABLE: Final = api_credentials.c.status == literal_column("'unreadable'")

Index(
    "uq_api_credentials_live_label",
    api_credentials.c.owner_kind,
    api_credentials.c.owner_id,
    api_credentials.c.provider,
    api_credentials.c.label_key,
    unique=True,
    sqlite_where=LIVE,
)
Index(None, api_credentials.c.deleted_at, sqlite_where=REMOVED)
Index("ix_api_credentials_unreadable", api_credentials.c.id, sqlite_where=UNREADABLE)
Index("ix_api_credentials_sharer", api_credentials.c.created_by, sqlite_where=SHARED)

credential_history: Final = Table(
    "credential_history",
    metadata,
    _id(),
    Column("credential_id", PlainText, ForeignKey("api_credentials.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("encrypted_value", Sealed, nullable=False, info=_ENCRYPTED),
    Column("key_version", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("replaced_at", UtcDateTime, nullable=False),
    UniqueConstraint("credential_id", "version"),
)

audit_events: Final = Table(
    "audit_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("action", PlainText, nullable=False),
    Column("result", PlainText, nullable=False),
    Column("source", PlainText, nullable=False),
    Column("subject_id", PlainText, ForeignKey("subjects.id"), index=True),
    Column("address_id", PlainText, ForeignKey("subjects.id")),
    Column("object_kind", PlainText),
    Column("object_id", PlainText),
    Column("detail", PlainText, nullable=False),
    Column("segment", BigInteger),
    Column("seal", LargeBinary),
    Column("position", BigInteger),
    _one_of("result", Result),
    Index(None, "object_kind", "object_id"),
    sqlite_autoincrement=True,  # the id of a row that was cut off is never given again
)
"""The audit trail; ``detail`` is canonical JSON. A row without a segment is not sealed yet.

A lower id may commit later than a higher one, so ``position``, given when a row is sealed, is its place in the chain.
"""

Index(None, audit_events.c.address_id, sqlite_where=audit_events.c.address_id.is_not(None))
UNSEALED: Final = audit_events.c.segment.is_(None)
USES: Final = and_(
    audit_events.c.action == literal_column(f"'{Action.CREDENTIAL_USED}'"),
    audit_events.c.result == literal_column(f"'{Result.INTENT}'"),
)
"""One row for every use, however it ended: the intent."""
Index("ix_audit_events_uses", audit_events.c.object_id, audit_events.c.at, sqlite_where=USES)
Index("ix_audit_events_unsealed", audit_events.c.segment, audit_events.c.id, sqlite_where=UNSEALED)
Index(
    "uq_audit_events_position",
    audit_events.c.segment,
    audit_events.c.position,
    unique=True,
    sqlite_where=audit_events.c.segment.is_not(None),
)

audit_segments: Final = Table(
    "audit_segments",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", PlainText, nullable=False),
    Column("value", PlainText, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Index(None, "stream", "number"),
)
"""The segments of the audit chains; ``value`` is canonical JSON, ``mac`` authenticates the row as a whole."""

usage_hours: Final = Table(
    "usage_hours",
    metadata,
    Column("hour", UtcDateTime, primary_key=True),
    Column("object_kind", PlainText, primary_key=True),
    Column("object_id", PlainText, primary_key=True),
    Column("subject_id", PlainText, primary_key=True, index=True),
    Column("source", PlainText, primary_key=True),
    Column("result", PlainText, primary_key=True),
    Column("uses", BigInteger, nullable=False),
)
"""Uses of credentials whose rows have been dropped, as sums per hour; "" where there was no subject or no object."""

erasures: Final = Table(
    "erasures",
    metadata,
    Column("user_id", PlainText, primary_key=True),
    Column("subject_id", PlainText, nullable=False),
    Column("erased_at", UtcDateTime, nullable=False, index=True),
)
"""The random ids of people who were erased, so that a restored backup erases them again. Never deleted."""

instances: Final = Table(
    "instances",
    metadata,
    _id(),
    Column("kind", PlainText, nullable=False),
    Column("host", PlainText, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("epochs", PlainText, nullable=False),
    Column("master_key_ids", PlainText, nullable=False, server_default=""),
)
"""The processes of the install. ``epochs`` and ``master_key_ids`` (joined by spaces) name the keys that they have."""

jobs: Final = Table(
    "jobs",
    metadata,
    _id(),
    Column("kind", PlainText, nullable=False),
    Column("payload", PlainText, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("unique_key", PlainText),
    Column("run_at", UtcDateTime, nullable=False),
    Column("claim", PlainText),
    Column("lease_until", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("step", PlainText, nullable=False),
    Column("cursor", PlainText, nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer),
    Column("note", PlainText, nullable=False),
    Column("error", PlainText),
    Column("requested_by", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, index=True),
    _one_of("state", JobState),
    Index(None, "state", "run_at"),
)
"""Work that outlives a process; ``payload`` and ``cursor`` are JSON. A claim ends with its lease."""

UNFINISHED: Final = jobs.c.state.in_([literal_column("'waiting'"), literal_column("'running'")])
"""Which jobs are not over."""

Index("uq_jobs_unfinished", jobs.c.unique_key, unique=True, sqlite_where=UNFINISHED)

key_schedules: Final = Table(
    "key_schedules",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("rotation_days", Integer, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""Where a key's schedule differs from KEY_ROTATION_DAYS."""

backups: Final = Table(
    "backups",
    metadata,
    _id(),
    Column("path", PlainText, nullable=False),
    Column("managed", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", PlainText, nullable=False),
    Column("credentials", Integer, nullable=False),
    Column("unreadable", Integer, nullable=False),
    Column("users", Integer, nullable=False),
    Column("latest_seal", PlainText),
    Column("verified_at", UtcDateTime),
    Column("rehearsed_at", UtcDateTime),
    Column("rehearsal", PlainText),
    Column("rehearsal_note", PlainText),
    _one_of("rehearsal", Rehearsal),
)
"""The backups that this install made; ``path`` is on the machine that made it. Ids sort as they were made."""

attempts: Final = Table(
    "attempts",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("window", UtcDateTime, primary_key=True, index=True),
    Column("n", Integer, nullable=False),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", PlainText, primary_key=True),
    Column("key", PlainText, primary_key=True),
    Column("mac", LargeBinary, nullable=False),
    Column("resource_id", PlainText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

bot_state: Final = Table(
    "bot_state",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("value", PlainText, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)


@event.listens_for(metadata, "before_create")
def _partial_on_both_engines(target: MetaData, connection: Connection, **_: object) -> None:
    """Give partial indexes their condition on PostgreSQL too, not before tables are created from this.

    An argument ``postgresql_where`` would make SQLAlchemy import all that it has for PostgreSQL in every process.
    """
    for table in target.tables.values():
        for index in table.indexes:
            index.dialect_options[connection.dialect.name]["where"] = index.dialect_options["sqlite"]["where"]
