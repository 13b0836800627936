"""Every error that a test provokes is one that its endpoint says it can answer with, or the test fails."""

from __future__ import annotations

import re
from functools import cache
from typing import Protocol
from urllib.parse import urlsplit

from app.web.api.documentation import Document
from app.web.possible_errors import OF_THE_PROTOCOL, possible_errors
from app.web.routing import Endpoint

_PART = re.compile(r"{\w+(?::([^{}]*(?:{[^{}]*}[^{}]*)*))?}")
"""A part of an address that varies, and the pattern that it has to match, as aiohttp takes them."""
_OF_THE_PROTOCOL = frozenset(error.code for error in OF_THE_PROTOCOL)


class _Answer(Protocol):
    @property
    def problem(self) -> str | None: ...


def check_declared(document: Document, method: str, path: str, answer: _Answer) -> None:
    """Fail if the answer is a problem whose code its endpoint does not declare; pages of errors are not looked at."""
    code = answer.problem
    if code is None or code in _OF_THE_PROTOCOL:
        return
    endpoint = _find(document, "GET" if method == "HEAD" else method, urlsplit(path).path)
    if endpoint is not None:
        declared = {error.code for error in possible_errors(endpoint)}
        assert code in declared, f"{method} {path} answered {code}, which {endpoint.path} does not declare"


def _find(document: Document, method: str, path: str) -> Endpoint | None:
    literal, patterns = _endpoints(document)
    exact = literal.get((method, path))
    if exact is not None:
        return exact
    return next((each for which, pattern, each in patterns if which == method and pattern.fullmatch(path)), None)


@cache
def _endpoints(
    document: Document,
) -> tuple[dict[tuple[str, str], Endpoint], list[tuple[str, re.Pattern[str], Endpoint]]]:
    literal, patterns = {}, []
    for each in document.endpoints:
        if "{" in each.path:
            patterns.append((each.method, re.compile(_PART.sub(lambda part: part[1] or "[^/]+", each.path)), each))
        else:
            literal[each.method, each.path] = each
    return literal, patterns
