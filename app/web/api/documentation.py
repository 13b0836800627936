"""The documentation: for programs as OpenAPI, for people as a page generated from the same document."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import orjson
from aiohttp import web

from app.web.openapi import document, error_table
from app.web.pages.rendering import page
from app.web.routing import Endpoint, Routes

routes = Routes("Documentation")


class Document:
    """The OpenAPI document of an application, written when it is first asked for: a start does not wait for it."""

    def __init__(self, endpoints: Sequence[Endpoint], server: str | None, cookie: str) -> None:
        self._endpoints, self._server, self._cookie = endpoints, server, cookie

    @cached_property
    def content(self) -> dict[str, Any]:
        """As JSON values."""
        return document(self._endpoints, server=self._server, cookie=self._cookie)

    @cached_property
    def bytes(self) -> bytes:
        """As JSON."""
        return orjson.dumps(self.content)


DOCUMENT: web.AppKey[Document] = web.AppKey("keyhall.document", Document)


@routes("GET", "/api/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """This API as an OpenAPI 3.1 document."""
    return web.Response(body=request.app[DOCUMENT].bytes, headers={"Content-Type": "application/json"})


@routes("GET", "/api/docs", media_type="text/html")
async def docs(request: web.Request) -> web.Response:
    """This API for people to read."""
    content = request.app[DOCUMENT].content
    return page(request, "docs.html", api=content, families=_families(content), errors=error_table())


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
