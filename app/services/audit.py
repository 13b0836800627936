"""Audit events: built in one place, and stored in the unit of work of the change that they record."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from app.domain.audit import Action, AuditEvent, Result
from app.domain.identity import Actor, Client, Source
from app.services.ports import Clock, UnitOfWork

OPERATOR: Final = Client(source=Source.CLI)
"""The person at the command line, who holds the master key and needs no account."""
SYSTEM: Final = Client(source=Source.SYSTEM)
"""Keyhall itself, acting on a schedule or on something that it found."""


class AuditTrail:
    """Appends audit events to the unit of work of the change that they record, so that both commit or neither does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def record(
        self,
        uow: UnitOfWork,
        who: Actor | Client,
        action: Action,
        *,
        about: tuple[str, str] | None = None,
        result: Result = Result.OK,
        **detail: str | int,
    ) -> None:
        """Record what ``who`` did; ``about`` is the kind and the id of the object.

        A client without an actor is OPERATOR, SYSTEM or somebody who is not signed in: never pass on what such a person
        typed, for it may be a password. Raises StorageError.
        """
        actor = who if isinstance(who, Actor) else None
        client = who.client if isinstance(who, Actor) else who
        kind, object_id = about or (None, None)
        if actor is not None and actor.reason is not None:
            detail.setdefault("reason", actor.reason)
        if actor is not None and actor.token_id is not None:
            detail.setdefault("token", actor.token_id)
        event = AuditEvent(
            at=self._clock.now(),
            action=action,
            result=result,
            source=client.source,
            subject_id=actor.subject_id if actor else None,
            address=client.address,
            object_kind=kind,
            object_id=object_id,
            detail=MappingProxyType(detail),
        )
        await uow.audit.append(event)
