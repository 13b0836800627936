"""The services on any storage, with real cryptography and a clock that tests move."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.bootstrap.services import Parts, build_services
from app.domain.backup import BackupHeader, OpenWith
from app.domain.backup_plan import BackupPlan
from app.domain.diagnosis import Diagnosis, ok
from app.domain.errors import BackupDamaged
from app.domain.identity import Actor, Client, GuildContext, Registration, Role, Source, User
from app.domain.keys import Environment, KeyName, Keyset, KeysetEntry, KeyState, KeyVersion, Origin
from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.clock import SystemClock
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.legacy import LegacyCiphers
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.services import Services
from app.services.audit_trail import AuditRetentionRule
from app.services.authentication import Lifetimes
from app.services.backup import BackupService, BackupVerification
from app.services.backup.rehearsal import RehearsalPlace
from app.services.credentials import CredentialCipher, CredentialService, CredentialTransfer, EnvironmentCredentials
from app.services.dashboard import DashboardService
from app.services.housekeeping import HousekeepingService
from app.services.instances import InstanceService
from app.services.jobs import JobService
from app.services.keys import InstallRules, KeyManagementService
from app.services.keys import rows as key_rows
from app.services.messages import MessageService
from app.services.rotation import KeyInspection, RotationService, RotationWatch
from tests.support.fakes import (
    EPOCH,
    FakeAuditExports,
    FakeBackupFiles,
    FakeChangeFeed,
    FakeDiscordAccounts,
    FakeInstallRecord,
    FakeMasterKeys,
    FakePasswords,
)

if TYPE_CHECKING:
    from app.services.ports import AuditExports, Clock, Randomness, Storage
    from app.services.ports.restoring import Staged
    from tests.support.fakes import FakeClock, FakeStorage

ENVIRONMENT_SECRET = "sk-environment-7Qp2vX9bLm4Tz8Kd"
ENVIRONMENT_GUILD = "900000000000000001"
TOKEN_LIFETIME = timedelta(minutes=30)
SESSION_LIFETIME = timedelta(days=30)
ROTATION_DAYS = 90
BACKUP_PLAN = BackupPlan(directory=Path("/backups"), recipient="age1recipient")


class UnhurriedClock(SystemClock):
    """The time of day passes, and nothing lapses by it: in a house nobody renews a lease or confirms the keys."""

    def monotonic(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Keyhall:
    """One process: its services over a storage that others may share."""

    storage: Storage
    clock: Clock
    randomness: Randomness
    services: Services
    keys: KeyManagementService
    instances: InstanceService
    jobs: JobService
    rotation: RotationService
    rotation_watch: RotationWatch
    key_inspection: KeyInspection
    cipher: CredentialCipher
    credentials: CredentialService
    transfer: CredentialTransfer
    messages: MessageService
    dashboard: DashboardService
    housekeeping: HousekeepingService
    backups: BackupService
    backup_files: FakeBackupFiles

    def advance(self, clock: FakeClock, by: timedelta) -> None:
        """Let time pass, as in a process that goes on confirming its keys."""
        clock.advance(by)
        self.keys.confirm(clock.monotonic())

    async def rotate(self, name: KeyName) -> None:
        """Add a version and promote it in the database, as another process does: this one has not noticed yet."""
        keyset = self.keys.ring.keysets[name]
        wrapping, now = self.keys.ring.wrapping, self.clock.now()
        number = max(each.version for each in keyset) + 1
        material = SecretBytes(self.randomness.token_bytes(32))
        version = KeyVersion(
            version=number,
            state=KeyState.PRE_ACTIVATION,
            fingerprint=Derivation().fingerprint(name, material),
            wrapped=wrapping.wrap(material, install_id=keyset.install_id, name=name, version=number),
            origin=Origin.GENERATED,
            created_at=now,
        )
        await self._store_keyset(name, keyset.add(version).promote(number, now))

    async def destroy_former(self, name: KeyName) -> None:
        """Destroy every version that is not the primary, and take that up."""
        keyset = self.keys.ring.keysets[name]
        for each in keyset:
            if each.state is KeyState.DEACTIVATED:
                keyset = keyset.mark(each.version, KeyState.DESTROYED, self.clock.now())
        await self._store_keyset(name, keyset)
        await self.keys.reload()

    async def _store_keyset(self, name: KeyName, keyset: Keyset) -> None:
        wrapping, now = self.keys.ring.wrapping, self.clock.now()
        value = key_rows.encode_keyset(keyset, wrapping)
        entry = KeysetEntry(epoch=keyset.epoch, digest=key_rows.digest(value))
        manifest = self.keys.ring.manifest.with_keyset(name, entry)
        async with self.storage.write() as uow:
            await uow.keys.put(key_rows.keyset_row(name), value, now)
            await uow.keys.put(key_rows.MANIFEST_ROW, key_rows.encode_manifest(manifest, wrapping), now)


def no_scratch(_: BackupHeader) -> AbstractAsyncContextManager[Staged]:
    """There is no database in which a backup could be restored for trial."""
    raise BackupDamaged("nothing is restored here")


async def _well() -> Diagnosis:
    return Diagnosis((ok("settings", "APP_ENV is test"),))


async def open_keyhall(
    storage: Storage,
    clock: Clock,
    randomness: Randomness,
    *,
    registration: Registration = Registration.GUILD,
    exports: AuditExports | None = None,
    backup_plan: BackupPlan = BACKUP_PLAN,
) -> Keyhall:
    """A process on that storage; the first one makes the install. Its lease never lapses, until it takes one itself."""
    derivation = Derivation()
    keys = KeyManagementService(
        storage=storage,
        master_keys=FakeMasterKeys(),
        wrapping=MasterKeyWrapping,
        derivation=derivation,
        record=FakeInstallRecord(),
        rules=InstallRules(environment=Environment.TEST, pinned_install_id=None, outside_keys={}),
        clock=clock,
        randomness=randomness,
    )
    await keys.initialize(may_create=True)
    keys.confirm(clock.monotonic())
    keys.lease(float("inf"))
    envelope = AesGcmEnvelope(randomness)
    cipher = CredentialCipher(keys=keys, envelope=envelope, derivation=derivation)
    backup_files = FakeBackupFiles()
    services = build_services(
        Parts(
            kind="test",
            storage=storage,
            reserved=storage,
            keys=keys,
            feed=FakeChangeFeed(),
            passwords=FakePasswords(),
            cipher=cipher,
            clock=clock,
            randomness=randomness,
            environment_credentials=EnvironmentCredentials(
                by_provider={"envai": SecretText(ENVIRONMENT_SECRET)}, guilds=frozenset({ENVIRONMENT_GUILD})
            ),
            legacy=LegacyCiphers(None),
            registration=registration,
            lifetimes=Lifetimes(access=TOKEN_LIFETIME, session=SESSION_LIFETIME),
            rotation_days=ROTATION_DAYS,
            discord=FakeDiscordAccounts(),
            audit_exports=exports or FakeAuditExports(),
            audit_retention=AuditRetentionRule(events=timedelta(days=400), uses=timedelta(days=90)),
            backup_plan=backup_plan,
            backups=BackupVerification(
                files=backup_files,
                master_keys=FakeMasterKeys(),
                wrapping=MasterKeyWrapping,
                derivation=derivation,
                envelope=envelope,
            ),
            rehearsal=RehearsalPlace(scratch=no_scratch, elsewhere=lambda work: work(), keys=OpenWith),
            examine=_well,
        )
    )
    return Keyhall(
        storage=storage,
        clock=clock,
        randomness=randomness,
        services=services,
        keys=keys,
        instances=services.instances,
        jobs=services.jobs,
        rotation=services.rotation,
        rotation_watch=services.rotation_watch,
        key_inspection=services.key_inspection,
        cipher=cipher,
        credentials=services.credentials,
        transfer=CredentialTransfer(keys=keys, cipher=cipher, clock=clock),
        messages=services.messages,
        dashboard=services.dashboard,
        housekeeping=services.housekeeping,
        backups=services.backups,
        backup_files=backup_files,
    )


def known(storage: FakeStorage, actor: Actor) -> Actor:
    """The same actor, whose user is stored: what changes keys or accounts looks the user up."""
    storage.tables.users[actor.user_id] = User(
        id=actor.user_id,
        subject_id=actor.subject_id or "",
        username=actor.username,
        role=actor.role,
        created_at=EPOCH,
    )
    return actor


def member(
    clock: Clock,
    name: str = "mia",
    *,
    role: Role = Role.MEMBER,
    source: Source = Source.WEB,
    guild: GuildContext | None = None,
    discord_id: str | None = None,
) -> Actor:
    """Somebody whose ids follow from the name, freshly signed in unless they come from Discord."""
    return Actor(
        user_id=f"user-{name}",
        subject_id=f"subject-{name}",
        username=name,
        role=role,
        client=Client(source=source, address="192.0.2.7"),
        authenticated_at=None if source is Source.DISCORD else clock.now(),
        discord_id=discord_id,
        guild=guild,
    )
