"""A tracer for a process without a collector of traces: it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from app.services.ports import Attributes, Span


class _NoSpan:
    def note(self, attributes: Attributes) -> None:
        """Forget it."""


_NO_SPAN: Final = nullcontext(_NoSpan())


class NoTracer:
    """See `app.services.ports.Tracer`: nobody collects the spans."""

    on = False

    def span(
        self,
        name: str,  # noqa: ARG002 - as the port has it
        attributes: Attributes | None = None,  # noqa: ARG002
        *,
        caller: str | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """Open nothing."""
        return _NO_SPAN

    def begin(self, name: str, attributes: Attributes | None = None) -> Callable[[], None]:  # noqa: ARG002
        """Begin nothing."""
        return _nothing


def _nothing() -> None:
    """End nothing."""
