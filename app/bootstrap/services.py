"""The last stage: the services, composed in one place from the parts that differ between a process and a test.

More than 400 lines, because every service is composed here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from app.bootstrap.backup import backup_plan, rehearsal_place
from app.bootstrap.copies import verification_with
from app.bootstrap.keys import OpenKeys
from app.domain.backup_plan import BackupPlan
from app.domain.diagnosis import Diagnosis
from app.domain.identity import Registration
from app.domain.keys import Environment
from app.domain.providers import KNOWN_PROVIDERS
from app.infrastructure.audit_exports import AuditExportFiles
from app.infrastructure.clock import SystemClock, SystemRandomness, noticing_stops
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.legacy import LegacyCiphers
from app.infrastructure.crypto.messages import FernetMessages
from app.infrastructure.crypto.tokens import JwtAccessTokens
from app.infrastructure.database.feed import DatabaseFeed
from app.infrastructure.discord_accounts import CALLBACK, DiscordAccountsImpl, DiscordApplication
from app.infrastructure.one_time_passwords import PyotpPasswords
from app.infrastructure.passwords import Argon2Passwords
from app.infrastructure.tracing import TracedStorage
from app.infrastructure.webauthn import WebAuthn
from app.services import Services
from app.services.audit_trail import (
    AuditReading,
    AuditRetention,
    AuditRetentionRule,
    AuditSealing,
    AuditVerification,
)
from app.services.authentication import (
    ApiTokenMacs,
    ApiTokenService,
    AuthenticationService,
    DeviceClaims,
    Enrolments,
    FactorProof,
    Lifetimes,
    PasskeyChallenges,
    PasskeyProof,
    PasskeyService,
    PasswordProof,
    PendingSignIns,
    RequestAuthenticator,
    SecondFactorService,
    SessionStarts,
    Signatures,
)
from app.services.backup import BackupCreation, BackupService, BackupVerification
from app.services.backup.rehearsal import BackupRehearsal, RehearsalPlace
from app.services.bot_guilds import BotGuilds
from app.services.bot_state import BotStateService
from app.services.credentials import (
    CredentialAccess,
    CredentialCipher,
    CredentialService,
    CredentialTransfer,
    EnvironmentCredentials,
)
from app.services.credentials.storing import CredentialStoring
from app.services.dashboard import DashboardService
from app.services.deadlines import Deadlines
from app.services.discord_accounts import DiscordLinking, DiscordSignIn, LinkCodes, Tickets
from app.services.failures import FailureLog
from app.services.first_owner import FirstOwner
from app.services.housekeeping import HousekeepingService
from app.services.idempotency import Idempotency
from app.services.identity import IdentityService
from app.services.imports import ImportService
from app.services.install_health import InstallHealth
from app.services.instances import InstanceService
from app.services.invitations import Invitations
from app.services.jobs import JobService
from app.services.joining import AccountJoining
from app.services.keys import KeyManagementService
from app.services.links import AccountClaims, OneTimeLinks
from app.services.messages import MessageService
from app.services.monitoring import MonitoringService
from app.services.outside_secrets import OutsideSecrets, OutsideSource
from app.services.passwords import PasswordService
from app.services.ports import (
    AuditExports,
    ChangeFeed,
    Clock,
    DiscordAccounts,
    LegacyCipher,
    PasswordHasher,
    Randomness,
    Storage,
    Tracer,
)
from app.services.preferences import PreferenceService
from app.services.privacy import PersonalDataExport, PersonErasure
from app.services.refusals import Refusals
from app.services.rotation import LEEWAY, KeyInspection, RotationJob, RotationPasses, RotationService, RotationWatch
from app.services.rotation.queue import RotationQueue
from app.services.tracing import NoTracer
from app.services.users import UserService
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of the services that differ between processes and tests. ``kind`` names this process among others.

    ``reserved`` is the storage on connections that no request can take: for the lease, the keys and the readiness.
    """

    kind: str
    storage: Storage
    reserved: Storage
    keys: KeyManagementService
    feed: ChangeFeed
    passwords: PasswordHasher
    cipher: CredentialCipher
    clock: Clock
    randomness: Randomness
    environment_credentials: EnvironmentCredentials
    legacy: LegacyCipher
    registration: Registration
    lifetimes: Lifetimes
    rotation_days: int
    audit_exports: AuditExports
    audit_retention: AuditRetentionRule
    backup_plan: BackupPlan
    backups: BackupVerification
    rehearsal: RehearsalPlace
    examine: Callable[[], Awaitable[Diagnosis]]
    outside: OutsideSource | None = None
    discord: DiscordAccounts | None = None
    tracer: Tracer = field(default_factory=NoTracer)


def build_services(parts: Parts) -> Services:
    """Compose the services; nothing is read or changed."""
    storage, keys, clock, randomness = parts.storage, parts.keys, parts.clock, parts.randomness
    derivation, failures = Derivation(), FailureLog(clock)
    tokens = JwtAccessTokens(issuer=f"keyhall:{keys.install_id}", audience="keyhall-api")
    refusals = Refusals(storage=storage, clock=clock)
    instances = InstanceService(
        storage=parts.reserved, keys=keys, feed=parts.feed, clock=clock, randomness=randomness, kind=parts.kind
    )
    idempotency = Idempotency(keys=keys, derivation=derivation, clock=clock)
    macs = ApiTokenMacs(keys=keys, derivation=derivation)
    credentials = CredentialService(
        storage=storage,
        keys=keys,
        cipher=parts.cipher,
        idempotency=idempotency,
        environment=parts.environment_credentials,
        refusals=refusals,
        clock=clock,
        randomness=randomness,
    )
    links = OneTimeLinks(clock=clock, randomness=randomness)
    invitations = Invitations(clock=clock, randomness=randomness)
    claims = AccountClaims(
        storage=storage,
        links=links,
        invitations=invitations,
        passwords=parts.passwords,
        refusals=refusals,
        clock=clock,
    )
    joining = AccountJoining(transfer=CredentialTransfer(keys=keys, cipher=parts.cipher, clock=clock), clock=clock)
    identity = IdentityService(
        storage=storage,
        keys=keys,
        joining=joining,
        passwords=parts.passwords,
        clock=clock,
        randomness=randomness,
        links=links,
        registration=parts.registration,
    )
    signatures = Signatures(keys=keys, derivation=derivation)
    devices = DeviceClaims(signatures=signatures, clock=clock, randomness=randomness)
    starts = SessionStarts(
        storage=storage,
        keys=keys,
        devices=devices,
        tokens=tokens,
        clock=clock,
        randomness=randomness,
        lifetimes=parts.lifetimes,
    )
    authenticators = WebAuthn()
    challenges = PasskeyChallenges(signatures=signatures, clock=clock, randomness=randomness)
    proof = PasswordProof(
        storage=storage,
        keys=keys,
        passwords=parts.passwords,
        derivation=derivation,
        devices=devices,
        refusals=refusals,
        clock=clock,
    )
    tickets = Tickets(signatures=signatures, clock=clock, randomness=randomness)
    one_time_passwords = PyotpPasswords()
    factor_proof = FactorProof(
        storage=storage, cipher=parts.cipher, codes=one_time_passwords, refusals=refusals, clock=clock
    )
    erasure = PersonErasure(
        storage=storage, keys=keys, derivation=derivation, proof=proof, factors=factor_proof, clock=clock
    )
    authentication = AuthenticationService(
        storage=storage,
        starts=starts,
        proof=proof,
        factors=factor_proof,
        pending=PendingSignIns(signatures=signatures, clock=clock, randomness=randomness),
        refusals=refusals,
        clock=clock,
    )
    bot_state = BotStateService(storage=storage, clock=clock)
    bot_guilds = BotGuilds(storage=storage, clock=clock)
    jobs = JobService(storage=storage, clock=clock, randomness=randomness)
    overlap = parts.lifetimes.access + LEEWAY
    inspection = KeyInspection(
        storage=storage,
        keys=keys,
        cipher=parts.cipher,
        clock=clock,
        overlap=overlap,
        rotation_days=parts.rotation_days,
    )
    rotation_job = RotationJob(
        storage=storage,
        keys=keys,
        instances=instances,
        passes=RotationPasses(storage=storage, keys=keys, cipher=parts.cipher),
        clock=clock,
        overlap=overlap,
    )
    audit_sealing = AuditSealing(storage=storage, keys=keys, derivation=derivation, clock=clock)
    rehearsal = BackupRehearsal(
        storage=storage, verification=parts.backups, place=parts.rehearsal, jobs=jobs, clock=clock
    )
    dashboard = DashboardService(
        storage=storage,
        reserved=parts.reserved,
        keys=keys,
        credentials=credentials,
        bot_state=bot_state,
        failures=failures,
        clock=clock,
        rotation_days=parts.rotation_days,
    )
    return Services(
        clock=clock,
        randomness=randomness,
        failures=failures,
        tracer=parts.tracer,
        deadlines=Deadlines(clock),
        feed=parts.feed,
        keys=keys,
        instances=instances,
        jobs=jobs,
        key_inspection=inspection,
        rotation=RotationService(
            storage=storage,
            keys=keys,
            instances=instances,
            jobs=jobs,
            inspection=inspection,
            job=rotation_job,
            clock=clock,
            overlap=overlap,
        ),
        rotation_watch=RotationWatch(storage=storage, keys=keys, clock=clock),
        audit=AuditReading(storage=storage),
        audit_sealing=audit_sealing,
        audit_retention=AuditRetention(
            storage=storage,
            keys=keys,
            derivation=derivation,
            clock=clock,
            jobs=jobs,
            sealing=audit_sealing,
            exports=parts.audit_exports,
            rule=parts.audit_retention,
        ),
        audit_verification=AuditVerification(storage=storage, keys=keys, derivation=derivation, clock=clock),
        identity=identity,
        first_owner=FirstOwner(identity=identity, starts=starts),
        users=UserService(
            storage=storage,
            keys=keys,
            identity=identity,
            claims=claims,
            invitations=invitations,
            idempotency=idempotency,
            clock=clock,
        ),
        claims=claims,
        passwords=PasswordService(storage=storage, proof=proof, starts=starts, passwords=parts.passwords, clock=clock),
        preferences=PreferenceService(storage=storage, clock=clock),
        credentials=credentials,
        authentication=authentication,
        second_factor=SecondFactorService(
            storage=storage,
            enrolments=Enrolments(
                keys=keys, cipher=parts.cipher, codes=one_time_passwords, clock=clock, randomness=randomness
            ),
            passwords=proof,
            proof=factor_proof,
            starts=starts,
            clock=clock,
            randomness=randomness,
        ),
        passkeys=PasskeyService(
            storage=storage,
            starts=starts,
            proof=PasskeyProof(
                storage=storage,
                authenticators=authenticators,
                challenges=challenges,
                refusals=refusals,
                clock=clock,
            ),
            authenticators=authenticators,
            challenges=challenges,
            refusals=refusals,
            clock=clock,
            randomness=randomness,
        ),
        discord_linking=DiscordLinking(
            storage=storage,
            codes=LinkCodes(keys=keys, derivation=derivation, randomness=randomness),
            joining=joining,
            tickets=tickets,
            access=CredentialAccess(storage=storage, cipher=parts.cipher, refusals=refusals, clock=clock),
            starts=starts,
            refusals=refusals,
            clock=clock,
        ),
        discord_sign_in=DiscordSignIn(
            storage=storage,
            discord=parts.discord,
            tickets=tickets,
            authentication=authentication,
            identity=identity,
            refusals=refusals,
            clock=clock,
        ),
        imports=ImportService(
            storage=storage,
            keys=keys,
            storing=CredentialStoring(cipher=parts.cipher, clock=clock),
            identity=identity,
            legacy=parts.legacy,
            derivation=derivation,
            clock=clock,
            randomness=randomness,
        ),
        refusals=refusals,
        requests=RequestAuthenticator(storage=storage, keys=keys, tokens=tokens, api_tokens=macs, clock=clock),
        api_tokens=ApiTokenService(
            storage=storage,
            keys=keys,
            macs=macs,
            idempotency=idempotency,
            refusals=refusals,
            clock=clock,
            randomness=randomness,
        ),
        messages=MessageService(storage=storage, keys=keys, cipher=FernetMessages(), refusals=refusals, clock=clock),
        dashboard=dashboard,
        monitoring=MonitoringService(storage=storage, keys=keys, dashboard=dashboard, rehearsal=rehearsal),
        backups=BackupService(
            storage=storage,
            files=parts.backups.files,
            creation=BackupCreation(
                storage=storage,
                verification=parts.backups,
                recipient=parts.backup_plan.recipient,
                clock=clock,
                randomness=randomness,
            ),
            jobs=jobs,
            plan=parts.backup_plan,
            clock=clock,
            randomness=randomness,
            rehearsal=rehearsal,
        ),
        rehearsal=rehearsal,
        install_health=InstallHealth(examine=parts.examine, clock=clock),
        outside_secrets=OutsideSecrets(
            storage=storage,
            keys=keys,
            queue=RotationQueue(storage=storage, keys=keys, jobs=jobs, clock=clock),
            clock=clock,
            randomness=randomness,
            source=parts.outside,
        ),
        bot_state=bot_state,
        bot_guilds=bot_guilds,
        personal_data=PersonalDataExport(
            storage=storage,
            keys=keys,
            access=CredentialAccess(storage=storage, cipher=parts.cipher, refusals=refusals, clock=clock),
            clock=clock,
        ),
        erasure=erasure,
        housekeeping=HousekeepingService(storage=storage, jobs=jobs, erasure=erasure, guilds=bot_guilds, clock=clock),
    )


async def _examine(settings: Settings) -> Diagnosis:
    from app.bootstrap.doctor import examine  # noqa: PLC0415 - a start does not wait for it

    return await examine(settings)


def _discord(settings: Settings) -> DiscordAccounts | None:
    """Discord as people sign in with it; None where the operator has not set up an application there for that."""
    client_id, secret, public_url = settings.discord_client_id, settings.discord_client_secret, settings.public_url
    if client_id is None or secret is None or public_url is None:
        return None
    return DiscordAccountsImpl(
        DiscordApplication(
            client_id=client_id,
            client_secret=secret,
            redirect_uri=f"{public_url}{CALLBACK}",
            bot_token=settings.discord_bot_token,
            guild_allowlist=settings.guild_allowlist,
            api_base=settings.discord_api_base,
        )
    )


@asynccontextmanager
async def open_services(
    settings: Settings,
    opened: OpenKeys,
    *,
    kind: str,
    outside: OutsideSource | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[Services]:
    """Build the services on verified keys, and hold a lease for as long as they are used. Raises StartupError.

    ``outside`` is where a process that stays reads its secrets again; ``tracer`` collects its spans.
    """
    randomness = SystemRandomness()
    host = urlsplit(settings.public_url or "").hostname or ""
    passwords = Argon2Passwords(
        cheap=settings.app_env is Environment.TEST, context=("keyhall", "discord", host, *KNOWN_PROVIDERS)
    )
    feed = DatabaseFeed(opened.database)
    services = build_services(
        Parts(
            kind=kind,
            storage=opened.storage if tracer is None else TracedStorage(opened.storage, tracer),
            reserved=opened.reserved,
            keys=opened.keys,
            feed=feed,
            passwords=passwords,
            cipher=CredentialCipher(keys=opened.keys, envelope=AesGcmEnvelope(randomness), derivation=Derivation()),
            clock=SystemClock(),
            randomness=randomness,
            environment_credentials=EnvironmentCredentials(
                by_provider=settings.environment_credentials, guilds=settings.env_credential_guilds
            ),
            legacy=LegacyCiphers(settings.credential_encryption_key),
            registration=settings.registration,
            lifetimes=Lifetimes(
                access=timedelta(minutes=settings.access_token_expire_minutes),
                session=timedelta(days=settings.refresh_token_expire_days),
            ),
            rotation_days=settings.key_rotation_days,
            audit_exports=AuditExportFiles(settings.backup_dir / "audit"),
            audit_retention=AuditRetentionRule(
                events=timedelta(days=settings.audit_retention_days), uses=timedelta(days=settings.usage_retention_days)
            ),
            backup_plan=backup_plan(settings),
            backups=verification_with(settings, opened.source),
            rehearsal=rehearsal_place(settings, opened.source),
            examine=lambda: _examine(settings),
            outside=outside,
            discord=_discord(settings),
            tracer=tracer or NoTracer(),
        )
    )
    try:
        await opened.retry.run(services.instances.refresh)
        async with (
            noticing_stops(SystemClock()),
            feed.listening(),
            services.refusals.kept(),
            services.instances.present(),
        ):
            yield services
    finally:
        await passwords.close()
