"""The MACs by which the database recognises API tokens, under every version of API_SECRET_KEY that verifies."""

from __future__ import annotations

from typing import Final

from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.services.keys import KeyManagementService, Primary
from app.services.ports import KeyDerivation

_LABEL: Final = "api-token"


class ApiTokenMacs:
    """Computes MACs. Both raise NotReady."""

    def __init__(self, *, keys: KeyManagementService, derivation: KeyDerivation) -> None:
        self._keys = keys
        self._derivation = derivation

    def usable(self, token: str) -> tuple[bytes, ...]:
        """The MACs of a well-formed token under each version that verifies: a revoked version is not among them."""
        return tuple(self._mac(each, token) for each in self._keys.usable_materials(KeyName.API_SECRET_KEY).values())

    def under(self, primary: Primary, token: str) -> bytes:
        """The MAC that is stored."""
        return self._mac(primary.material, token)

    def _mac(self, material: SecretBytes, token: str) -> bytes:
        return self._derivation.mac(material, _LABEL, token.encode("ascii"))
