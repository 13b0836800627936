"""The reason for a change of a key stands in the audit trail, and is no way into it for secrets."""

from __future__ import annotations

import pytest

from app.domain.audit import Action
from app.domain.errors import InvalidInput
from app.domain.identity import operator
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemRandomness
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import open_keyhall


async def test_every_row_of_the_act_gives_the_reason() -> None:
    clock = FakeClock()
    storage = FakeStorage(clock)
    keyhall = await open_keyhall(storage, clock, SystemRandomness())
    await keyhall.rotation.revoke(operator().because("  an admin has left "), KeyName.JWT_SECRET_KEY, 1)
    await keyhall.rotation.rotate(operator(), KeyName.AES_KEY)
    found = {(each.action, each.object_id): each.detail.get("reason") for each in storage.tables.audit}
    assert found[Action.KEY_REVOKED, "JWT_SECRET_KEY"] == "an admin has left"
    assert found[Action.KEY_PROMOTED, "JWT_SECRET_KEY"] == "an admin has left"
    assert found[Action.KEY_ROTATION_REQUESTED, "AES_KEY"] is None


@pytest.mark.parametrize(
    "reason",
    ["", " ", "x" * 201, "two\nlines", "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn", "it was 9f8Kq2LmX7vB4nZ1pR6tY3wC", "\0"],
)
def test_a_reason_is_one_line_without_a_key(reason: str) -> None:
    with pytest.raises(InvalidInput, match="reason"):
        operator().because(reason)


def test_no_reason_is_fine() -> None:
    assert operator().because(None) == operator()
