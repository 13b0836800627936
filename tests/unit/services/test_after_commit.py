"""A change whose caller hears of a failure has not taken effect; one that took effect is answered as a success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from app.domain.audit import Action, Result
from app.domain.credentials import Status
from app.domain.errors import NotReady, OutcomeUnknown, StorageError
from app.domain.identity import Actor, Client, Role, Source
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.services.credentials import Replaced
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, member, open_keyhall
from tests.support.samples import OTHER_SECRET, SECRET

AES, JWT = KeyName.AES_KEY, KeyName.JWT_SECRET_KEY
PASSWORD = "correct horse battery staple"
CLIENT = Client(source=Source.WEB, address="192.0.2.7")
GIVEN = SecretText("Zx8kQm3vN7pRt2LwYb5Hc9Jd4Fg6Se1A")


@dataclass
class Scene:
    """A house with an owner, a member, and what they change."""

    keyhall: Keyhall
    storage: FakeStorage
    mia: Actor
    owner: Actor

    async def added(self) -> str:
        added = await self.keyhall.credentials.add(self.mia, provider="openai", label="main", secret=SECRET)
        return added.view.id

    async def replaced(self) -> str:
        id_ = await self.added()
        await self.keyhall.credentials.replace(self.mia, id_, OTHER_SECRET)
        return id_

    async def removed(self) -> str:
        id_ = await self.added()
        await self.keyhall.credentials.remove(self.mia, id_)
        return id_

    async def rotated(self) -> None:
        await self.keyhall.rotate(AES)
        await self.keyhall.keys.reload()

    async def account(self) -> str:
        await self.keyhall.services.identity.create_owner("olga", PASSWORD, CLIENT)
        return "olga"

    async def token(self) -> str:
        await self.account()
        pair = await self.keyhall.services.authentication.login("olga", PASSWORD, CLIENT)
        return pair.refresh_token.reveal()

    async def session(self) -> tuple[Actor, str]:
        await self.token()
        (session,) = self.storage.tables.sessions.values()
        user = self.storage.tables.users[session.user_id]
        actor = Actor(
            user_id=user.id,
            subject_id=user.subject_id,
            username=user.username,
            role=user.role,
            client=CLIENT,
            session_id=session.id,
        )
        return actor, session.id


Prepare = Callable[[Scene], Awaitable[Any]]
Change = Callable[[Scene, Any], Awaitable[Any]]


async def nothing(_: Scene) -> None:
    """Nothing to prepare."""


async def _used(scene: Scene, _: Any) -> None:
    async with scene.keyhall.credentials.use(scene.mia, "openai"):
        pass


CHANGES: dict[str, tuple[Prepare, Change, Action]] = {
    "add": (
        nothing,
        lambda on, _: on.keyhall.credentials.add(
            on.mia, provider="openai", label="main", secret=SECRET, idempotency_key="once"
        ),
        Action.CREDENTIAL_ADDED,
    ),
    "replace": (
        Scene.added,
        lambda on, id_: on.keyhall.credentials.replace(on.mia, id_, OTHER_SECRET),
        Action.CREDENTIAL_REPLACED,
    ),
    "rollback": (
        Scene.replaced,
        lambda on, id_: on.keyhall.credentials.rollback(on.mia, id_),
        Action.CREDENTIAL_ROLLED_BACK,
    ),
    "relabel": (
        Scene.added,
        lambda on, id_: on.keyhall.credentials.change(on.mia, id_, label="other"),
        Action.CREDENTIAL_CHANGED,
    ),
    "remove": (
        Scene.added,
        lambda on, id_: on.keyhall.credentials.remove(on.mia, id_),
        Action.CREDENTIAL_REMOVED,
    ),
    "restore": (
        Scene.removed,
        lambda on, id_: on.keyhall.credentials.restore(on.mia, id_),
        Action.CREDENTIAL_RESTORED,
    ),
    "rotate": (nothing, lambda on, _: on.keyhall.rotation.rotate(on.owner, AES), Action.KEY_ROTATION_REQUESTED),
    "roll a key back": (
        Scene.rotated,
        lambda on, _: on.keyhall.rotation.rollback(on.owner, AES),
        Action.KEY_ROTATION_REQUESTED,
    ),
    "import a key": (
        nothing,
        lambda on, _: on.keyhall.rotation.import_(on.owner, JWT, GIVEN),
        Action.KEY_IMPORTED,
    ),
    "revoke": (nothing, lambda on, _: on.keyhall.rotation.revoke(on.owner, JWT, 1), Action.KEY_REVOKED),
    "destroy": (
        Scene.rotated,
        lambda on, _: on.keyhall.rotation.destroy(on.owner, AES, 1, typed="AES_KEY"),
        Action.KEY_DESTROYED,
    ),
    "schedule": (
        nothing,
        lambda on, _: on.keyhall.rotation.set_schedule(on.owner, AES, rotation_days=30, automatic=True),
        Action.KEY_SCHEDULED,
    ),
    "create the owner": (
        nothing,
        lambda on, _: on.keyhall.services.identity.create_owner("olga", PASSWORD, CLIENT),
        Action.OWNER_CREATED,
    ),
    "create a user": (
        nothing,
        lambda on, _: on.keyhall.services.identity.create(on.owner, "tom", PASSWORD, Role.MEMBER),
        Action.USER_CREATED,
    ),
    "link": (
        Scene.account,
        lambda on, name: on.keyhall.services.identity.link(on.owner, name, "123456789012345678"),
        Action.USER_LINKED,
    ),
    "sign in": (
        Scene.account,
        lambda on, name: on.keyhall.services.authentication.login(name, PASSWORD, CLIENT),
        Action.LOGIN,
    ),
    "sign out": (
        Scene.token,
        lambda on, token: on.keyhall.services.authentication.logout(token, CLIENT),
        Action.LOGOUT,
    ),
    "end a session": (
        Scene.session,
        lambda on, known: on.keyhall.services.authentication.revoke_session(*known),
        Action.SESSION_REVOKED,
    ),
    "reauthenticate": (
        Scene.session,
        lambda on, known: on.keyhall.services.authentication.reauthenticate(known[0], PASSWORD),
        Action.REAUTHENTICATED,
    ),
    "encrypt a message": (
        nothing,
        lambda on, _: on.keyhall.messages.encrypt(on.mia, "hello"),
        Action.MESSAGE_ENCRYPTED,
    ),
}
"""What is there before, the change, and the audit row that commits with it."""


async def _scene(prepare: Prepare) -> tuple[Scene, Any]:
    clock = FakeClock()
    storage = FakeStorage(clock)
    keyhall = await open_keyhall(storage, clock, FakeRandomness())
    scene = Scene(
        keyhall,
        storage,
        member(clock, "mia", discord_id="123456789012345679"),
        member(clock, "operator", role=Role.OWNER, source=Source.CLI),
    )
    return scene, await prepare(scene)


def _took_effect(scene: Scene, action: Action, before: int) -> bool:
    return scene.storage.trail()[before:].count((action, Result.OK)) > 0


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_answered_as_a_failure_only_if_it_did_not_take_effect(name: str) -> None:
    """The database is lost after the first commit of the change, after the second, and so on."""
    prepare, change, action = CHANGES[name]
    scene, known = await _scene(prepare)
    before = scene.storage.commits
    await change(scene, known)
    outcomes = set()
    for commits in range(scene.storage.commits - before + 1):
        scene, known = await _scene(prepare)
        rows = len(scene.storage.trail())
        failed = False
        with scene.storage.dead_after(commits):
            try:
                await change(scene, known)
            except (StorageError, NotReady):
                failed = True
        assert failed is not _took_effect(scene, action, rows), f"the database was lost after {commits} commits"
        outcomes.add(failed)
    assert outcomes == {True, False}


async def test_the_answer_to_a_change_is_the_same_if_the_database_is_lost_after_it() -> None:
    scene, known = await _scene(Scene.added)
    credentials, mia = scene.keyhall.credentials, scene.mia
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: credentials.replace(mia, known, OTHER_SECRET),
        lambda: credentials.change(mia, known, label="other", expires_at=scene.keyhall.clock.now() + timedelta(days=9)),
        lambda: credentials.rollback(mia, known),
    ]
    for change in changes:
        with scene.storage.dead_after(1):
            answered = await change()
        view = answered.view if isinstance(answered, Replaced) else answered
        assert view == await credentials.get(mia, known)
    await credentials.remove(mia, known)
    with scene.storage.dead_after(1):
        restored = await credentials.restore(mia, known)
    assert restored == await credentials.get(mia, known)
    with scene.storage.dead_after(1):
        added = await credentials.add(mia, provider="openai", label="second", secret=SECRET)
    assert added.view == await credentials.get(mia, added.view.id)


async def test_a_process_that_may_not_use_its_keys_after_a_commit_answers_with_a_hidden_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that was stopped between the commit and the answer."""
    scene, known = await _scene(Scene.added)

    def not_now(*_: Any) -> str:
        raise NotReady

    monkeypatch.setattr(scene.keyhall.cipher, "decrypt", not_now)
    later = scene.keyhall.clock.now() + timedelta(days=9)
    view = await scene.keyhall.credentials.change(scene.mia, known, expires_at=later)
    assert (view.expires_at, view.version, view.status) == (later, 2, Status.UNCHECKED)
    assert set(view.masked) == {"•"}


async def test_a_process_that_could_not_load_a_revocation_hands_out_no_key_until_it_has() -> None:
    scene, _ = await _scene(nothing)
    with scene.storage.dead_after(1):
        await scene.keyhall.rotation.revoke(scene.owner, JWT, 1)
        with pytest.raises(NotReady):
            scene.keyhall.keys.usable_materials(JWT)
    await scene.keyhall.instances.catch_up()
    assert set(scene.keyhall.keys.usable_materials(JWT)) == {2}


async def test_a_use_is_not_reported_as_failed_because_its_outcome_could_not_be_recorded() -> None:
    scene, _ = await _scene(Scene.added)
    with scene.storage.dead_after(1):
        await _used(scene, None)
    assert scene.storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.INTENT)


def test_an_unknown_outcome_says_how_to_find_out() -> None:
    assert "look at it again, and repeat only missing changes" in OutcomeUnknown().detail
