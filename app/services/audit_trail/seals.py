"""The MACs of the audit chains, under sub-keys of AUDIT_SEAL_KEY."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from app.domain.audit_chain import ChainRow, Seal, Segment
from app.domain.secrets import SecretBytes
from app.services.ports import KeyDerivation

_ROW: Final = "audit seal"
_SEGMENT: Final = "audit segment"


class Seals:
    """Makes and judges them with one version of the key. The methods compute and do nothing else."""

    def __init__(self, derivation: KeyDerivation, material: SecretBytes) -> None:
        self._derivation = derivation
        self._material = material

    def of_rows(self, rows: Sequence[ChainRow], *, segment: int, previous: bytes, first: int) -> Sequence[Seal]:
        """The seals of rows that stand one behind the other, the first one at the position ``first``."""
        places = range(first, first + len(rows))
        links = [row.sealed_parts(segment, position) for row, position in zip(rows, places, strict=True)]
        made = self._derivation.chain(self._material, _ROW, previous, links)
        return [Seal(row.id, segment, position, seal) for row, position, seal in zip(rows, places, made, strict=True)]

    def authenticated(self, segment: Segment) -> Segment:
        """The segment with the MAC that belongs to it."""
        mac = self._derivation.mac(self._material, _SEGMENT, *segment.authenticated_parts())
        return replace(segment, mac=mac)

    def made(self, segment: Segment) -> bool:
        """Whether the MAC of a segment is right."""
        return hmac.compare_digest(segment.mac, self.authenticated(segment).mac)
