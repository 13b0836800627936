"""Where the master key comes from: MASTER_KEY, MASTER_KEY_FILE, or the file that a first start makes in DATA_DIR."""

from __future__ import annotations

import base64
import logging
import os
import shlex
from typing import TYPE_CHECKING, Final

from app.domain.adoption import WeakKey, master_key_from_text
from app.domain.errors import ConfigInvalid, InsecureKey
from app.domain.keys import MATERIAL_BYTES
from app.domain.secrets import SecretBytes
from app.infrastructure.data_directory import DataDirectory
from app.infrastructure.secret_files import judge_given_file, read_small_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.domain.keys import Environment
    from app.domain.secrets import SecretText
    from app.services.ports import Randomness

FILE_NAME: Final = "master.key"

_LARGEST: Final = 4096

log = logging.getLogger(__name__)


class MasterKeys:
    """Implements ``MasterKeySource`` from what the settings give.

    ``master_key`` and ``previous`` are texts, empty ones included; ``master_key_file`` is read and judged here, as
    somebody else's. The default file is ours alone, and judged more strictly.
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
    ) -> None:
        self._directory = DataDirectory(data_dir)
        self._environment = environment
        self._randomness = randomness
        self._master_key = master_key
        self._master_key_file = master_key_file
        self._previous = previous
        self._warned = False

    @property
    def default_file(self) -> Path:
        """Where ``create`` puts the key."""
        return self._directory.path / FILE_NAME

    def given(self) -> Sequence[SecretBytes]:
        """The current and, during a change, the previous master key; empty when none is given.

        Raises InsecureKey for a key, or a file's mode, that must not be used, and ConfigInvalid for a file that cannot
        be read, a key given twice, and a previous key without a current one.
        """
        current = self._from_settings()
        if current is None:
            current = self._from_default_file()
        elif not self._warned and os.path.lexists(self.default_file):
            log.warning("MASTER_KEY overrides the master key in %s, which is not read", self.default_file)
        self._warned = True  # the key is read again with every reload of the keys
        if self._previous is None:
            return () if current is None else (current,)
        if current is None:
            raise ConfigInvalid(
                "MASTER_KEY_PREVIOUS is given without a master key",
                remedy="give the new master key as MASTER_KEY or MASTER_KEY_FILE beside it",
            )
        previous = self._judge("MASTER_KEY_PREVIOUS", self._previous.reveal())
        return (current,) if previous == current else (current, previous)

    def create(self) -> SecretBytes:
        """Make the default key file, or read it where another process was faster.

        The file is durable when this returns. Raises ConfigInvalid where it cannot be written, and as ``given`` does.
        """
        with self._directory.locked() as directory:
            existing = self._from_default_file()
            if existing is not None:
                return existing
            material = self._randomness.token_bytes(MATERIAL_BYTES)
            directory.replace(FILE_NAME, base64.b64encode(material) + b"\n")
            return SecretBytes(material)

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
            raise ConfigInvalid(f"MASTER_KEY_FILE names {path}, which is not there", remedy="correct MASTER_KEY_FILE")
        judge_given_file("MASTER_KEY", path, mode, warn=not self._warned)
        return self._judge(str(path), content)

    def _from_default_file(self) -> SecretBytes | None:
        path = self.default_file
        content, mode = self._read("the master key", path) or (None, 0)
        if content is None:
            return None
        if mode & 0o077:
            raise InsecureKey(
                f"the master key in {path} is open to group or others",
                remedy=f"run `chmod 600 {shlex.quote(str(path))}`",
            )
        return self._judge(str(path), content)

    def _read(self, what: str, path: Path) -> tuple[str, int] | None:
        try:
            found = read_small_file(path, largest=_LARGEST)
        except OSError as error:
            raise ConfigInvalid(
                f"{what} cannot be read from {path}: {error.strerror}",
                remedy="put a file with the master key there that the user who runs Keyhall may read",
            ) from error
        # What is not UTF-8 is no master key either; the replacement character makes it fail as one.
        return None if found is None else (found[0].decode(errors="replace"), found[1])

    def _judge(self, source: str, text: str) -> SecretBytes:
        try:
            return SecretBytes(master_key_from_text(text.strip(), self._environment))
        except WeakKey as weak:
            raise InsecureKey(
                f"the master key from {source} is refused: {weak}",
                remedy="give the install's own master key; a new install takes 32 random bytes in base64 or hex, "
                "such as keyhall keys generate-master prints",
            ) from None
