"""Many processes start at once on nothing: one of them makes the keys, and all of them have the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.installs import Place, keys_of_many


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


async def _one_key_set(place: Place, processes: int) -> None:
    found = keys_of_many(place, processes)
    assert len(found) == processes
    assert len({each.install_id for each in found}) == 1
    assert len({each.fingerprints for each in found}) == 1
    assert sum(each.created for each in found) == 1
    actions = [row for row in (await place.contents())["audit_events"] if "install.created" in repr(row)]
    assert len(actions) == 1


async def test_processes_that_start_at_once_agree_on_one_key_set(place: Place) -> None:
    await _one_key_set(place, 12)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("attempt", range(20))
async def test_fifty_processes_that_start_at_once_agree_on_one_key_set(place: Place, attempt: int) -> None:
    assert attempt in range(20)
    await _one_key_set(place, 50)
