"""The root of every failure, and failures that never leave the services."""

from __future__ import annotations


class KeyhallError(Exception):
    """The root of everything that Keyhall raises on purpose. Messages never hold key material."""


def with_cause(error: BaseException) -> str:
    """The message of an error with its notes and its cause, for the log; of foreign errors the type only.

    Notes hold what an operator can look up, such as an SQLSTATE. Messages of foreign errors may quote data.
    """
    said = [str(error) if isinstance(error, KeyhallError) else type(error).__name__]
    said += [f"({note})" for note in getattr(error, "__notes__", ())]
    if error.__cause__ is not None:
        said.append(f"because of: {with_cause(error.__cause__)}")
    return " ".join(said)


class NoInstall(KeyhallError):
    """A command needs an install and there is none; only `run`, `web` and `bot` create one."""

    def __init__(self, message: str = "there is no install yet: start `keyhall run` once, it makes one") -> None:
        super().__init__(message)


class UniqueViolation(KeyhallError):
    """A repository was asked to insert what exists already; services turn it into an answer."""


class CryptoError(KeyhallError):
    """Ciphertext that does not open: one type for every cause, so that no cause can be probed."""
