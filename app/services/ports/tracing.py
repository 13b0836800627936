"""The port for traces: how long the parts of a request, a job or an interaction took.

A span names routes, kinds and outcomes. It never holds a path with ids, a query, a name, an address, an error's text or
a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

Attributes = Mapping[str, str | int]
"""By the names of OpenTelemetry's semantic conventions, or `keyhall.…`."""


class Span(Protocol):
    """A part of the work that is going on."""

    def note(self, attributes: Attributes) -> None:
        """Add what was found out meanwhile."""
        ...


class Tracer(Protocol):
    """Opens spans. Each one lies within the span that the same task has open."""

    @property
    def on(self) -> bool:
        """Whether anybody collects the spans."""
        ...

    def span(
        self, name: str, attributes: Attributes | None = None, *, caller: str | None = None
    ) -> AbstractContextManager[Span]:
        """Open a span for a block; an exception that leaves the block is noted by its type alone.

        ``caller`` is a `traceparent` (W3C Trace Context), whose trace the span continues; one that is malformed counts
        as absent.
        """
        ...

    def begin(self, name: str, attributes: Attributes | None = None) -> Callable[[], None]:
        """Open a span around all that the running task still does. The function that is returned ends it."""
        ...
