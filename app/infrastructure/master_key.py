"""Where the master key comes from: MASTER_KEY, MASTER_KEY_FILE, or the file that a first start makes in DATA_DIR.

Where it is that file, Keyhall changes it as well: ``begin_change`` keeps the old key beside the new one, the database
is rewrapped, and ``finish_change`` removes the old one. If a process dies in between, the database's key is still in a
file.
"""

from __future__ import annotations

import base64
import logging
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from app.domain.errors import ConfigInvalid, InsecureKey
from app.domain.key_material import WeakKey, master_key_from_text
from app.domain.key_shapes import looks_like_key
from app.domain.keys import MATERIAL_BYTES, Environment
from app.domain.secrets import SecretBytes, SecretText
from app.domain.stored_secret import SecretPlace, StoredSecret
from app.infrastructure.data_directory import DataDirectory, LockedDirectory
from app.services.ports import Randomness
from app.settings.secret_files import check_secret_file_mode, read_small_file
from app.settings.values import IN_QUOTES, in_quotes, without_blanks

FILE_NAME: Final = "master.key"
PREVIOUS_FILE_NAME: Final = "master.key.previous"

_LARGEST: Final = 4096

log = logging.getLogger(__name__)


class MasterKeys:
    """Implements ``MasterKeySource`` from what the settings give.

    ``stored`` is the secret in AWS where ``master_key`` comes from it: the one of its former version is tried too.
    ``master_key`` and ``previous`` are texts, empty ones included; ``master_key_file`` is read and judged here, as
    somebody else's. The default file is ours alone, and judged more strictly, as is the previous key beside it.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        environment: Environment,
        randomness: Randomness,
        master_key: SecretText | None = None,
        master_key_file: Path | None = None,
        previous: SecretText | None = None,
        stored: StoredSecret | None = None,
    ) -> None:
        self._directory = DataDirectory(data_dir)
        self._environment = environment
        self._randomness = randomness
        self._master_key = master_key
        self._master_key_file = master_key_file
        self._previous = previous
        self._stored = stored if stored is not None and stored.current.master_key is not None else None
        self._former: list[SecretBytes] = []
        self._warned = False

    @property
    def default_file(self) -> Path:
        """Where ``create`` and ``install`` put the key."""
        return self._directory.path / FILE_NAME

    @property
    def place(self) -> SecretPlace | None:
        """The AWS secret that the current key comes from; None where it comes from elsewhere."""
        return None if self._stored is None else self._stored.place

    @property
    def previous_file(self) -> Path:
        """Where the old key is while the default file is being changed."""
        return self._directory.path / PREVIOUS_FILE_NAME

    @property
    def overridden_by(self) -> str | None:
        """The setting that goes before the default file; None where nothing does."""
        if self._master_key is not None:
            return "MASTER_KEY"
        return None if self._master_key_file is None else "MASTER_KEY_FILE"

    @property
    def in_default_file(self) -> bool:
        """Whether the current key comes from the default file, so that Keyhall itself can change it."""
        return self.overridden_by is None and os.path.lexists(self.default_file)

    def given(self) -> Sequence[SecretBytes]:
        """The current and, during a change, the previous master keys; empty when none is given.

        Raises InsecureKey for a key, or a file's mode, that must not be used, and ConfigInvalid for a file that cannot
        be read, a key given twice, and a previous key without a current one.
        """
        current = self._from_settings()
        older: list[SecretBytes | None] = []
        if self.overridden_by is None:
            # In this order: the old key is written before the current one is replaced, and goes when nothing needs it.
            current = self._from_private_file(self.default_file)
            older.append(self._from_private_file(self.previous_file))
        self._warn_once()
        if self._previous is not None:
            older.append(self._judge("MASTER_KEY_PREVIOUS", self._previous.reveal()))
        if self._stored is not None:
            older += [self._of_former_version(self._stored), *self._former]
        keys = [] if current is None else [current]
        for each in older:
            if each is not None and each not in keys:
                keys.append(each)
        if keys and current is None:
            raise self._previous_alone()
        return tuple(keys)

    def create(self) -> SecretBytes:
        """Make the default key file, or read it where another process was faster.

        The file is durable when this returns. Raises ConfigInvalid where it cannot be written, and as ``given`` does.
        """
        with self._directory.locked() as directory:
            existing = self._from_private_file(self.default_file)
            return existing or self._write_new(directory)

    def install(self, material: SecretBytes) -> bool:
        """Put a master key into the default file; False where it was there already.

        Raises ConfigInvalid where another key, or anything else, is there or the file cannot be written, and
        InsecureKey for a file that is open to others.
        """
        path = self.default_file
        with self._directory.locked() as directory:
            text = self._private_text(path)
            if text is None:
                directory.replace(FILE_NAME, _encode(material))
                return True
            try:
                existing = self._judge(str(path), text)
            except InsecureKey:  # empty or damaged: not to be lost either
                existing = None
        if existing != material:
            raise ConfigInvalid(
                f"{path} holds something else than this master key",
                remedy=f"if no install needs it, run `{_move(path, f'{path}.old')}` and repeat",
            )
        return False

    def renew(self, stored: StoredSecret) -> None:
        """Give the master key of a newer version of the AWS secret; those that were given before stay, behind it.

        Does nothing where the master key does not come from there. Raises InsecureKey, and then nothing changes.
        """
        if self._stored is None or self._master_key is None or stored.current.master_key is None:
            return
        self._judge("the AWS secret", stored.current.master_key.reveal())
        if stored.current.master_key != self._master_key:
            self._former.append(self._judge("MASTER_KEY", self._master_key.reveal()))
        self._master_key, self._stored = stored.current.master_key, stored

    def _of_former_version(self, stored: StoredSecret) -> SecretBytes | None:
        """The master key of AWSPREVIOUS; one that must not be used is none: nothing here is under it."""
        former = None if stored.previous is None else stored.previous.master_key
        try:
            return None if former is None else self._judge("AWSPREVIOUS", former.reveal())
        except InsecureKey:
            return None

    # -- changing the default file -------------------------------------------------------------------------------------

    def begin_change(self) -> SecretBytes:
        """Put a fresh key into the default file, the old one beside it, and return the fresh one.

        Where a change was begun before and not finished, its key is returned and nothing changes: rewrap the database
        under what is returned, then call ``finish_change``. Raises ConfigInvalid where the key is not in the default
        file or that cannot be written, and InsecureKey.
        """
        if self.overridden_by is not None:
            raise ConfigInvalid(
                f"the master key is given as {self.overridden_by}, so Keyhall cannot change it",
                remedy=f"give a new one as {self.overridden_by} and the old one as MASTER_KEY_PREVIOUS",
            )
        with self._directory.locked() as directory:
            current = self._from_private_file(self.default_file)
            if current is None:
                raise ConfigInvalid(
                    f"there is no master key in {self.default_file} to change", remedy="put the master key's file back"
                )
            previous = self._from_private_file(self.previous_file)
            if previous is not None and previous != current:
                return current
            # Killed after this, the two are the same, and the next call goes on from here.
            directory.replace(PREVIOUS_FILE_NAME, _encode(current), like=FILE_NAME)
            return self._write_new(directory)

    def finish_change(self, current: SecretBytes) -> None:
        """Let the previous key go: the database is under ``current``, durably.

        Does nothing where ``current`` is not the current key any more: then another change has begun since, which
        needs its own previous key. Raises ConfigInvalid, InsecureKey.
        """
        with self._directory.locked() as directory:
            if self._from_private_file(self.default_file) == current:
                directory.remove(PREVIOUS_FILE_NAME)

    def start_over(self, at: datetime) -> tuple[SecretBytes, Sequence[Path]]:
        """Put a fresh key into the default file, for an install whose own is lost.

        The former file and the previous key beside it are never deleted: they are moved to the returned paths.
        Raises ConfigInvalid where that cannot be done.
        """
        with self._directory.locked() as directory:
            suffix = f"lost-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
            moved = [directory.set_aside(name, suffix) for name in (FILE_NAME, PREVIOUS_FILE_NAME)]
            material = self._write_new(directory, like=moved[0])
        return material, [self._directory.path / name for name in moved if name is not None]

    # -- reading -------------------------------------------------------------------------------------------------------

    def _write_new(self, directory: LockedDirectory, *, like: str | None = None) -> SecretBytes:
        material = SecretBytes(self._randomness.token_bytes(MATERIAL_BYTES))
        directory.replace(FILE_NAME, _encode(material), like=like)
        return material

    def _from_settings(self) -> SecretBytes | None:
        text, path = self._master_key, self._master_key_file
        if text is not None and path is not None:
            raise ConfigInvalid(
                "MASTER_KEY is given twice, the other time as MASTER_KEY_FILE",
                remedy="keep one of MASTER_KEY and MASTER_KEY_FILE",
            )
        if text is not None:
            return self._judge("MASTER_KEY", text.reveal())
        if path is None:
            return None
        content, mode = self._read("MASTER_KEY_FILE", path) or (None, 0)
        if content is None:
            named = "a file" if looks_like_key(str(path)) else str(path)  # it may be the key itself
            raise ConfigInvalid(
                f"MASTER_KEY_FILE names {named}, which is not there",
                remedy="let MASTER_KEY_FILE name the file; the key itself belongs into MASTER_KEY",
            )
        check_secret_file_mode("MASTER_KEY", path, mode, warn=not self._warned)
        return self._judge(str(path), content)

    def _from_private_file(self, path: Path) -> SecretBytes | None:
        text = self._private_text(path)
        return None if text is None else self._judge(str(path), text)

    def _private_text(self, path: Path) -> str | None:
        content, mode = self._read("the master key", path) or (None, 0)
        if mode & 0o077:
            raise InsecureKey(
                f"the master key in {path} is open to group or others",
                remedy=f"run `chmod 600 {shlex.quote(str(path))}`",
            )
        return content

    def _warn_once(self) -> None:
        if self._warned:  # the key is read again with every reload of the keys
            return
        self._warned = True
        if self.overridden_by is not None and os.path.lexists(self.default_file):
            log.warning("MASTER_KEY overrides the master key in %s, which is not read", self.default_file)
        elif self.overridden_by is None and os.path.lexists(self.previous_file):
            log.warning(
                "a change of the master key is under way or was cut short, for %s is there: "
                "`keyhall keys rotate-master` finishes it",
                self.previous_file,
            )

    def _previous_alone(self) -> ConfigInvalid:
        if self._previous is not None:
            return ConfigInvalid(
                "MASTER_KEY_PREVIOUS is given without a master key",
                remedy="give the new master key as MASTER_KEY or MASTER_KEY_FILE beside it",
            )
        return ConfigInvalid(
            f"{self.previous_file} is there, and {self.default_file} is not",
            remedy="put the current master key back; where there is no copy of it, the previous one may still open the "
            f"install: run `{_move(self.previous_file, str(self.default_file))}`",
        )

    def _read(self, what: str, path: Path) -> tuple[str, int] | None:
        try:
            found = read_small_file(path, largest=_LARGEST)
        except OSError as error:
            raise ConfigInvalid(
                f"{what} cannot be read from {path}: {error.strerror}",
                remedy="put a file with the master key there that the user who runs Keyhall may read",
            ) from error
        # Bytes that are no UTF-8 are no master key; the replacement character makes them fail as one.
        return None if found is None else (found[0].decode(errors="replace"), found[1])

    def _judge(self, source: str, text: str) -> SecretBytes:
        try:
            return SecretBytes(master_key_from_text(without_blanks(text), self._environment))
        except WeakKey as weak:
            why = f"it {IN_QUOTES}" if in_quotes(without_blanks(text)) else weak
            raise InsecureKey(
                f"the master key from {source} is refused: {why}",
                remedy="give the install's own master key; a new install takes 32 random bytes in base64 or hex, "
                "such as `keyhall keys generate-master` prints",
            ) from None


class OneMasterKey:
    """Implements ``MasterKeySource`` with a key that somebody has just given, and with no other."""

    def __init__(self, material: SecretBytes) -> None:
        self._material = material

    def given(self) -> Sequence[SecretBytes]:
        """That key."""
        return (self._material,)

    def create(self) -> SecretBytes:
        """The same: there is nothing to make."""
        return self._material


class MasterKeysOfAMove:
    """Implements ``MasterKeySource`` for an install that moves to another environment.

    The ``given`` ones are judged as there and go first; the keys that open it where it is, in the ``default`` file and
    MASTER_KEY_PREVIOUS, are judged as in the present ``environment``.
    """

    def __init__(
        self, *, given: MasterKeys, default: MasterKeys, previous: SecretText | None, environment: Environment
    ) -> None:
        self._given = given
        self._default = default
        self._previous = previous
        self._environment = environment

    def given(self) -> Sequence[SecretBytes]:
        """The key of the environment to move to, then those that may open the install. Raises as ``MasterKeys``."""
        keys = list(self._given.given())
        former = list(self._default.given()) if self._given.overridden_by is not None else []
        if self._previous is not None:
            try:
                text = without_blanks(self._previous.reveal())
                former.append(SecretBytes(master_key_from_text(text, self._environment)))
            except WeakKey as weak:
                raise InsecureKey(
                    f"the master key from MASTER_KEY_PREVIOUS is refused: {weak}", remedy="give the former master key"
                ) from None
        return tuple(keys + [each for each in former if each not in keys]) if keys else ()

    def create(self) -> SecretBytes:
        """Nothing is made for a move. Raises ConfigInvalid where no key is there."""
        return self._default.create()


def _encode(material: SecretBytes) -> bytes:
    return base64.b64encode(material.reveal()) + b"\n"


def _move(path: Path, to: str) -> str:
    return f"mv {shlex.quote(str(path))} {shlex.quote(to)}"
