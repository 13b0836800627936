"""One-time codes by time with pyotp, and their QR codes with segno."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyotp

from app.domain.second_factor import DIGITS, STEP_SECONDS
from app.domain.secrets import SecretBytes, SecretText

_ISSUER: Final = "Keyhall"
_QUIET_ZONE: Final = 4
"""Modules of white around the code (ISO/IEC 18004, 9.1): readers need it, on a dark page above all."""


class PyotpPasswords:
    """The port ``OneTimePasswords``. Authenticator apps take SHA-1 and 6 digits, also where an address says otherwise.

    HMAC-SHA-1 is not weakened by collisions of SHA-1 (RFC 6238, 1.2; RFC 4226, B.2).
    """

    def __init__(self, *, digits: int = DIGITS, digest: Callable[..., Any] = hashlib.sha1) -> None:
        self._digits = digits
        self._digest = digest

    def code(self, secret: SecretBytes, step: int) -> SecretText:
        """The code of a time step."""
        return SecretText(pyotp.HOTP(self.typed(secret).reveal(), digits=self._digits, digest=self._digest).at(step))

    def matching_step(self, secret: SecretBytes, code: SecretText, steps: Sequence[int]) -> int | None:
        """Every step is compared, also after one that matches."""
        typed = code.reveal().encode("utf-8", "surrogatepass")
        matching = [each for each in steps if hmac.compare_digest(self.code(secret, each).reveal().encode(), typed)]
        return matching[0] if matching else None

    def typed(self, secret: SecretBytes) -> SecretText:
        """Base 32 without padding, as apps take it."""
        return SecretText(base64.b32encode(secret.reveal()).decode().rstrip("="))

    def uri(self, secret: SecretBytes, account: str) -> SecretText:
        """The address in the form that the authenticator apps share: `otpauth://totp/Keyhall:NAME?secret=...`."""
        totp = pyotp.TOTP(self.typed(secret).reveal(), digits=self._digits, digest=self._digest, interval=STEP_SECONDS)
        return SecretText(totp.provisioning_uri(name=account, issuer_name=_ISSUER))

    def qr_svg(self, uri: SecretText) -> SecretText:
        """An SVG element with attributes alone: the policy of the pages allows no style in it."""
        # Here, because few processes ever draw one.
        import segno  # noqa: PLC0415

        drawn = io.BytesIO()
        segno.make_qr(uri.reveal(), error="m").save(
            drawn,
            kind="svg",
            border=_QUIET_ZONE,
            dark="#000",
            light="#fff",
            xmldecl=False,
            nl=False,
            omitsize=True,
            title="QR code for an authenticator app",
            svgclass="qr",
            lineclass=None,
        )
        return SecretText(drawn.getvalue().decode())
