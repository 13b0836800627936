"""The Discord edge: acknowledge, authenticate to an Actor, parse, call one service method, render."""

from __future__ import annotations

from app.bot.options import BotOptions

__all__ = ["BotOptions"]
