"""A label or a key? The corpus of both, counted; and every place that decides it decides by the same table."""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.credentials import label_name, provider_name, require_label_without
from app.domain.errors import InvalidInput
from app.domain.key_shapes import SHAPES, KeyShape, find_key, looks_like_key, provider_of
from app.infrastructure.redaction import Redactor
from tests.support.labels import EVERYDAY_LABELS

_RANDOM = random.Random(20_261_129)
_BASE36 = string.ascii_uppercase + string.digits
_BASE62 = string.ascii_letters + string.digits


def _of(alphabet: str, length: int) -> str:
    """Like a real key: with at least one digit, one capital and one small letter where the alphabet has them."""
    while True:
        text = "".join(_RANDOM.choice(alphabet) for _ in range(length))
        kinds = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
        if all(set(text) & set(kind) for kind in kinds if set(alphabet) & set(kind)) or length < 3:
            return text


def _hex(length: int) -> str:
    return _of("0123456789abcdef", length)


def _uuid() -> str:
    return "-".join(_hex(length) for length in (8, 4, 4, 4, 12))


def _invented() -> list[str]:
    """200 keys: four of each of 50 kinds. None was ever issued; each has the form that the provider documents."""
    kinds: list[Callable[[], str]] = [
        lambda: f"sk-proj-{_of(_BASE62 + '_-', 74)}T3BlbkFJ{_of(_BASE62, 74)}",
        lambda: f"sk-{_of(_BASE62, 20)}T3BlbkFJ{_of(_BASE62, 20)}",
        lambda: f"sk-svcacct-{_of(_BASE62, 60)}",
        lambda: f"sk-ant-api03-{_of(_BASE62, 93)}AA",
        lambda: f"sk-or-v1-{_hex(64)}",
        lambda: f"sk-{_hex(32)}",
        lambda: f"gsk_{_of(_BASE62, 52)}",
        lambda: f"AIza{_of(_BASE62, 35)}",
        lambda: f"xai-{_of(_BASE62, 80)}",
        lambda: f"pplx-{_of(_BASE62, 48)}",
        lambda: f"hf_{_of(string.ascii_letters, 34)}",
        lambda: f"r8_{_of(_BASE62, 37)}",
        lambda: f"nvapi-{_of(_BASE62, 64)}",
        lambda: f"pcsk_{_of(_BASE62, 60)}",
        lambda: f"tvly-{_of(_BASE62, 32)}",
        lambda: f"ghp_{_of(_BASE62, 36)}",
        lambda: f"gho_{_of(_BASE62, 36)}",
        lambda: f"github_pat_{_of(_BASE62, 22)}_{_of(_BASE62, 59)}",
        lambda: f"glpat-{_of(_BASE62, 20)}",
        lambda: f"ATATT3{_of(_BASE62, 180)}",
        lambda: f"npm_{_of(_BASE62, 36)}",
        lambda: f"pypi-AgEIcHlwaS5vcmc{_of(_BASE62, 120)}",
        lambda: f"dckr_pat_{_of(_BASE62, 27)}",
        lambda: f"xoxb-{_of(string.digits, 12)}-{_of(string.digits, 12)}-{_of(_BASE62, 24)}",
        lambda: f"https://hooks.slack.com/services/T{_of(_BASE36, 9)}/B01234567/{_of(_BASE62, 24)}",
        lambda: f"https://discord.com/api/webhooks/{_of(string.digits, 18)}/{_of(_BASE62, 68)}",
        lambda: f"MTIzNDU2Nzg5MDEyMzQ1Njc4.{_of(_BASE62, 6)}.{_of(_BASE62, 38)}",
        lambda: f"{_of('123456789', 10)}:AA{_of(_BASE62, 33)}",
        lambda: f"SG.{_of(_BASE62, 22)}.{_of(_BASE62, 43)}",
        lambda: f"key-{_hex(32)}",
        lambda: f"AKIA{_of(string.ascii_uppercase + '234567', 16)}",
        lambda: _of(_BASE62 + "+/", 40),  # an AWS secret access key has no prefix
        lambda: f"ya29.{_of(_BASE62, 120)}",
        lambda: f"AccountKey={base64.b64encode(_RANDOM.randbytes(64)).decode()}",
        lambda: f"dop_v1_{_hex(64)}",
        lambda: f"hvs.{_of(_BASE62, 90)}",
        lambda: f"tskey-auth-{_of(_BASE62, 17)}-{_of(_BASE62, 32)}",
        lambda: f"dapi{_hex(32)}",
        lambda: f"sk_live_{_of(_BASE62, 24)}",
        lambda: f"whsec_{_of(_BASE62, 32)}",
        lambda: f"shpat_{_hex(32)}",
        lambda: f"access-sandbox-{_uuid()}",
        lambda: f"glc_{_of(_BASE62, 60)}",
        lambda: f"lin_api_{_of(_BASE62, 40)}",
        lambda: f"ntn_{_of(_BASE62, 46)}",
        lambda: f"eyJhbGciOiJIUzI1NiJ9.{_of(_BASE62, 40)}.{_of(_BASE62, 43)}",
        lambda: f"postgres://app:{_of(_BASE62, 16)}@db.example.org/app",
        lambda: _of(_BASE62, 32),  # Mistral and many others: no prefix
        lambda: _hex(40),
        lambda: base64.urlsafe_b64encode(_RANDOM.randbytes(32)).decode(),
    ]
    return [kind() for kind in kinds for _ in range(4)]


INVENTED_KEYS = _invented()


def test_the_corpus_of_labels_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert (len(set(EVERYDAY_LABELS)), len(set(INVENTED_KEYS))) == (200, 200)
    refused = [label for label in EVERYDAY_LABELS if looks_like_key(label)]
    passed = [key for key in INVENTED_KEYS if not looks_like_key(key)]
    with capsys.disabled():
        print(  # noqa: T201 - the counts are the result
            f"\n200 everyday labels: {len(refused)} taken for keys; 200 invented keys: {len(passed)} not recognised"
        )
    assert (refused, passed) == ([], [])


@pytest.mark.parametrize("key", [key for key in INVENTED_KEYS if len(key) <= 60])
def test_a_key_is_found_within_a_text_and_is_no_label_and_no_provider(key: str) -> None:
    with pytest.raises(InvalidInput, match="looks like a key") as refusal:
        label_name(f"my {key}")
    assert key not in str(refusal.value)
    if len(key) <= 32:
        with pytest.raises(InvalidInput, match="looks like a key"):
            provider_name(key)


def test_a_key_of_a_known_shape_is_found_in_a_log_line_by_the_same_table() -> None:
    redactor = Redactor()
    for key in INVENTED_KEYS:
        found = find_key(key)
        if found is not None:
            assert found not in redactor.text(f"the provider refused {key} twice")


def test_the_marks_of_every_shape_are_in_what_it_matches() -> None:
    """A search skips a shape whose marks are not in the text, so every match must hold one."""
    covered = set()
    for shape in SHAPES:
        for key in INVENTED_KEYS:
            if re.search(shape.pattern, key, re.ASCII):
                covered.add(shape)
                assert any(mark in key.lower() for mark in shape.marks), shape
        assert all(mark == mark.lower() for mark in shape.marks), shape
    assert len(covered) > 35


@pytest.mark.parametrize(
    ("prefix", "provider"),
    [
        ("sk-proj-", "openai"),
        ("sk-ant-api03-", "anthropic"),
        ("sk-or-v1-", "openrouter"),
        ("gsk_", "groq"),
        ("AIza", "gemini"),
        ("ghp_", "github"),
        ("hf_", "huggingface"),
        ("xoxb-1234567-", "slack"),
        ("sk-", None),
        ("", None),
    ],
)
def test_a_provider_is_recognised_by_the_shape_of_its_keys(prefix: str, provider: str | None) -> None:
    assert provider_of(prefix + _of(_BASE62, 40)) == provider
    assert provider_of(f"{prefix}{_of(_BASE62, 40)} and more") is None


@pytest.mark.parametrize(
    ("secret", "label"),
    [
        ("correct horse battery", "correct horse battery"),
        ("correct horse battery", "old: Correct Horse Battery!"),
        ("hunter2", "hunter2"),
        ("hunter22", "my hunter22 key"),
        ("1234", "pin 1234"),
        ("pa\u0308sse-partout", "P\u00e4sse-Partout"),
        ("a", "a"),
    ],
)
def test_a_label_that_shows_its_own_secret_is_refused(secret: str, label: str) -> None:
    with pytest.raises(InvalidInput, match="label: holds the secret itself"):
        require_label_without(secret, label)


@pytest.mark.parametrize(("secret", "label"), [("a", "main"), ("1234", "node 12345"), ("sesame", "open says me")])
def test_a_label_may_share_letters_with_a_short_secret(secret: str, label: str) -> None:
    require_label_without(secret, label)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.pattern)
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_every_match_of_a_shape_holds_one_of_its_marks(shape: KeyShape, data: st.DataObject) -> None:
    """A text without a mark is not searched, so a match without one would neither be found nor redacted."""
    key = data.draw(st.from_regex(re.compile(shape.pattern, re.ASCII), fullmatch=True))
    assert any(mark in key.lower() for mark in shape.marks), key
