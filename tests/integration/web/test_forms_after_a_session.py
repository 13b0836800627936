"""A form that is sent after its session has ended loses its secret fields and nothing else, whichever form it is."""

from __future__ import annotations

import base64
import json
from typing import Final

import pytest

from app.web.routing import Endpoint
from app.web.server import _FAMILIES
from tests.support.web import Site, filled

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET_FIELDS: Final = {"password", "new_password", "secret", "otp", "token", "credential"}
"""Fields that no draft may hold; `credential` is the answer of a passkey."""
NOT_TYPED: Final = {"version", "former", "request_key", "expires_before", "next", "confirmation", "primary", "as_typed"}
"""Hidden fields, of which the page that is opened again has its own, and answers that are asked for again."""
TYPED: Final = "2099-12-31"
"""A text that every field takes."""
NO_WAY_BACK: Final = {"/logout"}

FORMS: Final = [
    endpoint
    for routes in _FAMILIES
    for endpoint in routes.endpoints
    if endpoint.asks.form is not None and endpoint.asks.wants_actor and endpoint.path not in NO_WAY_BACK
]


@pytest.mark.parametrize("endpoint", FORMS, ids=lambda endpoint: endpoint.path)
async def test_a_form_without_its_session_leads_to_signing_in_and_back_with_what_was_typed(
    site: Site, endpoint: Endpoint
) -> None:
    form = endpoint.asks.form
    assert form is not None
    secret = "Zm9yYmlkZGVuIGluIGEgZHJhZnQ-and-more"
    fields = {name: secret if name in SECRET_FIELDS else TYPED for name in form.model_fields}
    answer = await site.submit(filled(_plain(endpoint.path)), "keyhall=khc_of.nobody", fields, account="somebody")
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/login?next=/"), "give the route signed_out="
    assert answer.headers["Location"].endswith("&done=ended")
    draft = answer.headers["Set-Cookie"]
    assert draft.startswith("keyhall-draft=")
    value = draft.partition("=")[2].partition(";")[0]
    kept = json.loads(base64.urlsafe_b64decode(value + "=="))
    assert secret not in repr(kept)
    typed = set(form.model_fields) - SECRET_FIELDS - NOT_TYPED
    assert typed <= kept["typed"].keys(), f"name these in signed_out: {typed - kept['typed'].keys()}"
    assert all(kept["typed"][name] == TYPED for name in typed)


def _plain(path: str) -> str:
    """`/a/{id:pattern}` as the documented `/a/{id}`."""
    parts = []
    depth = 0
    skipping = False
    for character in path:
        depth += (character == "{") - (character == "}")
        skipping = depth > 0 and (skipping or character == ":")
        if not skipping or (character == "}" and depth == 0):
            parts.append(character)
    return "".join(parts)
