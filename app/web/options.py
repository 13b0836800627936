"""The operator's options for the web, and the key of the services in an application."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from aiohttp import web

from app.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """``public_url`` is an origin such as ``https://keys.example.org``, or None where only loopback is served.

    ``trusted_proxies`` are the networks whose X-Forwarded-For is believed; ``extensions`` are modules with a function
    ``setup(app)``; in ``production`` a browser signs in over https only. ``discord_client_id`` is the bot's, where it
    is known: pages then say how to invite it.
    """

    public_url: str | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    production: bool = False
    extensions: tuple[str, ...] = ()
    discord_client_id: str | None = None

    @property
    def invite_url(self) -> str | None:
        """The address that adds the bot to a server; it asks for no permission there."""
        if self.discord_client_id is None:
            return None
        scopes = "bot+applications.commands"
        return f"https://discord.com/oauth2/authorize?client_id={self.discord_client_id}&scope={scopes}&permissions=0"


SERVICES: web.AppKey[Services] = web.AppKey("keyhall.services")
"""``request.app[SERVICES]``: everything that Keyhall does, for its own handlers and for those of extensions."""
