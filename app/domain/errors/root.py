"""The root of every failure, and failures that never leave the services."""

from __future__ import annotations


class KeyhallError(Exception):
    """The root of everything that Keyhall raises on purpose. Messages never hold key material."""


class NoInstall(KeyhallError):
    """A command needs an install and there is none; only `run`, `web` and `bot` create one."""

    def __init__(self, message: str = "there is no install yet: start `keyhall run` once, it makes one") -> None:
        super().__init__(message)


class UniqueViolation(KeyhallError):
    """A repository was asked to insert what exists already; services turn it into an answer."""


class CryptoError(KeyhallError):
    """Ciphertext that does not open: one type for every cause, so that no cause can be probed."""
