"""The stage that `keyhall env set` opens: an install that is read where it is, with the keys of where it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.bootstrap.database import install_rules, reachable_database, require_trusted_files
from app.domain.errors import KeyDamaged, KeyStateConflict
from app.domain.keys import Environment
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.migrate import known_revisions
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import MasterKeys, MasterKeysOfAMove
from app.services.keys import rows as key_rows
from app.services.keys.environment import EnvironmentMove
from app.services.keys.reading import KeyReader
from app.services.keys.writing import KeyWriter
from app.services.ports import Storage
from app.settings import Settings


@asynccontextmanager
async def open_environment_move(settings: Settings, target: Environment) -> AsyncIterator[EnvironmentMove]:
    """The means to move an install to that environment; nothing is changed yet. Raises StartupError, NoInstall."""
    async with reachable_database(settings, may_create=False) as reachable:
        present = await reachable.retry.run(lambda: _present_environment(reachable.storage)) or settings.app_env
        revision, head = await reachable.revision(), known_revisions()[-1]
        if revision is not None and revision != head:
            raise KeyStateConflict(
                f"the schema is at {revision}, and this version needs {head}: run `keyhall db upgrade` with "
                f"APP_ENV={present} first"
            )
        require_trusted_files(settings, target)
        source = _source(settings, present, target)
        there = settings.model_copy(update={"app_env": present})
        record, clock, derivation = InstallFile(settings.data_dir), SystemClock(), Derivation()
        reader = KeyReader(
            master_keys=source, wrapping=MasterKeyWrapping, derivation=derivation, rules=install_rules(there)
        )
        yield EnvironmentMove(
            storage=reachable.storage,
            source=source,
            reader=reader,
            writer=KeyWriter(
                reader=reader, derivation=derivation, record=record, clock=clock, randomness=SystemRandomness()
            ),
            wrapping=MasterKeyWrapping,
            record=record,
            clock=clock,
            target=target,
        )


def demands_on_settings(settings: Settings, target: Environment, *, rewrapped: bool) -> Sequence[str]:
    """The changes of settings that the move leaves to the operator, a sentence each."""
    demands = []
    if settings.app_env is not target:
        demands.append(f"set APP_ENV={target}")
    if target is Environment.PRODUCTION and not (settings.public_url or "").startswith("https://"):
        demands.append("set PUBLIC_URL to the https address; until then only the probes are answered")
    if rewrapped and settings.master_key_previous is not None:
        demands.append("remove MASTER_KEY_PREVIOUS")
    default = _default_source(settings, target).default_file
    if rewrapped and default.exists():
        demands.append(f"backups made until now open with the key in {default} alone: print or keep it, then remove it")
    return demands


async def _present_environment(storage: Storage) -> Environment | None:
    """The environment that the manifest names, not authenticated yet; None where it names none."""
    async with storage.read() as uow:
        value = await uow.keys.get_manifest() if await uow.keys.exists() else None
    if value is None:
        return None
    try:
        return Environment(str(key_rows.parse(key_rows.MANIFEST_ROW, value).get("environment")))
    except (KeyDamaged, ValueError):
        return None


def _default_source(settings: Settings, environment: Environment) -> MasterKeys:
    return MasterKeys(data_dir=settings.data_dir, environment=environment, randomness=SystemRandomness())


def _source(settings: Settings, present: Environment, target: Environment) -> MasterKeysOfAMove:
    return MasterKeysOfAMove(
        given=MasterKeys(
            data_dir=settings.data_dir,
            environment=target,
            randomness=SystemRandomness(),
            master_key=settings.master_key,
            master_key_file=settings.master_key_file,
            stored=settings.stored_secret,
        ),
        default=_default_source(settings, present),
        previous=settings.master_key_previous,
        environment=present,
    )
