"""Secrets from outside: which settings AWS may hold, and what follows it while a process runs."""

from __future__ import annotations

from collections.abc import Callable

from app.bootstrap.keys import OpenKeys
from app.domain.secrets import SecretText
from app.domain.stored_secret import SecretPlace
from app.infrastructure.aws_secrets import AwsSecrets
from app.services.outside_secrets import OutsideSource
from app.settings import Settings
from app.settings.sources import SECRETS


def secrets_backend(place: SecretPlace) -> AwsSecrets:
    """The reader of that secret: every setting that is secret may be in it, and no other."""
    return AwsSecrets(place, SECRETS, other_settings=frozenset(Settings.names()) - SECRETS)


def outside_source(settings: Settings, opened: OpenKeys, hide: Callable[[SecretText], object]) -> OutsideSource | None:
    """Where this process reads its secrets again; None where they do not come from outside."""
    if settings.stored_secret is None:
        return None
    return OutsideSource(
        backend=secrets_backend(settings.stored_secret.place),
        master_key=opened.source,
        stored=settings.stored_secret,
        hide=hide,
    )
