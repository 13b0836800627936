"""Texts that browsers keep for Keyhall."""

from __future__ import annotations

import pytest

from app.services.authentication import base64url, decoded


@pytest.mark.parametrize("size", [1, 2, 31, 32])
def test_a_signature_has_one_text(size: int) -> None:
    data = bytes(range(200, 200 + size))
    text = base64url(data)
    assert decoded(text) == data
    other_ending = text[:-1] + chr(ord(text[-1]) + 1)  # differs in bits that stand for nothing, where there are any
    for changed in (other_ending, text + "=", text + " ", f" {text}", text + "\n", text + "!", ""):
        assert decoded(changed) != data, changed


@pytest.mark.parametrize("text", ["A", "AAAAA", "é", "+/+/", "=", "====", "A" * 4097])
def test_what_is_no_text_of_a_signature_has_no_bytes(text: str) -> None:
    assert decoded(text) == b""
