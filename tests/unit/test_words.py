"""Texts are in plain English: no idiom of a short list and no replaced name may be in the files of `COVERED`.

A finding names the file, the line, the phrase and the replacement. In Python files the check reads comments, docstrings
and other strings; in every other file it reads everything. The list is in `tests/support/words.py`. A phrase that must
stay is entered there, in `EXCEPTIONS`, with its reason.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from app.settings import PROJECT_ROOT
from tests.support.words import EXCEPTIONS, IDIOMS, NAMES, Allowed, Idiom

COVERED = (
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "alembic.ini",
    ".ci",
    ".github",
    "docs",
    "env",
    "requirements",
    "scripts",
    "alembic",
    "app",
    "entrypoints",
)
"""Files and directories that the check reads, relative to the project."""

NOT_READ = ("tests/support/words.py", "tests/unit/test_words.py", "docs/vectors")
"""The list and its samples, and data that is not prose."""

SUFFIXES = frozenset({".py", ".md", ".toml", ".ini", ".yml", ".txt", ".html", ".css", ".js", ".mako", ".example", ""})


# ---------------------------------------------------------------------------------------------------------------------
# Reading files
# ---------------------------------------------------------------------------------------------------------------------

_TEXT_TOKENS = frozenset({"COMMENT", "STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE"})
_PREFIX = re.compile(r"^[ \t]*(?:#+|//+|/?\*+|>)(?=\s)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """A phrase that is to be replaced."""

    path: str
    line: int
    phrase: str
    instead: str
    context: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r} → {self.instead}"


def files() -> Iterator[Path]:
    """Every file of text below `COVERED`, without caches."""
    for root in COVERED:
        start = PROJECT_ROOT / root
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            relative = path.relative_to(PROJECT_ROOT).as_posix()
            if path.is_file() and path.suffix in SUFFIXES and not relative.startswith(NOT_READ):
                yield path


def words_of_python(source: str) -> str:
    """The source with everything blanked but comments and strings, at the positions where they stand."""
    lines = [re.sub(r"\S", "\0", line) for line in source.splitlines(keepends=True)]
    kept = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in _TEXT_TOKENS:
            continue
        (first, start), (last, end) = token.start, token.end
        for number in range(first, last + 1):
            left = start if number == first else 0
            right = end if number == last else len(kept[number - 1])
            lines[number - 1] = lines[number - 1][:left] + kept[number - 1][left:right] + lines[number - 1][right:]
    return "".join(lines)


def words_of(path: str, source: str) -> str:
    """The text of a file that the idioms are looked for in; a phrase may run over a line of comments into the next."""
    text = words_of_python(source) if path.endswith(".py") else source
    return _PREFIX.sub(lambda found: " " * len(found[0]), text)


def findings_in(path: str, source: str) -> Iterator[Finding]:
    """Every idiom and every replaced name of one file."""
    text = words_of(path, source)
    lines = source.splitlines()
    for idiom in IDIOMS:
        if any(part in path for part in idiom.fine_in):
            continue
        for found in re.finditer(idiom.pattern, text, re.IGNORECASE | re.MULTILINE):
            if found.re.groups and found[1] is None:
                continue
            first = text.count("\n", 0, found.start()) + 1
            last = text.count("\n", 0, found.end()) + 1
            yield Finding(path, first, found[0].strip(), idiom.instead, "\n".join(lines[first - 1 : last]))
    if path.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and token.string in NAMES:
                yield Finding(path, token.start[0], token.string, NAMES[token.string], token.line)


def allows(exception: Allowed, finding: Finding) -> bool:
    """Whether an exception is about this finding."""
    return exception.path == finding.path and exception.text in finding.context and finding.phrase in exception.text


@cache
def every_finding() -> tuple[Finding, ...]:
    """All findings in the project, before exceptions."""
    return tuple(
        finding
        for path in files()
        for finding in findings_in(path.relative_to(PROJECT_ROOT).as_posix(), path.read_text(encoding="utf-8"))
    )


# ---------------------------------------------------------------------------------------------------------------------
# The check
# ---------------------------------------------------------------------------------------------------------------------


def test_texts_are_in_plain_english() -> None:
    found = [each for each in every_finding() if not any(allows(exception, each) for exception in EXCEPTIONS)]
    if found:
        pytest.fail("\n".join([f"{len(found)} phrases to replace:", *map(str, found)]), pytrace=False)


def test_every_exception_is_still_needed() -> None:
    found = every_finding()
    assert [each for each in EXCEPTIONS if not any(allows(each, finding) for finding in found)] == []


def test_every_covered_path_exists() -> None:
    assert [root for root in COVERED if not (PROJECT_ROOT / root).exists()] == []


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.name)
def test_each_idiom_is_found_and_its_neighbour_is_not(idiom: Idiom) -> None:
    assert [found.instead for found in findings_in("sample.md", idiom.bad)] == [idiom.instead]
    assert [found.phrase for found in findings_in("sample.md", idiom.good)] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_replaced_name_is_found(name: str) -> None:
    assert [str(found) for found in findings_in("sample.py", f"x = {name}\n")] == [
        f"sample.py:1: {name!r} → {NAMES[name]}"
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sample.py", "x = 1\n# gone for\n# ever\n"),
        ("sample.py", '"""A docstring.\n\n    gone for\n    ever.\n"""\n'),
        ("sample.py", 'x = f"{y} is gone for ever {z}"\n'),
        ("sample.js", "/* gone\n * for\n * ever */\n"),
        ("sample.html", "<p>gone for ever</p>\n"),
        ("Makefile", "target:  ## gone for ever\n"),
    ],
)
def test_comments_docstrings_and_strings_are_read(path: str, source: str) -> None:
    assert [found.instead for found in findings_in(path, source)] == ["permanently, no longer, without limit"]


def test_a_phrase_that_is_fine_may_run_over_a_line() -> None:
    source = "# Written to the audit\n# trail, of\n# course, with an audit\n# seal.\n"
    assert list(findings_in("sample.py", source)) == []


def test_an_exception_is_for_one_phrase_of_one_file() -> None:
    (finding,) = findings_in("a.md", "It says whoever.\n")
    assert allows(Allowed("a.md", "says whoever", "a quotation"), finding)
    assert not allows(Allowed("b.md", "says whoever", "a quotation"), finding)
    assert not allows(Allowed("a.md", "It says", "a quotation"), finding)


def test_code_is_not_read_as_text() -> None:
    assert list(findings_in("sample.py", "hall = course.gate(know, tell)  # plain\nhang = hung\n")) == []
