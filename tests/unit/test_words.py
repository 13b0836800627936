"""Plain English is kept by a list: idioms that readers stumbled over, and names that were replaced, come back nowhere.

A finding names the file, the line, the phrase and what to write instead. In Python files comments, docstrings and other
strings are read; in every other file everything is. A phrase that must stay is entered in `EXCEPTIONS` with its reason.
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
)
"""Files and directories that the check reads, relative to the project."""

NOT_READ = ("tests/unit/test_words.py", "docs/vectors")
"""This list itself, and data that is not prose."""

SUFFIXES = frozenset({".py", ".md", ".toml", ".ini", ".yml", ".txt", ".html", ".css", ".js", ".mako", ".example", ""})


@dataclass(frozen=True)
class Idiom:
    """A phrase to avoid, what to write instead, a sentence that has it and one that comes close and is fine."""

    name: str
    pattern: str
    instead: str
    bad: str
    good: str


IDIOMS = (
    Idiom(
        "whoever",
        r"\bwho(?:m|se)?ever\b",
        "anyone who …, the caller, the operator",
        "Whoever comes first is the owner.",
        "The first person who signs in is the owner.",
    ),
    Idiom(
        "whatever",
        r"\bwhat(?:so)?ever\b",
        "everything that …, any …, or the name of the thing",
        "Whatever lists has --json.",
        "Commands that print data have --json.",
    ),
    Idiom(
        "be it",
        r"(?:^|[,;:(—])\s*be (?:it|they)\b",
        "even if …, whether … or …",
        "It changed, be it that now it is the same.",
        "It may be it or another row.",
    ),
    Idiom(
        "hang",
        r"\b(?:hang(?:s|ing|ed)?|hung)\b",
        "of a key: is stored, is active; of a program: blocks, does not respond",
        "It hangs in its place.",
        "A change of keys.",
    ),
    Idiom(
        "of ours",
        r"\bof (?:ours|yours|mine|theirs|hers)\b",
        "our own …, your own …, or the name of the owner",
        "A script of ours.",
        "One of our scripts.",
    ),
    Idiom(
        "tell",
        r"\b(?:tell(?:s|ing)?|told)\b",
        "report, send, show, notify; of differences: distinguish",
        "The worker is told of it.",
        "The worker is notified of it.",
    ),
    Idiom(
        "know",
        r"\b(?:know(?:s|ing)?|knew)\b",
        "has, holds, uses, depends on, records, recognises",
        "Edges know the services.",
        "Edges use the services; a known name, an unknown one.",
    ),
    Idiom(
        "hear",
        r"\b(?:hears?|heard|hearing)\b",
        "receive, be notified",
        "A process hears of the change.",
        "A process is notified of the change, here and there.",
    ),
    Idiom(
        "take up",
        r"\b(?:tak(?:es?|en|ing)|took)\s+(?:(?:it|them|its|the|a|his)\s+(?:\w+\s+){0,2})?up\b(?!\s+to\b)",
        "load, reload, adopt, continue",
        "A process takes the key ring up.",
        "A shutdown may take up to ten seconds.",
    ),
    Idiom(
        "for ever",
        r"\bfor\s+ever\b",
        "permanently, no longer, without limit",
        "Then it is dead for ever.",
        "Then it is gone permanently.",
    ),
    Idiom(
        "that one",
        r"\bthat one\b(?=\s*[.,;:)!?]|\s+(?:is|was|has|had|does|goes|stays|too)\b)",
        "repeat the noun",
        "It goes where that one is.",
        "It proves that one process wins.",
    ),
    Idiom(
        "What … as a subject",
        r"(?-i:\bWhat\b)(?![^.!?]*\?)",
        "name the thing: The rows that …, Everything that …",
        "What is no HTTP has no request.",
        "What is lost? Nothing.",
    ),
    Idiom(
        "of what is",
        r"\b(?:of|from|for|than|beside|besides|except|only|into|all|and|but|to|with)\s+what\s+(?:is|was|are|were|has|had|no|others?)\b",
        "name the thing: the rows that …",
        "A copy of what was there.",
        "It says what was there.",
    ),
    Idiom(
        "for who",
        r"\b(?:for|of|to|by|from|with|before|after|than)\s+who\b",
        "for the caller that …, of the user who …",
        "Delete every row, for who puts others there.",
        "Delete every row for the user who asked.",
    ),
    Idiom(
        "Whose:",
        r"(?-i:\bWhose\b)(?![^.!?]*\?)",
        "Credentials of this user",
        "Whose: a user's.",
        "Whose key is it?",
    ),
    Idiom(
        "the trail",
        r"(?<!audit )(?<!audit\n)\btrail\b",
        "the audit trail",
        "Written to the trail.",
        "Written to the audit trail, trailing spaces removed.",
    ),
    Idiom(
        "seal",
        r"(?<!audit )(?<!audit\n)\b(?:un|re)?seal(?:s|ed|ing)?\b",
        'encrypt; "audit seal" for that of the audit chain',
        "The row is sealed again.",
        "The audit seal and the AUDIT_SEAL_KEY.",
    ),
    Idiom(
        "anew",
        r"\banew\b",
        "again, or a new …",
        "Encrypted anew.",
        "Encrypted again with a new key.",
    ),
    Idiom(
        "course",
        r"(?<!of )\bcourses?\b",
        "rotation job",
        "The course of a rotation.",
        "The steps of a rotation, of course.",
    ),
    Idiom(
        "gate",
        r"\bgates?\b",
        "startup check; in the web: middleware",
        "Until the gate is passed.",
        "Until the startup check has passed; delegate.",
    ),
    Idiom(
        "hall",
        r"(?-i:\bhall\b)",
        "the dashboard (on the screen the page is named the Hall)",
        "Its hall is built.",
        "The Hall, as the page says, shall stay.",
    ),
    Idiom(
        "the house",
        r"\b(?:the|this|our) house\b",
        "Keyhall, the program, the process",
        "Text that enters the house.",
        "Text that Keyhall accepts.",
    ),
    Idiom(
        "bound to its place",
        r"\b(?:bound|binds?)\s+(?:\w+\s+){0,3}to\s+(?:a|its|the|their|this|one)\s+places?\b",
        "bound to its encryption context, bound to its row and column",
        "It is bound to its place.",
        "It is bound to its encryption context.",
    ),
    Idiom(
        "in clear",
        r"\bin clear\b",
        "as plaintext",
        "The secret in clear.",
        "The secret as plaintext; sent in the clear.",
    ),
    Idiom(
        "keys are cut",
        r"\bkeys? (?:is|are) cut\b",
        "keys are created",
        "The keys are cut.",
        "The key's cut is its bitting.",
    ),
    Idiom(
        "save for",
        r"\bsave (?:for|that|where)\b",
        "except",
        "No value, save for one.",
        "Save the file; it is safe for now.",
    ),
    Idiom(
        "old connectors",
        r"\b(?:lest|whence|thence|hitherto|thereof|whereof|herein|therein|wherein|that which)\b",
        "so that … not, from which, of it, in it",
        "It waits, lest the row is lost.",
        "It waits, so that at least the row is kept.",
    ),
)

NAMES = {
    "RotationCourse": "RotationJob",
    "Patience": "StartupRetry",
    "Sides": "Components",
    "Matter": "Headline",
    "Opener": "Backend",
    "SealedColumn": "EncryptedColumn",
    "SealedRow": "EncryptedRow",
    "SEALED_COLUMNS": "ENCRYPTED_COLUMNS",
    "SealedRepository": "EncryptedRowRepository",
    "SealedRepositoryImpl": "EncryptedRowRepositoryImpl",
    "CredentialSealing": "CredentialCipher",
    "CredentialMoving": "CredentialTransfer",
    "Resealed": "Reencrypted",
    "take_lease": "refresh",
    "take_up": "reload",
    "take_up_under_lock": "ring_under_lock",
    "material_from_outside": "parse_external_key",
    "judge_given_file": "check_secret_file_mode",
    "judge_given_files": "check_secret_file_modes",
    "KeyListing": "KeyVersionInfo",
    "KeyVerdict": "KeyCheck",
    "hand_over": "reassign_sharer",
    "see_through": "follow",
    "_dispensable": "_evictable",
    "OverviewService": "DashboardService",
}
"""Names of code that were replaced, and the word that is used now."""


@dataclass(frozen=True)
class Allowed:
    """A phrase that stays: the file, the phrase with as much of its line as is meant, and the reason."""

    path: str
    text: str
    reason: str


EXCEPTIONS = (
    Allowed(
        "env/.env.test.example",
        "test-only-jwt-secret-key-that-everybody-knows",
        "a public value on purpose: APP_ENV=test accepts it, every other environment refuses it",
    ),
    Allowed("env/.env.test.example", "test-only-api-secret-key-that-everybody-knows", "the same"),
)

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
        for found in re.finditer(idiom.pattern, text, re.IGNORECASE | re.MULTILINE):
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


def test_code_is_not_read_as_text() -> None:
    assert list(findings_in("sample.py", "hall = course.gate(know, tell)  # plain\nhang = hung\n")) == []
