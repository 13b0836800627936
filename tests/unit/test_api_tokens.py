"""The form of API tokens, and what their scopes allow."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from app.domain.api_tokens import is_well_formed, new_name, shown_prefix, token_of
from app.domain.errors import Forbidden, InvalidInput, MissingScope, ReauthenticationRequired
from app.domain.identity import _SCOPES, Actor, Client, Permission, Role, Source, User, grantable
from app.domain.key_shapes import find_key, looks_like_key
from app.domain.roles import require_may_give, require_may_manage
from app.domain.scopes import Scope, new_scopes
from app.domain.times import expiry
from app.infrastructure.redaction import REDACTED, Redactor

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOKEN = token_of(bytes(range(32)))
PEOPLE_ALONE = {Permission.MANAGE_BACKUPS}
"""The permissions that no scope passes on."""


def by_token(*scopes: str, role: Role = Role.OWNER, bound_to: str | None = None) -> Actor:
    return Actor(
        user_id="u",
        subject_id="s",
        username="mia",
        role=role,
        client=Client(source=Source.WEB),
        scopes=frozenset(scopes),
        token_id="t",
        bound_to=bound_to,
    )


# -- the form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_a_token_has_a_fixed_width_and_a_checksum_of_its_body(random: bytes) -> None:
    """The figures 43 and 6 hold for the smallest and the largest number."""
    token = token_of(random)
    found = re.fullmatch(r"kh_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", token)
    assert found
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    value = 0
    for digit in found[2]:
        value = value * 62 + alphabet.index(digit)
    assert value == zlib.crc32(found[1].encode())
    value = 0
    for digit in found[1]:
        value = value * 62 + alphabet.index(digit)
    assert value.to_bytes(32, "big") == random
    assert is_well_formed(token)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_token_is_made_of_no_other_number_of_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        token_of(bytes(size))


def test_a_slip_in_one_character_is_found_without_a_look_into_the_database() -> None:
    for place in range(3, len(TOKEN)):
        other = "a" if TOKEN[place] != "a" else "b"
        assert not is_well_formed(TOKEN[:place] + other + TOKEN[place + 1 :])


HOSTILE = [
    "",
    "kh_",
    TOKEN[:-1],
    TOKEN + "0",
    TOKEN + "\n",
    " " + TOKEN,
    TOKEN.replace("kh_", "KH_"),
    TOKEN.replace("kh_", "khr_"),
    "kh_" + "\N{FULLWIDTH DIGIT ZERO}" * 49,
    "kh_" + "\N{ARABIC-INDIC DIGIT ONE}" * 49,
    "kh_" + "'; DROP TABLE api_tokens; --".ljust(49, "-"),
    "kh_" + "\0" * 49,
    "kh_" + "\ud800" * 49,
    "kh_" + "=" * 49,
    "kh_" + "A" * 10_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_else_is_well_formed(text: str) -> None:
    assert not is_well_formed(text)


def test_a_token_is_recognised_and_masked_wherever_it_turns_up() -> None:
    """The pattern of docs/security.md, by which scanners find one."""
    document = Path("docs/security.md").read_text(encoding="utf-8")
    assert "`kh_[0-9A-Za-z]{49}`" in document
    assert find_key(f"my token is {TOKEN}, do not tell") == TOKEN
    assert looks_like_key(f"ci {TOKEN}")
    assert Redactor().text(f"GET /x?t={TOKEN} failed") == f"GET /x?t={REDACTED} failed"
    assert TOKEN[3:20] not in Redactor().text(f"value={TOKEN}")


def test_the_prefix_that_is_shown_leaves_enough_to_guess() -> None:
    assert shown_prefix(TOKEN) == TOKEN[:9]


# -- name, expiry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 65, "a\nb", "a\u202eb", TOKEN, "sk-proj-abcdefghijklmnop1234", 1, None]
)
def test_a_name_is_a_line_without_a_key(name: object) -> None:
    with pytest.raises(InvalidInput, match="name"):
        new_name(name)


def test_an_expiry_lies_in_the_future() -> None:
    assert expiry(None, NOW) is None
    east = datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert expiry(east, NOW) == datetime(2027, 1, 1, tzinfo=UTC)
    last = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-5)))
    for refused in (NOW, NOW - timedelta(days=1), NOW.replace(tzinfo=None), last):
        with pytest.raises(InvalidInput, match="expires_at"):
            expiry(refused, NOW)


# -- scopes ------------------------------------------------------------------------------------------------------------

ONE = "credentials:use:0198c1a2-0000-7000-8000-000000000001"


def test_scopes_are_kept_once_each_in_one_order() -> None:
    assert new_scopes(["metrics", ONE, "credentials:read", "metrics"]) == ("credentials:read", ONE, "metrics")


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        [""],
        ["*"],
        ["admin"],
        ["credentials"],
        ["credentials:read "],
        ["Credentials:Read"],
        ["credentials:read:0198c1a2-0000-7000-8000-000000000001"],
        ["credentials:use:"],
        ["credentials:use:x"],
        [ONE + "\n"],
        [ONE.upper()],
        [1],
        [None],
        ["metrics"] * 51,
    ],
    ids=str,
)
def test_nothing_else_is_a_scope(scopes: list[object]) -> None:
    with pytest.raises(InvalidInput, match="scopes"):
        new_scopes(scopes)


def test_every_permission_names_its_scopes_or_is_for_people_alone() -> None:
    """A new permission is for people alone until somebody decides otherwise here and in identity.py."""
    assert _SCOPES.keys() | PEOPLE_ALONE == set(Permission)
    assert {scope for scopes in _SCOPES.values() for scope in scopes} == set(Scope)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("permission", Permission)
def test_a_token_has_what_both_role_and_scopes_give(role: Role, permission: Permission) -> None:
    for scope in Scope:
        given = role.grants(permission) and scope in _SCOPES.get(permission, ())
        assert by_token(scope, role=role).may(permission) is given
    assert by_token(*Scope, role=role).may(permission) is (role.grants(permission) and permission not in PEOPLE_ALONE)
    assert not by_token(role=role).may(permission)


@pytest.mark.parametrize("permission", sorted(_SCOPES))
def test_the_refusal_names_the_missing_scope(permission: Permission) -> None:
    with pytest.raises(MissingScope) as refused:
        by_token().require(permission)
    for scope in _SCOPES[permission]:
        assert scope in str(refused.value)


def test_a_role_that_lacks_the_right_is_told_so_whatever_the_scopes() -> None:
    with pytest.raises(Forbidden) as refused:
        by_token(*Scope, role=Role.MEMBER).require(Permission.MANAGE_KEYS)
    assert not isinstance(refused.value, MissingScope)


def test_the_use_of_one_credential_is_no_use_of_others_nor_of_the_environment() -> None:
    actor = by_token(ONE)
    actor.require_use()
    assert actor.may(Permission.USE_OWN_CREDENTIALS)
    assert not actor.may(Permission.USE_ENVIRONMENT_CREDENTIALS)
    assert actor.may_use(ONE.rpartition(":")[2])
    assert not actor.may_use("another")
    assert not actor.may_use(None)
    assert not actor.has_scope(Scope.CREDENTIALS_USE)
    with pytest.raises(MissingScope, match="credentials:use"):
        by_token(*(set(Scope) - {Scope.CREDENTIALS_USE})).require_use()


def test_a_token_without_any_scope_may_nothing() -> None:
    """Such a row is an edited one."""
    nothing = by_token()
    for refusing in (nothing.require_use, nothing.require_person, lambda: nothing.require_fresh(NOW)):
        with pytest.raises(MissingScope):
            refusing()


def test_a_token_of_a_guild_has_no_right_beyond_credentials() -> None:
    bound = by_token(*Scope, bound_to="1")
    allowed = {each for each in Permission if bound.may(each)}
    assert allowed == {Permission.USE_OWN_CREDENTIALS, Permission.MANAGE_GUILD_CREDENTIALS}


def test_nothing_is_fresh_for_a_token_but_what_its_scope_stands_for() -> None:
    token = by_token(*Scope)
    token.require_fresh(NOW, scope=Scope.KEYS_MANAGE)
    with pytest.raises(MissingScope, match="sign in with a session"):
        token.require_fresh(NOW)
    with pytest.raises(MissingScope, match="keys:manage"):
        by_token(Scope.KEYS_READ).require_fresh(NOW, scope=Scope.KEYS_MANAGE)
    proven_long_ago = replace(token, scopes=None, authenticated_at=NOW - timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        proven_long_ago.require_fresh(NOW, scope=Scope.KEYS_MANAGE)


@pytest.mark.parametrize(
    "act",
    [
        lambda actor: actor.require_person(),
        lambda actor: actor.require_use(),
        lambda actor: actor.require_scope(Scope.METRICS),
        lambda actor: actor.require(Permission.MANAGE_BACKUPS),
    ],
)
def test_a_person_has_every_scope(act: Callable[[Actor], None]) -> None:
    person = replace(by_token(), scopes=None, token_id=None)
    act(person)
    assert person.may_use(None)


def test_a_scope_can_be_given_by_those_who_could_use_it() -> None:
    assert {each for each in Scope if grantable(Role.MEMBER, each)} == {
        Scope.CREDENTIALS_READ,
        Scope.CREDENTIALS_WRITE,
        Scope.CREDENTIALS_REVEAL,
        Scope.CREDENTIALS_USE,
    }
    assert {each for each in Scope if grantable(Role.AUDITOR, each)} == {
        Scope.CREDENTIALS_READ,
        Scope.KEYS_READ,
        Scope.AUDIT_READ,
        Scope.METRICS,
    }
    assert set(Scope) - {each for each in Scope if grantable(Role.ADMIN, each)} == set()
    assert all(grantable(Role.OWNER, each) for each in Scope)


@pytest.mark.parametrize("role", Role)
def test_a_token_makes_members_alone_and_touches_no_account_that_manages_users(role: Role) -> None:
    """Else who holds it could reset the account of an owner, and sign in as them."""
    token = by_token(Scope.USERS_MANAGE)
    user = User(id="x", subject_id="y", username="ada", role=role, created_at=NOW)
    acts: list[tuple[Callable[[], None], set[Role]]] = [
        (lambda: require_may_give(token, role), {Role.MEMBER}),
        (lambda: require_may_manage(token, user), {Role.MEMBER, Role.AUDITOR}),
    ]
    for act, allowed in acts:
        if role not in allowed:
            with pytest.raises(MissingScope, match="sign in with a session"):
                act()
        else:
            act()
