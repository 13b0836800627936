"""Legacy tables: accounts with their keys in a column of JSON, and a table with a row for each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain.imports import Entry, ImportStopped, Passed, Source, shown
from app.domain.secrets import SecretBytes, SecretText
from app.services.imports.users_json import add_entry, keys_of
from app.services.ports import LegacyDatabase

_ACCOUNTS: Final = ("users", "user", "accounts")
_KEYS: Final = ("api_credentials", "credentials", "api_keys")
_NAMES: Final = ("username", "user_name", "name", "login", "email")
_JSON: Final = ("api_keys", "apikeys", "api_keys_json")
_VALUES: Final = (
    *("encrypted_value", "encrypted_credentials", "encrypted_key", "encrypted_api_key", "encrypted_secret"),
    *("ciphertext", "api_key", "value"),
)
_OWNERS: Final = ("user_id", "owner_id", "username", "owner")
_PROVIDERS: Final = ("provider", "platform", "service", "service_name")
_LABELS: Final = ("label", "credential_name", "key_name", "name", "title")
_OWN: Final = "app_config"


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the source; ``first`` finds the first of some columns that it has."""

    name: str
    columns: Sequence[str]

    def first(self, names: Sequence[str]) -> str | None:
        return next((each for each in names if each in self.columns), None)


async def legacy_tables(database: LegacyDatabase) -> Source:
    """The accounts and keys of a legacy database. Raises ImportStopped where it has no table with keys."""
    tables = await database.tables()
    if _OWN in tables:
        raise ImportStopped(f"{database.name} is a database of Keyhall: move it by a backup, `keyhall backup create`")
    source = Source("database")
    accounts = _table(tables, _ACCOUNTS)
    names = await _accounts(database, accounts, source) if accounts else {}
    keys = _table(tables, _KEYS)
    if keys is not None and keys.first(_VALUES):
        await _keys(database, keys, names, source)
    elif accounts is None or accounts.first(_JSON) is None:
        raise ImportStopped(f"{database.name} has neither users.api_keys nor api_credentials with an encrypted_value")
    return source


def _table(tables: Mapping[str, Sequence[str]], names: Sequence[str]) -> _Table | None:
    return next((_Table(each, tables[each]) for each in names if each in tables), None)


async def _accounts(database: LegacyDatabase, table: _Table, source: Source) -> Mapping[str, str]:
    """Add the accounts with their keys; return their names by id."""
    name_column, keys_column = table.first(_NAMES), table.first(_JSON)
    if name_column is None:
        raise ImportStopped(f"{database.name}: the table {table.name} has no column username, name or email")
    id_column = "id" if "id" in table.columns else name_column
    names: dict[str, str] = {}
    columns = [id_column, name_column, *([keys_column] if keys_column else [])]
    async for id_, name, *keys in database.rows(table.name, columns, as_text=columns):
        where = f"{table.name}[{shown(id_)}]"
        if not isinstance(name, str) or not name.strip():
            source.broken.append(Passed(where, f"has no {name_column}"))
        elif name in source.holders:
            source.broken.append(Passed(where, f"is the same user as {source.holders[name]}"))
        else:
            source.holders[name] = where
            names[str(id_)] = name
            for each in keys:
                keys_of(source, name, each, f"{where}.{keys_column}")
    return names


async def _keys(database: LegacyDatabase, table: _Table, names: Mapping[str, str], source: Source) -> None:
    """Add the rows of a table of keys."""
    value_column, id_column = table.first(_VALUES), "id" if "id" in table.columns else None
    found = (id_column, table.first(_OWNERS), table.first(_PROVIDERS), table.first(_LABELS))
    texts = list(dict.fromkeys(each for each in found if each is not None))
    columns = [*texts, str(value_column)]
    number = 0
    async for row in database.rows(table.name, columns, as_text=texts):
        number += 1
        members = dict(zip(columns, row, strict=True))
        id_, owner, provider, label = (None if each is None else members[each] for each in found)
        where = f"{table.name}[{shown(number if id_ is None else id_)}].{value_column}"
        value = _value(members[str(value_column)])
        if value is None:
            source.passed_over.append(Passed(where, "is empty"))
            continue
        holder = None if owner is None else names.get(str(owner), owner if found[1] in {"username", "owner"} else None)
        if owner is not None and holder not in source.holders:
            source.broken.append(
                Passed(where, f"belongs to an account that the database does not have: {shown(owner)}")
            )
            continue
        entry = Entry(
            where=where,
            holder=holder,
            name=str(label or provider or "key"),
            value=value,
            provider=provider,
            label=label,
            encrypted=value_column not in {"api_key", "value"},
        )
        add_entry(source, entry)


def _value(stored: Any) -> SecretText | SecretBytes | None:
    if isinstance(stored, memoryview | bytearray):
        stored = bytes(stored)
    if not stored:
        return None
    return SecretBytes(stored) if isinstance(stored, bytes) else SecretText(str(stored))
