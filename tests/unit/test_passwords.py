from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator

import pytest
from argon2 import PasswordHasher as Reference
from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Overloaded
from app.infrastructure.passwords import Argon2Passwords
from app.services.ports import PasswordHasher

PASSWORD = "correct horse battery staple"


@pytest.fixture
async def passwords() -> AsyncIterator[Argon2Passwords]:
    hasher = Argon2Passwords(cheap=True)
    yield hasher
    await hasher.close()


@pytest.fixture
async def costly() -> AsyncIterator[Argon2Passwords]:
    hasher = Argon2Passwords()
    yield hasher
    await hasher.close()


def test_it_keeps_the_port() -> None:
    port: type[PasswordHasher] = Argon2Passwords
    assert port


async def test_the_parameters_are_those_of_asvs(costly: Argon2Passwords) -> None:
    parameters = extract_parameters(await costly.hash(PASSWORD))
    assert (parameters.type.name, parameters.version) == ("ID", 0x13)
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19456, 2, 1)
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)


async def test_only_the_password_that_was_hashed_matches(passwords: Argon2Passwords) -> None:
    phc = await passwords.hash(PASSWORD)
    assert (await passwords.verify(phc, PASSWORD)).ok
    assert not (await passwords.verify(phc, PASSWORD + " ")).ok
    assert not (await passwords.verify(phc, PASSWORD.upper())).ok
    assert phc != await passwords.hash(PASSWORD), "two hashes share a salt"


async def test_another_implementation_verifies_the_hash(passwords: Argon2Passwords) -> None:
    assert Reference().verify(await passwords.hash(PASSWORD), PASSWORD)


async def test_a_hash_with_other_parameters_matches_and_asks_to_be_renewed(
    passwords: Argon2Passwords, costly: Argon2Passwords
) -> None:
    old = await passwords.hash(PASSWORD)
    check = await costly.verify(old, PASSWORD)
    assert (check.ok, check.needs_rehash) == (True, True)
    check = await costly.verify(await costly.hash(PASSWORD), PASSWORD)
    assert (check.ok, check.needs_rehash) == (True, False)
    check = await costly.verify(old, "wrong")
    assert (check.ok, check.needs_rehash) == (False, False)


async def test_nothing_matches_an_account_without_a_password(passwords: Argon2Passwords) -> None:
    for password in ("", PASSWORD, "\0"):
        check = await passwords.verify(None, password)
        assert (check.ok, check.needs_rehash) == (False, False)


@pytest.mark.slow
async def test_an_unknown_user_takes_as_long_as_a_known_one(costly: Argon2Passwords) -> None:
    """By the thread's own CPU time, which other processes on the machine do not lengthen."""
    phc = await costly.hash(PASSWORD)

    def cpu_seconds(stored: str | None) -> float:
        start = time.thread_time()
        costly._verify(stored, "wrong")
        return time.thread_time() - start

    rounds = [(cpu_seconds(None), cpu_seconds(phc)) for _ in range(15)]
    unknown, known = (statistics.median(times) for times in zip(*rounds, strict=True))
    assert unknown == pytest.approx(known, rel=0.25)


async def test_long_passwords_are_not_truncated(passwords: Argon2Passwords) -> None:
    """Byte 73 matters, and so does the last of many."""
    for size in (73, 256, 4096):
        phc = await passwords.hash("a" * (size - 1) + "b")
        assert not (await passwords.verify(phc, "a" * (size - 1) + "c")).ok
        assert (await passwords.verify(phc, "a" * (size - 1) + "b")).ok


async def test_a_password_is_the_same_however_its_characters_are_composed(passwords: Argon2Passwords) -> None:
    phc = await passwords.hash("pässwörd ﬁrst Å")
    assert (await passwords.verify(phc, "pa\u0308sswo\u0308rd first \u212b")).ok


async def test_a_hash_of_the_password_as_it_was_typed_matches_and_asks_to_be_renewed(
    passwords: Argon2Passwords,
) -> None:
    """A hash from before passwords were normalised, or from before a version of Unicode that composes differently."""
    typed = "pa\u0308sswo\u0308rd \ufb01rst"
    former = passwords._hasher.hash(typed.encode())
    check = await passwords.verify(former, typed)
    assert (check.ok, check.needs_rehash) == (True, True)
    assert not (await passwords.verify(former, "p\u00e4ssw\u00f6rd first")).ok, "typed otherwise it never matched"
    renewed = await passwords.hash(typed)
    for each in (typed, "p\u00e4ssw\u00f6rd first"):
        check = await passwords.verify(renewed, each)
        assert (check.ok, check.needs_rehash) == (True, False)
    assert not (await passwords.verify(None, typed)).ok


@pytest.mark.parametrize("phc", ["", "not a hash", "$argon2id$v=19$m=8,t=1,p=1$AAAA$!!!!", "$2b$12$" + "a" * 53])
async def test_a_damaged_hash_is_an_error_and_no_wrong_password(passwords: Argon2Passwords, phc: str) -> None:
    with pytest.raises((InvalidHashError, VerificationError)):
        await passwords.verify(phc, PASSWORD)


@given(st.text(st.characters(), max_size=300))
async def test_any_text_is_a_password(password: str) -> None:
    """Lone surrogates and NUL included: refusing them is the edges' business."""
    passwords = Argon2Passwords(cheap=True)
    check = await passwords.verify(await passwords.hash(password), password)
    await passwords.close()
    assert (check.ok, check.needs_rehash) == (True, False)


async def test_sixty_four_wait_and_the_next_is_sent_away(passwords: Argon2Passwords) -> None:
    gate = threading.Event()
    running = asyncio.create_task(passwords._run(gate.wait))
    waiting = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await passwords.hash(PASSWORD)
    with pytest.raises(Overloaded):
        await passwords.verify(None, PASSWORD)
    gate.set()
    assert await running
    assert len(await asyncio.gather(*waiting)) == 64
    assert await passwords.hash(PASSWORD)


async def test_who_goes_away_makes_room(passwords: Argon2Passwords) -> None:
    gate = threading.Event()
    running = asyncio.create_task(passwords._run(gate.wait))
    waiting = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(64)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    assert all(
        isinstance(result, asyncio.CancelledError) for result in await asyncio.gather(*waiting, return_exceptions=True)
    )
    late = asyncio.create_task(passwords.hash(PASSWORD))
    gate.set()
    await running
    assert await late


async def test_one_hash_runs_at_a_time_and_never_on_the_event_loop(passwords: Argon2Passwords) -> None:
    threads = await asyncio.gather(*(passwords._run(threading.get_ident) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_closing_finishes_what_was_accepted() -> None:
    passwords = Argon2Passwords(cheap=True)
    accepted = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(10)]
    await asyncio.sleep(0)
    await passwords.close()
    assert all(phc.startswith("$argon2id$") for phc in await asyncio.gather(*accepted))
    with pytest.raises(RuntimeError):
        await passwords.hash(PASSWORD)


async def test_the_memory_of_hashes_is_given_back_after_the_last_that_waits_and_not_before(
    passwords: Argon2Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    given_back: list[int] = []
    monkeypatch.setattr("app.infrastructure.passwords.give_back_freed", lambda: given_back.append(len(hashed)))
    monkeypatch.setattr(passwords, "_hash", hashed.append)
    all_wait = threading.Event()
    first = asyncio.create_task(passwords._run(all_wait.wait))
    others = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(5)]
    await asyncio.sleep(0)  # each of them waits in the queue of the thread
    all_wait.set()
    await asyncio.gather(first, *others)
    await passwords.hash(PASSWORD)
    await passwords.close()
    assert given_back == [5, 6]


async def test_the_memory_of_a_hash_is_given_back_also_where_its_request_was_cancelled(
    passwords: Argon2Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Event()
    monkeypatch.setattr("app.infrastructure.passwords.give_back_freed", given_back.set)
    ended = threading.Event()
    leaving = asyncio.create_task(passwords._run(ended.wait))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    ended.set()
    assert await asyncio.to_thread(given_back.wait, 60)


async def test_a_hash_that_was_accepted_ends_well_while_the_thread_is_closed(passwords: Argon2Passwords) -> None:
    ended = threading.Event()
    accepted = asyncio.create_task(passwords._run(ended.wait))
    await asyncio.sleep(0)
    closing = asyncio.create_task(passwords.close())
    await asyncio.sleep(0)
    ended.set()
    assert await accepted
    await closing
