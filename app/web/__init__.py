"""The web edge: authenticate to an Actor, parse, call one service method, render."""

from __future__ import annotations

from app.web.options import SERVICES, WebOptions

__all__ = ["SERVICES", "WebOptions"]
