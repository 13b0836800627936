"""Rows of the audit trail read as sentences."""

from __future__ import annotations

from typing import Any, Final

import pytest

from app.domain.audit import Action, AuditItem
from app.localisation import Language, texts
from app.web.pages.admin.audit_sentences import sentence

SAY: Final = texts(Language.ENGLISH)


def item(action: str, *, actor: str | None = "alice", result: str = "ok", source: str = "web") -> AuditItem:
    more: dict[str, Any] = {"id": "1", "at": None, "about": None, "detail": {}}
    return AuditItem(actor=actor, action=action, result=result, source=source, **more)


@pytest.mark.parametrize("action", Action)
def test_every_action_is_a_sentence(action: Action) -> None:
    said = sentence(item(action), SAY)
    assert said.startswith("alice ")
    assert action not in said, f"give {action} a sentence in app/web/pages/admin/audit_sentences.py"


def test_a_refusal_does_not_read_as_if_it_was_done() -> None:
    assert sentence(item("auth.login", result="denied"), SAY) == "alice was refused: auth.login."
    assert sentence(item("key.destroyed", result="intent"), SAY) == "alice was about to begin: key.destroyed."


@pytest.mark.parametrize(
    ("source", "who"),
    [
        ("cli", "The operator at the command line"),
        ("system", "Keyhall itself"),
        ("web", "Somebody who was not signed in"),
    ],
)
def test_somebody_without_a_name_is_said_to_be_that(source: str, who: str) -> None:
    assert sentence(item("auth.login", actor=None, source=source), SAY) == f"{who} signed in."


def test_an_action_that_an_edited_row_made_up_is_named() -> None:
    assert sentence(item("%(x)s", result="so"), SAY) == "alice did this: %(x)s."
