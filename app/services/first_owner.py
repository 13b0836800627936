"""The first owner in one step: the account is created, and the browser that created it is signed in."""

from __future__ import annotations

from app.domain.identity import Client
from app.services.authentication import BrowserSession, SessionStarts
from app.services.identity import IdentityService


class FirstOwner:
    """The setup page. Its methods may raise StorageError and NotReady."""

    def __init__(self, *, identity: IdentityService, starts: SessionStarts) -> None:
        self._identity = identity
        self._starts = starts

    async def set_up(self, setup_token: str, username: str, password: str, client: Client) -> BrowserSession:
        """Create the first owner and begin their session, which is fresh: the password was chosen a moment ago.

        Raises SetupClosed, InvalidToken for a wrong setup token, InvalidInput.
        """
        owner = await self._identity.setup(setup_token, username, password, client)
        return await self._starts.browser(owner, client)
