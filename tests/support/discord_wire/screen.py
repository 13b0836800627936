"""The screen of a user: messages, modals, and the answer to what they just did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from tests.support.discord_wire.actors import File, Guild, Json, User
from tests.support.discord_wire.rules import (
    CHECKBOX,
    EPHEMERAL,
    LABEL,
    OPEN_MODAL,
    OPTION_TYPE_OF,
    RADIO,
    ROW,
    TEXT_INPUT,
    walk,
)

SHOWN_PARTS = ("title", "content", "embeds", "components", "attachments", "choices")
SHOWN_TEXTS = ("title", "label", "name", "content", "description", "text", "value", "placeholder", "filename")
Encode = Callable[[int, object], Any]


class NotOffered(LookupError):
    """The Discord client would not show this to this user in this place."""


def visible_text(payload: Json) -> str:
    """All the text that a user can read in a message, a modal or a list of choices, line by line."""

    def lines(node: object) -> Iterator[str]:
        if isinstance(node, Mapping):
            yield from (node[key] for key in SHOWN_TEXTS if isinstance(node.get(key), str))
            for value in node.values():
                yield from lines(value)
        elif isinstance(node, Sequence) and not isinstance(node, str):
            for item in node:
                yield from lines(item)

    return "\n".join(line for line in lines({key: payload[key] for key in SHOWN_PARTS if key in payload}) if line)


@dataclass(eq=False)
class Message:
    """A message as it stands now: edits change it in place, ``history`` keeps the payloads that they replaced."""

    payload: Json
    files: dict[str, bytes] = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    deleted: bool = False

    @property
    def id(self) -> int:
        return int(self.payload["id"])

    @property
    def channel_id(self) -> int:
        return int(self.payload["channel_id"])

    @property
    def flags(self) -> int:
        return int(self.payload["flags"])

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def text(self) -> str:
        return visible_text(self.payload)

    @property
    def components(self) -> list[Json]:
        """Every component, flattened."""
        return list(walk(self.payload["components"]))


@dataclass(eq=False)
class Modal:
    """A form on the user's screen."""

    title: str
    custom_id: str
    rows: list[Json]

    @property
    def fields(self) -> dict[str, Json]:
        """The inputs by custom_id, each with the ``label`` and ``description`` that stand above it."""
        found: dict[str, Json] = {}
        for row in self.rows:
            above = {key: row[key] for key in ("label", "description") if key in row}
            found |= {leaf["custom_id"]: leaf | above for leaf in walk([row]) if "custom_id" in leaf}
        return found

    def filled(self, values: Mapping[str, object], encode: Encode) -> list[Json]:
        """The rows as the client submits them, in the shape in which they came.

        Raises LookupError for a field that is not there and ValueError for a value that the form would not accept.
        """
        if unknown := values.keys() - self.fields.keys():
            raise LookupError(f"the modal has no field {sorted(unknown)}, only {sorted(self.fields)}")

        def leaf(component: Json) -> Json:
            answer = _answered(component, values.get(component["custom_id"]), encode)
            return {key: component[key] for key in ("type", "id", "custom_id")} | answer

        rows = []
        for row in self.rows:
            filled: Json = {"type": row["type"], "id": row["id"]}
            if row["type"] == LABEL:
                filled["component"] = leaf(row["component"])
            elif row["type"] == ROW:
                filled["components"] = [leaf(component) for component in row["components"]]
            rows.append(filled)
        return rows


def _answered(component: Json, given: Any, encode: Encode) -> Json:
    """The ``value`` or ``values`` of one input; ``given`` None leaves its default."""
    name, kind, required = component["custom_id"], component["type"], component.get("required", True)
    if kind == CHECKBOX:
        return {"value": bool(component.get("default", False) if given is None else given)}
    if kind == TEXT_INPUT:
        text = component.get("value", "") if given is None else str(given)
        low, high = component.get("min_length", 0), component.get("max_length", 4000)
        if not text and required:
            raise ValueError(f"{name} is required")
        if text and not low <= len(text) <= high:
            raise ValueError(f"{name} takes {low} to {high} characters, not {len(text)}")
        return {"value": text}
    options = component.get("options", ())
    if given is None:
        given = [option["value"] for option in options if option.get("default")]
    values = [encode(OPTION_TYPE_OF.get(kind, 3), one) for one in ([given] if isinstance(given, str | File) else given)]
    offered = [option["value"] for option in options]
    if options and not set(values) <= set(offered):
        raise ValueError(f"{name} offers {offered}, not {values}")
    if not values and required:
        raise ValueError(f"{name} is required")
    return {"value": values[0] if values else None} if kind == RADIO else {"values": values}


class Where(TypedDict, total=False):
    """The circumstances of an interaction; all optional.

    ``guild`` absent means a private channel. ``permissions`` (bits) and ``roles`` (ids) stand for what the member has
    there. ``context``: 0 guild, 1 DM with the bot, 2 another private channel. ``user_install``: the command comes with
    the user's own installation. ``within``: seconds to wait for the answer. ``settle=False``: return at the
    acknowledgement, although the answer itself was deferred.
    """

    guild: Guild
    permissions: int
    roles: Iterable[int]
    context: int
    user_install: bool
    locale: str
    within: float
    settle: bool


@dataclass(eq=False)
class Reply:
    """One interaction and all that the bot answered to it so far; it goes on changing while the bot edits."""

    user: User
    where: Where
    interaction: Json
    sent_at: float
    """Seconds of the event loop's clock."""
    source: Message | None = None
    """The message whose component was used, directly or on the way to the modal."""
    type: int | None = None
    """The callback type, None while not acknowledged; a deferred answer stays 5 or 6."""
    data: Json = field(default_factory=dict)
    """The modal (9) or the choices (8)."""
    message: Message | None = None
    """``@original``."""
    followups: list[Message] = field(default_factory=list)
    settled: bool = False
    """Whether there is an answer, and not only its announcement."""

    @property
    def messages(self) -> list[Message]:
        """The visible messages: ``@original`` first, without what was deleted."""
        return [one for one in (self.message, *self.followups) if one is not None and not one.deleted]

    @property
    def text(self) -> str:
        return "\n".join(part for part in (visible_text(self.data), *(one.text for one in self.messages)) if part)

    @property
    def flags(self) -> int:
        return self.message.flags if self.message else 0

    @property
    def ephemeral(self) -> bool:
        """Whether nobody but the user could see any part of the answer (a modal and choices are of that kind)."""
        return (bool(self.data) or bool(self.messages)) and all(message.ephemeral for message in self.messages)

    @property
    def components(self) -> list[Json]:
        """Every component, flattened."""
        return [*walk(self.data.get("components", ())), *(part for one in self.messages for part in one.components)]

    @property
    def modal(self) -> Modal:
        if self.type != OPEN_MODAL:
            raise LookupError(f"the answer is of type {self.type}, no modal: {self.text!r}")
        return Modal(self.data["title"], self.data["custom_id"], self.data["components"])
