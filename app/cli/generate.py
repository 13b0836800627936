"""``keyhall keys generate``: fresh keys for an environment or for a secret in AWS; nothing of an install is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, show_json
from app.cli.rotation import ApplicationKey, offered
from app.domain.errors import InvalidInput
from app.domain.placeholders import is_placeholder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.backend import Backend

_LARGEST: Final = 1 << 20
_MASTER: Final = "MASTER_KEY"
_OTHER_NAMES: Final = {"SECRET_KEY": ApplicationKey.JWT_SECRET_KEY.value}


def _offered(text: str) -> str:
    return _MASTER if text.strip().upper() == _MASTER else str(offered(text))


_Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", parser=_offered, show_choices=False, help="Which keys; left out: all of them."),
]


def generate(
    context: typer.Context,
    names: _Names = None,
    master: Annotated[bool, typer.Option("--master", help="A MASTER_KEY, too.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            dir_okay=False,
            metavar="FILE",
            help="Put them into the JSON object in FILE (made with mode 0600): NAMEs are replaced; without a NAME, "
            "what is missing is filled in.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make fresh keys, 32 random bytes each in hex, on standard output or into a JSON file for AWS.

    Nothing is stored: an install takes them over at its first start, later with `keyhall keys import`.
    """
    opened = backend(context)
    wanted = [*([_MASTER] if master else []), *(names or map(str, ApplicationKey))]
    if into is not None:
        _into_file(opened, into, wanted, replaced=names or ())
        return
    fresh = {name: opened.new_key() for name in wanted}
    if as_json:
        show_json(fresh)
        return
    for name, value in fresh.items():
        typer.echo(f"{name}={value}")


def _into_file(opened: Backend, path: Path, wanted: Sequence[str], *, replaced: Sequence[str]) -> None:
    members = _members(path)
    fields = {_OTHER_NAMES.get(field.upper(), field.upper()): field for field in members}
    filled = [name for name in wanted if name in replaced or name not in fields or _is_missing(members[fields[name]])]
    for name in filled:
        members[fields.get(name, name)] = opened.new_key()
    if not filled:
        typer.echo(f"{path} has every key already, nothing was changed; name a key to replace it")
        return
    try:
        opened.write_private_file(path, json.dumps(members, indent=2, ensure_ascii=False) + "\n", replace=True)
    except OSError as error:
        raise InvalidInput("--into", f"{path} cannot be written: {error.strerror}") from None
    for name in filled:
        typer.echo(f"{path}: {fields.get(name, name)} is new")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and (not value.strip() or is_placeholder(value)))


def _members(path: Path) -> dict[str, Any]:
    """The JSON object in the file; none where there is no file. Raises InvalidInput, which repeats nothing of it."""
    try:
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidInput("--into", f"{path} cannot be read: {error.strerror}") from None
    try:
        found = json.loads(content.decode("utf-8-sig")) if len(content) <= _LARGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("--into", f"{path} holds no JSON object: correct it or name another file")
    if len({field.upper() for field in found}) != len(found):
        raise InvalidInput("--into", f"{path} names a field twice, in capitals and in small letters")
    return found
