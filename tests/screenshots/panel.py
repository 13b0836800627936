"""The bot's answers as a page: the components that the bot sends, drawn plainly, without the look of Discord."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final

import discord
from discord import Locale, ui

from app.bot import panels
from app.domain.identity import Actor
from app.services import Services

_LIST: Final = "</key list:1>"
_STYLE: Final = (Path(__file__).parent / "panel.css").read_text(encoding="utf-8")


async def answers(services: Services, actor: Actor) -> str:
    """A page with the answers to `/key add` and `/key list`, for that member."""
    found = await services.credentials.lists.stretch(actor, size=4)
    added = next(each for each in found.items if each.label == "Team account")
    stored = panels.stored(Locale.british_english, "**Stored.**", added, _LIST, undo=True)
    listed = panels.listed(Locale.british_english, found, None, None)
    body = "".join(
        f'<p class="asked">{command}</p>{drawn(answer)}<p class="private">Only you can see this</p>'
        for command, answer in (("/key add", stored), ("/key list", listed))
    )
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>Answers</title><style>{_STYLE}</style><body>{body}"


def drawn(answer: ui.LayoutView) -> str:
    """HTML of an answer."""
    components: list[dict[str, Any]] = answer.to_components()  # type: ignore[no-untyped-call]
    return "".join(_component(each) for each in components)


def _component(component: dict[str, Any]) -> str:
    kind = discord.ComponentType(component["type"])
    if kind is discord.ComponentType.container:
        return f"<article>{''.join(_component(each) for each in component['components'])}</article>"
    if kind is discord.ComponentType.action_row:
        return f'<div class="row">{"".join(_component(each) for each in component["components"])}</div>'
    if kind is discord.ComponentType.text_display:
        return "".join(_line(line) for line in component["content"].split("\n"))
    if kind is discord.ComponentType.button:
        red = component["style"] == discord.ButtonStyle.danger.value
        return f'<span class="{"danger" if red else "button"}">{escape(component["label"])}</span>'
    if kind is discord.ComponentType.select:
        return f'<span class="select">{escape(component["placeholder"])}</span>'
    raise ValueError(f"the picture has no drawing for a {kind.name}: add one here")


def _line(line: str) -> str:
    text, tag = line, "p"
    for mark, meant in (("### ", "h3"), ("-# ", "small")):
        if line.startswith(mark):
            text, tag = line.removeprefix(mark), meant
    return f"<{tag}>{_inline(text)}</{tag}>"


def _inline(text: str) -> str:
    """The marks of Discord that Keyhall's answers have."""
    drawn = escape(text, quote=False)
    drawn = re.sub(r"&lt;t:(\d+):R&gt;", lambda found: _relative(int(found[1])), drawn)
    drawn = re.sub(r"&lt;(/[\w ]+):\d+&gt;", r"<code>\1</code>", drawn)
    drawn = re.sub(r"`([^`]+)`", r"<code>\1</code>", drawn)
    drawn = re.sub(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*", r"<b>\1</b>", drawn)
    return re.sub(r"\\(&\w+;|[^\w\s])", r"\1", drawn)


def _relative(moment: int) -> str:
    """A time as Discord says it."""
    seconds = moment - datetime.now(UTC).timestamp()
    for name, length in (("month", 30 * 86_400), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = round(abs(seconds) / length)
        if count:
            amount = (
                f"{count} {name}{'s' if count > 1 else ''}"
                if count > 1
                else f"{'an' if name == 'hour' else 'a'} {name}"
            )
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "just now"
