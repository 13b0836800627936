"""The documentation: for programs as OpenAPI, for people as a page generated from the same document."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import orjson
from aiohttp import web

from app.web.openapi import document, error_table
from app.web.pages.rendering import page
from app.web.possible_errors import OF_EVERY_REQUEST, OF_THE_PROTOCOL
from app.web.routing import Endpoint, Routes
from app.web.sessions import viewer_of

routes = Routes("Documentation")


class Document:
    """The OpenAPI document of an application, written when it is first asked for: a start does not wait for it."""

    def __init__(self, endpoints: Sequence[Endpoint], server: str | None, cookie: str) -> None:
        self.endpoints, self._server, self._cookie = endpoints, server, cookie

    @cached_property
    def content(self) -> dict[str, Any]:
        """As JSON values."""
        return document(self.endpoints, server=self._server, cookie=self._cookie)

    @cached_property
    def bytes(self) -> bytes:
        """As JSON."""
        return orjson.dumps(self.content)


_EVERYWHERE: Final = [error.code for error in (*OF_EVERY_REQUEST, *OF_THE_PROTOCOL)]
"""Codes that the page names once, and not with each operation."""
DOCUMENT: web.AppKey[Document] = web.AppKey("keyhall.document", Document)


@routes("GET", "/api/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """This API as an OpenAPI 3.1 document."""
    return web.Response(body=request.app[DOCUMENT].bytes, headers={"Content-Type": "application/json"})


@routes("GET", "/api/docs", media_type="text/html")
async def docs(request: web.Request) -> web.Response:
    """This API for people to read."""
    content = request.app[DOCUMENT].content
    return page(
        request,
        "docs.html",
        viewer=await viewer_of(request),
        api=content,
        families=_families(content),
        everywhere=_EVERYWHERE,
        errors=error_table(),
        pretty=_pretty,
    )


def _pretty(value: object) -> str:
    """JSON for people: indented, and a text that is no JSON as it is."""
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _families(content: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, dict[str, Any]]]]]:
    """Operations by tag; the pages, which are for people already, are left out."""
    return [
        (
            tag["name"],
            [
                (method.upper(), path, operation)
                for path, operations in content["paths"].items()
                for method, operation in operations.items()
                if tag["name"] in operation["tags"]
            ],
        )
        for tag in content["tags"]
        if tag["name"] != "Pages"
    ]
