"""A PostgreSQL server behind a wire that can be cut or fall silent, as networks do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class DatabaseProxy:
    """Passes everything on, until it is told otherwise."""

    def __init__(self, server: Path, hear: Callable[[object, bytes], None] | None) -> None:
        self._server = server
        self._hear = hear
        self._ends: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._last_words: bytes | None = None

    def cut_after(self, statement: bytes) -> None:
        """Cut the next connection that sends this: after it has reached the server, before its answer comes back."""
        self._last_words = statement

    def fall_silent(self) -> None:
        """Pass nothing on in either direction; connections stay open, and new ones are accepted."""
        self._passing.clear()

    def speak_again(self) -> None:
        """Pass on what waited, and everything from now on."""
        self._passing.set()

    async def serve(self, questions: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        self._ends.add(client)
        with suppress(OSError):
            await self._passing.wait()
            answers, server = await asyncio.open_unix_connection(self._server)
            self._ends.add(server)
            answering = asyncio.create_task(self._answer(answers, client))
            while data := await questions.read(65536):
                await self._passing.wait()
                if self._hear is not None:
                    self._hear(client, data)
                last = self._last_words is not None and self._last_words in data
                if last:
                    answering.cancel()
                    self._last_words = None
                server.write(data)
                await server.drain()
                if last:
                    client.transport.abort()
                    break
            server.close()
        client.close()

    async def _answer(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await answers.read(65536):
                await self._passing.wait()
                client.write(data)
                await client.drain()
        client.close()

    def close(self) -> None:
        """End every connection."""
        self._passing.set()
        for each in self._ends:
            each.transport.abort()


@asynccontextmanager
async def proxied(
    url: str, directory: Path, hear: Callable[[object, bytes], None] | None = None
) -> AsyncIterator[tuple[str, DatabaseProxy]]:
    """The URL of the same database through a proxy, whose socket is in ``directory``; and the proxy.

    ``hear`` gets everything that is sent to the server, with what distinguishes its connection.
    """
    parsed = make_url(url)
    socket = f".s.PGSQL.{parsed.query.get('port', '5432')}"
    proxy = DatabaseProxy(Path(str(parsed.query["host"])) / socket, hear)
    listening = await asyncio.start_unix_server(proxy.serve, directory / socket)
    try:
        through = parsed.set(query={**parsed.query, "host": str(directory)})
        yield through.render_as_string(hide_password=False), proxy
    finally:
        listening.close()
        proxy.close()
