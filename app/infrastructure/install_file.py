"""``install.json``: what an install remembers outside its database, so that a lost or older database is noticed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from app.domain.errors import ConfigInvalid, InstallMismatch
from app.infrastructure.data_directory import DataDirectory, not_a_directory
from app.services.ports import RememberedInstall
from app.settings.secret_files import read_small_file

FILE_NAME: Final = "install.json"
FORMAT: Final = 1

_LARGEST: Final = 64 * 1024


class InstallFile:
    """Implements ``InstallRecord`` in a file of mode 0600 in DATA_DIR."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = DataDirectory(data_dir)
        self._path = data_dir / FILE_NAME

    def read(self) -> RememberedInstall | None:
        """The remembered install, or None where there is no file.

        Raises InstallMismatch if the file is damaged, ConfigInvalid if it may not be read.
        """
        try:
            found = read_small_file(self._path, largest=_LARGEST)
        except PermissionError as error:
            raise ConfigInvalid(
                f"{self._path} cannot be read: {error.strerror}",
                remedy="let the user who runs Keyhall read it",
            ) from error
        except OSError as error:
            if not self._path.parent.is_dir():
                raise not_a_directory(self._path.parent) from error
            raise self._damaged(str(error.strerror)) from error
        if found is None:
            return None
        try:
            return _decode(found[0])
        except (ValueError, RecursionError):
            raise self._damaged("it is not what Keyhall wrote") from None

    def remember(self, install_id: str, epochs: Mapping[str, int]) -> None:
        """Write atomically what is new; an epoch never goes down.

        Raises InstallMismatch if another install, or nothing legible, is remembered; ConfigInvalid if it cannot be
        written.
        """
        if self._merged(install_id, epochs) is None:
            return
        with self._directory.locked() as directory:
            merged = self._merged(install_id, epochs)  # again: another process may have written meanwhile
            if merged is not None:
                directory.replace(FILE_NAME, _encode(merged))

    def prove(self) -> None:
        """Make sure that it could be written. Raises ConfigInvalid."""
        with self._directory.locked() as directory:
            directory.prove()

    def _merged(self, install_id: str, epochs: Mapping[str, int]) -> RememberedInstall | None:
        """The content to write, or None where the file has it already."""
        known = self.read()
        if known is None:
            return RememberedInstall(install_id=install_id, epochs=dict(epochs))
        if known.install_id != install_id:
            raise InstallMismatch(
                f"{self._path} belongs to install {known.install_id}, the database holds install {install_id}",
                remedy="point DATABASE_URL at the right database, or DATA_DIR at the right directory",
            )
        highest = dict(known.epochs)
        for name, epoch in epochs.items():
            highest[name] = max(epoch, highest.get(name, epoch))
        if highest == known.epochs:
            return None
        return RememberedInstall(install_id=install_id, epochs=highest)

    def _damaged(self, how: str) -> InstallMismatch:
        path = str(self._path)
        return InstallMismatch(
            f"{path} does not say which install this is: {how}",
            remedy="put a copy of it back; if the database is certainly the right one, "
            f"run `mv {shlex.quote(path)} {shlex.quote(path + '.damaged')}` and the next start writes a new one",
        )


def _encode(install: RememberedInstall) -> bytes:
    members = {"format": FORMAT, "install_id": install.install_id, "epochs": dict(install.epochs)}
    return json.dumps(members, indent=2, sort_keys=True).encode() + b"\n"


def _decode(content: bytes) -> RememberedInstall:
    """Raises ValueError or RecursionError for anything that ``_encode`` did not write, up to white space."""
    members: Any = json.loads(content.decode(), object_pairs_hook=_unique)
    if not isinstance(members, dict) or members.keys() != {"format", "install_id", "epochs"}:
        raise ValueError
    install_id, epochs = members["install_id"], members["epochs"]
    if type(members["format"]) is not int or members["format"] != FORMAT:
        raise ValueError
    if not isinstance(install_id, str) or not install_id.isascii() or not install_id.isprintable() or not install_id:
        raise ValueError
    if not isinstance(epochs, dict) or not all(type(epoch) is int and epoch >= 1 for epoch in epochs.values()):
        raise ValueError
    return RememberedInstall(install_id=install_id, epochs=MappingProxyType(epochs))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members
