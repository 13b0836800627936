"""The operator's options for the bot."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.secrets import SecretText


@dataclass(frozen=True, slots=True, kw_only=True)
class BotOptions:
    """``api_base`` and ``gateway_url`` lead to another Discord (tests).

    ``guild_allowlist`` names the guilds whose members may register; empty, those of every guild that the bot is in.
    ``public_url`` is the web's address as others reach it, None if only this machine does. ``restart_after`` is the
    first pause in seconds before the client is started again; it doubles.
    """

    token: SecretText
    client_id: str | None = None
    api_base: str | None = None
    gateway_url: str | None = None
    message_content: bool = False
    shard_ids: tuple[int, ...] = ()
    shard_count: int | None = None
    extensions: tuple[str, ...] = ()
    public_url: str | None = None
    guild_allowlist: frozenset[str] = field(default_factory=frozenset)
    restart_after: float = 1.0
