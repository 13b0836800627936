"""Authentication: a password becomes a session, and each request's token or cookie becomes an Actor.

Access tokens are JWTs that live for minutes and name a session; every use looks the session up, so that a revocation
takes effect at once. Refresh tokens and browser cookies are 256 random bits of which the database holds the SHA-256.
"""

from __future__ import annotations

from app.services.authentication.api_token_macs import ApiTokenMacs
from app.services.authentication.api_tokens import ApiTokenService, CreatedToken
from app.services.authentication.challenges import PasskeyChallenges
from app.services.authentication.devices import DEVICE_REMEMBERED_FOR, DeviceClaims
from app.services.authentication.enrolment import Enrolment, Enrolments
from app.services.authentication.factor_proof import FactorProof
from app.services.authentication.passkey_proof import PasskeyProof
from app.services.authentication.passkeys import PasskeyService
from app.services.authentication.passwords import PasswordProof
from app.services.authentication.pending import PENDING_SIGN_IN_LASTS, PendingSignIns
from app.services.authentication.requests import RequestAuthenticator, lasting_part, token_digest
from app.services.authentication.second_factor import FactorStatus, NewRecoveryCodes, SecondFactorService
from app.services.authentication.sessions import BrowserSession, KeptSession, Lifetimes, SessionStarts, TokenPair
from app.services.authentication.sign_in import AuthenticationService
from app.services.authentication.signing import Signatures, base64url, decoded

__all__ = [
    "DEVICE_REMEMBERED_FOR",
    "PENDING_SIGN_IN_LASTS",
    "ApiTokenMacs",
    "ApiTokenService",
    "AuthenticationService",
    "BrowserSession",
    "CreatedToken",
    "DeviceClaims",
    "Enrolment",
    "Enrolments",
    "FactorProof",
    "FactorStatus",
    "KeptSession",
    "Lifetimes",
    "NewRecoveryCodes",
    "PasskeyChallenges",
    "PasskeyProof",
    "PasskeyService",
    "PasswordProof",
    "PendingSignIns",
    "RequestAuthenticator",
    "SecondFactorService",
    "SessionStarts",
    "Signatures",
    "TokenPair",
    "base64url",
    "decoded",
    "lasting_part",
    "token_digest",
]
