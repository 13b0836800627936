"""Authentication: a password becomes a session, and each request's token or cookie becomes an Actor.

Access tokens are JWTs that live for minutes and name a session; every use looks the session up, so that a revocation
takes effect at once. Refresh tokens and browser cookies are 256 random bits of which the database holds the SHA-256.
"""

from __future__ import annotations

from app.services.authentication.requests import RequestAuthenticator
from app.services.authentication.sign_in import (
    PER_ACCOUNT,
    PER_ADDRESS,
    AuthenticationService,
    BrowserSession,
    Lifetimes,
    TokenPair,
)

__all__ = [
    "PER_ACCOUNT",
    "PER_ADDRESS",
    "AuthenticationService",
    "BrowserSession",
    "Lifetimes",
    "RequestAuthenticator",
    "TokenPair",
]
