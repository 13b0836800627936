"""Where the database is: DATABASE_URL, parsed and checked in one place."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote

from app.domain.secrets import SecretText
from app.domain.text import whole_number
from app.settings.values import PROJECT_ROOT

if TYPE_CHECKING:  # commands that never open a database do not pay for SQLAlchemy
    from sqlalchemy.engine import URL

_DRIVERS: Final = MappingProxyType(
    {
        "sqlite": "sqlite+aiosqlite",
        "sqlite+aiosqlite": "sqlite+aiosqlite",
        "postgres": "postgresql+asyncpg",
        "postgresql": "postgresql+asyncpg",
        "postgresql+asyncpg": "postgresql+asyncpg",
    }
)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PARAMETERS: Final = ("host", "port", "ssl", "sslrootcert", "prepared_statement_cache_size")
"""Parameters that may follow the question mark in a PostgreSQL URL; asyncpg refuses any other name."""


class DatabaseUrl:
    """A database that Keyhall can use: the file of an embedded one, or the URL of a server.

    Not a dataclass, so that no library that looks into dataclasses shows the password.
    """

    __slots__ = ("path", "server")

    def __init__(self, *, path: Path | None = None, server: URL | None = None) -> None:
        if (path is None) == (server is None):
            raise ValueError("a DatabaseUrl names a file or a server")
        self.path: Final = path
        """The absolute path of the SQLite file; None with PostgreSQL."""
        self.server: Final = server
        """The URL of the PostgreSQL database, with the driver asyncpg; None with SQLite."""

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Raises ValueError, whose reason names the part that is wrong and repeats neither password nor value."""
        from sqlalchemy import exc, make_url  # noqa: PLC0415

        try:
            url = make_url(text)
        except (exc.ArgumentError, ValueError):
            raise ValueError("must be a URL such as postgresql+asyncpg://user:password@host/database") from None
        driver = _DRIVERS.get(url.drivername)
        if driver is None:
            raise ValueError("must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
        if driver == "sqlite+aiosqlite":
            return cls(path=_sqlite_path(url))
        return cls(server=_server(url.set(drivername=driver)))

    @property
    def file(self) -> Path:
        """The absolute path of the SQLite file. Raises ValueError with PostgreSQL."""
        if self.path is None:
            raise ValueError("a PostgreSQL database has no file")
        return self.path

    @property
    def name(self) -> str:
        """Which database this is, without user and password: an absolute path, or host and database."""
        url = self.server
        if url is None:
            return str(self.path)
        host = url.host or ",".join(url.normalized_query.get("host", ())) or "localhost"
        return f"{host}:{url.port}/{url.database}" if url.port else f"{host}/{url.database}"

    @property
    def password(self) -> SecretText | None:
        """The password in the URL of a server."""
        password = self.server.password if self.server is not None else None
        return SecretText(str(password)) if password else None

    def tls(self) -> ssl.SSLContext | None:
        """How to prove the server's certificate with ``sslrootcert``; None without it.

        As in libpq, such a certificate authority is always asked, and the host is compared unless ``ssl`` says less.
        """
        root = self.server.query.get("sslrootcert") if self.server is not None else None
        if self.server is None or root is None:
            return None
        return _tls(str(root), verify_host=self.server.query.get("ssl", "verify-full") == "verify-full")

    def reveal(self) -> str:
        """The URL with its password."""
        if self.server is not None:
            return self.server.render_as_string(hide_password=False)
        return f"sqlite+aiosqlite:///{quote(str(self.path), safe='/ ')}"

    def __repr__(self) -> str:
        return f"<DatabaseUrl {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and (self.path, self.server) == (other.path, other.server)

    def __hash__(self) -> NoReturn:
        raise TypeError("DatabaseUrl is not hashable: a hash would be a trace of the password")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("DatabaseUrl cannot be pickled: it may hold a password")

    def __deepcopy__(self, memo: object) -> DatabaseUrl:
        return self


def _tls(root: str, *, verify_host: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if root == "system" else root)
    except (OSError, ValueError):
        raise ValueError("has a parameter sslrootcert that names no readable file of certificates") from None
    context.check_hostname = verify_host
    return context


def _sqlite_path(url: URL) -> Path:
    if url.host:
        raise ValueError("needs three slashes before a path in the project, four before an absolute path")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ValueError("must name a file: a database in memory would lose every key")
    if url.query:
        raise ValueError("takes no parameters after the path of an SQLite file")
    return PROJECT_ROOT / url.database


def _server(url: URL) -> URL:
    if not url.database:
        raise ValueError("must name the database, as in postgresql+asyncpg://host/database")
    if "sslmode" in url.query:  # libpq's name for what asyncpg calls ssl
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
    if unknown := sorted(set(url.query) - set(_PARAMETERS)):
        raise ValueError(
            f"has a parameter that is not known: {unknown[0][:40]}; known are sslmode, {', '.join(_PARAMETERS)}: "
            f"leave it out"
        )
    if url.query.get("ssl", "prefer") not in _SSL_MODES:
        raise ValueError(f"has a parameter ssl (or sslmode) that is none of {', '.join(_SSL_MODES)}")
    root = url.query.get("sslrootcert")
    if root is not None:
        if not isinstance(root, str) or url.query.get("ssl") == "disable":
            raise ValueError("has the parameter sslrootcert twice, or beside ssl=disable")
        if root != "system":  # libpq's name for the certificate authorities of the system
            root = str(PROJECT_ROOT / Path(root).expanduser())
            url = url.update_query_dict({"sslrootcert": root})
        _tls(root, verify_host=True)
    size = url.query.get("prepared_statement_cache_size", "0")
    if not isinstance(size, str) or whole_number(size) is None:
        raise ValueError("has a parameter prepared_statement_cache_size that is not a whole number, such as 0")
    return url
