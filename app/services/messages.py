"""`/encrypt` and `/decrypt`: text that only the member, or members of the guild, it was made for can decrypt."""

from __future__ import annotations

from typing import Final

from app.domain.audit import Action
from app.domain.errors import CannotOpen, CryptoError, Forbidden, InvalidInput
from app.domain.identity import Actor
from app.domain.keys import KeyName
from app.domain.text import opaque
from app.services.audit import AuditTrail
from app.services.keys import KeyManagementService
from app.services.ports import Clock, MessageCipher, Storage
from app.services.refusals import Refusal, Refusals

TEXT_LONGEST: Final = 32 * 1024
"""Bytes of UTF-8 that may be encrypted at once."""
_TOKEN_LONGEST: Final = 64 * 1024


class MessageService:
    """Encrypts and decrypts tokens. Messages are not stored; the audit trail records that there was one.

    A scope is ``member:<snowflake>`` or ``guild:<snowflake>``, from the actor and never from their input.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        cipher: MessageCipher,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._cipher = cipher
        self._refusals = refusals
        self._trail = AuditTrail(clock)

    async def encrypt(self, actor: Actor, text: str, *, for_guild: bool = False) -> str:
        """Return a token of a text of 1 byte to 32 KiB, for the member alone or for everybody in the present guild.

        Raises InvalidInput, and Forbidden for an actor without a Discord account.
        """
        plaintext = opaque(text, "text", longest=TEXT_LONGEST).encode()
        actor.require_person()
        if for_guild and actor.guild is None:
            raise InvalidInput("for_guild", "works only in a server")
        scopes = _scopes(actor)
        kind = "guild" if for_guild else "member"
        if kind not in scopes:
            raise Forbidden("Link your Discord account first: a token is made for a Discord member or server")
        primary = self._keys.primary(KeyName.ENCRYPTION_KEY)
        token = self._cipher.encrypt(plaintext, scopes[kind], primary.material)
        await self._record(actor, Action.MESSAGE_ENCRYPTED, kind)
        return token

    async def decrypt(self, actor: Actor, token: str) -> str:
        """Return the text of a token made for this member or for the present guild. The audit row commits first.

        Raises InvalidInput, and CannotOpen for a token that does not decrypt here.
        """
        actor.require_person()
        token = opaque(token, "token", longest=_TOKEN_LONGEST).strip()
        materials = [*self._keys.usable_materials(KeyName.ENCRYPTION_KEY).values()][
            ::-1
        ]  # the newest first: most tokens are recent
        for kind, scope in _scopes(actor).items():
            try:
                plaintext = self._cipher.decrypt(token, scope, materials)
            except CryptoError:
                continue
            await self._record(actor, Action.MESSAGE_OPENED, kind)
            return plaintext.decode()
        await self._refusals.record(Refusal(who=actor, action=Action.MESSAGE_OPENED, about=_guild(actor)))
        raise CannotOpen

    async def _record(self, actor: Actor, action: Action, kind: str) -> None:
        async with self._storage.write() as uow:
            await self._trail.record(uow, actor, action, about=_guild(actor), scope=kind)


def _guild(actor: Actor) -> tuple[str, str] | None:
    # The guild may be named; the member is already in the row, as a subject that can be erased.
    return ("guild", actor.guild.guild_id) if actor.guild is not None else None


def _scopes(actor: Actor) -> dict[str, str]:
    """Return the scopes of this actor's tokens by their kind, in the order in which they are tried."""
    scopes = {}
    if actor.discord_id is not None:
        scopes["member"] = f"member:{actor.discord_id}"
    if actor.guild is not None:
        scopes["guild"] = f"guild:{actor.guild.guild_id}"
    return scopes
