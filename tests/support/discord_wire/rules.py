"""The refusals of Discord: the numbers of its protocol, its limits, and its error answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.discord_wire.actors import Json

COMMAND, COMPONENT, AUTOCOMPLETE, MODAL = 2, 3, 4, 5  # interaction types
MESSAGE, DEFER, DEFER_UPDATE, UPDATE, CHOICES, OPEN_MODAL = 4, 5, 6, 7, 8, 9  # interaction callback types
ALLOWED_CALLBACKS = {
    COMMAND: {MESSAGE, DEFER, OPEN_MODAL},
    COMPONENT: {MESSAGE, DEFER, DEFER_UPDATE, UPDATE, OPEN_MODAL},
    AUTOCOMPLETE: {CHOICES},
    MODAL: {MESSAGE, DEFER, DEFER_UPDATE, UPDATE},  # the last two only if a component opened the modal
}
EPHEMERAL, LOADING, COMPONENTS_V2 = 1 << 6, 1 << 7, 1 << 15  # message flags

# Gateway intents, and the application flags (limited or not) that grant the privileged ones
GUILDS, GUILD_MEMBERS, PRESENCES, GUILD_MESSAGES = 1 << 0, 1 << 1, 1 << 8, 1 << 9
DIRECT_MESSAGES, MESSAGE_CONTENT = 1 << 12, 1 << 15
GRANTED_BY = {PRESENCES: 3 << 12, GUILD_MEMBERS: 3 << 14, MESSAGE_CONTENT: 3 << 18}
SESSION_ENDED_BY = {1000, 1001, 4003, 4004, 4007, 4009}  # close codes after which RESUME is refused

# Component types
ROW, BUTTON, SELECT, TEXT_INPUT, SECTION, TEXT_DISPLAY, LABEL = 1, 2, 3, 4, 9, 10, 18
UPLOAD, RADIO, CHECKBOXES, CHECKBOX = 19, 21, 22, 23
SELECTS = {SELECT, 5, 6, 7, 8}  # of strings, users, roles, mentionables, channels
OPTION_TYPE_OF = {SELECT: 3, 5: 6, 6: 8, 7: 9, 8: 7, UPLOAD: 11}  # a component's values as command option types
TOP_LEVEL_V2 = {ROW, SECTION, TEXT_DISPLAY, 12, 13, 14, 17}  # gallery, file, separator, container

ATTACHMENT_LIMIT = 10 * 1024 * 1024
TEXT_BYTES = 10_170
COMPONENT_LIMITS = {
    BUTTON: {"label": 80},
    TEXT_INPUT: {"label": 45, "placeholder": 100, "value": 4000},
    LABEL: {"label": 45, "description": 100},
    **{kind: {"placeholder": 150} for kind in SELECTS},
}


class Refused(Exception):
    """An error answer: HTTP status, Discord's JSON code, its message."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message} | ({"errors": errors} if errors else {})


def require(ok: object, path: str, why: str) -> None:
    """Answer 50035 with the field's dotted path, as the real form validation does, unless ``ok``."""
    if not ok:
        errors: Json = {"_errors": [{"code": "INVALID", "message": why}]}
        for name in reversed(path.split(".")):
            errors = {name: errors}
        raise Refused(400, 50035, "Invalid Form Body", errors)


def require_length(text: object, low: int, high: int, path: str) -> None:
    require(isinstance(text, str) and low <= len(text) <= high, path, f"Must be {low} to {high} characters.")


def walk(components: Iterable[Json]) -> Iterator[Json]:
    """Every component, depth first: rows, sections with their accessory, containers, labels."""
    for component in components:
        yield component
        yield from walk(component.get("components", ()))
        yield from walk(component[key] for key in ("component", "accessory") if key in component)


def check_message(shown: Json, uploaded: int, *, blank: bool = False) -> None:
    """Size and shape of a message as it would stand, with ``uploaded`` bytes; ``blank``: nothing in it is fine too."""
    content, embeds, components = shown["content"], shown["embeds"], shown["components"]
    require_length(content, 0, 2000, "content")
    require(len(embeds) <= 10, "embeds", "Must be 10 or fewer.")
    require(sum(_check_embed(embed) for embed in embeds) <= 6000, "embeds", "Must be 6000 or fewer in total.")
    if shown["flags"] & COMPONENTS_V2:
        require(not content and not embeds, "flags", "Components V2 exclude content and embeds.")
        _check_components(components, TOP_LEVEL_V2, most=40)
        _check_bytes(components)
    else:
        _check_components(components, {ROW}, most=5)
    if uploaded > ATTACHMENT_LIMIT:
        raise Refused(413, 40005, "Request entity too large")
    if not (blank or content or embeds or components or shown["attachments"]):
        raise Refused(400, 50006, "Cannot send an empty message")


def _check_embed(embed: Json) -> int:
    fields = embed.get("fields", [])
    require(len(fields) <= 25, "embeds.fields", "Must be 25 or fewer.")
    texts = [("title", embed.get("title"), 256), ("description", embed.get("description"), 4096)]
    texts.append(("footer", embed.get("footer", {}).get("text"), 2048))
    texts.append(("author", embed.get("author", {}).get("name"), 256))
    texts += [(name, entry[name], limit) for entry in fields for name, limit in (("name", 256), ("value", 1024))]
    for name, text, limit in texts:
        require_length(text or "", 0, limit, f"embeds.{name}")
    return sum(len(text or "") for _, text, _ in texts)


def check_modal(modal: Json) -> None:
    require_length(modal.get("title"), 1, 45, "title")
    require_length(modal.get("custom_id"), 1, 100, "custom_id")
    require(modal.get("components"), "components", "Must be 1 to 5.")
    _check_components(modal["components"], {ROW, TEXT_DISPLAY, LABEL}, most=5)


def _check_bytes(components: list[Json]) -> None:
    """Discord answers 500 above about 10,170 bytes of text displays, 12 for every component included (observed)."""
    every = list(walk(components))
    size = sum(len(part["content"].encode()) for part in every if part["type"] == TEXT_DISPLAY)
    if size + 12 * len(every) > TEXT_BYTES:
        raise Refused(500, 0, "500: Internal Server Error")


def check_choices(choices: Any) -> None:
    require(isinstance(choices, list) and len(choices) <= 25, "choices", "Must be 25 or fewer.")
    for choice in choices:
        require_length(choice["name"], 1, 100, "choices.name")
        require_length(str(choice["value"]), 1, 100, "choices.value")


def _check_components(components: list[Json], top_level: set[int], *, most: int) -> None:
    require(len(components) <= most, "components", f"Must be {most} or fewer.")
    require({part["type"] for part in components} <= top_level, "components", f"Must be of the types {top_level}.")
    every = list(walk(components))
    require(len(every) <= 40, "components", "Must be 40 or fewer in total.")
    texts = [part["content"] for part in every if part["type"] == TEXT_DISPLAY]
    require(all(texts) and sum(map(len, texts)) <= 4000, "components.content", "Must be 1 to 4000 in total.")
    names = [part["custom_id"] for part in every if "custom_id" in part]
    require(len(names) == len(set(names)), "components.custom_id", "Component custom id cannot be duplicated")
    for number, part in enumerate(every, start=1):
        _check_component(part)
        part.setdefault("id", number)  # Discord numbers what the bot left unnumbered, and echoes that


def _check_component(part: Json) -> None:
    kind, path = part["type"], f"components.{part['type']}"
    if "custom_id" in part:
        require_length(part["custom_id"], 1, 100, f"{path}.custom_id")
    for name, limit in COMPONENT_LIMITS.get(kind, {}).items():
        require_length(part.get(name) or "", 0, limit, f"{path}.{name}")
    if kind == BUTTON:
        require(("url" in part) == (part["style"] == 5), path, "A link button, and no other, has a url.")
        require(("custom_id" in part) == (part["style"] < 5), path, "A custom_id where the style has none, or none.")
    elif kind == ROW:
        width = 1 if any(inner["type"] != BUTTON for inner in part["components"]) else 5
        require(1 <= len(part["components"]) <= width, f"{path}.components", f"Must be 1 to {width}.")
    elif kind in {SELECT, RADIO, CHECKBOXES}:
        require(1 <= len(part["options"]) <= 25, f"{path}.options", "Must be 1 to 25.")
        for option in part["options"]:
            require_length(option["label"], 1, 100, f"{path}.options.label")
            require_length(option["value"], 1, 100, f"{path}.options.value")
            require_length(option.get("description") or "", 0, 100, f"{path}.options.description")


def check_commands(commands: Any, path: str = "commands", *, most: int = 100) -> None:
    """Number, names, descriptions and order of commands, and of the options within them."""
    require(isinstance(commands, list) and len(commands) <= most, path, f"Must be {most} or fewer.")
    names = [(entry.get("type", 1) if path == "commands" else 0, entry["name"]) for entry in commands]
    require(len(names) == len(set(names)), path, "Names must be unique.")
    for entry in commands:
        here = f"{path}.{entry['name']}"
        if path == "commands" and entry.get("type", 1) != 1:  # a context menu: a free name and no description
            require_length(entry["name"], 1, 32, f"{here}.name")
            continue
        for name in (entry["name"], *(entry.get("name_localizations") or {}).values()):
            require(re.fullmatch(r"[-_'\w]{1,32}", name) and name == name.lower(), f"{here}.name", "Invalid name.")
        for description in (entry["description"], *(entry.get("description_localizations") or {}).values()):
            require_length(description, 1, 100, f"{here}.description")
        check_choices(entry.get("choices") or [])
        options = entry.get("options") or []
        check_commands(options, f"{here}.options", most=25)
        required = [bool(option.get("required")) for option in options]
        require(required == sorted(required, reverse=True), f"{here}.options", "Required options must come first.")
