"""The list of `tests/unit/test_words.py`: idioms and replaced names, what to write instead, and the exceptions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Idiom:
    """A phrase to avoid, what to write instead, a sentence that contains the phrase and a similar one that is fine.

    If the pattern has a group, only a match of the group is a finding; the other alternatives match fine phrases.
    """

    name: str
    pattern: str
    instead: str
    bad: str
    good: str
    fine_in: tuple[str, ...] = ()
    """Parts of paths where the phrase has its proper meaning."""


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
        r"\baudit[\s-]+trail\b|\b(trail)\b",
        "the audit trail",
        "Written to the trail.",
        "Written to the audit trail, trailing spaces removed.",
    ),
    Idiom(
        "seal",
        r"\baudit[\s-]+seal(?:s|ed|ing)?\b|\b((?:un|re)?seal(?:s|ed|ing)?)\b",
        'encrypt; "audit seal" for that of the audit chain',
        "The row is sealed again.",
        "The audit seal and the AUDIT_SEAL_KEY.",
        fine_in=("audit", "worker/loop.py", "domain/keys.py", "database/schema.py", "alembic/", "docs/", "CHANGELOG"),
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
        r"\bof\s+course\b|\b(courses?)\b",
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
    Allowed(
        "docs/runbooks/troubleshooting.md",
        "What happens if CREDENTIAL_ENCRYPTION_KEY is lost",
        "the heading of other software's documentation, in the words in which people search for it",
    ),
)
