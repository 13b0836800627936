"""`keyhall users export` and `erase` as an operator types them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.support.installs import Place

PASSWORD = "a brass key on a hook"
SECRET = "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"


@pytest.fixture
async def place(sqlite_url: str, tmp_path: Path) -> Place:
    place = await Place(sqlite_url, tmp_path / "data").install()
    assert place.command("users", "create", "mia", "--password-stdin", stdin=PASSWORD).returncode == 0
    added = place.command("credentials", "add", "openai", "main", "--user", "mia", stdin=SECRET)
    assert added.returncode == 0, added.stderr
    return place


def test_an_export_is_private_masked_and_never_written_over_by_accident(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "mia.json"
    done = place.command("users", "export", "mia", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = json.loads(file.read_text())
    assert found["account"]["username"] == "mia"
    assert [each["label"] for each in found["credentials"]] == ["main"]
    assert found["complete"] is True
    assert SECRET not in file.read_text()
    before = file.read_bytes()
    refused = place.command("users", "export", "mia", "--output", str(file), "--with-secrets")
    assert refused.returncode != 0
    assert "--force" in refused.stderr
    assert file.read_bytes() == before
    assert place.command("users", "export", "nobody", "--output", str(tmp_path / "x.json")).returncode != 0
    assert not (tmp_path / "x.json").exists()
    again = place.command("users", "export", "mia", "--output", str(file), "--with-secrets", "--force")
    assert again.returncode == 0, again.stderr
    assert json.loads(file.read_text())["credentials"][0]["secret"] == SECRET
    assert SECRET not in again.stdout + again.stderr
    listed = json.loads(place.command("audit", "list", "--json").stdout)
    assert {"user.exported", "credential.revealed"} <= {each["action"] for each in listed}


def test_an_erasure_needs_the_name_twice_and_leaves_a_trail_that_verifies(place: Place) -> None:
    wrong = place.command("users", "erase", "mia", "--confirm", "max")
    assert wrong.returncode != 0
    assert "nothing was erased" in wrong.stderr
    assert place.command("users", "erase", "mia").returncode == 2
    done = place.command("users", "erase", "mia", "--confirm", "mia", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["credentials"] == 1
    assert json.loads(place.command("users", "list", "--json").stdout) == []
    assert json.loads(place.command("audit", "verify", "--json").stdout)["ok"] is True
    assert "mia" not in place.command("audit", "list").stdout
    assert place.command("users", "erase", "mia", "--confirm", "mia").returncode != 0
