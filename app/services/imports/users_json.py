"""A legacy `users.json`: accounts by name, or a list of them, each with its keys.

The layouts are those of projects that keep their users in a file: `api_keys` by name, as a list, or by provider and
label; values as text or in an object of their own; keys as members of the account, such as `openai_api_key`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from app.domain.credentials import SECRET_LONGEST
from app.domain.imports import HIDDEN, MOST_ENTRIES, Entry, ImportStopped, Passed, Source, shown
from app.domain.providers import provider_named
from app.domain.secrets import SecretText
from app.services.imports.texts import Object, json_of, text_of

_CONTAINERS: Final = ("api_keys", "apiKeys", "apikeys", "api_credentials", "credentials", "keys", "tokens")
_NAMES: Final = ("username", "user_name", "name", "login", "email", "id")
_VALUES: Final = (
    *("encrypted_value", "encrypted_key", "encrypted", "ciphertext"),
    *("api_key", "value", "key", "secret", "token"),
)
_ENCRYPTED: Final = frozenset({"encrypted_value", "encrypted_key", "ciphertext"})
_PROVIDERS: Final = ("provider", "service", "platform", "type")
_LABELS: Final = ("label", "name", "title", "description")
_LONGEST: Final = 2 * SECRET_LONGEST
"""Characters of a value: Fernet and base64 make a secret longer."""


def users_json(content: bytes, file: str) -> Source:
    """The accounts and keys of a `users.json`. Raises ImportStopped where it is no such file."""
    document = json_of(text_of(content, file), file)
    source = Source("json")
    where = f"{file}: "
    if isinstance(document, Object) and isinstance(document.get("users"), Object | list):
        document, where = document["users"], f"{file}: users."
    if isinstance(document, Object):
        for name, members, place in _members(source, document, where):
            _account(source, name, members, place)
    elif isinstance(document, list):
        for number, members in enumerate(document):
            found = _first_text(members, _NAMES) if isinstance(members, Object) else None
            place = f"{where}[{number}]"
            if found is None:
                source.broken.append(Passed(place, "names no user: username, name, login or email"))
            else:
                _account(source, found, members, place)
    else:
        raise ImportStopped(f"{file} holds neither users by name nor a list of users")
    return source


def keys_of(source: Source, holder: str | None, found: Any, where: str) -> None:
    """Add the keys of a container such as `api_keys`, which may be JSON within a text."""
    if isinstance(found, str):
        if not found.strip():
            return
        try:
            found = json_of(found, where)
        except ImportStopped:
            source.broken.append(Passed(where, "is text, and no keys by name"))
            return
    if isinstance(found, Object):
        for name, value, place in _members(source, found, f"{where}."):
            add_key(source, holder, name, value, place)
    elif isinstance(found, list):
        for number, value in enumerate(found):
            _listed(source, holder, value, f"{where}[{number}]")
    elif found is not None:
        source.broken.append(Passed(where, "is neither keys by name nor a list of keys"))


def _account(source: Source, name: str, members: Any, where: str) -> None:
    if not isinstance(members, Object):
        source.broken.append(Passed(where, "is no object with a user's members"))
        return
    if name in source.holders:
        source.broken.append(Passed(where, f"is the same user as {source.holders[name]}"))
        return
    source.holders[name] = where
    for member, value, place in _members(source, members, f"{where}."):
        if member in _CONTAINERS:
            keys_of(source, name, value, place)
        elif isinstance(value, str) and member not in _NAMES and _is_key_name(member):
            add_key(source, name, member, value, place)


def _is_key_name(member: str) -> bool:
    return provider_named(member) is not None and member.lower() != provider_named(member)


def _members(source: Source, found: Object, where: str) -> Iterator[tuple[str, Any, str]]:
    """The members that mean something, each with its place: a name that cannot be shown is replaced by its number.

    Values under names such as `_api_keys_migrated` are flags of the program, and no keys.
    """
    for number, (name, value) in enumerate(found.items(), start=1):
        part = shown(name)
        place = where + (part if part != HIDDEN else f"{part}{number}")
        if name in found.doubled:
            source.broken.append(Passed(place, "stands there twice"))
        elif not name.startswith("_") or isinstance(value, Object):
            yield name, value, place
        elif isinstance(value, str) and value.strip():
            source.passed_over.append(Passed(place, "is taken for a flag, as its name begins with an underscore"))


def _listed(source: Source, holder: str | None, value: Any, where: str) -> None:
    if isinstance(value, Object):
        name = _first_text(value, (*_LABELS, *_PROVIDERS)) or "key"
        add_key(source, holder, name, value, where)
    else:
        source.broken.append(Passed(where, "is no object with a name and a key"))


def add_key(
    source: Source, holder: str | None, name: str, value: Any, where: str, *, provider: str | None = None
) -> None:
    """Add one key, as text or in an object of its own; what is no key is named in the source."""
    if value is None or (isinstance(value, str) and not value.strip()):
        source.passed_over.append(Passed(where, "is empty"))
    elif isinstance(value, str):
        add_entry(source, Entry(where=where, holder=holder, name=name, value=SecretText(value), provider=provider))
    elif isinstance(value, Object):
        member = next((each for each in _VALUES if isinstance(value.get(each), str)), None)
        if member is not None:
            entry = Entry(
                where=f"{where}.{member}",
                holder=holder,
                name=name,
                value=SecretText(value[member]),
                provider=_first_text(value, _PROVIDERS),
                label=_first_text(value, _LABELS),
                encrypted=member in _ENCRYPTED,
            )
            add_entry(source, entry)
        elif value and all(isinstance(each, str) for each in value.values()):
            for label, each, place in _members(source, value, f"{where}."):
                add_entry(source, Entry(where=place, holder=holder, name=name, value=SecretText(each), label=label))
        else:
            source.broken.append(Passed(where, "holds no key"))
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        for number, each in enumerate(value):
            add_entry(source, Entry(where=f"{where}[{number}]", holder=holder, name=name, value=SecretText(each)))
    else:
        source.broken.append(Passed(where, "is no text"))


def add_entry(source: Source, entry: Entry) -> None:
    """Add an entry, unless it is empty or too long. Raises ImportStopped for one too many."""
    if not entry.value.reveal().strip():
        source.passed_over.append(Passed(entry.where, "is empty"))
    elif len(entry.value) > _LONGEST:
        source.broken.append(Passed(entry.where, f"is longer than {SECRET_LONGEST >> 10} KiB"))
    elif len(source.entries) >= MOST_ENTRIES:
        raise ImportStopped(f"there are more than {MOST_ENTRIES:,} keys: import them in several files")
    else:
        source.entries.append(entry)


def _first_text(found: Object, names: tuple[str, ...]) -> str | None:
    return next((text for name in names if isinstance(text := found.get(name), str) and text.strip()), None)
