"""The documentation is part of the product: what exists is in it, and what is in it exists."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import typer

import app
from app.cli import build_cli
from app.cli.backend import Backend, Run
from app.domain.errors import AppError, StartupError
from app.services import Services
from app.settings import PROJECT_ROOT, Settings
from app.web.options import WebOptions
from app.web.problems import status_of
from app.web.server import build_app

DOCS = PROJECT_ROOT / "docs"
DOCUMENTS = sorted([PROJECT_ROOT / "README.md", PROJECT_ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
COMPLIANCE = DOCS / "compliance.md"
INSTALL = DOCS / "install.md"
OPERATIONS = DOCS / "operations.md"
REFERENCE = DOCS / "reference.md"
API = DOCS / "api.md"

SOURCES_WITH_COMMANDS = [
    path for path in sorted((PROJECT_ROOT / "app").rglob("*.py")) if "`keyhall " in path.read_text(encoding="utf-8")
]

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))

# ---------------------------------------------------------------------------------------------------------------------
# Reading Markdown
# ---------------------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_PICTURE = re.compile(r'src(?:set)?="([^"]+)"')


@cache
def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose_of(document: Path) -> str:
    return _FENCE.sub("", text_of(document))


def rows_of(document: Path, heading: str) -> list[list[str]]:
    """The cells of every table under a heading, down to the next heading that is not deeper."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text_of(document).partition(f"\n{heading}\n")
    assert found, f"{document.name} has no heading {heading!r}"
    section = re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def first_code(cell: str) -> str:
    found = _SPAN.search(cell)
    assert found, f"no code in {cell!r}"
    return found[1]


def anchors_of(document: Path) -> set[str]:
    """The ids that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---------------------------------------------------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------------------------------------------------


def default_of(name: str) -> str | None:
    """The default of a setting as the documentation writes it; None where it is computed or there is no field."""
    field = Settings.model_fields.get(name.lower())
    if field is None or field.default_factory is not None or name == "MASTER_KEY":
        return None
    value: Any = field.default
    if value is None or value in ((), frozenset()):
        return "—"
    if isinstance(value, Path):
        return f"`{value.relative_to(PROJECT_ROOT)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_is_documented() -> None:
    spans = set(_SPAN.findall(text_of(REFERENCE)))
    assert {name for name in Settings.names() if name not in spans} == set()


def test_the_documented_defaults_are_the_real_ones() -> None:
    rows = rows_of(REFERENCE, "## Settings")
    documented = {first_code(cells[0]): cells[1] for cells in rows}
    expected = {name: default for name in Settings.names() if (default := default_of(name)) is not None}
    assert {name: documented.get(name) for name in expected} == expected


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = {first_code(cells[0]) for cells in rows_of(REFERENCE, "## Settings")}
    assert named - set(Settings.names()) == set()


# ---------------------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------------------


@cache
def command_tree() -> Any:
    # Commands open nothing until they are invoked, so nothing has to stand behind the backend.
    return typer.main.get_command(build_cli(cast("Backend", None), cast("Run", None)))


def leaves(command: Any, path: tuple[str, ...] = ("keyhall",)) -> Iterator[tuple[str, ...]]:
    if not hasattr(command, "commands"):
        yield path
        return
    for name, below in command.commands.items():
        yield from leaves(below, (*path, name))


def commands_in(document: Path) -> Iterator[str]:
    """The commands that a reader would type: in code, at its beginning or behind a pipe, a semicolon or `&&`."""
    lines = [
        line for language, block in _FENCE.findall(text_of(document)) if language == "sh" for line in block.split("\n")
    ]
    for line in (*_SPAN.findall(prose_of(document)), *lines):
        for part in re.split(r"\||;|&&", line):
            typed = part.strip().removeprefix(".venv/bin/")
            if typed == "keyhall" or typed.startswith("keyhall "):
                yield typed.partition(" > ")[0].partition(" < ")[0]


def why_not_a_command(text: str) -> str | None:
    command = command_tree()
    _, *words = shlex.split(text, comments=True)
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word not in command.commands:
            return f"{text}: there is no {word}"
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    unknown = [word for word in words if word.startswith("-") and word not in options]
    return f"{text}: there is no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("source", SOURCES_WITH_COMMANDS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_every_command_in_a_message_or_comment_exists(source: Path) -> None:
    named = re.findall(r"`(keyhall [^`\n]+)`", source.read_text(encoding="utf-8"))
    texts = [re.sub(r"\{[^}]*\}", "X", text) for text in named if "…" not in text]
    assert [problem for text in texts if (problem := why_not_a_command(text))] == []


def test_every_command_is_documented() -> None:
    documented = {first_code(cells[0]) for cells in rows_of(REFERENCE, "## Commands")}
    existing = {" ".join(path) for path in leaves(command_tree())}
    assert existing - documented == set()


@documents
def test_every_command_in_the_documents_exists(document: Path) -> None:
    assert [reason for text in commands_in(document) if (reason := why_not_a_command(text))] == []


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.parent in {PROJECT_ROOT, DOCS, DOCS / "runbooks"}],
    ids=lambda path: path.name,
)
def test_a_command_runs_as_it_is_printed(document: Path) -> None:
    """After `make run` the shell does not find `keyhall`; tables and the changelog only name commands."""
    if document.name == "CHANGELOG.md":
        return
    text = "\n".join(line for line in prose_of(document).split("\n") if not line.startswith("|"))
    blocks = [block for language, block in _FENCE.findall(text_of(document)) if language == "sh"]
    typed = [*_SPAN.findall(text), *(line for block in blocks for line in block.split("\n"))]
    assert [each for each in typed if re.search(r"(^|[|;&] *)keyhall [a-z-]", each.strip())] == []


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    assert why_not_a_command("keyhall keys rotate-nothing") == "keyhall keys rotate-nothing: there is no rotate-nothing"
    assert why_not_a_command("keyhall db check --colour") == "keyhall db check --colour: there is no option --colour"
    assert "keyhall keys generate-master" in commands_in(INSTALL)
    assert "keyhall keys restore-master --check" in commands_in(OPERATIONS)


@documents
def test_every_make_target_in_the_documents_exists(document: Path) -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = [*_SPAN.findall(prose_of(document)), *(block for _, block in _FENCE.findall(text_of(document)))]
    named = {target for text in code for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert named - targets == set()


# ---------------------------------------------------------------------------------------------------------------------
# Supported Pythons
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [PROJECT_ROOT / "README.md", INSTALL], ids=lambda path: path.name)
def test_the_documented_pythons_are_those_of_the_project_and_the_workflow(document: Path) -> None:
    workflow = (PROJECT_ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    configured = re.findall(r'"(3\.\d+)"', next(line for line in workflow.splitlines() if "python: [" in line))
    oldest = re.search(r'requires-python = ">=(.+)"', (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = " ".join(text_of(document).split())
    assert oldest is not None
    assert f"Python {oldest[1]} to 3." in text
    assert f"configured for {' and '.join(configured)}." in text


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """Every subclass that the product defines."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    waiting = [kind]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        yield from (each for each in below if each.__module__.startswith("app."))


def test_every_halt_is_documented_with_its_exit_code() -> None:
    documented = {(first_code(cells[0]), cells[1]) for cells in rows_of(REFERENCE, "## Halts")}
    assert documented == {(each.slug, str(each.exit_code)) for each in subclasses(StartupError)}


def test_every_halt_says_what_to_do() -> None:
    assert [cells for cells in rows_of(REFERENCE, "## Halts") if len(cells) != 4 or not cells[3]] == []


def test_every_error_code_is_documented_with_its_status() -> None:
    """Those that only the bot knows have no HTTP status and stand below the table."""
    documented = {(first_code(cells[0]), cells[1]) for cells in rows_of(API, "## Errors")}
    kinds = list(subclasses(AppError))
    assert documented == {
        (each.code, str(status_of(each))) for each in kinds if not each.__module__.startswith("app.bot")
    }
    spans = set(_SPAN.findall(text_of(API)))
    assert {each.code for each in kinds if each.__module__.startswith("app.bot")} <= spans


# ---------------------------------------------------------------------------------------------------------------------
# Routes
# ---------------------------------------------------------------------------------------------------------------------


def test_the_documented_routes_are_those_that_are_served() -> None:
    """Parts of a path are compared without their names."""
    web = build_app(cast("Services", None), WebOptions())
    served = {
        f"{route.method} {re.sub(r'{[^}]*}', '{}', route.resource.canonical)}"
        for route in web.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    rows = [*rows_of(API, "## Routes"), *rows_of(API, "## Pages")]
    assert {re.sub(r"{[^}]*}", "{}", first_code(cells[0])) for cells in rows} == served


# ---------------------------------------------------------------------------------------------------------------------
# Proofs
# ---------------------------------------------------------------------------------------------------------------------


def test_the_tests_that_prove_compliance_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(COMPLIANCE))
    assert len(named) > 20
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (PROJECT_ROOT / path).is_file()
        or f"def {test}(" not in (PROJECT_ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_every_requirement_of_compliance_is_proven() -> None:
    rows = [line for line in text_of(COMPLIANCE).splitlines() if line.startswith("| ") and not line.startswith("| re")]
    assert [row for row in rows if "::test_" not in row and not row.startswith("| phase ")] == []


# ---------------------------------------------------------------------------------------------------------------------
# Links and paths
# ---------------------------------------------------------------------------------------------------------------------


@documents
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in (*_LINK.findall(prose_of(document)), *_PICTURE.findall(prose_of(document))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_every_document_can_be_reached_from_the_index() -> None:
    index = DOCS / "index.md"
    reached = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(text_of(index))}
    assert {path for path in DOCS.rglob("*.md") if path != index} - reached == set()


def test_every_picture_is_shown_somewhere_and_they_are_small() -> None:
    pictures = sorted((DOCS / "images").iterdir())
    shown = {
        (document.parent / link).resolve()
        for document in DOCUMENTS
        for link in (*_LINK.findall(prose_of(document)), *_PICTURE.findall(prose_of(document)))
    }
    assert [each.name for each in pictures if each not in shown] == []
    assert sum(each.stat().st_size for each in pictures) < 1_500_000


@documents
def test_no_document_names_a_path_of_somebodys_machine(document: Path) -> None:
    """Absolute paths are those of a server or a route; a home or a checkout is nobody else's business."""
    first_segments = set(re.findall(r"(?<![\w.:/}~…-])/([A-Za-z][\w.-]*)/", text_of(document)))
    allowed = {
        "account",
        "admin",
        "api",
        "auth",
        "credentials",
        "etc",
        "guilds",
        "login",
        "opt",
        "privacy",
        "run",
        "static",
        "var",
    }
    assert first_segments - allowed == set()
    assert not re.search(r"(?<!\w)[A-Za-z]:\\", text_of(document))


@pytest.mark.parametrize("record", sorted((DOCS / "decisions").glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_is_short_and_ends_with_the_sentence_to_quote(record: Path) -> None:
    lines = text_of(record).rstrip().split("\n")
    assert re.match(rf"# {int(record.name[:4])}\. ", lines[0])
    assert len(lines) <= 20
    assert lines[-1].startswith("> ")
    assert all(f"**{part}.**" in text_of(record) for part in ("Context", "Decision", "Consequence"))
