"""Every table and its answer to: is there anything about a person in it, who gets to see it, and does an erasure
delete it?

A test compares this with the schema: a table, or a column of a listed table, that has no answer here fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sqlalchemy import BindParameter, ColumnElement, Table, and_, bindparam, or_

from app.domain.credentials import OwnerKind
from app.domain.privacy import Section
from app.infrastructure.database import schema

USER: Final = "person_user"
SUBJECT: Final = "person_subject"
"""The parameters of every condition: the id of the account, and the one that stands for it in the audit trail."""

_USER: Final[BindParameter[str]] = bindparam(USER)
_SUBJECT: Final[BindParameter[str]] = bindparam(SUBJECT)
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_A_HASH: Final = "a hash, by which a secret of the person is recognised and which says nothing about them"
_DERIVED: Final = "a form of the username, for look-ups"
_WORK: Final = "how the work is done; nothing about a person"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalTable:
    """A table with rows about a person: those that ``theirs`` finds, with the parameters USER and SUBJECT.

    ``section`` of the export shows its columns but those in ``withheld``, each with the reason; without a section
    ``shown`` says how else the export has it. An erasure deletes the rows, unless ``stays`` says why they stay and what
    becomes of them; rows that ``goes_with`` another table's are deleted by their foreign key.
    """

    table: Table
    theirs: ColumnElement[bool] | None = None
    section: Section | None = None
    shown: str = ""
    withheld: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    goes_with: Table | None = None
    stays: str = ""


_OWN: Final = and_(schema.api_credentials.c.owner_kind == OwnerKind.USER, schema.api_credentials.c.owner_id == _USER)
_SHARED: Final = and_(schema.SHARED, schema.api_credentials.c.created_by == _USER)

CREDENTIALS: Final = PersonalTable(
    table=schema.api_credentials,
    theirs=or_(_OWN, _SHARED),
    shown="`credentials`: as their owner sees them, with the mask instead of the secret",
)
SESSIONS: Final = PersonalTable(
    table=schema.sessions,
    theirs=schema.sessions.c.user_id == _USER,
    section=Section.SESSIONS,
    withheld={"cookie_hash": _A_HASH},
)
USERS: Final = PersonalTable(
    table=schema.users,
    theirs=schema.users.c.id == _USER,
    section=Section.ACCOUNT,
    withheld={
        "password_hash": "a hash of the password; the export says whether there is one",
        "name_key": _DERIVED,
        "name_skeleton": _DERIVED,
    },
)

PERSONAL: Final = (
    PersonalTable(
        table=schema.credential_history,
        shown="`credentials`: `versions` of each, with the mask instead of the secret",
        goes_with=schema.api_credentials,
    ),
    CREDENTIALS,
    PersonalTable(
        table=schema.refresh_tokens,
        shown="a hash, and times that are those of its session",
        goes_with=schema.sessions,
    ),
    SESSIONS,
    PersonalTable(
        table=schema.one_time_links,
        theirs=or_(schema.one_time_links.c.user_id == _USER, schema.one_time_links.c.issued_by == _USER),
        section=Section.LINKS,
        withheld={"token_hash": _A_HASH},
    ),
    PersonalTable(
        table=schema.recovery_codes,
        theirs=schema.recovery_codes.c.user_id == _USER,
        shown="hashes of codes that the person has",
    ),
    PersonalTable(
        table=schema.totp_factors,
        theirs=schema.totp_factors.c.user_id == _USER,
        section=Section.FACTORS,
        withheld={
            "encrypted_secret": "the secret of the second factor, which the person's app has",
            "key_version": _WORK,
            "version": _WORK,
        },
    ),
    PersonalTable(
        table=schema.passkeys,
        theirs=schema.passkeys.c.user_id == _USER,
        section=Section.PASSKEYS,
        withheld={
            "credential_id": "bytes by which an authenticator recognises itself",
            "public_key": "bytes that verify an authenticator",
        },
    ),
    PersonalTable(
        table=schema.api_tokens,
        theirs=schema.api_tokens.c.user_id == _USER,
        section=Section.TOKENS,
        withheld={"mac": _A_HASH, "key_version": _WORK},
    ),
    PersonalTable(
        table=schema.idempotency_keys,
        theirs=schema.idempotency_keys.c.user_id == _USER,
        section=Section.REQUESTS,
        withheld={"mac": _A_HASH},
    ),
    PersonalTable(
        table=schema.jobs,
        theirs=schema.jobs.c.requested_by == _SUBJECT,
        section=Section.JOBS,
        withheld=dict.fromkeys(
            (
                "payload",
                "unique_key",
                "run_at",
                "claim",
                "lease_until",
                "attempts",
                "step",
                "cursor",
                "done",
                "total",
                "note",
                "error",
            ),
            _WORK,
        ),
        stays="deleted 30 days after the job; who asked for it is a random id that stands for nobody any more",
    ),
    PersonalTable(
        table=schema.usage_hours,
        theirs=schema.usage_hours.c.subject_id == _SUBJECT,
        section=Section.USAGE,
        stays="counts of uses under a random id that stands for nobody any more",
    ),
    PersonalTable(
        table=schema.audit_events,
        shown="`audit`: rows by the person, about their account and about their credentials",
        stays="audit seals cover every column; it holds random ids, which stand for nobody any more",
    ),
    PersonalTable(
        table=schema.subjects,
        shown="`account` has the name, and `audit` the addresses",
        stays="the name is replaced by the random id, and so is each address that no other person has used",
    ),
    PersonalTable(
        table=schema.erasures,
        shown="nobody whose rows are here has an account that could be exported",
        stays="random ids and a time, so that a restored backup erases the person again",
    ),
    USERS,
)
"""In the order in which an erasure deletes."""

NOT_PERSONAL: Final[Mapping[str, str]] = MappingProxyType(
    {
        "app_config": "application keys",
        "attempts": "counts of wrong guesses under keyed hashes of names, and under addresses; deleted after a day",
        "audit_segments": "the segments of the audit chains",
        "backups": "the files that were made",
        "bot_state": "facts about the bot",
        "imported_entries": "keyed hashes of entries and of names that were erased, so that no import brings them back",
        "instances": "processes",
        "key_schedules": "schedules of application keys",
        "owner_claim": "that there was a first owner, by a random id: the setup token must not work again",
        "schema_info": "the version of the schema",
        "spent_tickets": "hashes of tickets of browsers, until they would expire",
    }
)
"""Tables without rows about a person, each with the reason."""
