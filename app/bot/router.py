"""From the id of a button, a select or a form to what serves it, in every process alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from app.bot import errors
from app.bot.component_ids import PREFIX, ComponentId
from app.bot.errors import Outdated
from app.bot.session import BotSession, Interaction

Handler: TypeAlias = Callable[[Interaction, ComponentId], Awaitable[None]]


class Router:
    """Every action that an id can name, and the handler of each."""

    def __init__(self, session: BotSession) -> None:
        self._session = session
        self._handlers: Final[dict[str, Handler]] = {}
        self.outdated: Callable[[Interaction], None] = lambda _: None
        """Called for a component that cannot be served, before that is explained."""

    def add(self, handlers: Mapping[str, Handler]) -> None:
        """Serve these actions too."""
        self._handlers.update(handlers)

    async def serve(self, interaction: Interaction) -> None:
        """Serve one press or one form of Keyhall's, once; leave those of others alone. A failure becomes a sentence."""
        custom_id = str(dict(interaction.data or {}).get("custom_id", ""))
        if not custom_id.startswith(PREFIX) or not self._session.first_time(interaction):
            return
        try:
            await self._serve(interaction, custom_id)
        except Exception as error:  # noqa: BLE001 - as the library does for commands: logged and answered there
            await errors.explain(interaction, error)

    async def _serve(self, interaction: Interaction, custom_id: str) -> None:
        named = ComponentId.read(custom_id)
        handler = self._handlers.get(named.action) if named else None
        if named is None or handler is None:
            self.outdated(interaction)
            raise Outdated
        # A process that was stopped must not carry out, when it goes on, what its user has done elsewhere since.
        with self._session.services.deadlines.request(lambda: False):
            await handler(interaction, named)


def form_values(interaction: Interaction) -> dict[str, str]:
    """The texts that were typed into a form, by the id of the field."""

    def fields(parts: list[Any]) -> Iterator[tuple[str, str]]:
        for part in parts:
            if isinstance(part.get("value"), str):
                yield part["custom_id"], part["value"]
            yield from fields(part.get("components", []))
            if "component" in part:
                yield from fields([part["component"]])

    data: dict[str, Any] = {**(interaction.data or {})}
    return dict(fields(data.get("components", [])))


def chosen(interaction: Interaction) -> str | None:
    """The value that was chosen in a select."""
    data: dict[str, Any] = {**(interaction.data or {})}
    return next(iter(data.get("values", [])), None)
