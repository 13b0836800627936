"""The repository of everything about one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from app.domain.credentials import OwnerKind
from app.domain.links import Invitation, OneTimeLink
from app.domain.privacy import ErasedRows, Erasure, Person, Section
from app.services.ports import PersonalRow
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakePersonalDataRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def rows(self, section: Section, person: Person) -> Sequence[PersonalRow]:
        tables, user_id = self._tables, person.user_id
        found: dict[Section, list[Any]] = {
            Section.ACCOUNT: [each for each in tables.users.values() if each.id == user_id],
            Section.SESSIONS: [each for each in tables.sessions.values() if each.user_id == user_id],
            Section.LINKS: [link for link, _ in tables.links.values() if _holder(link) == user_id],
            Section.FACTORS: [each for each in tables.factors.values() if each.user_id == user_id],
            Section.PASSKEYS: [each for each in tables.passkeys.values() if each.user_id == user_id],
            Section.TOKENS: [each for each in tables.api_tokens.values() if each.user_id == user_id],
            Section.REQUESTS: [each for each in tables.idempotency.values() if each.user_id == user_id],
            Section.JOBS: [each for each in tables.jobs.values() if each.requested_by == person.subject_id],
            Section.USAGE: [each for each in tables.uses if each.subject_id == person.subject_id],
        }
        withheld = {"password_hash", "mac", "payload", "progress", "credential_id", "public_key", "encrypted_secret"}
        return [
            {name: value for name, value in asdict(each).items() if name not in withheld} for each in found[section]
        ]

    async def lock(self, user_id: str) -> bool:
        return user_id in self._tables.users

    async def erase(self, person: Person, at: datetime) -> ErasedRows:
        tables, user_id = self._tables, person.user_id
        own = [
            each
            for each in tables.credentials.values()
            if (each.owner.kind is OwnerKind.USER and each.owner.id == user_id)
            or (each.owner.kind is OwnerKind.GUILD and each.created_by == user_id)
        ]
        gone = {each.id for each in own}
        tables.credentials = {key: each for key, each in tables.credentials.items() if key not in gone}
        tables.history = {key: each for key, each in tables.history.items() if each.credential_id not in gone}
        ended = {each.id for each in tables.sessions.values() if each.user_id == user_id}
        tables.sessions = {key: each for key, each in tables.sessions.items() if key not in ended}
        tables.cookies = {key: each for key, each in tables.cookies.items() if each not in ended}
        tables.refresh_tokens = {key: each for key, each in tables.refresh_tokens.items() if each[0] not in ended}
        others = len(tables.links) + len(tables.idempotency) + (user_id in tables.users)
        tables.links = {key: each for key, each in tables.links.items() if _holder(each[0]) != user_id}
        tables.idempotency = {key: each for key, each in tables.idempotency.items() if key[0] != user_id}
        tables.factors = {key: each for key, each in tables.factors.items() if each.user_id != user_id}
        tables.recovery_codes = {key: None for key in tables.recovery_codes if key[0] != user_id}
        tables.passkeys = {key: each for key, each in tables.passkeys.items() if each.user_id != user_id}
        tables.api_tokens = {key: each for key, each in tables.api_tokens.items() if each.user_id != user_id}
        tables.users.pop(user_id, None)
        tables.erasures.setdefault(user_id, Erasure(user_id=user_id, subject_id=person.subject_id, erased_at=at))
        shared = sum(each.owner.kind is OwnerKind.GUILD for each in own)
        return ErasedRows(
            credentials=len(own) - shared,
            shared=shared,
            sessions=len(ended),
            others=others - len(tables.links) - len(tables.idempotency),
            addresses=self._forget_addresses(person),
        )

    async def erasures(self, *, after: str | None, limit: int) -> Sequence[Erasure]:
        return [self._tables.erasures[key] for key in sorted(self._tables.erasures) if key > (after or "")][:limit]

    async def erased_since(self, since: datetime) -> Sequence[Erasure]:
        recent = [each for each in self._tables.erasures.values() if each.erased_at >= since]
        return sorted(recent, key=lambda each: (each.erased_at, each.user_id))

    def _forget_addresses(self, person: Person) -> int:
        rows, subject_id = self._tables.audit, person.subject_id
        theirs = {
            each.address
            for each in rows
            if each.address
            and (
                each.subject_id == subject_id
                or (each.subject_id is None and (each.object_kind, each.object_id) == ("user", person.user_id))
            )
        }
        shared = {each.address for each in rows if each.subject_id not in {None, subject_id}}
        alone = theirs - shared
        self._tables.audit = [replace(each, address=None) if each.address in alone else each for each in rows]
        return len(alone)


def _holder(link: OneTimeLink | Invitation) -> str | None:
    """Whose link it is, or who issued the invitation."""
    return link.issued_by if isinstance(link, Invitation) else link.user_id
