"""The preferences of an account: the language of its pages, and the time zone of the times on them."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

from app.domain.audit import Action
from app.domain.errors import InvalidInput, InvalidToken
from app.domain.identity import Actor
from app.domain.preferences import Preferences, language_named
from app.services.alive import as_now
from app.services.audit import AuditTrail
from app.services.credentials import UNSET, Unset
from app.services.ports import Clock, Storage


class PreferenceService:
    """Changes preferences; an actor carries them, so that a page costs no further look."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def change(
        self, actor: Actor, *, language: str | Unset | None = UNSET, time_zone: str | Unset | None = UNSET
    ) -> Preferences:
        """Change what is given; None leaves it to the browser. Raises InvalidInput, InvalidToken, StorageError."""
        actor.require_person()
        chosen = language if isinstance(language, Unset) else language_named(language)
        zone = time_zone if isinstance(time_zone, Unset) else _zone_named(time_zone)
        async with self._storage.write() as uow:
            await as_now(uow, actor, self._clock.now())
            user = await uow.users.locked(actor.user_id)  # two changes at once, of one field each, keep both
            if user is None:
                raise InvalidToken
            former = user.preferences
            changed = Preferences(
                language=former.language if isinstance(chosen, Unset) else chosen,
                time_zone=former.time_zone if isinstance(zone, Unset) else zone,
            )
            if changed != former:
                await uow.users.set_preferences(user.id, changed, self._clock.now())
                await self._trail.record(uow, actor, Action.PREFERENCES_CHANGED, about=("user", user.id))
        return changed


def _zone_named(name: str | None) -> str | None:
    if name is not None and name not in _zones():
        raise InvalidInput("time_zone", "must be the name of a time zone, such as Europe/Berlin")
    return name


@cache
def _zones() -> frozenset[str]:
    """The names of all time zones; they are looked up on disk once."""
    return frozenset(available_timezones())
