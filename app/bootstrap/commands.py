"""The stages that single commands open, each given to one service."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.bootstrap.database import install_rules, master_keys, reachable_database
from app.bootstrap.keys import open_keys
from app.domain.errors import ConfigInvalid, DatabaseEmpty, NoInstall
from app.domain.keys import MATERIAL_BYTES
from app.domain.schema import SchemaState
from app.domain.secrets import SecretText
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.migrate import known_revisions
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import OneMasterKey
from app.infrastructure.paper import from_words_or_text, page
from app.services.audit_trail import AuditReading
from app.services.jobs import JobService
from app.services.keys import KeyManagementService
from app.services.keys.master_key import MasterKeyChange, MasterKeyOnPaper, RestoredMasterKey
from app.services.keys.reading import KeyReader
from app.services.keys.reset import KeyReset, ResetPreparation
from app.services.keys.writing import KeyWriter
from app.settings import Settings


@asynccontextmanager
async def open_unverified_keys(settings: Settings) -> AsyncIterator[KeyManagementService]:
    """Open the key store for judging it: nothing is verified, migrated or made yet. Raises StartupError, NoInstall."""
    async with reachable_database(settings, may_create=False) as reachable:
        yield reachable.keys


async def schema_state(settings: Settings, *, upgrade: bool = False, check: bool = False) -> SchemaState:
    """Where the schema stands, after running pending migrations or a whole check for damage where asked.

    Raises StartupError, NoInstall.
    """
    name = settings.database_url.name
    absent = NoInstall(f"there is no database at {name}: run `keyhall db upgrade`")
    async with reachable_database(settings, may_create=upgrade, absent=absent) as reachable:
        if upgrade:
            await reachable.migrate(installed=await reachable.verify())
        checked = check and await reachable.retry.run(reachable.database.check)
        head = known_revisions()[-1]
        return SchemaState(database=name, current=await reachable.revision(), head=head, checked=checked)


def new_key() -> str:
    """32 random bytes in hex, stored nowhere."""
    return SystemRandomness().token_bytes(MATERIAL_BYTES).hex()


@asynccontextmanager
async def open_audit(settings: Settings) -> AsyncIterator[AuditReading]:
    """The audit trail, to be read: no key is loaded, and nothing is migrated. Raises StartupError, NoInstall."""
    async with reachable_database(settings, may_create=False) as reachable:
        if await reachable.revision() is None:
            raise NoInstall
        yield AuditReading(storage=reachable.storage)


def new_master_key() -> str:
    """A new master key in base64, stored nowhere."""
    return base64.b64encode(SystemRandomness().token_bytes(MATERIAL_BYTES)).decode()


def write_master_key(settings: Settings) -> Path:
    """Make the default master key file. Raises ConfigInvalid where a file exists already."""
    source = master_keys(settings)
    if os.path.lexists(source.default_file):
        raise ConfigInvalid(
            f"{source.default_file} is there already", remedy="keep it: it may be the only key that opens an install"
        )
    source.create()
    return source.default_file


async def master_key_page(settings: Settings) -> str:
    """The master key as a page to print; its audit row commits first. Raises StartupError, NoInstall."""
    async with open_keys(settings, may_create=False) as opened:
        paper = MasterKeyOnPaper(
            storage=opened.storage, keys=opened.keys, source=master_keys(settings), page=page, clock=SystemClock()
        )
        return await paper.render()


@asynccontextmanager
async def open_master_key_change(settings: Settings) -> AsyncIterator[MasterKeyChange]:
    """Verified keys, and the means to put them under another master key; no lease. Raises StartupError, NoInstall."""
    source = master_keys(settings)
    async with open_keys(settings, may_create=False, source=source) as opened:
        yield MasterKeyChange(storage=opened.storage, keys=opened.keys, source=source, clock=SystemClock())


@asynccontextmanager
async def open_key_reset(settings: Settings) -> AsyncIterator[KeyReset]:
    """The means to give an install new keys; nothing is changed yet. Raises StartupError, NoInstall."""
    source = master_keys(settings)
    async with reachable_database(settings, may_create=False, source=source, patient=True) as reachable:
        record, clock, randomness = InstallFile(settings.data_dir), SystemClock(), SystemRandomness()
        derivation, rules = Derivation(), install_rules(settings)
        reader = KeyReader(master_keys=source, wrapping=MasterKeyWrapping, derivation=derivation, rules=rules)

        async def copy_and_migrate() -> Path | None:
            copy = await reachable.copy_before_reset()
            await reachable.migrate(installed=False)
            return copy

        yield KeyReset(
            storage=reachable.storage,
            source=source,
            reader=reader,
            writer=KeyWriter(reader=reader, derivation=derivation, record=record, clock=clock, randomness=randomness),
            record=record,
            jobs=JobService(storage=reachable.storage, clock=clock, randomness=randomness),
            clock=clock,
            preparation=ResetPreparation(
                at_head=await reachable.revision() == known_revisions()[-1], copy_and_migrate=copy_and_migrate
            ),
        )


async def restore_master_key(settings: Settings, given: SecretText, *, write: bool) -> RestoredMasterKey:
    """Read a master key from words or text, prove that it opens the install, and write its file where asked to.

    Where the database is empty or not there, its file is written all the same: a backup will prove it. Nothing else is
    changed. Raises InvalidInput if the text is no master key, MasterKeyMismatch for another
    install's key, ConfigInvalid where another file is in the way, NoInstall and every other StartupError.
    """
    material = from_words_or_text(given.reveal(), settings.app_env)
    try:
        async with reachable_database(settings, may_create=False, source=OneMasterKey(material)) as reachable:
            proven = await reachable.verify()
    except (NoInstall, DatabaseEmpty):
        if not write:
            raise
        proven = False
    if not proven and not write:
        raise NoInstall
    source = master_keys(settings)
    return RestoredMasterKey(
        master_key_id=MasterKeyWrapping(material).master_key_id,
        database=settings.database_url.name if proven else None,
        file=str(source.default_file),
        written=write and source.install(material),
        overridden_by=source.overridden_by,
    )
