"""From the entries of a source to credentials in the clear, by the account or owner that they are for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from app.domain.credentials import (
    LABEL_LONGEST,
    Owner,
    label_name,
    provider_name,
    require_label_without,
    secret_value,
)
from app.domain.errors import CryptoError, InvalidInput
from app.domain.identity import name_key, new_username
from app.domain.imports import Entry, Passed, Source
from app.domain.key_shapes import find_key, looks_like_key
from app.domain.lookalikes import skeleton
from app.domain.placeholders import is_placeholder
from app.domain.providers import provider_for
from app.domain.secrets import SecretBytes, SecretText
from app.domain.text import opaque
from app.services.ports import LegacyCipher

_LIKE_CIPHERTEXT: Final = re.compile(
    r"(?=[A-Za-z0-9]*[+/=])(?:[A-Za-z0-9+/]{4}){10,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
)
"""Base64 with at least one of its own characters, and of at least 30 bytes: nonce and tag alone have 28."""
_LONGEST_NAME: Final = 1024
_NOT_IN_NAMES: Final = re.compile(r"[\s:/@]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An entry in the clear, as the domain accepts it."""

    where: str
    name: str
    provider: str
    label: str
    secret: SecretText


@dataclass(slots=True, kw_only=True)
class Group:
    """The entries of one owner: a known ``owner``, or the account called ``username``, which may not exist yet."""

    where: str
    owner: Owner | None = None
    username: str | None = None
    entries: list[Ready] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Prepared:
    """Groups that may be stored, and the places of everything else; ``renamed`` are places and new usernames.

    ``doubtful`` are the places of plain texts that may be ciphertext of another key.
    """

    broken: list[Passed]
    passed_over: list[Passed]
    groups: list[Group] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


def prepare(source: Source, owner: Owner | None, legacy: LegacyCipher, keys: Sequence[SecretBytes]) -> Prepared:
    """Decrypt and check every entry; ``owner`` gets those that name no account. Some 50 µs an entry: use a thread."""
    prepared = Prepared(broken=list(source.broken), passed_over=list(source.passed_over))
    groups: dict[str | None, Group] = dict(_accounts(source, prepared).items())
    if owner is not None:
        groups[None] = Group(where=source.kind, owner=owner)
    first: dict[tuple[str | None, str, str, str], str] = {}
    for entry in source.entries:
        group = groups.get(entry.holder)
        if group is None:
            why = "names no owner: give one with --user or --guild"
            if entry.holder is not None:
                why = "belongs to an account that cannot be imported"
            prepared.broken.append(Passed(entry.where, why))
            continue
        try:
            ready = _ready(entry, legacy, keys)
        except InvalidInput as error:
            about = "its name " if error.field == "name" else ""
            prepared.broken.append(Passed(entry.where, about + error.reason))
            continue
        except CryptoError as error:
            prepared.broken.append(Passed(entry.where, str(error)))
            continue
        if is_placeholder(ready.secret.reveal()):
            prepared.passed_over.append(Passed(ready.where, "holds a placeholder"))
            continue
        same = first.setdefault((entry.holder, ready.provider, ready.name, ready.secret.reveal()), ready.where)
        if same == ready.where:
            group.entries.append(ready)
            if _doubtful(entry, ready):
                prepared.doubtful.append(ready.where)
        else:
            prepared.passed_over.append(Passed(ready.where, f"is the same as {same}"))
    prepared.groups = list(groups.values())
    return prepared


def _accounts(source: Source, prepared: Prepared) -> dict[str, Group]:
    """A group for each account. Two that would be one account, or look like one, are never merged."""
    found: dict[str, Group] = {}
    taken: dict[str, str] = {}
    for holder, where in source.holders.items():
        try:
            username = _account_name(holder)
        except InvalidInput as error:
            prepared.broken.append(Passed(where, f"cannot be a username here: it {error.reason}"))
            continue
        forms = (name_key(username), skeleton(username))
        other = next((taken[form] for form in forms if form in taken), None)
        if other is not None:
            prepared.broken.append(Passed(where, f"would be the same account as {other}, or look like it"))
            continue
        taken |= dict.fromkeys(forms, where)
        found[holder] = Group(where=where, username=username)
        if username != holder:
            prepared.renamed.append((where, username))
    return found


def _ready(entry: Entry, legacy: LegacyCipher, keys: Sequence[SecretBytes]) -> Ready:
    name = opaque(entry.name, "name", longest=_LONGEST_NAME)
    secret = secret_value(legacy.open(entry.value, keys, encrypted=entry.encrypted).reveal())
    found = provider_for(entry.provider or name, secret)
    if found is None:
        raise InvalidInput("provider", "names no provider, and no provider's keys look like this one")
    provider = provider_name(found)
    return Ready(
        where=entry.where,
        name=name,
        provider=provider,
        label=_label(entry.label or name, provider, secret),
        secret=SecretText(secret),
    )


def _doubtful(entry: Entry, ready: Ready) -> bool:
    """Whether a text that no key opened may be ciphertext: base64, and the shape of no provider's key."""
    secret = ready.secret.reveal()
    if not isinstance(entry.value, SecretText) or entry.value.reveal().strip() != secret:
        return False
    return _LIKE_CIPHERTEXT.fullmatch(secret) is not None and find_key(secret) is None


def _account_name(holder: str) -> str:
    """The username here of an account elsewhere: `anna@example.org` becomes `anna.example.org`. Raises InvalidInput."""
    if looks_like_key(holder):
        raise InvalidInput("username", "looks like a key")
    return new_username(_NOT_IN_NAMES.sub(".", holder.strip()).strip("."))


def _label(wanted: str, provider: str, secret: str) -> str:
    """The label that the source has, or the provider where that makes none."""
    try:
        label = label_name(wanted[:LABEL_LONGEST])
        require_label_without(secret, label)
    except InvalidInput:
        return provider
    return label
