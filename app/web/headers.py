"""The headers of every response, computed once."""

from __future__ import annotations

from typing import Final

API_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
EXPORT_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Disposition": 'attachment; filename="keyhall-export.json"',
}
"""Of an export of a person's data: a browser saves it as a file and keeps no other copy."""
_YEAR_AND_A_BIT: Final = 400 * 24 * 3600


def default_headers(*, https: bool) -> tuple[tuple[str, str], ...]:
    """Names and values for every response (ASVS 5.0, 3.4); a handler's own value for one of them wins.

    ``Cross-Origin-Resource-Policy`` and ``Cross-Origin-Opener-Policy`` keep other sites from loading or controlling
    Keyhall's pages, X-Frame-Options repeats frame-ancestors for browsers that are too old to support that.
    """
    headers = [
        ("Content-Security-Policy", API_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
        ("Cache-Control", "no-store"),
    ]
    if https:  # without includeSubDomains: the names below this one may be somebody else's
        headers.append(("Strict-Transport-Security", f"max-age={_YEAR_AND_A_BIT}"))
    return tuple(headers)
