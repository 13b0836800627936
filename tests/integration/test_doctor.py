"""`keyhall doctor`: finds what is wrong, says what to do, changes nothing, and never shows a secret."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.domain.diagnosis import Check, CheckState, Diagnosis
from app.domain.secrets import SecretText
from app.infrastructure.probes import files, machine
from app.infrastructure.probes.discord import discord
from app.infrastructure.probes.secrets_in_files import hardcoded_secrets
from tests.support.installs import Place
from tests.support.pace import within

OPENAI = "sk-proj-Zx8Kq2Lm9Tr4Wv7Yb1Nc6Hd3Jf5Gp0QsAaBb"
HEX = "5d41402abc4b2a76b9719d911017c592aa0e3c3c8f5c2f0d9b1e6a7f4c8d2e10"
NAMES = [
    "settings",
    "secrets backend",
    "database",
    "schema",
    "keys",
    "master key",
    "key ages",
    "paper copy",
    "processes",
    "connections",
    "backup",
    "rehearsal",
    "files",
    "disk",
    "clock",
    "discord",
    "hardcoded secrets",
    "packages",
    "images",
    "audit",
]


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


def _asked(place: Place) -> tuple[int, dict[str, Any]]:
    done = place.command("doctor", "--json")
    return done.returncode, json.loads(done.stdout)


async def _checks(place: Place) -> tuple[int, dict[str, Any]]:
    code, answer = await asyncio.to_thread(_asked, place)
    return code, {each["name"]: each for each in answer["checks"]}


def _snapshot(directory: Path) -> Mapping[str, bytes]:
    """Every file but those in which SQLite coordinates the processes that have the database open."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


# ---------------------------------------------------------------------------------------------------------------------
# An installation that is well
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_sound_install_passes_and_is_left_as_it_was(place: Place, tmp_path: Path) -> None:
    await place.install()
    before = await place.contents(), _snapshot(tmp_path)
    code, answer = await asyncio.to_thread(_asked, place)
    assert code == 0
    assert answer.keys() == {"ok", "checks"}
    assert answer["ok"] is True
    names = [each["name"] for each in answer["checks"] if each["name"] != "file system"]
    assert names == NAMES
    assert all(each.keys() == {"name", "state", "detail", "remedy"} for each in answer["checks"])
    assert {each["state"] for each in answer["checks"]} <= {"ok", "warning"}
    assert (await place.contents(), _snapshot(tmp_path)) == before


async def test_processes_that_serve_are_named(place: Place) -> None:
    async with place.services():
        code, checks = await _checks(place)
    assert code == 0
    assert checks["processes"]["detail"].startswith("test on ")


def test_each_check_is_a_line_with_its_remedy_below(sqlite_place: Place) -> None:
    done = sqlite_place.having(PYTHONIOENCODING="latin-1").command("doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].endswith("settings: APP_ENV is test")
    [at] = [number for number, line in enumerate(lines) if " install: there is no install at " in line]
    assert "keyhall run`" in lines[at + 1]


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong
# ---------------------------------------------------------------------------------------------------------------------


async def test_nothing_is_made_where_there_is_no_install(sqlite_place: Place, tmp_path: Path) -> None:
    place = sqlite_place.having(DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path / 'data' / 'keyhall.db'}")
    code, checks = await _checks(place)
    assert code == 0
    assert checks["install"]["state"] == "warning"
    assert "not checked" in checks["keys"]["detail"]
    assert not place.data_dir.exists()


async def test_settings_that_are_refused_leave_the_other_checks(sqlite_place: Place) -> None:
    code, checks = await _checks(sqlite_place.having(WEB_PORT="many"))
    assert code == 1
    assert checks["settings"]["state"] == "failed"
    assert "WEB_PORT" in checks["settings"]["detail"]
    assert checks["packages"]["state"] == "ok"
    assert "not checked" in checks["database"]["detail"]


async def test_a_database_that_does_not_answer_ends_in_time(tmp_path: Path) -> None:
    """Packets go in and nothing comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        url = f"postgresql+asyncpg://keyhall:a-password-of-the-test@127.0.0.1:{port}/keyhall"
        began = asyncio.get_running_loop().time()
        code, checks = await _checks(Place(url, tmp_path / "data"))
        took = asyncio.get_running_loop().time() - began
    assert code == 1
    assert checks["database"]["state"] == "failed"
    assert within(took, 15.0)


async def test_a_damaged_key_is_named_with_the_halt_that_it_is(place: Place) -> None:
    await place.install()
    await place.execute("UPDATE app_config SET value = replace(value, 'active', 'Active') WHERE key = 'keyset/AES_KEY'")
    code, checks = await _checks(place)
    assert code == 1
    assert checks["keys"]["state"] == "failed"
    assert "AES_KEY" in checks["keys"]["detail"]
    assert checks["keys"]["remedy"]


async def test_a_wrong_master_key_is_named(place: Place) -> None:
    await place.install()
    code, checks = await _checks(place.having(MASTER_KEY=os.urandom(32).hex()))
    assert code == 1
    assert checks["master key"]["state"] == "failed"


async def test_files_open_to_others_are_named_with_the_command(sqlite_place: Place) -> None:
    await sqlite_place.install()
    (sqlite_place.data_dir / "install.json").chmod(0o644)
    _, checks = await _checks(sqlite_place)
    assert checks["files"]["state"] == "warning"
    assert "chmod go-rwx" in checks["files"]["remedy"]
    (sqlite_place.data_dir / "master.key").chmod(0o640)
    code, checks = await _checks(sqlite_place)
    assert (code, checks["files"]["state"]) == (1, "failed")
    assert "master.key" in checks["files"]["remedy"]


async def test_keys_that_are_due_are_named(place: Place) -> None:
    await place.install()
    await place.execute(
        "INSERT INTO key_schedules (name, rotation_days, automatic, updated_at) VALUES ('AES_KEY', :days, :no, :at)",
        days=0,
        no=False,
        at=datetime.now(UTC) if place.url.startswith("postgresql") else "2026-11-20T12:00:00.000000Z",
    )
    _, checks = await _checks(place)
    assert checks["key ages"]["state"] == "warning"
    assert "keys rotate AES_KEY" in checks["key ages"]["remedy"]


async def test_secrets_show_nowhere(place: Place) -> None:
    canary = "canary-7Qp2vX9bLm4Tz8KdRw1Yc6Nf3Hs5Jg0"
    await place.install()
    told = place.having(DISCORD_BOT_TOKEN=canary, OPENAI_API_KEY=canary, DISCORD_API_BASE="http://127.0.0.1:9")
    for each in (
        told,
        told.having(WEB_PORT="many"),
        told.having(DATABASE_URL=f"postgresql://x:{canary}@127.0.0.1:9/x"),
    ):
        done = await asyncio.to_thread(each.command, "doctor")
        assert canary not in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Backups
# ---------------------------------------------------------------------------------------------------------------------


async def _with_backup(place: Place, age: timedelta, **columns: object) -> None:
    at = datetime.now(UTC) - age
    stored: object = at if place.url.startswith("postgresql") else f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"
    values = {"id": "b", "path": "/b.age", "managed": True, "created_at": stored, "size": 1, "sha256": "00"}
    values |= {"credentials": 0, "unreadable": 0, "users": 0, "verified_at": stored, **columns}
    names = ", ".join(values)
    await place.execute(f"INSERT INTO backups ({names}) VALUES ({', '.join(f':{each}' for each in values)})", **values)  # noqa: S608


@pytest.mark.parametrize(
    ("age", "schedule", "state"),
    [
        (timedelta(hours=2), None, "ok"),
        (timedelta(days=8), None, "warning"),
        (timedelta(hours=2), "0 * * * *", "failed"),
        (timedelta(hours=20), "daily", "ok"),
        (timedelta(days=3), "daily", "failed"),
    ],
)
async def test_a_backup_that_is_older_than_the_schedule_says_is_found(
    place: Place, age: timedelta, schedule: str | None, state: str
) -> None:
    await place.install()
    await _with_backup(place, age)
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    scheduled = place.having(BACKUP_SCHEDULE=schedule, BACKUP_RECIPIENT=recipient) if schedule else place
    _, checks = await _checks(scheduled)
    assert checks["backup"]["state"] == state, checks["backup"]
    assert checks["rehearsal"]["state"] == "warning"
    assert "never restored" in checks["rehearsal"]["detail"]


async def test_without_a_backup_it_says_so(place: Place) -> None:
    await place.install()
    _, checks = await _checks(place)
    assert checks["backup"]["state"] == "warning"
    assert "backup create" in checks["backup"]["remedy"]


async def test_a_failed_rehearsal_fails(sqlite_place: Place) -> None:
    await sqlite_place.install()
    await _with_backup(sqlite_place, timedelta(hours=1), rehearsal="failed", rehearsal_note="two keys do not open")
    code, checks = await _checks(sqlite_place)
    assert (code, checks["rehearsal"]["state"]) == (1, "failed")
    assert "two keys do not open" in checks["rehearsal"]["detail"]


# ---------------------------------------------------------------------------------------------------------------------
# Probes
# ---------------------------------------------------------------------------------------------------------------------

MOUNTS = r"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /srv/share rw,relatime - nfs4 server:/export rw
31 22 0:41 / /srv/a\040b rw,relatime - 9p drive rw
32 22 0:42 / /srv/share/local rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/keyhall.db", "ext4"),
        ("/srv/share/keyhall.db", "nfs4"),
        ("/srv/share/local/keyhall.db", "xfs"),
        ("/srv/a b/keyhall.db", "9p"),
        ("/srv/sharely/keyhall.db", "ext4"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert files._file_system_of(Path(path), tmp_path / "mounts") == kind


@pytest.mark.parametrize(
    ("kind", "state"),
    [("ext4", "ok"), ("nfs4", "failed"), ("cifs", "failed"), ("fuse.sshfs", "failed"), ("9p", "warning"), (None, "ok")],
)
def test_file_systems_without_wal_are_found(kind: str | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_file_system_of", lambda _path: kind)
    assert files.file_system(Path("/var/lib/keyhall.db")).state == state


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("config.yml", f"openai: {OPENAI}", True),
        ("app.toml", 'client_secret = "9fK2mQ7xTz4Lw8Vb3Nc6"', True),
        ("docker-compose.yml", "  POSTGRES_PASSWORD: kingfisher-lantern", True),
        ("deploy/app.service", f"Environment=AES_KEY={HEX}", True),
        ("settings.json", '{"url": "postgresql://keyhall:kingfisher-lantern@db/keyhall"}', True),
        (".env.local", f"OPENAI_API_KEY={OPENAI}", True),
        ("config.yml", "openai: ${OPENAI_API_KEY}", False),
        ("config.yml", "secret: your-secret-goes-here", False),
        ("config.yml", "MASTER_KEY_FILE: /run/secrets/master_key", False),
        ("config.yml", f"# openai: {OPENAI}", False),
        ("compose.yml", f"image: keyhall@sha256:{HEX}", False),
        (".env.example", f"OPENAI_API_KEY={OPENAI}", False),
        ("readme.md", OPENAI, False),
        ("docs/config.yml", f"openai: {OPENAI}", False),
    ],
)
def test_secrets_in_configuration_files_are_found(name: str, line: str, *, found: bool, tmp_path: Path) -> None:
    file = tmp_path / "project" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"first: line\n{line}\n")
    check = hardcoded_secrets(tmp_path / "project", tmp_path / "data", own=tmp_path / ".env", production=False)
    assert (check.state is CheckState.FAILED) == found, check
    if found:
        assert f"{file}, line 2" in check.detail
        assert OPENAI not in check.detail
        assert "kingfisher" not in check.detail


def test_the_projects_own_env_file_is_the_place_for_secrets_until_production(tmp_path: Path) -> None:
    own = tmp_path / ".env"
    own.write_text(f"OPENAI_API_KEY={OPENAI}\n")
    states = {
        production: hardcoded_secrets(tmp_path, tmp_path / "data", own=own, production=production).state
        for production in (False, True)
    }
    assert states == {False: CheckState.OK, True: CheckState.WARNING}


def test_an_env_file_under_version_control_fails(tmp_path: Path) -> None:
    own = tmp_path / ".env"
    own.write_text("WEB_PORT=8080\n")
    for command in (("init", "--quiet"), ("add", ".env")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    check = hardcoded_secrets(tmp_path, tmp_path / "data", own=own, production=False)
    assert check.state is CheckState.FAILED
    assert "git rm --cached" in check.remedy


def test_huge_and_unreadable_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(os.urandom(1 << 20))
    (tmp_path / "b.yml").write_bytes(b"\xff\xfe" + os.urandom(1000))
    (tmp_path / "c.yml").mkdir()
    os.mkfifo(tmp_path / "d.yml")
    (tmp_path / "e.yml").symlink_to(tmp_path / "nowhere")
    check = hardcoded_secrets(tmp_path, tmp_path / "data", own=tmp_path / ".env", production=True)
    assert check.state is CheckState.OK


def test_packages_that_differ_from_the_lock_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "run.txt"
    lines = [
        "typer==0.0.1 \\",
        "    --hash=sha256:00",
        "no-such-package==1.0",
        "windows-only==1 ; sys_platform == 'win32'",
    ]
    lock.write_text("\n".join(lines))
    check = machine.packages(lock, production=True)
    assert check.state is CheckState.FAILED
    assert "typer " in check.detail
    assert "no-such-package is missing" in check.detail
    assert "windows-only" not in check.detail
    assert machine.packages(lock, production=False).state is CheckState.WARNING


def test_an_image_without_a_version_is_named(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    services = {"a": "postgres:latest", "b": "caddy:2", "c": "${X:-y:1}"}
    file.write_text("services:\n" + "".join(f"  {name}:\n    image: {image}\n" for name, image in services.items()))
    assert machine.images([file]).detail.count("postgres:latest") == 1
    assert "caddy" not in machine.images([file]).detail


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "ok"), (1.5, "ok"), (5, "warning"), (-5, "warning"), (40, "failed"), (-4000, "failed")]
)
def test_a_clock_that_is_off_is_found(seconds: float, state: str) -> None:
    assert machine.clock([("the database", timedelta(seconds=seconds))]).state == state


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (401, "failed"), (500, "warning"), (302, "warning")])
async def test_discord_judges_the_token(status: int, state: str) -> None:
    seen: list[str] = []

    async def me(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        headers = {"Location": "http://127.0.0.1:9/", "Date": "Mon, 30 Nov 2020 08:00:00 GMT"}
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_get("/api/users/@me", me)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        check, ahead = await discord(SecretText("a-token"), f"http://127.0.0.1:{port}/api")
    finally:
        await runner.cleanup()
    assert (check.state, seen) == (state, ["Bot a-token"])
    assert ahead is not None
    assert ahead > timedelta(days=365)


async def test_a_discord_that_is_not_there_is_no_failure() -> None:
    check, ahead = await discord(SecretText("a-token"), "http://127.0.0.1:9/api")
    assert (check.state, ahead) == (CheckState.WARNING, None)


def test_a_diagnosis_is_well_with_warnings_alone() -> None:
    def of(state: CheckState) -> Check:
        return Check(name="x", state=state, detail="y")

    assert Diagnosis((of(CheckState.OK), of(CheckState.WARNING))).ok
    assert not Diagnosis((of(CheckState.OK), of(CheckState.FAILED))).ok
