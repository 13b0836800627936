"""`make texts`: find every text that people read, and bring the catalogues of all languages up to date with them.

A text that is new stands in a catalogue without a translation, one that is gone is deleted from it, and nothing is
guessed. `docs/contributing.md`, "Texts and languages", says how to mark a text.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_python
from babel.messages.pofile import read_po, write_po

from app.domain import errors
from app.domain.errors import AppError
from app.localisation import Language
from app.localisation.refusals import numbered

ROOT: Final = Path(__file__).parents[1]
CATALOGUES: Final = ROOT / "app/localisation"
KEYWORDS: Final[dict[str, tuple[Any, ...] | None]] = {
    "_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "mark": None,
    "say": (2,),
    "translated": (2,),
    "button": (2,),
}
"""The functions whose arguments are texts, as gettext has it: the number of the argument, None for the first."""
TEMPLATES: Final = {"trimmed": "true", "newstyle_gettext": "true", "silent": "false"}
_UNSTABLE: Final = tuple(
    f'"{header}:'.encode()
    for header in (
        "Project-Id-Version",
        "Report-Msgid-Bugs-To",
        "POT-Creation-Date",
        "PO-Revision-Date",
        "Last-Translator",
        "Language-Team",
        "Generated-By",
    )
)
"""Headers that say nothing or change each time: a catalogue changes where a text does, and nowhere else."""
_REASON: Final = {"InvalidInput": 1}
"""The argument with the reason, for errors where it is not the first."""


Found = tuple[int, Any, Any, Any]
"""Line, function, text or texts, comments: what Babel takes from an extraction."""


def python(
    source: IO[bytes], keywords: Mapping[str, Any], comment_tags: Sequence[str], options: Any
) -> Iterator[Found]:
    """The texts in the calls of ``keywords``; and of errors, the titles, and the reasons with which they are raised."""
    yield from extract_python(source, keywords, comment_tags, options)
    source.seek(0)
    yield from _refusals(ast.parse(source.read()))


def _refusals(tree: ast.Module) -> Iterator[Found]:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AppError)}
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in owner.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "title":
                yield from _reason(node.value)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func).removeprefix("errors.")
        if name in kinds or name == "super().__init__":
            for argument in call.args[_REASON.get(name, 0) :][:1]:
                yield from _reason(argument)


def _reason(argument: ast.expr) -> Iterator[Found]:
    """The text of an argument; of several that depend on a condition, each."""
    if isinstance(argument, ast.IfExp):
        yield from _reason(argument.body)
        yield from _reason(argument.orelse)
        return
    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    texts = [part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "0" for part in parts]
    if any(text.strip("0: ") for text in texts):
        yield argument.lineno, None, numbered("".join(texts))[0], []


METHODS: Final[list[tuple[str, Any]]] = [
    # Only commands and logs show what these say.
    *((f"app/services/{each}/**.py", "ignore") for each in ("backup", "imports", "keys", "rotation")),
    ("app/services/audit_trail/verification.py", "ignore"),
    ("app/services/outside_secrets.py", "ignore"),
    *((f"app/{each}/**.py", python) for each in ("domain", "services", "bot", "web", "localisation")),
    ("app/web/templates/**.html", "jinja2"),
]


def extracted() -> Catalog:
    """Every text in the sources."""
    catalog = Catalog()
    found = extract_from_dir(
        ROOT,
        METHODS,
        {"app/web/templates/**.html": TEMPLATES},
        KEYWORDS,
        directory_filter=lambda path: not Path(path).name.startswith((".", "_")) and _holds_texts(Path(path)),
    )
    for _, _, message, _, context in found:
        catalog.add(message, context=context)
    return catalog


def _holds_texts(directory: Path) -> bool:
    return directory.relative_to(ROOT).parts[0] == "app"


def path_of(language: Language) -> Path:
    """The catalogue of that language."""
    return CATALOGUES / f"{language}.po"


def brought_up_to_date(language: Language, template: Catalog) -> bytes:
    """The catalogue of that language with exactly the texts of ``template``; translations stay."""
    with path_of(language).open("rb") as source:
        catalog = read_po(source, locale=language)
    catalog.update(template, no_fuzzy_matching=True, update_creation_date=False)
    written = BytesIO()
    write_po(written, catalog, width=120, no_location=True, sort_output=True, ignore_obsolete=True)
    lines = written.getvalue().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(_UNSTABLE))


def main() -> int:
    """Write the catalogues, and print what is to be translated."""
    template = extracted()
    for language in Language:
        if language is Language.ENGLISH:
            continue
        content = brought_up_to_date(language, template)
        path_of(language).write_bytes(content)
        missing = [message for message in read_po(BytesIO(content)) if message.id and not all_strings(message.string)]
        for message in missing:
            print(f"{language}: {message.id!r}")
        print(f"{path_of(language).relative_to(ROOT)}: {len(missing)} to translate")
    return 0


def all_strings(string: str | Sequence[str] | None) -> bool:
    """Whether a translation is there, in all its plural forms."""
    return all([string] if isinstance(string, str) else string or [""])


if __name__ == "__main__":
    sys.exit(main())
