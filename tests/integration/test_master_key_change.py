"""Who may stand in the way of a change of the master key, and what is said then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.bootstrap.commands import open_master_key_change
from app.domain.errors import KeyStateConflict
from app.domain.instances import Instance
from app.services.keys import master_key
from tests.support.installs import Place

OLD, NEW = "1f" * 16 + "a7" * 16, "3c" * 16 + "5e" * 16
NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture(autouse=True)
def _not_so_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_key, "WAIT_SECONDS", 0.4)


async def _install(place: Place) -> str:
    await place.install()
    async with place.keys() as opened:
        return opened.keys.ring.manifest.master_key_id


async def _elsewhere(place: Place, *master_key_ids: str, epoch: int = 1) -> None:
    """A live process on another host, which is given those master keys."""
    async with place.keys() as opened, opened.storage.write() as uow:
        epochs = dict.fromkeys(opened.keys.epochs, epoch)
        instance = Instance(
            id="elsewhere",
            kind="web",
            host="elsewhere",
            pid=7,
            started_at=NOW,
            lease_until=NOW,
            epochs=epochs,
            master_key_ids=master_key_ids,
        )
        await uow.instances.leave("elsewhere")
        await uow.instances.register(instance, timedelta(minutes=5))


async def _under(place: Place) -> str:
    async with place.keys(may_create=False) as opened:
        return opened.keys.ring.manifest.master_key_id


async def test_a_process_that_is_not_given_the_new_key_stops_the_change_before_the_database(place: Place) -> None:
    old = await _install(place)
    await _elsewhere(place, old)
    with pytest.raises(KeyStateConflict, match=r"web elsewhere/7 is not given the master key .*--force"):
        async with open_master_key_change(place.load()) as change:
            await change.carry_out()
    files = {path.name: path.read_bytes() for path in place.data_dir.glob("master.key*")}
    assert sorted(files) == ["master.key", "master.key.previous"]
    assert await _under(place) == old

    async with open_master_key_change(place.load()) as change:
        plan = await change.plan()
        assert [each.host for each in plan.behind] == ["elsewhere"]
        assert plan.to not in {None, old}
    assert {path.name: path.read_bytes() for path in place.data_dir.glob("master.key*")} == files

    # Given both keys it takes part; what it has not taken up yet holds the old key back.
    await _elsewhere(place, old, str(plan.to))
    with pytest.raises(KeyStateConflict, match="web elsewhere/7 has not taken that up"):
        async with open_master_key_change(place.load()) as change:
            await change.carry_out()
    assert await _under(place) == plan.to
    assert (place.data_dir / "master.key.previous").exists()
    await _elsewhere(place, str(plan.to), epoch=2)
    async with open_master_key_change(place.load()) as change:
        changed = await change.carry_out()
    assert (changed.before, changed.after) == (None, plan.to)
    assert not (place.data_dir / "master.key.previous").exists()


async def test_force_goes_on_without_those_who_do_not_take_part(place: Place) -> None:
    old = await _install(place)
    await _elsewhere(place, old)
    async with open_master_key_change(place.load()) as change:
        changed = await change.carry_out(force=True)
    assert changed.before == old
    assert await _under(place) == changed.after
    assert [path.name for path in place.data_dir.glob("master.key*")] == ["master.key"]


async def test_a_change_waits_for_a_process_to_take_part(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_key, "WAIT_SECONDS", 30.0)
    old = await _install(place)
    await _elsewhere(place, old)
    told: list[str] = []
    waiting = asyncio.Event()

    def tell(note: str) -> None:
        told.append(note)
        waiting.set()

    async with open_master_key_change(place.load()) as change:
        changing = asyncio.create_task(change.carry_out(tell=tell))
        await waiting.wait()
        assert told == ["0 of 1 processes follow; waiting for web elsewhere/7"]
        async with open_master_key_change(place.load()) as other:
            new = (await other.plan()).to
        await _elsewhere(place, old, str(new))
        while await _under(place) != new:
            assert not changing.done()
        assert (place.data_dir / "master.key.previous").exists()
        await _elsewhere(place, old, str(new), epoch=2)
        assert (await changing).after == new


async def test_a_key_from_the_settings_is_changed_there_first(place: Place) -> None:
    given = place.having(MASTER_KEY=OLD)
    old = await _install(given)
    async with open_master_key_change(given.load()) as change:
        for attempt in (change.plan, change.carry_out):
            with pytest.raises(KeyStateConflict, match=r"generate-master.*MASTER_KEY_PREVIOUS.*restart every process"):
                await attempt()
    both = given.having(MASTER_KEY=NEW, MASTER_KEY_PREVIOUS=OLD)
    await _elsewhere(both, old)
    async with open_master_key_change(both.load()) as change:
        assert (await change.plan()).behind
        with pytest.raises(KeyStateConflict, match="restart it with the same MASTER_KEY and MASTER_KEY_PREVIOUS"):
            await change.carry_out()
    assert await _under(both) == old


async def test_a_key_that_somebody_put_into_the_file_is_what_the_change_goes_to(place: Place) -> None:
    old = await _install(place)
    file = place.data_dir / "master.key"
    former = file.read_text().strip()
    file.write_text(NEW)
    by_hand = place.having(MASTER_KEY_PREVIOUS=former)
    async with open_master_key_change(by_hand.load()) as change:
        assert (await change.plan()).to not in {None, old}
        changed = await change.carry_out()
    assert (changed.before, changed.previous_given) == (old, True)
    assert file.read_text() == NEW
    assert await _under(place) == changed.after
