"""The services, one deep module per family. Every edge gets the same ``Services``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command that uses one service must not pay for importing all of them
    from app.services.audit_trail import AuditReading, AuditRetention, AuditSealing, AuditVerification
    from app.services.authentication import (
        ApiTokenService,
        AuthenticationService,
        PasskeyService,
        RequestAuthenticator,
        SecondFactorService,
    )
    from app.services.backup import BackupService
    from app.services.backup.rehearsal import BackupRehearsal
    from app.services.bot_guilds import BotGuilds
    from app.services.bot_state import BotStateService
    from app.services.credentials import CredentialService
    from app.services.dashboard import DashboardService
    from app.services.deadlines import Deadlines
    from app.services.discord_accounts import DiscordLinking, DiscordSignIn
    from app.services.failures import FailureLog
    from app.services.first_owner import FirstOwner
    from app.services.housekeeping import HousekeepingService
    from app.services.identity import IdentityService
    from app.services.imports import ImportService
    from app.services.install_health import InstallHealth
    from app.services.instances import InstanceService
    from app.services.jobs import JobService
    from app.services.keys import KeyManagementService
    from app.services.links import AccountClaims
    from app.services.messages import MessageService
    from app.services.monitoring import MonitoringService
    from app.services.outside_secrets import OutsideSecrets
    from app.services.passwords import PasswordService
    from app.services.ports import ChangeFeed, Clock, Randomness, Tracer
    from app.services.preferences import PreferenceService
    from app.services.privacy import PersonalDataExport, PersonErasure
    from app.services.refusals import Refusals
    from app.services.rotation import KeyInspection, RotationService, RotationWatch
    from app.services.users import UserService


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the edges and extensions share: ``bot.services``, ``request.app[SERVICES]``."""

    clock: Clock
    randomness: Randomness
    failures: FailureLog
    tracer: Tracer
    deadlines: Deadlines
    feed: ChangeFeed
    keys: KeyManagementService
    instances: InstanceService
    jobs: JobService
    key_inspection: KeyInspection
    rotation: RotationService
    rotation_watch: RotationWatch
    outside_secrets: OutsideSecrets
    authentication: AuthenticationService
    passkeys: PasskeyService
    second_factor: SecondFactorService
    requests: RequestAuthenticator
    discord_sign_in: DiscordSignIn
    discord_linking: DiscordLinking
    api_tokens: ApiTokenService
    refusals: Refusals
    audit: AuditReading
    audit_sealing: AuditSealing
    audit_retention: AuditRetention
    audit_verification: AuditVerification
    identity: IdentityService
    first_owner: FirstOwner
    users: UserService
    claims: AccountClaims
    passwords: PasswordService
    preferences: PreferenceService
    imports: ImportService
    credentials: CredentialService
    messages: MessageService
    dashboard: DashboardService
    monitoring: MonitoringService
    backups: BackupService
    rehearsal: BackupRehearsal
    install_health: InstallHealth
    bot_state: BotStateService
    bot_guilds: BotGuilds
    personal_data: PersonalDataExport
    erasure: PersonErasure
    housekeeping: HousekeepingService
