"""`make keys-generate ENV=…` and `make keys-validate ENV=…`: the keys in `env/.env.<ENV>`.

ENV and FORCE come from the environment, so that nothing that is typed there reaches a shell. No value is printed, and
none is an argument of a process.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream

from app.domain.key_material import WeakKey, master_key_from_text, parse_external_key, same_bytes
from app.domain.keys import APPLICATION_KEYS, MATERIAL_BYTES, Environment, KeyName
from app.domain.placeholders import is_placeholder
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.invocation import runnable
from app.infrastructure.private_files import write
from app.settings import PROJECT_ROOT
from app.settings.secret_files import read_text_file
from app.settings.values import own_text, path_in_project, without_blanks

DIRECTORY: Final = PROJECT_ROOT / "env"
ENVIRONMENTS: Final[Mapping[str, Environment]] = {
    "dev": Environment.DEVELOPMENT,
    "test": Environment.TEST,
    "ci": Environment.TEST,
    "staging": Environment.STAGING,
    "production": Environment.PRODUCTION,
}
ALIASES: Final[Mapping[str, str]] = {"development": "dev", "testing": "test", "prod": "production"}
ALWAYS_JUDGED: Final = ("MASTER_KEY", *(name.value for name in APPLICATION_KEYS))
JUDGED_WHERE_GIVEN: Final = ("MASTER_KEY_PREVIOUS", "SECRET_KEY", "CREDENTIAL_ENCRYPTION_KEY")
GENERATED: Final = (*ALWAYS_JUDGED, "SECRET_KEY")
_SAME: Final = {"SECRET_KEY": "JWT_SECRET_KEY"}
_BOM: Final = "\ufeff"
_VALUE: Final = re.compile(
    r"""'(?P<single>(?:\\'|[^'])*)'|"(?P<double>(?:\\"|[^"])*)"|(?P<bare>[^\r\n]*?)(?=\s+\#|\s*$)"""
)


class Refused(Exception):
    """The command cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """`env/.env.<name>`, and the template that it is made from."""

    name: str

    @classmethod
    def named(cls, typed: str) -> EnvFile:
        """The file for what somebody typed as ENV. Raises Refused."""
        word = typed.strip().lower()
        name = ALIASES.get(word, word)
        if name not in ENVIRONMENTS:
            raise Refused(f"ENV must be one of {', '.join(ENVIRONMENTS)}: make … ENV=dev")
        return cls(name)

    @property
    def path(self) -> Path:
        """The file with the keys; never in a commit."""
        return DIRECTORY / f".env.{self.name}"

    @property
    def template(self) -> Path:
        """The file that it is made from."""
        return DIRECTORY / f".env.{self.name}.example"


def main(command: str) -> int:
    """Run ``generate`` or ``validate``; the result is the exit code."""
    try:
        file = EnvFile.named(os.environ.get("ENV", "dev"))  # noqa: TID251 - of make, no setting
        return {"generate": generate, "validate": validate}[command](file)
    except Refused as refused:
        print(f"make keys-{command}: {refused}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"make keys-{command}: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1


# ---------------------------------------------------------------------------------------------------------------------
# Generate
# ---------------------------------------------------------------------------------------------------------------------


def generate(file: EnvFile) -> int:
    """Fill placeholders of keys; with FORCE replace every key, and keep the former file beside it."""
    force = _forced()
    there = os.path.lexists(file.path)
    content = _read(file.path if there else file.template)
    filled, names = fill(content, force=force)
    if there and not names:
        print(f"{_shown(file.path)}: every key is set already, nothing was changed (FORCE=1 replaces them)")
        return 0
    if there and force:
        _keep(file, content)
    write(file.path, _encoded(filled), replace=True)
    for name in names:
        print(f"{_shown(file.path)}: {name} is new")
    if not there:
        print(
            f"{_shown(file.path)} was made from {_shown(file.template)}"
            + ("" if names else ", which has no key to fill")
        )
    if there and force:
        _say_what_follows(file, names)
    _say_how_it_is_read(file)
    return 0


def fill(content: str, *, force: bool) -> tuple[str, Sequence[str]]:
    """The text with new keys for placeholders, everything else to the letter; and the names that were filled.

    With ``force`` for every key that is set. SECRET_KEY is JWT_SECRET_KEY, so both get one value.
    """
    bom, text = (_BOM, content.removeprefix(_BOM)) if content.startswith(_BOM) else ("", content)
    bindings = list(parse_stream(io.StringIO(text, newline="")))
    elsewhere = _given_elsewhere(bindings)
    fresh: dict[str, str] = {}
    if not force:
        kept = [each for each in bindings if each.key in {*_SAME, *_SAME.values()} and not _is_place(each.value or "")]
        fresh = {_SAME.get(each.key or "", each.key or ""): each.value or "" for each in kept}
    parts, names = [bom], []
    for each in bindings:
        part = each.original.string
        mine = each.key in GENERATED and _SAME.get(each.key, each.key) not in elsewhere
        if each.key is not None and mine and not each.error and (force or _is_place(each.value or "")):
            key = fresh.setdefault(_SAME.get(each.key, each.key), SystemRandomness().token_bytes(MATERIAL_BYTES).hex())
            part = _with_value(part, key)
            names.append(each.key)
        parts.append(part)
    return "".join(parts), names


def _given_elsewhere(bindings: Sequence[Binding]) -> set[str]:
    """The keys that a file or AWS gives, by JWT_SECRET_KEY where SECRET_KEY is meant: one more would be given twice."""
    values = {each.key: without_blanks(each.value or "") for each in bindings if each.key}
    if values.get("SECRETS_BACKEND", "").lower() == "aws":
        return set(GENERATED)
    return {_SAME.get(name, name) for name in GENERATED if values.get(f"{name}_FILE")}


def _keep(file: EnvFile, content: str) -> None:
    """Put the former file aside as `.bak`; an older `.bak` gets a number, for it may hold the keys of an install."""
    backup = file.path.with_name(f"{file.path.name}.bak")
    if os.path.lexists(backup):
        if _read(backup) == content:
            return
        number = next(each for each in itertools.count(2) if not os.path.lexists(f"{backup}.{each}"))
        backup.rename(f"{backup}.{number}")
        print(f"the one before is now {_shown(backup)}.{number}")
    write(backup, _encoded(content), replace=True)


def _is_place(value: str) -> bool:
    """Whether a value only holds the place of a key."""
    return not without_blanks(value) or is_placeholder(value)


def _with_value(assignment: str, value: str) -> str:
    head, equals, rest = assignment.partition("=")
    if not equals:
        return assignment
    blanks = rest[: len(rest) - len(rest.lstrip(" \t"))]
    rest = rest[len(blanks) :]
    found = _VALUE.match(rest)
    if found is None:
        return assignment
    start, end = found.span(found.lastgroup or 0)
    return f"{head}={blanks}{rest[:start]}{value}{rest[end:]}"


def _forced() -> bool:
    given = os.environ.get("FORCE", "").strip().lower()  # noqa: TID251 - of make, no setting
    if given not in {"", "0", "1", "no", "yes", "false", "true"}:
        raise Refused("FORCE must be 1 or left out")
    return given in {"1", "yes", "true"}


def _say_what_follows(file: EnvFile, names: Sequence[str]) -> None:
    keys = [name for name in names if name in {each.value for each in APPLICATION_KEYS}]
    print(f"the former file is {_shown(file.path)}.bak")
    if "SECRET_KEY" in names and KeyName.JWT_SECRET_KEY.value not in keys:
        keys.insert(0, KeyName.JWT_SECRET_KEY.value)
    if keys:
        print("an install that was started with the former keys has to take the new ones over:")
        for name in keys:
            print(runnable(f"  `keyhall keys import {name} --from-settings`").replace("`", ""))
    if "MASTER_KEY" in names:
        print(
            "MASTER_KEY: put the former one into MASTER_KEY_PREVIOUS, then "
            + runnable("run `keyhall keys rotate-master`")
        )


def _say_how_it_is_read(file: EnvFile) -> None:
    link = PROJECT_ROOT / ".env"
    if not os.path.lexists(link):
        print(f"Keyhall reads .env alone: ln -s {_shown(file.path)} .env")


# ---------------------------------------------------------------------------------------------------------------------
# Validate
# ---------------------------------------------------------------------------------------------------------------------


def validate(file: EnvFile) -> int:
    """Print one line per key; exit 1 where one is bad."""
    if not os.path.lexists(file.path):
        raise Refused(f"{_shown(file.path)} is not there: make keys-generate ENV={file.name}")
    bindings = list(parse_stream(io.StringIO(_read(file.path).removeprefix(_BOM), newline="")))
    verdicts = list(judge(bindings, ENVIRONMENTS[file.name]))
    for name, good, said in verdicts:
        print(f"{'✅' if good else '❌'} {name} {said}")
    return 0 if all(good for _, good, _ in verdicts) else 1


def judge(bindings: Sequence[Binding], environment: Environment) -> Iterator[tuple[str, bool, str]]:
    """Of each key its name, whether it may be used in that environment, and a phrase; never a value."""
    given: dict[str, list[str]] = {}
    for each in bindings:
        if each.key:
            given.setdefault(each.key, []).append(each.value or "")
    written = _one(given, "APP_ENV")
    if written and written.lower() != environment:
        yield "APP_ENV", False, f"is another one: this file is for {environment}, and is judged as that"
    aws = (_one(given, "SECRETS_BACKEND") or "").lower() == "aws"
    seen: dict[bytes, str] = {}
    for name in (*ALWAYS_JUDGED, *JUDGED_WHERE_GIVEN):
        try:
            text = _text(given, name)
        except ValueError as refused:
            yield name, False, f"cannot be judged: {refused}"
            continue
        if text is not None:
            why = _why_not(name, text, environment) or _clash(name, text, seen)
            if aws and name in GENERATED and name != "MASTER_KEY":
                why = why or "with SECRETS_BACKEND=aws it belongs into the secret alone"
            said = f"{len(text)} characters"
            yield name, why is None, said if why is None else f"{said}: {why}"
        elif name in ALWAYS_JUDGED:
            yield name, *_absent(name, environment, aws=aws)


def _clash(name: str, text: str, seen: dict[bytes, str]) -> str | None:
    """Why this key may not stand beside those that were seen before it; None where it may."""
    if name == "CREDENTIAL_ENCRYPTION_KEY":  # of other software, which may have used one key for everything
        return None
    if name in _SAME:
        own = next((key for key, other in seen.items() if other == _SAME[name]), None)
        if own is not None and own != same_bytes(text):
            return f"it is another name of {_SAME[name]} and has a different value"
    other = seen.setdefault(same_bytes(text), _SAME.get(name, name))
    return None if other == _SAME.get(name, name) else f"it is {other} too: one key, one purpose"


def _one(given: Mapping[str, list[str]], name: str) -> str | None:
    return without_blanks(given[name][0]) if name in given else None


def _text(given: Mapping[str, list[str]], name: str) -> str | None:
    """The key itself, read from its file where one is named; None where it is set to nothing. Raises ValueError."""
    values, files = given.get(name, []), given.get(f"{name}_FILE", [])
    if len(values) > 1 or len(files) > 1:
        raise ValueError("it is given twice in the file")
    value = own_text(values[0]) if values else ""
    path = own_text(files[0]) if files else ""
    if path and (value or (values and name == "MASTER_KEY")):
        raise ValueError(f"it is given twice, the other time as {name}_FILE")
    if path:
        text = own_text(read_text_file(path_in_project(path)))
        if not text:
            raise ValueError(f"the file that {name}_FILE names is empty")
        return text
    return value if value or (values and name == "MASTER_KEY") else None


def _why_not(name: str, text: str, environment: Environment) -> str | None:
    try:
        if name.startswith("MASTER_KEY"):
            master_key_from_text(text, environment)
        elif name == "CREDENTIAL_ENCRYPTION_KEY":
            parse_external_key(KeyName.ENCRYPTION_KEY, text, environment)
        else:
            parse_external_key(KeyName(_SAME.get(name, name)), text, environment)
    except WeakKey as weak:
        return str(weak)
    return None


def _absent(name: str, environment: Environment, *, aws: bool) -> tuple[bool, str]:
    if aws:
        return True, "is not here: SECRETS_BACKEND=aws"
    if name != "MASTER_KEY":
        return True, "is not given: Keyhall generates it"
    if environment.may_create_master_key:
        return True, "is not given: the first start makes DATA_DIR/master.key"
    return False, f"is not given: APP_ENV={environment} demands MASTER_KEY, MASTER_KEY_FILE or DATA_DIR/master.key"


# ---------------------------------------------------------------------------------------------------------------------
# Shared
# ---------------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """The text to the letter, with its byte order mark; bytes that are not UTF-8 as lone surrogates. Raises Refused."""
    try:
        text = read_text_file(path)
    except ValueError as refused:
        raise Refused(f"{_shown(path)} {refused}") from None
    with path.open("rb") as opened:
        return (_BOM if opened.read(3) == _BOM.encode() else "") + text


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT)) if path.is_relative_to(PROJECT_ROOT) else str(path)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
