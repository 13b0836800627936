"""Everything that the services need from outside, as protocols: infrastructure implements them, tests fake them.

A result type of a port stands in the port's module.
"""

from __future__ import annotations

from app.services.ports.api_tokens import ApiTokenAndUser, ApiTokenRepository
from app.services.ports.audit import AuditChainRepository, AuditExports, AuditRepository
from app.services.ports.backup import BackupFiles, BackupRepository, ShowProgress
from app.services.ports.credentials import (
    CredentialRepository,
    EncryptedRowRepository,
    EncryptionContext,
    Envelope,
    MessageCipher,
    ProviderTotals,
)
from app.services.ports.discord import DiscordAccounts, SpentTicketRepository
from app.services.ports.factors import FactorRepository, OneTimePasswords
from app.services.ports.identity import (
    AccessClaims,
    AccessTokens,
    AttemptRepository,
    PasswordCheck,
    PasswordHasher,
    RefreshUse,
    SessionAndUser,
    SessionRepository,
    UnknownKeyId,
    UserRepository,
)
from app.services.ports.imports import ImportedEntryRepository, LegacyCipher, LegacyDatabase
from app.services.ports.keys import (
    ChangeableMasterKey,
    InstallRecord,
    KeyDerivation,
    KeyRepository,
    KeyScheduleRepository,
    KeyWrapping,
    MasterKeySource,
    RememberedInstall,
    RenewableMasterKey,
    SecretsBackend,
)
from app.services.ports.links import OneTimeLinkRepository
from app.services.ports.operations import (
    BotStateRepository,
    ChangeFeed,
    Clock,
    IdempotencyRepository,
    IdempotentRequest,
    InstanceRepository,
    JobRepository,
    Randomness,
    Subscription,
)
from app.services.ports.passkeys import (
    Answer,
    AnswerRefused,
    Authenticators,
    Claimed,
    NewKey,
    Options,
    PasskeyRepository,
    Signed,
)
from app.services.ports.privacy import PersonalDataRepository, PersonalRow
from app.services.ports.storage import Storage, StorageFigures, UnitOfWork
from app.services.ports.tracing import Attributes, Span, Tracer

__all__ = [
    "AccessClaims",
    "AccessTokens",
    "Answer",
    "AnswerRefused",
    "ApiTokenAndUser",
    "ApiTokenRepository",
    "AttemptRepository",
    "Attributes",
    "AuditChainRepository",
    "AuditExports",
    "AuditRepository",
    "Authenticators",
    "BackupFiles",
    "BackupRepository",
    "BotStateRepository",
    "ChangeFeed",
    "ChangeableMasterKey",
    "Claimed",
    "Clock",
    "CredentialRepository",
    "DiscordAccounts",
    "EncryptedRowRepository",
    "EncryptionContext",
    "Envelope",
    "FactorRepository",
    "IdempotencyRepository",
    "IdempotentRequest",
    "ImportedEntryRepository",
    "InstallRecord",
    "InstanceRepository",
    "JobRepository",
    "KeyDerivation",
    "KeyRepository",
    "KeyScheduleRepository",
    "KeyWrapping",
    "LegacyCipher",
    "LegacyDatabase",
    "MasterKeySource",
    "MessageCipher",
    "NewKey",
    "OneTimeLinkRepository",
    "OneTimePasswords",
    "Options",
    "PasskeyRepository",
    "PasswordCheck",
    "PasswordHasher",
    "PersonalDataRepository",
    "PersonalRow",
    "ProviderTotals",
    "Randomness",
    "RefreshUse",
    "RememberedInstall",
    "RenewableMasterKey",
    "SecretsBackend",
    "SessionAndUser",
    "SessionRepository",
    "ShowProgress",
    "Signed",
    "Span",
    "SpentTicketRepository",
    "Storage",
    "StorageFigures",
    "Subscription",
    "Tracer",
    "UnitOfWork",
    "UnknownKeyId",
    "UserRepository",
]
