"""One-time codes by the vectors of their standard, what people type, and the QR code."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

from app.domain.errors import InvalidInput
from app.domain.second_factor import (
    RECOVERY_CODE_BYTES,
    accepted_steps,
    recovery_code,
    recovery_hash,
    step_of,
    typed_code,
)
from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.one_time_passwords import PyotpPasswords

# RFC 6238, appendix B. The secrets are those of the reference implementation in appendix A: the RFC's table names the
# first one alone (errata 2866).
SECRETS: Final = {
    "sha1": b"12345678901234567890",
    "sha256": b"12345678901234567890123456789012",
    "sha512": b"1234567890123456789012345678901234567890123456789012345678901234",
}
VECTORS: Final = [
    (59, "1970-01-01T00:00:59", 0x1, {"sha1": "94287082", "sha256": "46119246", "sha512": "90693936"}),
    (1111111109, "2005-03-18T01:58:29", 0x23523EC, {"sha1": "07081804", "sha256": "68084774", "sha512": "25091201"}),
    (1111111111, "2005-03-18T01:58:31", 0x23523ED, {"sha1": "14050471", "sha256": "67062674", "sha512": "99943326"}),
    (1234567890, "2009-02-13T23:31:30", 0x273EF07, {"sha1": "89005924", "sha256": "91819424", "sha512": "93441116"}),
    (2000000000, "2033-05-18T03:33:20", 0x3F940AA, {"sha1": "69279037", "sha256": "90698825", "sha512": "38618901"}),
    (20000000000, "2603-10-11T11:33:20", 0x27BC86AA, {"sha1": "65353130", "sha256": "77737706", "sha512": "47863826"}),
]


@pytest.mark.parametrize("mode", SECRETS)
@pytest.mark.parametrize(("seconds", "time", "step", "codes"), VECTORS, ids=lambda each: str(each)[:20])
def test_the_codes_are_those_of_rfc_6238(mode: str, seconds: int, time: str, step: int, codes: dict[str, str]) -> None:
    now = datetime.fromisoformat(time).replace(tzinfo=UTC)
    assert (now.timestamp(), step_of(now)) == (seconds, step)
    digest: Any = getattr(hashlib, mode)
    passwords, secret = PyotpPasswords(digits=8, digest=digest), SecretBytes(SECRETS[mode])
    assert passwords.code(secret, step).reveal() == codes[mode]
    steps = accepted_steps(now, None)
    assert passwords.matching_step(secret, SecretText(codes[mode]), steps) == step
    assert passwords.matching_step(secret, SecretText(codes[mode]), accepted_steps(now, step)) is None
    assert passwords.matching_step(secret, SecretText(codes[mode][::-1]), steps) is None


def test_a_code_is_accepted_one_step_early_and_one_late_and_never_after_its_use() -> None:
    now = datetime(2026, 11, 30, 12, 0, 10, tzinfo=UTC)
    present = step_of(now)
    assert sorted(accepted_steps(now, None)) == [present - 1, present, present + 1]
    assert accepted_steps(now, present) == [present + 1]
    assert accepted_steps(now, present + 1) == []
    assert accepted_steps(now, present + 1000) == [], "a clock that was set back revives nothing"


@pytest.mark.parametrize(
    "typed",
    [
        "123456",
        " 123 456 ",
        "123-456",
        "12\u201334\u201356",
        "\uff11\uff12\uff13\uff14\uff15\uff16",
        "1\u00a02\u20093456",
        "\u200b123456\n",
    ],
)
def test_blanks_dashes_and_full_width_digits_make_no_difference(typed: str) -> None:
    code = typed_code(typed)
    assert code is not None
    assert code.one_time == SecretText("123456")


@pytest.mark.parametrize("typed", [None, "", "   ", "--", "\u200b"])
def test_nothing_typed_is_no_code(typed: object) -> None:
    assert typed_code(typed) is None


@pytest.mark.parametrize(
    "typed",
    ["12345", "1234567", "12345x", "٣٤٥٦٧٨", "1e5", "-12345", "U" * 24, "X" * 23, "X" * 25, "' OR 1=1 --", "{{7*7}}"],
)
def test_what_cannot_be_a_code_is_a_wrong_one(typed: str) -> None:
    code = typed_code(typed)
    assert code is not None
    assert (code.one_time, code.recovery_hash) == (None, None)
    assert typed not in repr(code)


@pytest.mark.parametrize("typed", [123456, b"123456", ["123456"], "x" * 5000, "12\x003456", "\ud800"])
def test_what_is_no_text_is_refused(typed: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        typed_code(typed)
    assert str(typed) not in str(refused.value)


def test_a_recovery_code_is_read_however_it_is_typed() -> None:
    code = recovery_code(bytes(range(RECOVERY_CODE_BYTES)))
    assert re.fullmatch("(?:[0-9A-HJKMNP-TV-Z]{4}-){5}[0-9A-HJKMNP-TV-Z]{4}", code.reveal())
    plain = code.reveal().replace("-", "")
    for typed in (
        code.reveal(),
        plain,
        plain.lower(),
        f" {' '.join(plain)}\n",
        plain.replace("0", "O").replace("1", "l"),
    ):
        read = typed_code(typed)
        assert read is not None
        assert (read.one_time, read.recovery_hash) == (None, recovery_hash(code))


def test_every_bit_of_the_randomness_is_in_the_code() -> None:
    zero = bytes(RECOVERY_CODE_BYTES)
    flipped = [(1 << bit).to_bytes(RECOVERY_CODE_BYTES, "big") for bit in range(8 * RECOVERY_CODE_BYTES)]
    assert len({recovery_code(each).reveal() for each in (zero, *flipped)}) == 8 * RECOVERY_CODE_BYTES + 1 == 121


def test_the_qr_code_is_drawn_with_attributes_alone_on_white() -> None:
    passwords, secret = PyotpPasswords(), SecretBytes(SECRETS["sha1"])
    uri = passwords.uri(secret, 'a&b<"ü>')
    assert uri.reveal().startswith("otpauth://totp/Keyhall:a%26b%3C%22%C3%BC%3E?secret=GEZDGNBV")
    svg = passwords.qr_svg(uri).reveal()
    root = ET.fromstring(svg)  # noqa: S314 - our own
    assert "style" not in svg
    assert "script" not in svg
    background = root[1]
    assert background.get("fill") == "#fff", "on a dark page the quiet zone stays white"
    side = int(root.attrib["viewBox"].split()[2])
    assert background.get("d") == f"M0 0h{side}v{side}h-{side}z"
