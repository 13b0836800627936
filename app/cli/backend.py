"""What a command may open: a port that the entrypoint fills, so that the CLI knows nothing of how things are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from app.domain.keys import KeyName
    from app.domain.master_key import RestoredMasterKey
    from app.domain.schema import SchemaState
    from app.domain.secrets import SecretText
    from app.services import Services
    from app.services.keys import KeyManagementService
    from app.services.keys.master_key import MasterKeyChange
    from app.services.keys.reset import KeyReset


class Backend(Protocol):
    """Each opens as far as its name says, and raises StartupError where that cannot be."""

    def keys(self) -> AbstractAsyncContextManager[KeyManagementService]:
        """Verified keys, without the rest."""
        ...

    def unverified_keys(self) -> AbstractAsyncContextManager[KeyManagementService]:
        """Nothing but the key store, for judging it."""
        ...

    def services(self, *, importing: KeyName | None = None) -> AbstractAsyncContextManager[Services]:
        """Everything, with a lease; a conflict about the key that is ``importing`` does not halt."""
        ...

    async def schema(self, *, upgrade: bool) -> SchemaState:
        """The schema's state, after running pending migrations where ``upgrade`` says so."""
        ...

    def new_master_key(self) -> str:
        """A new master key as text, stored nowhere."""
        ...

    def write_master_key(self) -> Path:
        """Make the default master key file. Raises StartupError where one exists."""
        ...

    async def master_key_page(self) -> str:
        """The master key as an SVG page to print; the audit trail knows of it first."""
        ...

    def master_key_change(self) -> AbstractAsyncContextManager[MasterKeyChange]:
        """Verified keys, and the means to put them under another master key."""
        ...

    def key_reset(self) -> AbstractAsyncContextManager[KeyReset]:
        """Nothing but what making an install's keys anew needs."""
        ...

    async def restore_master_key(self, given: SecretText, *, write: bool) -> RestoredMasterKey:
        """Prove that words or text are this install's master key, and put its file back if ``write`` says so.

        Raises InvalidInput for what is no master key.
        """
        ...

    def run(self, *, web: bool, bot: bool, worker: bool, sync: bool = False) -> None:
        """Be a process until a signal ends it."""
        ...


def backend(context: typer.Context) -> Backend:
    """The opener that this command was given."""
    found: Backend = context.find_root().obj
    return found
