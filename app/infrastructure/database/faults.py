"""The one table of causes why a database refuses: which heal by waiting, which halt a start, and their remedies.

Every cause has its own remedy. A remedy in backticks can be run as it is printed: by a shell, or by PostgreSQL's
superuser where it is SQL.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from dataclasses import replace
from typing import Final

from app.domain.errors import DatabaseFault

_LONGEST_OBJECT: Final = 63


def _waits(code: str, happened: str, remedy: str) -> DatabaseFault:
    return DatabaseFault(code=code, happened=happened, remedy=remedy)


def _halts(code: str, happened: str, remedy: str, *, damaged: bool = False) -> DatabaseFault:
    return DatabaseFault(code=code, happened=happened, remedy=remedy, heals=False, damaged=damaged)


_START_IT: Final = "start the database, or correct DATABASE_URL"
_RESTORE: Final = "stop every process and restore the newest backup"
_SCHEMA: Final = "run `GRANT USAGE, CREATE ON SCHEMA public TO {role}` in {database} as its owner or the superuser"
_WRITABLE: Final = "let the user who runs Keyhall read and write {file} and its directory"
_LOCAL: Final = "put DATA_DIR, or the file that DATABASE_URL names, on a local disk"

POSTGRESQL: Final = {
    each.code: each
    for each in (
        # By class (PostgreSQL, appendix A); a longer code further down goes before it.
        _waits("08", "lost or refused the connection", _START_IT),
        _halts("0A", "does not support what Keyhall asks for", "use PostgreSQL 13 or newer"),
        _halts("25", "does not keep transactions as PostgreSQL does", "connect to PostgreSQL itself"),
        _halts("28", "does not let the role {role} in", "allow the role in pg_hba.conf, or correct DATABASE_URL"),
        _waits("40", "ended the transaction in favour of another one", "stop what locks the tables"),
        _halts("42", "does not have what Keyhall created there", "point DATABASE_URL at the right database"),
        _waits("53", "has no resources left", "free memory on the server"),
        _waits("55", "holds back what Keyhall needs", "end the session that locks it"),
        _waits("57", "is ending connections", "wait until the server's operator is done, then start Keyhall again"),
        _waits("58", "has trouble with its own system", "look into the server's log"),
        _waits("XX", "reports an internal error", "look into the server's log"),
        # Exactly.
        _halts(
            "22023",
            "refuses a parameter of the connection",
            "take out of DATABASE_URL, and of the role's settings, each parameter that the server does not have",
        ),
        _halts(
            "25006",
            "is read-only",
            "use the primary server, or run `ALTER DATABASE {database} RESET default_transaction_read_only`",
        ),
        _waits("25P03", "ended an idle transaction", _START_IT),
        _halts(
            "28000",
            "does not let the role {role} in",
            "run `CREATE ROLE {role} LOGIN` as the superuser if it has no such role, else allow it in pg_hba.conf",
        ),
        _halts(
            "28P01",
            "refuses the password of the role {role}",
            "correct the password in DATABASE_URL, where `@`, `/` and `%` are written percent-encoded",
        ),
        _halts(
            "3D000",
            "is not on this server",
            "run `CREATE DATABASE {database} OWNER {role}` as the superuser, or correct DATABASE_URL",
        ),
        _halts("3F000", "has no schema that the role {role} may use", _SCHEMA),
        _halts("42501", "does not give the role {role} a right that it needs", _SCHEMA),
        _halts(
            "42704",
            "refuses a parameter of the connection",
            "take out of DATABASE_URL, and of the role's settings, each parameter that the server does not have",
        ),
        _halts("53100", "has no space left", "free some space on the server's disk"),
        _waits(
            "53300", "has no connection left", "raise max_connections, or lower DATABASE_CONNECTIONS of every process"
        ),
        _halts("53400", "has reached a limit that its operator set", "raise that limit; the server's log names it"),
        _waits("55P03", "is locked by somebody else", "end the session that locks it"),
        _halts(
            "55000",
            "does not accept connections",
            "run `ALTER DATABASE {database} ALLOW_CONNECTIONS true` as the superuser, or correct DATABASE_URL",
        ),
        _waits("57014", "took too long", "end the session that locks it"),
        _waits("57P03", "is starting up or shutting down", "wait for the server, then start Keyhall again"),
        _halts("57P04", "was dropped", "restore it from a backup, or correct DATABASE_URL"),
        _halts("XX001", "has a damaged page", _RESTORE, damaged=True),
        _halts("XX002", "has a damaged index", "run `REINDEX DATABASE {database}` as its owner", damaged=True),
        # Not the server's own codes: what Keyhall asks it before anything else.
        _halts(
            "server_encoding",
            "does not store its text as UTF-8",
            "run `CREATE DATABASE keyhall_utf8 OWNER {role} ENCODING 'UTF8' TEMPLATE template0` as the superuser, and "
            "name that one in DATABASE_URL",
        ),
    )
}
"""By SQLSTATE, or by its class."""

_BY_MESSAGE: Final = (
    (
        "08P01",
        re.compile(r"unsupported startup parameter"),
        _halts(
            "08P01",
            "is behind a pooler that refuses a start-up parameter",
            "add prepared_statement_cache_size=0 to DATABASE_URL, as PgBouncer in transaction mode needs it",
        ),
    ),
    (
        "08P01",
        re.compile(r"no such (database|user)|auth(entication)? failed|not allowed"),
        _halts(
            "08P01",
            "is behind a pooler that does not let the role {role} in",
            "name a database and a role in DATABASE_URL that the pooler's configuration has",
        ),
    ),
    (
        "42501",
        re.compile(r"must be owner of (?P<about>(?:table|sequence|view|schema) \S+)"),
        _halts(
            "42501",
            "does not let the role {role} change the {about}, which another role owns",
            "run `ALTER {about} OWNER TO {role}` as the superuser, and the same for every table of Keyhall",
        ),
    ),
    (
        "42501",
        re.compile(r"permission denied for (?P<about>schema \S+)"),
        _halts(
            "42501",
            "does not give the role {role} the right CREATE or USAGE on the {about}",
            "run `GRANT USAGE, CREATE ON {about} TO {role}` in {database} as its owner or the superuser",
        ),
    ),
    (
        "42501",
        re.compile(r"permission denied for (?P<about>table \S+)"),
        _halts(
            "42501",
            "does not give the role {role} the rights on the {about}",
            "run `GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}` in {database} as the owner of the tables",
        ),
    ),
    (
        "42501",
        re.compile(r"permission denied for (?P<about>sequence \S+)"),
        _halts(
            "42501",
            "does not give the role {role} the rights on the {about}",
            "run `GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}` in {database} as the owner of the tables",
        ),
    ),
    (
        "42501",
        re.compile(r"permission denied for (?P<about>database \S+)"),
        _halts(
            "42501",
            "does not give the role {role} the right CONNECT",
            "run `GRANT CONNECT ON DATABASE {database} TO {role}` as its owner or the superuser",
        ),
    ),
    (
        "ConnectionError",
        re.compile(r"rejected SSL upgrade"),
        _halts(
            "ConnectionError",
            "does not speak TLS, which DATABASE_URL demands",
            "switch TLS on at the server (`ssl = on`), or take sslmode or ssl out of DATABASE_URL",
        ),
    ),
)
"""Where one code stands for several causes: the message that each needs; the group `about` is read from it."""

SQLITE: Final = {
    each.code: each
    for each in (
        _waits("SQLITE_BUSY", "is locked by another process", "end the process that locks it, often a viewer"),
        _waits("SQLITE_LOCKED", "is locked by another connection", "end the process that locks it, often a viewer"),
        _waits("SQLITE_NOMEM", "found no memory", "free some memory"),
        _waits("SQLITE_INTERRUPT", "was interrupted", "start Keyhall again"),
        _waits("SQLITE_IOERR", "reports an error of its disk", "look into the system's log, and check the disk"),
        _waits("SQLITE_PROTOCOL", "is being opened by many processes at once", "start Keyhall again"),
        _halts("SQLITE_PERM", "may not be opened", _WRITABLE),
        _halts("SQLITE_AUTH", "may not be opened", _WRITABLE),
        _halts("SQLITE_CANTOPEN", "cannot be opened", _WRITABLE),
        _halts("SQLITE_CANTOPEN_ISDIR", "is a directory", "name a file in DATABASE_URL"),
        _halts("SQLITE_READONLY", "is read-only", _WRITABLE),
        _waits("SQLITE_READONLY_DBMOVED", "was moved away", "put the file back"),
        _halts("SQLITE_FULL", "has no space left", "free some space on its disk"),
        _halts("SQLITE_NOLFS", "is too large for this system", "move it to a system that has large files"),
        _halts("SQLITE_CORRUPT", "is damaged", _RESTORE, damaged=True),
        _halts("SQLITE_NOTADB", "is no SQLite database", _RESTORE, damaged=True),
        _halts("SQLITE_FORMAT", "is no SQLite database", _RESTORE, damaged=True),
        _halts("SQLITE_IOERR_CORRUPTFS", "is on a damaged file system", "repair the file system", damaged=True),
        _halts("SQLITE_IOERR_DATA", "is damaged", _RESTORE, damaged=True),
    )
}
"""By SQLite's extended or primary name."""

SYSTEM: Final = {
    each.code: each
    for each in (
        _waits("ECONNREFUSED", "refuses the connection: nothing listens there", _START_IT),
        _waits("ENOENT", "is not there: nothing listens there", _START_IT),
        _waits("TimeoutError", "did not answer in time", _START_IT),
        _waits("gaierror", "has a host whose name is not known", _START_IT),
        _waits("OSError", "could not be reached", _START_IT),
        _halts("EACCES", "may not be opened", _WRITABLE),
        _halts("EPERM", "may not be opened", _WRITABLE),
        _halts("EROFS", "is read-only", "mount its file system for writing"),
        _halts("ENOSPC", "has no space left", "free some space on its disk"),
        _halts("EDQUOT", "has no space left", "free some space on its disk, or raise the quota"),
        _halts("ENOTDIR", "is under a path that is no directory", "make its directory, or correct DATABASE_URL"),
        _halts("EEXIST", "is under a path that is no directory", "make its directory, or correct DATABASE_URL"),
        _halts("EISDIR", "is a directory", "name a file in DATABASE_URL"),
        _halts("ELOOP", "is behind a circle of symbolic links", "correct the links, or DATABASE_URL"),
        _halts("ENAMETOOLONG", "has a name that is too long", "correct DATABASE_URL"),
        _halts("ENOTSUP", "is on a file system that does not support WAL", _LOCAL),
        _halts(
            "SSLCertVerificationError",
            "has a TLS certificate that is not trusted, or not made out to this host",
            "name its certificate authority with sslrootcert in DATABASE_URL, and the host as the certificate has it",
        ),
        _halts("SSLError", "does not agree on TLS", "correct sslmode or ssl in DATABASE_URL"),
    )
}
"""By the name of the system's error, or of the exception where there is none."""

_OF_FILES: Final = frozenset(
    {"EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EEXIST", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOTSUP"}
)

_UNKNOWN: Final = _halts("", "refuses the connection", "look into the server's log, and correct DATABASE_URL")


def fault_of(cause: object) -> DatabaseFault | None:
    """The fault behind what a driver raised; None where the table has none."""
    code = _code(cause)
    if code is None:
        return None
    for stated, says, fault in _BY_MESSAGE:
        if code == stated and (found := says.search(str(cause))) is not None:
            about = found.groupdict().get("about", "")[: 2 * _LONGEST_OBJECT]
            return replace(fault, about=about.rstrip(".,;:"))
    found_fault = next((row for key in _keys(cause, code) if (row := _TABLE.get(key)) is not None), None)
    return None if found_fault is None else replace(found_fault, code=code)


def of_a_server(fault: DatabaseFault) -> DatabaseFault:
    """The fault as it concerns a server: its connection was refused by a firewall or a socket's mode, and no file.

    Either may be changed while a start waits.
    """
    return replace(_TABLE["OSError"], code=fault.code) if fault.code in _OF_FILES else fault


def named(code: str) -> DatabaseFault:
    """The fault of that code, which the table has."""
    return _TABLE[code]


def unknown(cause: object) -> DatabaseFault:
    """A refusal that the table does not have: halts, since nothing says that waiting would help."""
    return replace(_UNKNOWN, code=_code(cause) or type(cause).__name__)


_TABLE: Final = POSTGRESQL | SQLITE | SYSTEM


def _code(cause: object) -> str | None:
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    if isinstance(code, str):
        return code
    if isinstance(cause, ssl.SSLError | socket.gaierror):  # their errno is not the system's
        return type(cause).__name__
    if isinstance(cause, OSError):
        return errno.errorcode.get(cause.errno or 0, type(cause).__name__)
    return None


def _keys(cause: object, code: str) -> tuple[str, ...]:
    """From the exact code to the widest: SQLITE_IOERR_READ, SQLITE_IOERR; 57P03, 57; SSLZeroReturnError, SSLError."""
    if code.startswith("SQLITE_"):
        return code, "_".join(code.split("_")[:2])
    kinds = tuple(kind.__name__ for kind in type(cause).__mro__) if isinstance(cause, OSError) else (code[:2],)
    return code, *kinds
