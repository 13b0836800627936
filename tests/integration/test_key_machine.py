"""Whatever is done to keys, in whatever order, wherever a process dies: against a dictionary as the model."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.bootstrap.commands import open_master_key_change
from app.domain.errors import CannotOpen, InvalidToken, KeyStateConflict
from app.domain.identity import Actor, Client, Role, Source
from app.domain.jobs import Job, JobState
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState
from app.services import Services
from app.services.jobs import JobRun
from tests.support.installs import Place
from tests.support.postgres import PostgresServer
from tests.support.rotations import lapse

_T = TypeVar("_T")

JWT, MESSAGES = KeyName.JWT_SECRET_KEY, KeyName.ENCRYPTION_KEY
PASSWORD = "correct horse battery staple"
CLIENT = Client(source=Source.WEB)
OVER = {KeyState.COMPROMISED, KeyState.DESTROYED}
MIA = Actor(
    user_id="user-mia",
    subject_id=None,
    username="mia",
    role=Role.MEMBER,
    client=CLIENT,
    authenticated_at=datetime.now(UTC) + timedelta(days=1),
    discord_id="1001",
)
names = st.sampled_from(APPLICATION_KEYS)
picks = st.integers(min_value=0, max_value=999)
"""Which of those there are; the remainder chooses."""


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Kept:
    """A credential as the model has it: the secret of every version that it had."""

    version: int
    secrets: dict[int, str]
    removed: bool = False

    @property
    def present(self) -> str:
        return self.secrets[max(self.secrets)]


@dataclass
class Model:
    """What has to be so."""

    credentials: dict[str, Kept] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    """Access tokens, with the version of JWT_SECRET_KEY that signed them."""
    messages: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Tokens of /encrypt, with what is in them and the version that made them."""
    over: dict[tuple[KeyName, int], KeyState] = field(default_factory=dict)
    """Versions that were revoked or destroyed: they never come back."""
    epochs: dict[str, int] = field(default_factory=dict)


class KeyMachine(RuleBasedStateMachine):
    """One install, one or two processes on it, and everything that can happen to its keys."""

    fresh: ClassVar[Callable[[], Place]]

    def __init__(self) -> None:
        super().__init__()
        # In a thread of its own, so that it goes on while steps are chosen: leases are renewed then, and no transaction
        # is left open in the middle.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._place = type(self).fresh()
        self._processes: list[tuple[AsyncExitStack, Services]] = []
        self._numbers = itertools.count()
        self.model = Model()

    # -- processes -----------------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _process(self, pick: int) -> Services:
        """One of the processes, which does before every request what an edge does."""
        if not self._processes:
            await self._open()
        services = self._processes[pick % len(self._processes)][1]
        await services.instances.catch_up()
        return services

    async def _open(self) -> None:
        stack = AsyncExitStack()
        self._processes.append((stack, await stack.enter_async_context(self._place.services())))

    async def _close(self) -> None:
        while self._processes:
            await self._processes.pop()[0].aclose()

    async def _drop(self, pick: int) -> None:
        """The process is gone, and has not said so; its leases lapse."""
        stack, services = self._processes.pop(pick % len(self._processes))

        async def say_nothing() -> None:
            return None

        with patch.object(services.instances, "_leave", say_nothing):
            await stack.aclose()
        await lapse(self._place)

    def teardown(self) -> None:
        self._do(self._close())
        self._do(self._loop.shutdown_asyncgens())
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- credentials, tokens, messages ---------------------------------------------------------------------------------

    def _secret(self) -> str:
        return f"sk-proj-{next(self._numbers)}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"

    def _some(self, pick: int, *, removed: bool) -> tuple[str, Kept]:
        found = [(key, each) for key, each in self.model.credentials.items() if each.removed == removed]
        return found[pick % len(found)]

    def _has(self, *, removed: bool) -> bool:
        return any(each.removed == removed for each in self.model.credentials.values())

    @initialize(pick=picks)
    def begin(self, pick: int) -> None:
        self.create(pick)
        self.log_in(pick)
        self.encrypt(pick)

    @rule(pick=picks)
    def create(self, pick: int) -> None:
        async def create() -> None:
            secret, label = self._secret(), f"number {next(self._numbers)}"
            credentials = (await self._process(pick)).credentials
            view = (await credentials.add(MIA, provider="openai", label=label, secret=secret)).view
            self.model.credentials[view.id] = Kept(1, {1: secret})

        self._do(create())

    @precondition(lambda self: self._has(removed=False))
    @rule(pick=picks)
    def replace(self, pick: int) -> None:
        async def replace() -> None:
            credential_id, kept = self._some(pick, removed=False)
            secret = self._secret()
            view = (await (await self._process(pick)).credentials.replace(MIA, credential_id, secret)).view
            kept.version += 1
            kept.secrets[kept.version] = secret
            assert view.version == kept.version

        self._do(replace())

    @precondition(lambda self: self._has(removed=False))
    @rule(pick=picks)
    def put_back(self, pick: int) -> None:
        """The former secret, where there is one."""

        async def put_back() -> None:
            credential_id, kept = self._some(pick, removed=False)
            if len(kept.secrets) == 1:
                return
            former = kept.secrets[sorted(kept.secrets)[-2]]
            view = (await (await self._process(pick)).credentials.rollback(MIA, credential_id)).view
            kept.version += 1
            kept.secrets[kept.version] = former
            assert view.version == kept.version

        self._do(put_back())

    @precondition(lambda self: self._has(removed=False))
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        async def remove() -> None:
            credential_id, kept = self._some(pick, removed=False)
            await (await self._process(pick)).credentials.remove(MIA, credential_id)
            kept.version, kept.removed = kept.version + 1, True

        self._do(remove())

    @precondition(lambda self: self._has(removed=True))
    @rule(pick=picks)
    def restore(self, pick: int) -> None:
        async def restore() -> None:
            credential_id, kept = self._some(pick, removed=True)
            view = await (await self._process(pick)).credentials.restore(MIA, credential_id)
            kept.version, kept.removed = kept.version + 1, False
            assert view.version == kept.version

        self._do(restore())

    @rule(pick=picks)
    def log_in(self, pick: int) -> None:
        async def log_in() -> None:
            services = await self._process(pick)
            pair = await services.authentication.login("olga", PASSWORD, CLIENT)
            self.model.tokens[pair.access_token.reveal()] = services.keys.ring.primary(JWT).version

        self._do(log_in())

    @rule(pick=picks)
    def encrypt(self, pick: int) -> None:
        async def encrypt() -> None:
            services = await self._process(pick)
            text = f"meet at {next(self._numbers)}"
            token = await services.messages.encrypt(MIA, text)
            self.model.messages[token] = (text, services.keys.ring.primary(MESSAGES).version)

        self._do(encrypt())

    # -- keys ----------------------------------------------------------------------------------------------------------

    async def _begun(self, services: Services, begin: Coroutine[Any, Any, Job]) -> Job | None:
        """A change of keys, seen through; None where it is refused for the state that the key is in."""
        try:
            job = await begin
        except KeyStateConflict:
            return None
        async for _ in services.rotation.follow(job.id):
            pass
        job = await services.jobs.get(await services.identity.operator(), job.id)
        assert job.state in {JobState.DONE, JobState.WAITING}, job.error
        assert job.error is None
        return job

    def _version(self, services: Services, name: KeyName, pick: int) -> tuple[int, KeyState]:
        versions = services.keys.ring.keysets[name].versions
        chosen = versions[pick % len(versions)]
        return chosen.version, chosen.state

    def _former(self, services: Services, name: KeyName, pick: int) -> tuple[int, KeyState]:
        """A version that is not primary, if there is one: what can be retired and destroyed."""
        keyset = services.keys.ring.keysets[name]
        versions = [each for each in keyset if each is not keyset.primary] or [keyset.primary]
        chosen = versions[pick % len(versions)]
        return chosen.version, chosen.state

    @rule(name=names, pick=picks)
    def rotate(self, name: KeyName, pick: int) -> None:
        async def rotate() -> None:
            services = await self._process(pick)
            before = services.keys.ring.keysets[name].primary.version
            job = await self._begun(services, services.rotation.rotate(await services.identity.operator(), name))
            await services.keys.reload()
            # Refused is only what meets a rollback that a dead process began.
            assert job is None or services.keys.ring.keysets[name].primary.version != before or _resumed(job, before)

        self._do(rotate())

    @rule(name=names, pick=picks)
    def roll_back(self, name: KeyName, pick: int) -> None:
        async def roll_back() -> None:
            services = await self._process(pick)
            before = services.keys.ring.keysets[name]
            job = await self._begun(services, services.rotation.rollback(await services.identity.operator(), name))
            await services.keys.reload()
            after = services.keys.ring.keysets[name].primary.version
            if job is not None and not _resumed(job, before.primary.version):
                former = before.version(after)
                assert former is not None
                assert former.state is KeyState.DEACTIVATED

        self._do(roll_back())

    @rule(name=names, pick=picks)
    def revoke(self, name: KeyName, pick: int) -> None:
        async def revoke() -> None:
            services = await self._process(pick)
            version, state = self._version(services, name, pick)
            begin = services.rotation.revoke(await services.identity.operator(), name, version)
            job = await self._begun(services, begin)
            assert state not in OVER or job is None or _resumed(job, services.keys.ring.keysets[name].primary.version)
            if job is not None:
                self.model.over.setdefault((name, version), KeyState.COMPROMISED)

        self._do(revoke())

    @rule(name=names, pick=picks)
    def retire(self, name: KeyName, pick: int) -> None:
        async def retire() -> None:
            services = await self._process(pick)
            version, _ = self._former(services, name, pick)
            await self._begun(services, services.rotation.retire(await services.identity.operator(), name, version))

        self._do(retire())

    @rule(name=names, pick=picks)
    def destroy(self, name: KeyName, pick: int) -> None:
        async def destroy() -> None:
            services = await self._process(pick)
            version, state = self._former(services, name, pick)
            try:
                await services.rotation.destroy(await services.identity.operator(), name, version, typed=name.value)
            except KeyStateConflict:
                return
            assert state in {KeyState.PRE_ACTIVATION, KeyState.DEACTIVATED, KeyState.COMPROMISED}
            self.model.over[name, version] = KeyState.DESTROYED

        self._do(destroy())

    # -- what befalls processes ----------------------------------------------------------------------------------------

    @rule(name=names, pick=picks, commits=st.integers(min_value=1, max_value=8), back=st.booleans())
    def crash(self, name: KeyName, pick: int, commits: int, *, back: bool) -> None:
        """A process dies in the middle of a change, before or after one of its commits."""

        async def crash() -> None:
            services = await self._process(pick)
            left, hold = commits, JobRun.hold

            async def dying(run: JobRun, *arguments: Any) -> None:
                nonlocal left
                left -= 1
                await hold(run, *arguments)
                if left == 0:
                    raise Killed

            operator = await services.identity.operator()
            begin = services.rotation.rollback if back else services.rotation.rotate
            try:
                job = await begin(operator, name)
            except KeyStateConflict:
                return
            run = await services.jobs.claim(job.id)
            if run is not None:
                with patch.object(JobRun, "hold", dying), suppress(Killed):
                    await services.jobs.work(run, services.rotation.job.carry_on)
            await self._drop(pick)

        self._do(crash())

    @rule()
    def work(self) -> None:
        """A worker does whatever is left to do."""

        async def work() -> None:
            services = await self._process(0)
            while run := await services.jobs.claim():
                await services.jobs.work(run, services.rotation.job.carry_on)

        self._do(work())

    @rule()
    def restart(self) -> None:
        async def restart() -> None:
            await self._close()
            await self._open()

        self._do(restart())

    @precondition(lambda self: len(self._processes) < 2)
    @rule()
    def join(self) -> None:
        """Another process starts."""
        self._do(self._open())

    @rule()
    def rewrap(self) -> None:
        """The master key changes while nobody serves."""

        async def rewrap() -> None:
            await self._close()
            async with open_master_key_change(self._place.load()) as change:
                changed = await change.carry_out()
            assert changed.before is not None
            assert changed.before != changed.after

        self._do(rewrap())

    # -- what holds ----------------------------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        async def everything_holds() -> None:
            for index in range(max(len(self._processes), 1)):
                services = await self._process(index)
                await services.keys.reload()
                await self._every_secret_opens(services)
                await self._tokens_are_as_good_as_their_versions(services)
                await self._messages_open_until_their_version_is_destroyed(services)
                self._keysets_are_sound(services)

        self._do(everything_holds())

    async def _every_secret_opens(self, services: Services) -> None:
        cipher = services.credentials._cipher
        async with services.credentials._storage.read() as uow:
            for credential_id, kept in self.model.credentials.items():
                record = await uow.credentials.get(credential_id)
                assert record is not None
                assert (record.version, record.deleted_at is not None) == (kept.version, kept.removed)
                assert cipher.decrypt(record) == kept.present
                history = await uow.credentials.history(credential_id)
                assert len(history) == min(len(kept.secrets) - 1, 20)
                former = dict(sorted(kept.secrets.items())[:-1])
                # A row of the history is numbered by the last version in which its secret was in force.
                for each, secret in zip(history, reversed(former.values()), strict=False):
                    assert cipher.decrypt_former(each, record.owner) == secret

    async def _tokens_are_as_good_as_their_versions(self, services: Services) -> None:
        keyset = services.keys.ring.keysets[JWT]
        for token, version in self.model.tokens.items():
            signer = keyset.version(version)
            assert signer is not None
            good = signer.state in {KeyState.ACTIVE, KeyState.DEACTIVATED} and signer.retired_at is None
            assert good == ((JWT, version) not in self.model.over), "no token expires while this lasts"
            try:
                actor = await services.requests.authenticate(token, CLIENT)
            except InvalidToken:
                assert not good
            else:
                assert good
                assert actor.username == "olga"

    async def _messages_open_until_their_version_is_destroyed(self, services: Services) -> None:
        for token, (text, version) in self.model.messages.items():
            gone = self.model.over.get((MESSAGES, version)) is KeyState.DESTROYED
            try:
                opened = await services.messages.decrypt(MIA, token)
            except CannotOpen:
                assert gone
            else:
                assert not gone
                assert opened == text

    def _keysets_are_sound(self, services: Services) -> None:
        ring = services.keys.ring
        for name, epoch in self.model.epochs.items():
            assert services.keys.epochs[name] >= epoch
        self.model.epochs = dict(services.keys.epochs)
        for name in APPLICATION_KEYS:
            states = [each.state for each in ring.keysets[name]]
            assert states.count(KeyState.ACTIVE) == 1
        for (name, version), state in self.model.over.items():
            found = ring.keysets[name].version(version)
            assert found is not None
            assert found.state is state
        listed = repr(services.keys.listing())
        for name in APPLICATION_KEYS:
            for material in ring.materials[name].values():
                secret = material.reveal()
                for shown in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)):
                    assert shown not in listed


def _resumed(job: Job, primary: int) -> bool:
    """Whether this was what a dead process had left to do for a version that was primary already."""
    return job.progress.cursor.get("version") == primary


def _run(fresh: Callable[[], Place], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        type("KeyMachineHere", (KeyMachine,), {"fresh": staticmethod(fresh)}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),  # every step takes its time, and the steps that led there are told anyway
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Makes copies of one install that has an owner."""
    template, copies = tmp_path / "template", itertools.count()
    if request.param == "sqlite":
        asyncio.run(_create_owner(Place(f"sqlite+aiosqlite:///{template / 'keyhall.db'}", template / "data")))

        def copy() -> Place:
            here = shutil.copytree(template, tmp_path / f"copy {next(copies)}")
            return Place(f"sqlite+aiosqlite:///{here / 'keyhall.db'}", here / "data")

        yield copy
        return

    server: PostgresServer = request.getfixturevalue("postgres_server")
    databases = [server.create_database()]
    asyncio.run(_create_owner(Place(server.url(databases[0]), template / "data")))

    def copy_database() -> Place:
        here = shutil.copytree(template, tmp_path / f"copy {next(copies)}")
        databases.append(server.create_database(template=databases[0]))
        return Place(server.url(databases[-1]), here / "data")

    yield copy_database
    for each in databases:
        server.drop_database(each)


async def _create_owner(place: Place) -> None:
    async with place.services() as services:
        operator = await services.identity.operator()
        await services.identity.create_owner("olga", PASSWORD, operator.client)


@pytest.mark.slow
def test_keys_and_secrets_are_as_the_model_says_whatever_is_done_to_them(fresh: Callable[[], Place]) -> None:
    _run(fresh, examples=6, steps=40)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_keys_and_secrets_are_as_the_model_says_for_long(fresh: Callable[[], Place]) -> None:
    _run(fresh, examples=100, steps=50)
