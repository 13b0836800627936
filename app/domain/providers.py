"""The names under which programs keep their providers' keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.domain.credentials import PROVIDER_PATTERN
from app.domain.errors import InvalidInput
from app.domain.key_shapes import looks_like_key, provider_of

ENVIRONMENT_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        f"{provider.upper()}_API_KEY": provider
        for provider in (
            "openai",
            "anthropic",
            "github",
            "openrouter",
            "google",
            "gemini",
            "mistral",
            "groq",
            "cohere",
            "deepseek",
            "xai",
            "together",
            "perplexity",
            "fireworks",
            "cerebras",
            "huggingface",
        )
    }
    | {"GITHUB_TOKEN": "github"}
)
"""The environment variables that hold a provider's credential, and the provider's slug."""

KNOWN_PROVIDERS: Final = frozenset(ENVIRONMENT_CREDENTIALS.values())
"""The slugs of well-known providers."""
_ALIASES: Final = MappingProxyType(
    {"claude": "anthropic", "chatgpt": "openai", "gpt": "openai", "hf": "huggingface", "gh": "github", "grok": "xai"}
)
_ENDING: Final = re.compile(r"(?:[_\-. ]*(?:api|access|auth|secret))*[_\-. ]*(?:key|token|secret|pat)s?$")
_PROVIDER: Final = re.compile(PROVIDER_PATTERN, re.ASCII)


def provider_named(name: str) -> str | None:
    """The well-known provider that a key's name names, such as `OPENAI_API_KEY` or `openai`; None for any other."""
    stem = _stem(name)
    return stem if stem in KNOWN_PROVIDERS else _ALIASES.get(stem)


def provider_for(name: str, secret: str) -> str | None:
    """The provider of a key, by its name, else by its shape, else the name itself; None where none of them serves."""
    known = provider_named(name) or provider_of(secret)
    if known is not None:
        return known
    stem = re.sub(r"[^a-z0-9._-]+", "-", _stem(name)).strip("._-")[:32].strip("._-")
    return stem if _PROVIDER.fullmatch(stem) and not looks_like_key(stem) else None


def recognised(typed: str, secret: str) -> str:
    """The provider of the key's shape, or as it was typed where the shape names none.

    Raises InvalidInput where the shape names no provider, or another one than was typed.
    """
    by_shape = provider_of(secret)
    if not typed.strip():
        if by_shape is None:
            raise InvalidInput("provider", "is not known by the shape of this key: type its name")
        return by_shape
    if by_shape is None:
        return typed
    if (provider_named(typed) or typed.strip().lower()) != by_shape:
        raise InvalidInput("provider", "is another one than issues keys of this shape")
    return by_shape  # also for another name of it, under which no program would find it


def _stem(name: str) -> str:
    return _ENDING.sub("", name.strip().lower())
