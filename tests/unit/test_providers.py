"""Providers are recognised by the names that people give to their keys."""

from __future__ import annotations

import pytest

from app.domain.errors import InvalidInput
from app.domain.providers import provider_for, provider_named, recognised

OPENAI = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("openai", "openai"),
        ("OPENAI_API_KEY", "openai"),
        ("openaiApiKey", "openai"),
        ("anthropic-api-key", "anthropic"),
        ("Claude", "anthropic"),
        ("GITHUB_TOKEN", "github"),
        ("HF_TOKEN", "huggingface"),
        ("groq.key", "groq"),
        ("PORT", None),
        ("SECRET_KEY", None),
        ("", None),
    ],
)
def test_a_well_known_provider_is_named_by_a_key(name: str, provider: str | None) -> None:
    assert provider_named(name) == provider


@pytest.mark.parametrize(
    ("name", "secret", "provider"),
    [
        ("my first key", OPENAI, "openai"),
        ("anthropic", OPENAI, "anthropic"),  # the name is what its owner said
        ("Weather Service API key", "w", "weather-service"),
        ("KEY", "w", None),
        ("ключ", "w", None),
        ("x" * 60, "w", "x" * 32),
        (OPENAI, "w", None),
    ],
)
def test_else_the_shape_of_the_key_decides_and_else_the_name_itself(
    name: str, secret: str, provider: str | None
) -> None:
    assert provider_for(name, secret) == provider


def test_another_name_of_a_provider_is_stored_as_the_one_that_programs_ask_for() -> None:
    assert {recognised(typed, OPENAI) for typed in ("", "openai", "OpenAI", "chatgpt", "OPENAI_API_KEY")} == {"openai"}
    with pytest.raises(InvalidInput):
        recognised("github", OPENAI)
    assert recognised("my-own", "a password") == "my-own"
