"""`app_config` restored without its primary key: a row that is there twice halts, whichever of the two comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bootstrap.commands import open_key_reset, open_unverified_keys
from app.domain.errors import KeyDamaged, StartupError
from app.domain.keys import KeyName
from tests.support.installs import Place

ROWS = ["manifest", *(f"keyset/{name.value}" for name in KeyName)]


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


async def _without_primary_key(place: Place, *rows: tuple[str, str]) -> None:
    """The table as a dump of its rows alone makes it, these rows first."""
    await place.execute("CREATE TABLE plain AS SELECT key, value, updated_at FROM app_config WHERE 1 = 0")
    for key, value in rows:
        await place.execute(
            "INSERT INTO plain VALUES (:key, :value, '2026-01-01T00:00:00.000000Z')", key=key, value=value
        )
    await place.execute("INSERT INTO plain SELECT key, value, updated_at FROM app_config")
    await place.execute("DROP TABLE app_config")
    await place.execute("ALTER TABLE plain RENAME TO app_config")


async def _halt(place: Place) -> StartupError:
    with pytest.raises(StartupError) as caught:
        async with place.keys():
            pass
    return caught.value


@pytest.mark.parametrize(
    ("row", "copy"),
    [
        *((row, copy) for row in ROWS for copy in ("an older one", "an older one first")),
        ("manifest", "the same"),
        ("keyset/AES_KEY", "no text of ours"),
    ],
)
async def test_a_row_that_is_there_twice_halts(place: Place, row: str, copy: str) -> None:
    await place.install()
    older = await place.app_config()
    await place.revoke(KeyName.AES_KEY)
    present = await place.app_config()
    value = {"the same": present[row], "no text of ours": "x"}.get(copy, older[row])
    first = [(row, value)] if copy == "an older one first" else []
    await _without_primary_key(place, *first)
    if not first:
        await place.execute(
            "INSERT INTO app_config VALUES (:key, :value, '2026-01-01T00:00:00.000000Z')", key=row, value=value
        )
    halt = await _halt(place)
    assert (type(halt), halt.exit_code) == (KeyDamaged, 65)
    assert row in halt.happened
    assert "twice" in halt.happened


async def test_validation_names_a_keyset_that_is_there_twice(place: Place) -> None:
    await place.install()
    row = "keyset/AES_KEY"
    await _without_primary_key(place, (row, (await place.app_config())[row]))
    async with open_unverified_keys(place.load()) as keys:
        checks = {each.name: each for each in await keys.validate()}
    assert not checks[KeyName.AES_KEY].ok
    assert "twice" in checks[KeyName.AES_KEY].message
    assert checks[KeyName.JWT_SECRET_KEY].ok


async def test_a_reset_is_a_way_out(place: Place) -> None:
    await place.install()
    await _without_primary_key(place, ("manifest", (await place.app_config())["manifest"]))
    async with open_key_reset(place.load()) as reset:
        found = await reset.look()
        await reset.carry_out(found.install_id)
    async with place.keys(may_create=False) as opened:
        assert opened.keys.install_id == found.install_id


async def test_a_table_without_its_primary_key_alone_can_be_written(place: Place) -> None:
    await place.install()
    await _without_primary_key(place)
    await place.revoke(KeyName.AES_KEY)
    async with place.keys(may_create=False) as opened:
        assert opened.keys.ring.keysets[KeyName.AES_KEY].primary.version == 2
