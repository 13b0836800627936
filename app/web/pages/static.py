"""Keyhall's own stylesheet, script and icon, from memory, under names that change with their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import web

from app.domain.errors import NotFound
from app.web.compression import compressed, takes_gzip
from app.web.routing import Routes

routes = Routes("Pages")
_DIRECTORY: Final = Path(__file__).parents[1] / "static"
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file with the path under which it is served, and its content once more as gzip."""

    path: str
    content: bytes
    compressed: bytes
    media_type: str


class Assets:
    """The files of the directory `static`, read once."""

    def __init__(self) -> None:
        self._by_name: Mapping[str, Asset] = MappingProxyType(
            {file.name: _asset(file) for file in sorted(_DIRECTORY.iterdir()) if file.suffix in _TYPES}
        )
        self._by_path = {asset.path: asset for asset in self._by_name.values()}

    def path(self, name: str) -> str:
        """The path of a file; the digest in it changes with the content, so browsers may cache it without limit."""
        return self._by_name[name].path

    def at(self, path: str) -> Asset | None:
        """The file served at a path."""
        return self._by_path.get(path)


def _asset(file: Path) -> Asset:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Asset(f"/static/{digest}/{file.name}", content, compressed(content), _TYPES[file.suffix])


ASSETS: web.AppKey[Assets] = web.AppKey("keyhall.assets", Assets)


@routes("GET", "/static/{digest}/{name}", media_type="text/css, text/javascript, image/svg+xml", errors=[NotFound])
async def asset(request: web.Request, digest: str, name: str) -> web.Response:
    """A stylesheet, script or icon of the pages."""
    found = request.app[ASSETS].at(f"/static/{digest}/{name}")
    if found is None:
        raise NotFound
    headers = {
        "Content-Type": found.media_type,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Vary": "Accept-Encoding",
    }
    if takes_gzip(request.headers.get("Accept-Encoding", "")):
        return web.Response(body=found.compressed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=found.content, headers=headers)
