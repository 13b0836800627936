"""The audit trail's rows, made in one place; they ride in the unit of work of what they record."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Final

from app.domain.audit import Action, AuditEvent, Result
from app.domain.identity import Actor, Client, Source
from app.services.ports import Clock, UnitOfWork

OPERATOR: Final = Client(source=Source.CLI)
"""The person at the command line, who holds the master key and needs no account."""
SYSTEM: Final = Client(source=Source.SYSTEM)
"""Keyhall itself, acting on a schedule or on what it found."""


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


def by(
    actor: Actor,
    action: Action,
    at: datetime,
    *,
    about: tuple[str, str] | None = None,
    result: Result = Result.OK,
    **detail: str | int,
) -> AuditEvent:
    """What somebody known did; ``about`` is the kind and the id of the object."""
    return _event(actor.client, actor.subject_id, action, at, about, result, detail)


def by_stranger(
    client: Client,
    action: Action,
    at: datetime,
    *,
    about: tuple[str, str] | None = None,
    result: Result = Result.DENIED,
    **detail: str | int,
) -> AuditEvent:
    """What somebody did who had not signed in. Never pass on what they typed: it may be a password."""
    return _event(client, None, action, at, about, result, detail)


def by_operator(action: Action, at: datetime, *, about: tuple[str, str], **detail: str | int) -> AuditEvent:
    """What whoever runs the command line did, who holds the master key."""
    return _event(Client(source=Source.CLI), None, action, at, about, Result.OK, detail)


def by_system(action: Action, at: datetime, *, about: tuple[str, str], **detail: str | int) -> AuditEvent:
    """What Keyhall did by itself."""
    return AuditEvent(
        at=at,
        action=action,
        result=Result.OK,
        source=Source.SYSTEM,
        subject_id=None,
        object_kind=about[0],
        object_id=about[1],
        detail=MappingProxyType(detail),
    )


def _event(  # noqa: PLR0917 - one row has that many columns
    client: Client,
    subject_id: str | None,
    action: Action,
    at: datetime,
    about: tuple[str, str] | None,
    result: Result,
    detail: dict[str, str | int],
) -> AuditEvent:
    kind, object_id = about or (None, None)
    return AuditEvent(
        at=at,
        action=action,
        result=result,
        source=client.source,
        subject_id=subject_id,
        address=client.address,
        object_kind=kind,
        object_id=object_id,
        detail=MappingProxyType(detail),
    )
