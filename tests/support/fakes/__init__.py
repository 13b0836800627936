"""The ports in memory, one module per family as in ``app.services.ports``.

``FakeStorage`` passes the contract of the repositories (tests/integration/test_repositories.py) and checks the services
besides: a unit of work in which the event loop ran something else fails, because the service then awaited something
that is not the database. Not faked: locks that outlast a wait inside a unit of work (there is none), the cache of rows,
and the rule that an audit row's subject exists, for actors in service tests have no accounts.
"""

from __future__ import annotations

from tests.support.fakes.audit import FakeAuditExports
from tests.support.fakes.backups import FakeBackupFiles
from tests.support.fakes.credentials import FakeCredentialRepository
from tests.support.fakes.discord import FakeDiscordAccounts
from tests.support.fakes.keys import FakeKeyRepository
from tests.support.fakes.operations import FakeJobRepository
from tests.support.fakes.storage import FakeStorage
from tests.support.fakes.surroundings import (
    EPOCH,
    FakeChangeFeed,
    FakeClock,
    FakeInstallRecord,
    FakeMasterKeys,
    FakePasswords,
    FakeRandomness,
)

__all__ = [
    "EPOCH",
    "FakeAuditExports",
    "FakeBackupFiles",
    "FakeChangeFeed",
    "FakeClock",
    "FakeCredentialRepository",
    "FakeDiscordAccounts",
    "FakeInstallRecord",
    "FakeJobRepository",
    "FakeKeyRepository",
    "FakeMasterKeys",
    "FakePasswords",
    "FakeRandomness",
    "FakeStorage",
]
