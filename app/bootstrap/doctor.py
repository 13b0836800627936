"""`keyhall doctor`: everything that can be wrong with an installation, each as one check; this is the list of them.

It looks and changes nothing, while Keyhall runs or does not, and goes on where something is missing: what then cannot
be checked says why. All of it takes some seconds, also where a database or Discord does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from cronsim import CronSim

from app.bootstrap.database import ReachableDatabase, master_keys, reachable_database
from app.domain.backup import BackupRecord, Rehearsal
from app.domain.diagnosis import Check, CheckState, Diagnosis, failed, ok, together, warning
from app.domain.errors import KeyhallError, NoInstall, StartupError
from app.domain.instances import Instance
from app.domain.keys import APPLICATION_KEYS, Environment, KeySchedule
from app.infrastructure import install_file, master_key
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.migrate import known_revisions
from app.infrastructure.probes import files
from app.infrastructure.probes.database import ServerFacts, master_key_printed, server_facts
from app.infrastructure.probes.discord import discord
from app.infrastructure.probes.machine import clock, images, packages
from app.infrastructure.probes.secrets_in_files import hardcoded_secrets
from app.services.keys.ring import KeyRing
from app.settings import PROJECT_ROOT, Settings

_DATABASE_WITHIN_SECONDS: Final = 4.0
_STILL_SERVES_SECONDS: Final = 10.0
_UNSCHEDULED: Final = timedelta(days=7)
_NOT_CHECKED: Final = "not checked: "
_OF_HALT: Final = {
    "environment_mismatch": "settings",
    "insecure_key": "master key",
    "install_mismatch": "install",
    "key_conflict": "keys",
    "key_damaged": "keys",
    "key_missing": "keys",
    "master_key_mismatch": "master key",
    "master_key_missing": "master key",
    "migration_failed": "schema",
    "schema_newer": "schema",
}
"""The check that a halt belongs to; every other one is about the database."""
_IN_DATABASE: Final = ("schema", "keys", "key ages", "paper copy", "processes", "connections", "backup", "rehearsal")
"""The checks that need an open database, in their order."""


async def diagnose(load: Callable[[], Settings]) -> Diagnosis:
    """Look everything over. Raises nothing but what a bug raises."""
    try:
        settings = load()
    except StartupError as halt:
        name = "secrets backend" if halt.slug == "secrets_unavailable" else "settings"
        why = f"the {name} could not be read"
        left = ("database", "master key", "files", "discord", *_IN_DATABASE)
        checks = [
            failed(name, halt.happened, halt.remedy),
            packages(PROJECT_ROOT / "requirements" / "run.txt", production=False),
            *(warning(each, _NOT_CHECKED + why, "") for each in left),
        ]
        return Diagnosis(tuple(checks))
    production = settings.app_env in {Environment.PRODUCTION, Environment.STAGING}
    found = await examine(settings)
    checks = [
        *found.checks,
        await asyncio.to_thread(
            hardcoded_secrets,
            PROJECT_ROOT,
            settings.data_dir,
            own=settings.env_file or PROJECT_ROOT / ".env",
            production=production,
        ),
        packages(PROJECT_ROOT / "requirements" / "run.txt", production=production),
        images(sorted(PROJECT_ROOT.glob("*compose*.y*ml"))),
        ok("audit", "`keyhall audit verify` checks every row of the audit trail"),
    ]
    return Diagnosis(tuple(checks))


async def examine(settings: Settings) -> Diagnosis:
    """Make the checks that a running process can repeat: not those of the files that it was started from."""
    asking = asyncio.create_task(discord(settings.discord_bot_token, settings.discord_api_base))
    in_database, server = await _database(settings)
    of_discord, ahead = await asking
    others = [("Discord", ahead), (settings.database_url.name, server.ahead if server else None)]
    checks = [
        ok("settings", f"APP_ENV is {settings.app_env.value}"),
        _secrets_backend(settings),
        *_merged(in_database),
        await asyncio.to_thread(_files, settings),
        *_disk(settings),
        clock([(name, found) for name, found in others if found is not None]),
        of_discord,
    ]
    return Diagnosis(tuple(checks))


def _merged(checks: Sequence[Check]) -> Sequence[Check]:
    """Of two checks of one name the first: the other says that it could not be made."""
    return list({each.name: each for each in reversed(checks)}.values())[::-1]


def _secrets_backend(settings: Settings) -> Check:
    stored = settings.stored_secret
    if stored is None:
        return ok("secrets backend", "secrets come from the environment and from files")
    return ok("secrets backend", f"AWS Secrets Manager gave {stored.place.name}, version {stored.current.id}")


def _files(settings: Settings) -> Check:
    own = [settings.data_dir / name for name in (master_key.FILE_NAME, master_key.PREVIOUS_FILE_NAME)]
    identity = [settings.backup_identity_file] if settings.backup_identity_file is not None else []
    shown = [settings.data_dir / install_file.FILE_NAME, *files.backups_in(settings.backup_dir)]
    if settings.env_file is not None:
        shown.append(settings.env_file)
    if settings.database_url.path is not None:
        shown.append(settings.database_url.path)
    return files.open_to_others(settings.data_dir, [*own, *identity], shown)


def _disk(settings: Settings) -> Sequence[Check]:
    found = [files.space([settings.data_dir, settings.backup_dir])]
    if settings.database_url.path is not None:
        found.insert(0, files.file_system(settings.database_url.path))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The database, and the rows in it
# ---------------------------------------------------------------------------------------------------------------------


async def _database(settings: Settings) -> tuple[Sequence[Check], ServerFacts | None]:
    """The checks of the database and its rows, and the facts that the server answered with, if it did."""
    checks: list[Check] = []
    server: ServerFacts | None = None
    name = settings.database_url.name
    try:
        async with _open(settings) as reachable:
            server = await server_facts(reachable.database, server=settings.database_url.server is not None)
            checks.append(ok("database", f"{server.version} at {name}"))
            at_head = await reachable.revision() == known_revisions()[-1]
            checks.append(_schema(await reachable.revision(), at_head=at_head))
            ring = await reachable.keys.read()
            if ring is not None:
                checks += [ok("keys", f"every version of {len(APPLICATION_KEYS)} keys is whole"), _master_key(settings)]
            else:
                checks.append(_no_install(settings))
            if ring is not None and at_head:
                checks += await _inside(settings, reachable, ring, server)
    except NoInstall:
        checks.append(_no_install(settings))
    except StartupError as halt:
        checks.append(failed(_OF_HALT.get(halt.slug, "database"), halt.happened, halt.remedy))
    except TimeoutError:
        checks.append(failed("database", f"{name} did not answer in time", "start it, or correct DATABASE_URL"))
    except KeyhallError as error:
        checks.append(failed("database", f"{name}: {error}", "start it, or correct DATABASE_URL"))
    there = {each.name for each in checks}
    why = next((each.name for each in checks if each.state is not CheckState.OK), "database")
    remedy = f"see the check {why}"
    left = [each for each in ("database", "master key", *_IN_DATABASE) if each not in there]
    return [*checks, *(warning(each, f"{_NOT_CHECKED}{remedy}", "") for each in left)], server


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[ReachableDatabase]:
    async with (
        asyncio.timeout(_STILL_SERVES_SECONDS),
        reachable_database(settings, may_create=False, budget=_DATABASE_WITHIN_SECONDS) as reachable,
    ):
        yield reachable


def _no_install(settings: Settings) -> Check:
    remedy = "run `keyhall run`, which makes one; or correct DATABASE_URL and DATA_DIR if there should be one"
    return warning("install", f"there is no install at {settings.database_url.name} yet", remedy)


def _schema(revision: str | None, *, at_head: bool) -> Check:
    if at_head:
        return ok("schema", f"at {revision}, as this version needs it")
    return warning(
        "schema",
        f"at {revision}, and this version needs {known_revisions()[-1]}",
        "the next start migrates it, after a verified backup; or run `keyhall db upgrade`",
    )


def _master_key(settings: Settings) -> Check:
    source = master_keys(settings)
    if source.overridden_by is not None:
        return ok("master key", f"given as {source.overridden_by}; it opens the install")
    if settings.app_env is Environment.PRODUCTION:
        return warning(
            "master key",
            f"it is in {source.default_file}, beside the database: a thief of DATA_DIR has both",
            "move it elsewhere and name it in MASTER_KEY_FILE",
        )
    return ok("master key", f"in {source.default_file}; it opens the install")


async def _inside(
    settings: Settings, reachable: ReachableDatabase, ring: KeyRing, server: ServerFacts
) -> Sequence[Check]:
    async with reachable.storage.read() as uow:
        schedules = await uow.schedules.all()
        live = await uow.instances.live()
        newest = await uow.backups.latest_verified()
    printed = await master_key_printed(reachable.database)
    return [
        _key_ages(settings, ring, schedules),
        _paper(printed),
        _processes(live),
        _connections(settings, server),
        _backup(settings, newest),
        _rehearsal(newest),
    ]


def _key_ages(settings: Settings, ring: KeyRing, schedules: Mapping[str, KeySchedule]) -> Check:
    now, found = SystemClock().now(), []
    for name in APPLICATION_KEYS:
        schedule = schedules.get(name.value) or KeySchedule(name=name, rotation_days=settings.key_rotation_days)
        due = schedule.due_at(ring.keysets[name].since)
        if due <= now:
            days, remedy = (now - ring.keysets[name].since).days, f"run `keyhall keys rotate {name.value}`"
            found.append(warning("key ages", f"{name.value} is {days} days old", remedy))
    return together("key ages", found, "no key is older than its schedule allows")


def _paper(printed: datetime | None) -> Check:
    if printed is None:
        return warning(
            "paper copy",
            "the master key was never put on paper: if its only copy is lost, every secret is",
            "run `keyhall keys print-master FILE`, print the page, and keep it away from this machine",
        )
    return ok("paper copy", f"the master key was put on paper on {printed:%Y-%m-%d}")


def _processes(live: Sequence[Instance]) -> Check:
    if not live:
        return ok("processes", "no process of Keyhall is running")
    return ok("processes", ", ".join(f"{each.kind} on {each.host} (pid {each.pid})" for each in live))


def _connections(settings: Settings, server: ServerFacts) -> Check:
    if server.connections is None or server.most_connections is None:
        return ok("connections", "an embedded database needs none")
    used = f"{server.connections} of {server.most_connections} connections of the server are in use"
    if server.connections + settings.database_connections > server.most_connections:
        remedy = "lower DATABASE_CONNECTIONS, raise max_connections, or put PgBouncer in between"
        return warning("connections", f"{used}: one more process does not fit", remedy)
    return ok("connections", used)


def _backup(settings: Settings, newest: BackupRecord | None) -> Check:
    make = "run `keyhall backup create FILE`, or set BACKUP_SCHEDULE and BACKUP_RECIPIENT"
    if newest is None:
        return warning("backup", "no verified backup was ever made", make)
    now = SystemClock().now()
    age = now - newest.created_at
    said = (
        f"the newest verified backup is {age.days} days old" if age.days else "the newest verified backup is of today"
    )
    if settings.backup_schedule is None:
        return ok("backup", said) if age < _UNSCHEDULED else warning("backup", said, make)
    firing = CronSim(settings.backup_schedule, newest.created_at)
    next(firing)  # the one that may be under way, or waits for a worker
    if next(firing) < now:
        remedy = "see that `keyhall worker` or `keyhall run` is running, and look for its last backup job in the log"
        return failed("backup", f"{said}, older than BACKUP_SCHEDULE says", remedy)
    return ok("backup", said)


def _rehearsal(newest: BackupRecord | None) -> Check:
    if newest is None:
        return warning("rehearsal", f"{_NOT_CHECKED}there is no backup to rehearse", "")
    if newest.rehearsal is Rehearsal.OK and newest.rehearsed_at is not None:
        return ok("rehearsal", f"the newest backup was restored on trial on {newest.rehearsed_at:%Y-%m-%d}")
    if newest.rehearsal is Rehearsal.FAILED:
        return failed(
            "rehearsal",
            f"the newest backup could not be restored on trial: {newest.rehearsal_note or 'no reason was noted'}",
            "make another backup, and keep an older one until a rehearsal of the new one succeeds",
        )
    return warning(
        "rehearsal",
        "the newest backup was never restored on trial",
        "set BACKUP_IDENTITY_FILE where a trial may happen, or run `keyhall backup verify FILE` where the identity is",
    )
