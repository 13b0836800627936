"""Files of other programs, for imports by a command and at a start."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from app.domain.errors import KeyhallError, with_cause
from app.domain.imports import LARGEST_SOURCE, ImportStopped
from app.domain.secrets import SecretText
from app.services import Services
from app.services.audit import SYSTEM
from app.settings.secret_files import read_small_file

log = logging.getLogger(__name__)

_LARGEST_KEY_FILE: Final = 4096


def read_source(path: Path, *, largest: int = LARGEST_SOURCE) -> bytes:
    """The content of a regular file of at most ``largest`` bytes. Raises ImportStopped."""
    try:
        found = read_small_file(path, largest=largest)
    except OSError as error:
        raise ImportStopped(f"{path} cannot be read: {error.strerror}") from None
    if found is None:
        raise ImportStopped(f"{path} does not exist")
    return found[0]


async def import_at_start(services: Services, path: Path) -> None:
    """Import LEGACY_USERS_JSON, once. A failure stops no process from serving: the log and the Hall name it."""
    from app.services.imports.users_json import users_json  # noqa: PLC0415 - other starts read no such file

    try:
        content = await asyncio.to_thread(read_source, path)
        source = await asyncio.to_thread(users_json, content, path.name)
        report = await services.imports.run_once(SYSTEM, source, content, key=await asyncio.to_thread(_key_of, path))
    except KeyhallError as error:
        why = f"LEGACY_USERS_JSON was not imported: {'; '.join(with_cause(error).splitlines())}"
        log.error("%s; import it by `keyhall credentials import-json %s`", why, path)  # noqa: TRY400 - the cause is said
        services.imports.note_failure(why)
    except Exception:  # a bug here must not end the process
        log.exception("LEGACY_USERS_JSON was not imported")
        services.imports.note_failure("LEGACY_USERS_JSON was not imported: the log has the reason")
    else:
        if report is not None:
            log.info(
                "imported %d credentials and %d users from %s, skipped %d; `keyhall users claim-link NAME` prints the "
                "link by which a user signs in for the first time",
                report.credentials,
                report.users,
                path.name,
                len(report.skipped),
            )


def _key_of(path: Path) -> SecretText | None:
    beside = path.with_name(".encryption_key")
    return (
        SecretText(read_source(beside, largest=_LARGEST_KEY_FILE).decode("utf-8-sig", "replace"))
        if beside.exists()
        else None
    )
