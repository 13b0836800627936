"""Secrets from outside: which settings AWS may hold."""

from __future__ import annotations

from app.domain.stored_secret import SecretPlace
from app.infrastructure.aws_secrets import AwsSecrets
from app.settings import Settings
from app.settings.sources import SECRETS


def secrets_backend(place: SecretPlace) -> AwsSecrets:
    """The reader of that secret: every setting that is secret may be in it, and no other."""
    return AwsSecrets(place, SECRETS, other_settings=frozenset(Settings.names()) - SECRETS)
