"""A person's own credentials at a glance: counted, those that expire soon, and their use day by day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

from app.domain.audit import PersonalUse
from app.domain.credentials import SOON, CredentialRecord, Status, expired
from app.domain.identity import Actor
from app.services.credentials.access import CredentialAccess, live_of, own
from app.services.credentials.values import CredentialCounts, DayOfUse, ExpiringCredential, Overview, Usage
from app.services.ports import Clock, Storage

USE_SHOWN_FOR: Final = 30
"""Days of use that are shown, today's among them."""
_MOST_USES: Final = 10_000
"""Uses per credential that are counted, the latest ones: some milliseconds. ``Usage.complete`` says if that was all."""
_MOST_PEOPLE: Final = 20
"""People whose use is shown."""


class CredentialOverview:
    """Reads each of the actor's live credentials once; a quota limits them."""

    def __init__(self, *, storage: Storage, access: CredentialAccess, clock: Clock) -> None:
        self._storage = storage
        self._access = access
        self._clock = clock

    async def of(self, actor: Actor) -> Overview:
        """Decrypt and count the actor's own credentials; one counts as expiring that expires within SOON."""
        actor.require_person()
        now = self._clock.now()
        records = await live_of(self._storage, own(actor))
        expiring = [each for each in records if not expired(each, now) and expired(each, now + SOON)]
        counts = CredentialCounts(
            live=len(records),
            unreadable=sum([not await self._access.readable(record) for record in records]),
            refused=sum(record.status is Status.REFUSED for record in records),
            expired=sum(expired(record, now) for record in records),
            expiring=len(expiring),
            used=any(record.last_used_at is not None for record in records),
        )
        return Overview(
            counts=counts,
            expiring=[
                ExpiringCredential(id=each.id, label=each.label, provider=each.provider, expires_at=each.expires_at)
                for each in expiring
                if each.expires_at is not None
            ],
            usage=await self.usage(records),
        )

    async def people(self, record: CredentialRecord) -> Sequence[PersonalUse]:
        """The people who used a credential as ``usage`` counts it, the most frequent first.

        The caller has authorised the actor for that.
        """
        if not _maybe_used(record, self._since()):
            return []
        async with self._storage.read() as uow:
            return await uow.audit.uses_per_person(record.id, since=self._since(), most=_MOST_USES, people=_MOST_PEOPLE)

    def _since(self) -> datetime:
        today = self._clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=USE_SHOWN_FOR - 1)

    async def usage(self, records: Sequence[CredentialRecord]) -> Usage:
        """The use of these credentials, of USE_SHOWN_FOR days up to today, as far as the audit trail holds it.

        The caller has authorised the actor for them.
        """
        since = self._since()
        uses: Counter[date] = Counter()
        complete = True
        async with self._storage.read() as uow:
            for record in records:
                if _maybe_used(record, since):
                    found = await uow.audit.uses_per_day(record.id, since=since, most=_MOST_USES)
                    complete = complete and sum(found.values()) < _MOST_USES
                    uses.update(found)
        days = [since + timedelta(days=number) for number in range(USE_SHOWN_FOR)]
        return Usage(days=[DayOfUse(begin=day, uses=uses[day.date()]) for day in days], complete=complete)


def _maybe_used(record: CredentialRecord, since: datetime) -> bool:
    """Whether it may have been used since then: a new secret is unused, and what the former one was used for counts."""
    used_at = record.last_used_at
    return (used_at is not None and used_at >= since) or (
        record.replaced_at is not None and record.replaced_at >= since
    )
