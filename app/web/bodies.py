"""Request bodies, read strictly: within a size and a time, and in the one type that is expected.

JSON is parsed by RFC 8259 and RFC 7493 (I-JSON) and nothing beyond: aiohttp's own ``request.json()`` accepts
text/plain, which a foreign page can send without a preflight, and answers 500 to bad UTF-8 and to deep nesting.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from app.services.deadlines import restart_deadline
from app.web.problems import MalformedRequest, RequestTimeout, TooLarge, UnsupportedMediaType

LARGEST_BODY: Final = 256 * 1024
"""Bytes: the largest secret (64 KiB), escaped, fits."""
LARGEST_BODY_OF_A_STRANGER: Final = 16 * 1024
"""Bytes: names, passwords and tokens fit. Many unfinished bodies at once must not fill the memory."""
BODY_SECONDS: Final = 30.0
DEEPEST: Final = 32
_LARGEST_INTEGER: Final = 2**53
"""I-JSON's bound (RFC 7493, 2.2): beyond it programs disagree on which number it is."""
_MOST_FIELDS: Final = 64


async def read_json(request: web.Request, *, largest: int) -> object:
    """The body as JSON, of so many bytes. Raises UnsupportedMediaType, MalformedRequest, TooLarge, RequestTimeout."""
    _require_type(request, "application/json")
    return parse_json(await _read(request, largest))


async def read_form(request: web.Request, *, largest: int) -> dict[str, str]:
    """The fields of one of Keyhall's forms, each at most once. Raises as ``read_json`` does."""
    _require_type(request, "application/x-www-form-urlencoded")
    raw = await _read(request, largest)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise MalformedRequest("The form cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedRequest("A field of the form was given twice")
    return fields


def parse_json(raw: bytes) -> object:
    """A JSON text as Python values. Raises MalformedRequest, which never repeats any of it."""
    if not raw:
        raise MalformedRequest("A JSON body is needed")
    try:
        value: object = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except _LargeInteger:
        raise MalformedRequest("A number is too large for JSON to carry exactly: send large ids as text") from None
    except (ValueError, RecursionError):
        # Also the UTF-8 and BOM errors of the standard library, whose messages quote the input.
        raise MalformedRequest("The body is not valid JSON") from None
    _check(value)
    return value


class _LargeInteger(Exception):
    """A number such as a Discord id that was not put in quotes."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name was given twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(number := int(digits)) > _LARGEST_INTEGER:
        raise _LargeInteger
    return number


def _float(digits: str) -> float:
    """A number with a fraction or an exponent; 3.0 is the integer 3 (JSON Schema 2020-12, 4.2.3)."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("too large a number")
    return int(number) if number.is_integer() and abs(number) <= _LARGEST_INTEGER else number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(value: object) -> None:
    """Bound the depth, and refuse text that is not valid Unicode: escapes can hide lone surrogates."""
    level: list[object] = [value]
    for _ in range(DEEPEST):
        below: list[object] = []
        for each in level:
            if isinstance(each, str):
                if not each.isascii() and any("\ud800" <= character <= "\udfff" for character in each):
                    raise MalformedRequest("The body holds text that is not valid Unicode")
            elif isinstance(each, dict):
                below.extend(each.keys())
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        if not below:
            return
        level = below
    raise MalformedRequest(f"The body is nested deeper than {DEEPEST} levels")


def _require_type(request: web.Request, expected: str) -> None:
    types = request.headers.getall("Content-Type", ())
    if len(types) != 1:
        raise UnsupportedMediaType(f"Send this as {expected}")
    essence, _, parameters = types[0].lower().partition(";")
    charset = parameters.strip().replace('"', "").replace(" ", "")
    if essence.strip() != expected or charset not in {"", "charset=utf-8", "charset=utf8"}:
        raise UnsupportedMediaType(f"Send this as {expected} in UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send this without a Content-Encoding")


async def _read(request: web.Request, largest: int) -> bytes:
    if (request.content_length or 0) > largest:
        raise TooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > largest:
                    raise TooLarge
    except TimeoutError:
        raise RequestTimeout from None
    except (RequestPayloadError, web.PayloadAccessError):
        raise MalformedRequest("The body ended too early") from None
    restart_deadline()
    return bytes(body)
