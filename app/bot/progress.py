"""How far an interaction has come: what is true now, for the one place where failures become sentences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import discord
from discord import ui

from app.localisation import mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A kind of change, and the sentences that say whether it happened."""

    nothing: str
    doubt: str
    done: str


STORE: Final = Change(
    nothing=mark("**Nothing was stored.**"),
    doubt=mark("**It is not certain yet whether this was stored.** {list} shows it in a minute."),
    done=mark("**Stored**, but Discord lost the answer on the way. {list} shows it; you need not enter it again."),
)
REMOVE: Final = Change(
    nothing=mark("**Nothing was removed.**"),
    doubt=mark("**It is not certain yet whether this was removed.** {list} shows it in a minute."),
    done=mark("**Removed**, but Discord lost the answer on the way. It can be restored for 7 days on the web."),
)
RESTORE: Final = Change(
    nothing=mark("**Nothing was restored.**"),
    doubt=mark("**It is not certain yet whether this was restored.** {list} shows it in a minute."),
    done=mark("**Restored**, but Discord lost the answer on the way. {list} shows it."),
)
ERASE: Final = Change(
    nothing=mark("**Nothing was erased.**"),
    doubt=mark("**It is not certain yet whether this was erased.** Run the command once more to see."),
    done=mark("**Erased**, but Discord lost the answer on the way."),
)
LINK: Final = Change(
    nothing=mark("**Nothing was linked.**"),
    doubt=mark("**It is not certain yet whether this was linked.** Your account page on the web shows it in a minute."),
    done=mark("**Linked**, but Discord lost the answer on the way. {list} shows your keys."),
)

Steps = Callable[[Exception], Awaitable[Sequence[ui.Button[Any]]]]


@dataclass(slots=True, kw_only=True)
class Progress:
    """``change`` is what the interaction is to change, None if it only shows.

    ``begun`` is True once the service was called for the change, ``done`` once that is committed.
    ``acknowledged`` is True once Discord has the acknowledgement. ``names`` are filled into sentences. ``steps``
    returns the buttons that lead on from a failure.
    """

    change: Change | None = None
    begun: bool = False
    done: bool = False
    acknowledged: bool = False
    names: dict[str, object] = field(default_factory=dict)
    steps: Steps | None = None


def progress_of(interaction: discord.Interaction[Any]) -> Progress:
    """The progress of this interaction, which goes with it."""
    progress: Progress = interaction.extras.setdefault("keyhall", Progress())
    return progress
