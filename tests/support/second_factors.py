"""Accounts with a second factor, and the codes that their authenticator apps would show."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.domain.errors import InvalidCredentials
from app.domain.second_factor import step_of
from app.domain.secrets import SecretBytes
from app.infrastructure.clock import SystemClock
from app.infrastructure.one_time_passwords import PyotpPasswords

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.identity import Actor
    from app.services import Services


@dataclass
class Authenticator:
    """An app with one secret, which never shows a code that it showed before."""

    secret: SecretBytes
    used: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, typed: str) -> Authenticator:
        """The app after the secret was typed into it."""
        return cls(SecretBytes(base64.b32decode(typed)))

    def at(self, now: datetime, step: int = 0) -> str:
        """The code of the present time step, or of one so many steps later."""
        return PyotpPasswords().code(self.secret, step_of(now) + step).reveal()

    def unused(self, now: datetime) -> str:
        """A code that is accepted now and was not shown yet: of this time step, or of the next one."""
        for step in (step_of(now), step_of(now) + 1):
            if step > max(self.used, default=0):
                self.used.add(step)
                return PyotpPasswords().code(self.secret, step).reveal()
        raise AssertionError("no code is left for now: let half a minute pass")

    def wrong(self, now: datetime) -> str:
        """Six digits that are no code at any time near."""
        codes = {self.at(now, step) for step in range(-4, 5)}
        return next(each for each in (f"{number:06}" for number in range(20)) if each not in codes)


@dataclass(frozen=True)
class Enrolled:
    """An authenticator app and the recovery codes that came with it."""

    app: Authenticator
    recovery_codes: Sequence[str]


async def enrol(services: Services, actor: Actor, now: datetime) -> Enrolled:
    """Switch the second factor on, with the code of the time step before: the present one is still to be used."""
    app = Authenticator.of((await services.second_factor.start(actor)).secret.reveal())
    made = await services.second_factor.confirm(actor, app.at(now, -1))
    return Enrolled(app, [each.reveal() for each in made.codes])


async def enrol_by_the_clock(services: Services, actor: Actor) -> Enrolled:
    """The same while real time passes: where the time step has ended on the way, with the next one's code."""
    app = Authenticator.of((await services.second_factor.start(actor)).secret.reveal())
    while True:
        try:
            made = await services.second_factor.confirm(actor, app.at(SystemClock().now(), -1))
        except InvalidCredentials:
            continue
        return Enrolled(app, [each.reveal() for each in made.codes])
