"""API tokens in the services: made, used, ended, and refused wherever their scopes say nothing."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.api_tokens import MOST_TOKENS, TokenStatus, token_of
from app.domain.audit import Action, Result
from app.domain.errors import (
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    InvalidToken,
    MissingScope,
    NoCredential,
    NotFound,
    NotReady,
    QuotaExceeded,
    ReauthenticationRequired,
)
from app.domain.identity import Actor, Client, GuildContext, Role, Source
from app.domain.jobs import JobState
from app.domain.keys import KeyName, KeyState
from app.domain.scopes import Scope
from app.services import Services
from app.services.audit_trail import AuditQuery
from app.services.authentication import CreatedToken
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import ENVIRONMENT_GUILD, Keyhall, open_keyhall
from tests.support.samples import PASSWORD, SECRET

WEB = Client(source=Source.WEB, address="192.0.2.7", device="curl")
GUILD, ELSEWHERE = "900000000000000002", "900000000000000003"
API = KeyName.API_SECRET_KEY
ALL = [*Scope]


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


async def person(services: Services, name: str, role: Role) -> Actor:
    """Somebody who has just signed in."""
    operator = await services.identity.operator()
    if role is Role.OWNER:
        await services.identity.create_owner(name, PASSWORD, WEB)
    else:
        await services.identity.create(operator, name, PASSWORD, role)
    pair = await services.authentication.login(name, PASSWORD, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


@pytest.fixture
async def owner(services: Services) -> Actor:
    return await person(services, "olga", Role.OWNER)


@pytest.fixture
async def mia(services: Services) -> Actor:
    return await person(services, "mia", Role.MEMBER)


async def made(services: Services, actor: Actor, *scopes: str, **more: Any) -> tuple[str, str]:
    """The id and the text of a new token."""
    created = await services.api_tokens.create(actor, name="ci", scopes=scopes or ("credentials:read",), **more)
    return created.token.id, secret_of(created)


def secret_of(created: CreatedToken) -> str:
    assert created.secret is not None
    return created.secret.reveal()


async def acting(services: Services, actor: Actor, *scopes: str, **more: Any) -> Actor:
    """The actor of a new token."""
    _, token = await made(services, actor, *scopes, **more)
    return await services.requests.authenticate(token, WEB)


# -- making ------------------------------------------------------------------------------------------------------------


async def test_a_token_stands_for_its_owner_with_its_scopes(
    services: Services, storage: FakeStorage, mia: Actor
) -> None:
    id_, token = await made(services, mia, "credentials:read", "credentials:use")
    found = await services.requests.authenticate(token, WEB)
    assert found == replace(
        mia,
        client=WEB,
        session_id=None,
        authenticated_at=None,
        scopes=frozenset({"credentials:read", "credentials:use"}),
        token_id=id_,
    )
    event = next(each for each in storage.tables.audit if each.action is Action.TOKEN_CREATED)
    assert (event.subject_id, event.object_kind, event.object_id) == (mia.subject_id, "token", id_)
    assert event.detail == {"scopes": "credentials:read credentials:use"}


async def test_nothing_that_is_stored_is_the_token(services: Services, storage: FakeStorage, mia: Actor) -> None:
    _, token = await made(services, mia)
    stored = repr(storage.tables)
    assert token not in stored
    assert token[9:] not in stored


async def test_a_new_token_needs_a_fresh_person(
    services: Services, keyhall: Keyhall, clock: FakeClock, mia: Actor, owner: Actor
) -> None:
    keyhall.advance(clock, timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        await made(services, mia)
    discord = replace(mia, client=Client(source=Source.DISCORD), session_id=None, authenticated_at=None)
    with pytest.raises(ReauthenticationRequired):
        await made(services, discord)
    fresh = replace(owner, authenticated_at=clock.now())
    token = await acting(services, fresh, *ALL)
    with pytest.raises(MissingScope):
        await made(services, token)


async def test_nobody_gives_a_token_more_than_their_role_has(services: Services, mia: Actor) -> None:
    for scope in ("keys:read", "keys:manage", "audit:read", "users:manage", "metrics"):
        with pytest.raises(Forbidden, match=scope):
            await made(services, mia, "credentials:read", scope)


async def test_the_named_credential_must_be_the_owners(
    services: Services, storage: FakeStorage, mia: Actor, owner: Actor
) -> None:
    mine = (await services.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view.id
    theirs = (await services.credentials.add(owner, provider="openai", label="main", secret=SECRET)).view.id
    await made(services, mia, f"credentials:use:{mine}")
    for other in (theirs, "0198c1a2-0000-7000-8000-000000000001"):
        with pytest.raises(NotFound):
            await made(services, mia, f"credentials:use:{other}")
    with pytest.raises(NotFound):
        await made(services, mia, f"credentials:use:{mine}", guild_id=GUILD)
    assert storage.trail().count((Action.TOKEN_CREATED, Result.DENIED)) == 1
    await services.credentials.remove(mia, mine)
    with pytest.raises(NotFound):
        await made(services, mia, f"credentials:use:{mine}")


@pytest.mark.parametrize("guild", ["", "0", "x", "1" * 21, str(1 << 64), "\uff11\uff12"])
async def test_a_guild_is_a_snowflake(services: Services, mia: Actor, guild: str) -> None:
    with pytest.raises(InvalidInput, match="guild_id"):
        await made(services, mia, guild_id=guild)


async def test_a_token_for_a_guild_has_scopes_of_credentials_alone(services: Services, owner: Actor) -> None:
    with pytest.raises(Forbidden, match="keys:read"):
        await made(services, owner, "credentials:read", "keys:read", guild_id=GUILD)


async def test_there_is_room_for_fifty_tokens_that_have_not_expired(
    services: Services, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    for number in range(MOST_TOKENS):
        until = clock.now() + timedelta(days=1) if number else None
        await services.api_tokens.create(mia, name="ci", scopes=["credentials:read"], expires_at=until)
    with pytest.raises(QuotaExceeded):
        await made(services, mia)
    keyhall.advance(clock, timedelta(days=1))
    await made(services, replace(mia, authenticated_at=clock.now()))


async def test_a_repeated_request_makes_and_shows_nothing(services: Services, storage: FakeStorage, mia: Actor) -> None:
    async def ask(name: str = "ci") -> CreatedToken:
        return await services.api_tokens.create(mia, name=name, scopes=["credentials:read"], idempotency_key="k")

    first, again = await ask(), await ask()
    assert first.secret is not None
    assert (again.token, again.secret) == (first.token, None)
    assert len(storage.tables.api_tokens) == 1
    with pytest.raises(IdempotencyConflict):
        await ask("another")
    await services.api_tokens.revoke(mia, first.token.id)
    with pytest.raises(NotFound):
        await ask()


# -- listing and ending ------------------------------------------------------------------------------------------------


async def test_tokens_are_listed_newest_first_and_page_by_page(services: Services, mia: Actor, owner: Actor) -> None:
    ids = [(await made(services, mia))[0] for _ in range(3)]
    await made(services, owner)
    first = await services.api_tokens.page(mia, limit=2)
    rest = await services.api_tokens.page(mia, after=first.next_cursor, limit=2)
    assert [each.id for each in (*first.items, *rest.items)] == ids[::-1]
    assert rest.next_cursor is None


async def test_a_revoked_token_is_refused_at_once(services: Services, storage: FakeStorage, mia: Actor) -> None:
    id_, token = await made(services, mia)
    await services.requests.authenticate(token, WEB)
    await services.api_tokens.revoke(mia, id_)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)
    with pytest.raises(NotFound):
        await services.api_tokens.revoke(mia, id_)
    assert storage.trail()[-1] == (Action.TOKEN_REVOKED, Result.OK)


async def test_somebody_elses_token_is_not_there_and_the_attempt_is_recorded(
    services: Services, storage: FakeStorage, mia: Actor, owner: Actor
) -> None:
    id_, token = await made(services, mia)
    with pytest.raises(NotFound):
        await services.api_tokens.revoke(owner, id_)
    assert storage.trail()[-1] == (Action.TOKEN_REVOKED, Result.DENIED)
    await services.requests.authenticate(token, WEB)


async def test_an_expired_token_is_refused_and_listed_until_it_is_purged(
    services: Services, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia, expires_at=clock.now() + timedelta(hours=1))
    keyhall.advance(clock, timedelta(hours=1) - timedelta(microseconds=1))
    await services.requests.authenticate(token, WEB)
    keyhall.advance(clock, timedelta(microseconds=1))
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)
    [listed] = (await services.api_tokens.page(mia)).items
    assert services.api_tokens.status(listed) is TokenStatus.EXPIRED
    keyhall.advance(clock, timedelta(days=31))
    await services.housekeeping.sweep()
    assert not (await services.api_tokens.page(mia)).items


async def test_a_disabled_owner_has_no_token(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia)
    async with storage.write() as uow:
        await uow.users.disable(mia.user_id, clock.now())
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)


async def test_every_token_of_a_user_ends_together(
    services: Services, storage: FakeStorage, mia: Actor, owner: Actor
) -> None:
    _, token = await made(services, mia)
    _, other = await made(services, owner)
    async with storage.write() as uow:
        assert await uow.api_tokens.end_all_of(mia.user_id) == 1
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)
    await services.requests.authenticate(other, WEB)


async def test_a_demotion_narrows_a_token_at_once(services: Services, storage: FakeStorage) -> None:
    ada = await person(services, "ada", Role.ADMIN)
    _, token = await made(services, ada, "audit:read", "credentials:read")
    await services.audit.page(await services.requests.authenticate(token, WEB), AuditQuery())
    user = storage.tables.users[ada.user_id]
    storage.tables.users[ada.user_id] = replace(user, role=Role.MEMBER)
    demoted = await services.requests.authenticate(token, WEB)
    with pytest.raises(Forbidden):
        await services.audit.page(demoted, AuditQuery())
    assert not (await services.credentials.page(demoted)).items


# -- unknown and hostile -----------------------------------------------------------------------------------------------


async def test_an_unknown_token_is_refused_without_a_write(
    services: Services, storage: FakeStorage, mia: Actor
) -> None:
    commits = storage.commits
    for number in range(5):
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(token_of(bytes([number]) * 32), WEB)
    assert storage.commits == commits


async def test_a_slip_is_refused_without_a_look(services: Services, storage: FakeStorage, mia: Actor) -> None:
    _, token = await made(services, mia)
    units = storage.units
    slip = token[:-1] + ("0" if token[-1] != "0" else "1")
    for text in (slip, "kh_", "kh_" + "A" * 10_000_000, token + token, "kh_\ud800" + "A" * 48, token.upper()):
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(text, WEB)
    assert storage.units == units


async def test_a_use_is_noted_at_most_once_a_minute(
    services: Services, storage: FakeStorage, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia)
    commits = storage.commits
    for _ in range(3):
        await services.requests.authenticate(token, WEB)
    assert storage.commits == commits + 1
    [listed] = (await services.api_tokens.page(mia)).items
    assert listed.last_used_at == clock.now()
    keyhall.advance(clock, timedelta(minutes=1, seconds=1))
    await services.requests.authenticate(token, WEB)
    assert storage.commits == commits + 2


async def test_a_full_disk_ends_no_token(services: Services, storage: FakeStorage, mia: Actor) -> None:
    _, token = await made(services, mia)
    with storage.full():
        await services.requests.authenticate(token, WEB)


async def test_unconfirmed_keys_judge_no_token(
    services: Services, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia)
    clock.advance(timedelta(seconds=6))
    with pytest.raises(NotReady):
        await services.requests.authenticate(token, WEB)


# -- API_SECRET_KEY is rotated -----------------------------------------------------------------------------------------


async def test_a_token_outlives_a_rotation_and_gets_its_new_mac_when_it_is_used(
    services: Services, storage: FakeStorage, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia)
    await services.requests.authenticate(token, WEB)
    await keyhall.rotate(API)
    await keyhall.keys.reload()
    await services.requests.authenticate(token, WEB)
    assert [each.key_version for each in storage.tables.api_tokens.values()] == [1]
    keyhall.advance(clock, timedelta(minutes=2))
    await services.requests.authenticate(token, WEB)
    assert [each.key_version for each in storage.tables.api_tokens.values()] == [2]
    await keyhall.destroy_former(API)
    await services.requests.authenticate(token, WEB)


async def test_a_process_that_has_not_noticed_a_promotion_loads_it_for_a_token(
    services: Services, storage: FakeStorage, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    """Another process made the token under a version that this one does not have."""
    other = await open_keyhall(storage, clock, FakeRandomness(7))
    await other.rotate(API)
    await other.keys.reload()
    _, token = await made(other.services, mia)
    assert keyhall.keys.ring.keysets[API].primary.version == 1
    found = await services.requests.authenticate(token, WEB)
    assert found.user_id == mia.user_id
    assert keyhall.keys.ring.keysets[API].primary.version == 2


async def test_a_version_that_tokens_need_does_not_retire(
    services: Services, storage: FakeStorage, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    _, token = await made(services, mia)
    operator = await services.identity.operator()
    await keyhall.instances.refresh()

    async def rotated() -> list[int]:
        job = await keyhall.rotation.rotate(operator, API)
        states = [each.state async for each in keyhall.rotation.follow(job.id)]
        assert states[-1] is JobState.DONE
        return [each.version for each in keyhall.keys.ring.keysets[API] if each.retired_at is not None]

    assert await rotated() == []
    assert "version 1 stays for 1 API tokens" in next(iter(storage.tables.jobs.values())).progress.note
    needed = await keyhall.key_inspection.dependents(operator, API, 1)
    assert needed.sentence.startswith("1 API tokens")
    await services.requests.authenticate(token, WEB)
    assert await rotated() == [1]
    await services.requests.authenticate(token, WEB)


async def test_a_revoked_version_verifies_no_token(
    services: Services, storage: FakeStorage, keyhall: Keyhall, mia: Actor
) -> None:
    _, token = await made(services, mia)
    await services.requests.authenticate(token, WEB)
    operator = await services.identity.operator()
    await keyhall.rotation.revoke(operator, API, 1)
    await keyhall.keys.reload()
    assert keyhall.keys.ring.keysets[API].versions[0].state is KeyState.COMPROMISED
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)
    [listed] = (await services.api_tokens.page(mia)).items
    assert services.api_tokens.status(listed) is TokenStatus.ENDED


# -- scopes in the services --------------------------------------------------------------------------------------------


def _methods(services: Services) -> list[tuple[str, Callable[..., Any]]]:
    """Every public method of every service, and of its parts, that takes an actor."""
    found: list[tuple[str, Callable[..., Any]]] = []
    seen: set[int] = set()

    def collect(name: str, service: object) -> None:
        if id(service) in seen or not type(service).__module__.startswith("app.services"):
            return
        seen.add(id(service))
        for method, function in inspect.getmembers(service, inspect.ismethod):
            parameters = list(inspect.signature(function).parameters)
            if not method.startswith("_") and parameters and parameters[0] in {"actor", "who"}:
                found.append((f"{name}.{method}", function))
        for part, value in vars(service).items():
            if not part.startswith("_"):
                collect(f"{name}.{part}", value)

    for field in fields(services):
        collect(field.name, getattr(services, field.name))
    return found


NOT_ABOUT_AN_ACTOR = {
    "refusals.refuse": "records that somebody was refused",
    "imports.failure_at_start": "tells those who manage users, and nobody else, anything",
    "identity.add_claimable": "a part of an import, inside its unit of work",
}


async def test_every_service_method_refuses_a_token_without_scopes(services: Services, owner: Actor) -> None:
    """A new method that takes an actor fails here until it asks for a permission, a scope or a person."""
    token = replace(await acting(services, owner, *ALL), scopes=frozenset())
    methods = _methods(services)
    assert {"credentials.add", "credentials.health.report", "rotation.rotate", "api_tokens.create"} < {
        name for name, _ in methods
    }
    open_to_tokens = []
    for name, method in methods:
        if name in NOT_ABOUT_AN_ACTOR:
            continue
        try:
            await _ended(method(token, *_arguments(method)[0], **_arguments(method)[1]))
        except Forbidden:
            continue
        except Exception as other:  # noqa: BLE001 - whatever it is, it came before the refusal
            open_to_tokens.append(f"{name}: {other!r}")
        else:
            open_to_tokens.append(name)
    assert open_to_tokens == [], "begin the method with actor.require_person(), require(permission) or require_scope()"


async def _ended(outcome: Any) -> None:
    if inspect.isawaitable(outcome):
        await outcome
    elif hasattr(outcome, "__aenter__"):
        async with outcome:
            pass
    elif hasattr(outcome, "__aiter__"):
        async for _ in outcome:
            pass


_SAMPLES: dict[str, Any] = {
    "scopes": ["metrics"],
    "name": "AES_KEY",
    "provider": "openai",
    "label": "main",
    "secret": SECRET,
    "typed": "AES_KEY",
    "soon": timedelta(days=1),
    "version": 1,
    "rotation_days": 30,
    "automatic": False,
    "role": Role.MEMBER,
    "query": None,
}


def _arguments(method: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.default is not parameter.empty or parameter.kind in {
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        }:
            continue
        value = _SAMPLES.get(parameter.name, "text")
        if parameter.annotation == "float":
            value = 1.0
        if parameter.name == "name" and "KeyName" in str(parameter.annotation):
            value = KeyName.AES_KEY
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            positional.append(value)
    return positional, named


async def test_a_token_reveals_by_its_scope_alone(
    services: Services, storage: FakeStorage, keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    id_ = (await services.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view.id
    revealing = await acting(services, mia, "credentials:reveal")
    others = await acting(services, mia, "credentials:read", "credentials:write", "credentials:use")
    keyhall.advance(clock, timedelta(hours=1))
    assert (await services.credentials.reveal(revealing, id_)).reveal() == SECRET
    event = storage.tables.audit[-1]
    assert (event.action, event.detail["token"]) == (Action.CREDENTIAL_REVEALED, revealing.token_id)
    with pytest.raises(MissingScope, match="credentials:reveal"):
        await services.credentials.reveal(others, id_)
    with pytest.raises(MissingScope, match="credentials:read"):
        await services.credentials.get(revealing, id_)


async def test_a_token_for_one_credential_uses_that_one(services: Services, mia: Actor) -> None:
    first = (await services.credentials.add(mia, provider="openai", label="first", secret=SECRET)).view.id
    await services.credentials.add(mia, provider="openai", label="later", secret=SECRET)
    token = await acting(services, mia, f"credentials:use:{first}")
    async with services.credentials.use(token, "openai") as used:
        assert used.id == first
    with pytest.raises(NoCredential):
        async with services.credentials.use(token, "openai", "later"):
            pass


@pytest.mark.parametrize("scopes", [("credentials:read", "credentials:write", "credentials:reveal")])
async def test_no_other_scope_uses_a_credential(services: Services, mia: Actor, scopes: tuple[str, ...]) -> None:
    await services.credentials.add(mia, provider="openai", label="main", secret=SECRET)
    with pytest.raises(MissingScope, match="credentials:use"):
        async with services.credentials.use(await acting(services, mia, *scopes), "openai"):
            pass


# -- one guild ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(services: Services, mia: Actor) -> Callable[[str], Awaitable[str]]:
    async def share(guild: str) -> str:
        manager = replace(mia, guild=GuildContext(guild_id=guild, manages_guild=True))
        added = await services.credentials.add(
            manager, provider="openai", label="shared", secret=SECRET, guild_id=guild
        )
        return added.view.id

    return share


async def test_a_token_of_a_guild_reaches_that_guild_and_nothing_else(
    services: Services, mia: Actor, shared: Callable[[str], Awaitable[str]]
) -> None:
    mine = (await services.credentials.add(mia, provider="openai", label="mine", secret=SECRET)).view.id
    here, elsewhere = await shared(GUILD), await shared(ELSEWHERE)
    scopes = ("credentials:read", "credentials:write", "credentials:reveal", "credentials:use")
    token = await acting(services, mia, *scopes, guild_id=GUILD)
    assert (await services.credentials.get(token, here)).id == here
    assert (await services.credentials.reveal(token, here)).reveal() == SECRET
    assert [each.id for each in (await services.credentials.page(token)).items] == [here]
    assert not (await services.credentials.page(token, guild_id=ELSEWHERE)).items
    for other in (mine, elsewhere):
        for act in (services.credentials.get, services.credentials.reveal, services.credentials.remove):
            with pytest.raises(NotFound):
                await act(token, other)
    for guild in (None, ELSEWHERE):  # a member manages no guild by way of the web
        with pytest.raises(Forbidden):
            await services.credentials.add(token, provider="openai", label="x", secret=SECRET, guild_id=guild)
    async with services.credentials.use(token, "openai") as used:
        assert used.id == here


async def test_a_token_of_a_guild_gets_nothing_from_the_environment(
    services: Services, mia: Actor, owner: Actor
) -> None:
    """Whether its owner is a member there is not known, and that guild's members use the operator's key."""
    for actor in (mia, owner):
        token = await acting(services, actor, "credentials:use", guild_id=ENVIRONMENT_GUILD)
        with pytest.raises(NoCredential):
            async with services.credentials.use(token, "openai"):
                pass


async def test_an_admins_token_of_a_guild_stores_there_and_nowhere_else(services: Services, owner: Actor) -> None:
    token = await acting(services, owner, "credentials:write", "credentials:read", guild_id=GUILD)
    added = await services.credentials.add(token, provider="openai", label="x", secret=SECRET)
    assert added.view.owner.id == GUILD
    with pytest.raises(Forbidden):
        await services.credentials.add(token, provider="openai", label="y", secret=SECRET, guild_id=ELSEWHERE)
    report = await services.credentials.health.report(token)
    assert (report.everybody, [each.total for each in report.providers]) == (False, [1])


async def test_a_member_counts_no_others_by_a_token_of_a_guild(services: Services, mia: Actor) -> None:
    with pytest.raises(Forbidden):
        await services.credentials.health.report(await acting(services, mia, "credentials:read", guild_id=GUILD))
