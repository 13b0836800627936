"""Passkeys: what is accepted, and everything that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.domain.attempts import PER_ACCOUNT_AND_NETWORK, PER_NETWORK
from app.domain.audit import Action, Result
from app.domain.errors import (
    AlreadyExists,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    NoOtherWayIn,
    NotFound,
    PasskeyRefused,
    QuotaExceeded,
    ReauthenticationRequired,
    TooManyAttempts,
)
from app.domain.identity import REAUTHENTICATION_LASTS, Actor, Client, Role, Source
from app.domain.keys import KeyName
from app.domain.passkeys import CHALLENGE_LASTS, PASSKEYS_MOST, RelyingParty
from app.services.authentication import PasskeyService
from tests.support.authenticator import ATTESTED, BACKED_UP, ELIGIBLE, PRESENT, VERIFIED, Authenticator, raw, text
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import Keyhall
from tests.support.samples import ABSENT, PASSWORD

ORIGIN: Final = "https://keys.example.org"
PARTY: Final = RelyingParty(id="keys.example.org", origins=(ORIGIN,))
WEB: Final = Client(source=Source.WEB, address="192.0.2.9")
Spoil = Callable[[dict[str, Any]], None]


async def signed_in(keyhall: Keyhall, name: str = "mia", *, new: bool = True) -> Actor:
    """Somebody with an account and a session that has just begun."""
    services = keyhall.services
    if new:
        await services.identity.create(await services.identity.operator(), name, PASSWORD, Role.MEMBER)
    pair = await services.authentication.login(name, PASSWORD, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


async def added(keyhall: Keyhall, actor: Actor, authenticator: Authenticator | None = None) -> Authenticator:
    """A passkey of theirs."""
    authenticator = authenticator or Authenticator(ORIGIN)
    options = await keyhall.services.passkeys.registration_options(actor, PARTY)
    await keyhall.services.passkeys.register(actor, "laptop", authenticator.create(options), PARTY)
    return authenticator


async def answer_to_login(keyhall: Keyhall, authenticator: Authenticator) -> dict[str, Any]:
    return authenticator.get(await keyhall.services.passkeys.login_options(PARTY))


async def user_of_login(keyhall: Keyhall, answer: Mapping[str, Any], client: Client = WEB) -> Actor:
    pair = await keyhall.services.passkeys.login(answer, client, PARTY)
    return await keyhall.services.requests.authenticate(pair.access_token.reveal(), client)


@pytest.fixture
def passkeys(keyhall: Keyhall) -> PasskeyService:
    return keyhall.services.passkeys


# ---------------------------------------------------------------------------------------------------------------------
# What is accepted
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ES256", "EdDSA", "RS256"],
)
async def test_a_passkey_signs_in_without_name_password_and_code(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, key: Any
) -> None:
    mia = await signed_in(keyhall)
    authenticator = await added(keyhall, mia, Authenticator(ORIGIN, key=key, flags=PRESENT | VERIFIED | ELIGIBLE))
    keyhall.advance(clock, timedelta(hours=1))
    authenticator.flags |= BACKED_UP
    again = await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))
    assert (again.user_id, again.session_id == mia.session_id) == (mia.user_id, False)
    again.require_fresh(clock.now())
    (passkey,) = (await keyhall.services.passkeys.page(again)).items
    assert (passkey.name, passkey.last_used_at, passkey.sign_count, passkey.synced) == ("laptop", clock.now(), 1, True)
    assert [action for action, _ in storage.trail() if action.value.startswith("passkey.")] == [
        Action.PASSKEY_ADDED,
        Action.PASSKEY_USED,
    ]


async def test_the_options_ask_for_a_verified_person_and_name_nobody(keyhall: Keyhall, passkeys: Any) -> None:
    mia = await signed_in(keyhall)
    first = await added(keyhall, mia)
    made = await passkeys.registration_options(mia, PARTY)
    assert made["authenticatorSelection"]["userVerification"] == "required"
    assert made["authenticatorSelection"]["residentKey"] == "required"
    assert (made["attestation"], [each["alg"] for each in made["pubKeyCredParams"]]) == ("none", [-7, -8, -257])
    assert [each["id"] for each in made["excludeCredentials"]] == [text(first.credential_id)]
    assert b"mia" not in raw(made["user"]["id"])
    assert len(raw(made["user"]["id"])) <= 64
    asked = await passkeys.login_options(PARTY)
    assert (asked["allowCredentials"], asked["userVerification"]) == ([], "required")
    assert made["timeout"] == asked["timeout"] == 300_000
    assert len({made["challenge"], asked["challenge"], (await passkeys.login_options(PARTY))["challenge"]}) == 3


async def test_a_key_that_attests_itself_is_verified(keyhall: Keyhall) -> None:
    mia, authenticator = await signed_in(keyhall), Authenticator(ORIGIN)
    options = await keyhall.services.passkeys.registration_options(mia, PARTY)
    answer = authenticator.create(options)
    made = cbor2.loads(raw(answer["response"]["attestationObject"]))
    client = raw(answer["response"]["clientDataJSON"])
    for signed, accepted in ((b"something else", False), (made["authData"] + authenticator.digest(client), True)):
        made |= {"fmt": "packed", "attStmt": {"alg": -7, "sig": authenticator.sign(signed)}}
        answer["response"]["attestationObject"] = text(cbor2.dumps(made))
        if accepted:
            await keyhall.services.passkeys.register(mia, "key", answer, PARTY)
        else:
            with pytest.raises(PasskeyRefused):
                await keyhall.services.passkeys.register(mia, "key", answer, PARTY)


async def test_every_other_session_ends_when_a_passkey_is_added_or_removed(keyhall: Keyhall, passkeys: Any) -> None:
    mia, elsewhere = await signed_in(keyhall), await signed_in(keyhall, new=False)
    await added(keyhall, mia)
    later = await signed_in(keyhall, new=False)
    (passkey,) = (await passkeys.page(mia)).items
    await passkeys.remove(mia, passkey.id)
    async with keyhall.storage.lookup() as uow:
        alive = await uow.sessions.live_of(mia.user_id, keyhall.clock.now())
    assert [each.id for each in alive] == [mia.session_id]
    assert {elsewhere.session_id, later.session_id}.isdisjoint({each.id for each in alive})
    assert (await passkeys.page(mia)).items == []


# ---------------------------------------------------------------------------------------------------------------------
# What is refused: answers that are false, malformed or for somebody else
# ---------------------------------------------------------------------------------------------------------------------


def _response(**members: Any) -> Spoil:
    return lambda answer: answer["response"].update(members)


def _without(name: str) -> Spoil:
    return lambda answer: answer["response"].pop(name)


MALFORMED: Final[dict[str, Spoil]] = {
    "nothing": lambda answer: answer.clear(),
    "no response": lambda answer: answer.pop("response"),
    "a response that is a list": lambda answer: answer.update(response=[]),
    "no client data": _without("clientDataJSON"),
    "client data that is a number": _response(clientDataJSON=7),
    "client data that is no base64url": _response(clientDataJSON="a+b/="),
    "client data that is no JSON": _response(clientDataJSON=text(b"{")),
    "client data that is no UTF-8": _response(clientDataJSON=text(b'{"challenge":"\xff"}')),
    "client data that is nested": _response(clientDataJSON=text(b"[" * 10_000)),
    "client data that is a list": _response(clientDataJSON=text(b"[]")),
    "client data without a challenge": _response(clientDataJSON=text(b"{}")),
    "client data that is huge": _response(clientDataJSON=text(b" " * 100_000)),
    "an id that is no text": lambda answer: answer.update(id=1),
    "an id that is another one": lambda answer: answer.update(id=text(b"another")),
    "no rawId": lambda answer: answer.pop("rawId"),
    "an empty rawId": lambda answer: answer.update(rawId=""),
    "another type": lambda answer: answer.update(type="password"),
    "no type": lambda answer: answer.pop("type"),
}
"""Of answers of both kinds."""


def _attested(**members: Any) -> Spoil:
    def spoil(answer: dict[str, Any]) -> None:
        made = cbor2.loads(raw(answer["response"]["attestationObject"]))
        answer["response"]["attestationObject"] = text(cbor2.dumps({**made, **members}))

    return spoil


def _cut(name: str, size: int) -> Spoil:
    def spoil(answer: dict[str, Any]) -> None:
        whole = raw(answer["response"][name])
        answer["response"][name] = text(whole[:size])

    return spoil


CREATION: Final[dict[str, Spoil]] = {
    **MALFORMED,
    "no attestation object": _without("attestationObject"),
    "a cut attestation object": _cut("attestationObject", 60),
    "an attestation object that is no map": _response(attestationObject=text(cbor2.dumps([1]))),
    "an attestation object that is nested": _response(attestationObject=text(b"\x81" * 10_000)),
    "an array of a billion": _response(attestationObject=text(b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff")),
    "an attestation object that is huge": _response(attestationObject=text(bytes(100_000))),
    "no authenticator data": _attested(authData=None),
    "cut authenticator data": _attested(authData=bytes(36)),
    "authenticator data without a key": _attested(authData=bytes(37)),
    "an attestation of a manufacturer": _attested(fmt="packed", attStmt={"alg": -7, "sig": b"x", "x5c": [b"x"]}),
    "an attestation of the first kind": _attested(fmt="fido-u2f", attStmt={"sig": b"x", "x5c": [b"x"]}),
    "an attestation of a TPM": _attested(fmt="tpm", attStmt={"ver": "2.0"}),
    "an attestation that nobody knows": _attested(fmt=7),
    "none, with something in it": _attested(attStmt={"sig": b"x"}),
    "another rawId": lambda answer: answer.update(id=text(b"another"), rawId=text(b"another")),
}


@pytest.mark.parametrize("spoil", CREATION.values(), ids=CREATION)
async def test_a_malformed_new_passkey_is_refused(keyhall: Keyhall, storage: FakeStorage, spoil: Spoil) -> None:
    mia = await signed_in(keyhall)
    answer = Authenticator(ORIGIN).create(await keyhall.services.passkeys.registration_options(mia, PARTY))
    spoil(answer)
    with pytest.raises(PasskeyRefused):
        await keyhall.services.passkeys.register(mia, "laptop", answer, PARTY)
    assert (storage.tables.passkeys, storage.tables.spent_tickets) == ({}, {})


FALSE: Final[dict[str, dict[str, Any]]] = {
    "another origin": {"origin": "https://keys.example.com"},
    "an origin below": {"origin": "https://evil.keys.example.org"},
    "the origin in the clear": {"origin": "http://keys.example.org"},
    "another port": {"origin": "https://keys.example.org:8443"},
    "within a page of another site": {"client_data": {"crossOrigin": True}},
    "with another page around it": {"client_data": {"topOrigin": "https://evil.example"}},
    "an answer to something else": {"client_data": {"type": "payment.get"}},
    "for another host": {"rp_id": "example.org"},
    "nobody there": {"flags": VERIFIED},
    "somebody who was not verified": {"flags": PRESENT},
    "a copy of what cannot be copied": {"flags": PRESENT | VERIFIED | BACKED_UP},
}
"""Of answers of both kinds, signed properly."""


@pytest.mark.parametrize("members", FALSE.values(), ids=FALSE)
async def test_a_new_passkey_that_is_not_for_us_is_refused(
    keyhall: Keyhall, storage: FakeStorage, members: dict[str, Any]
) -> None:
    mia = await signed_in(keyhall)
    authenticator = Authenticator(**{"origin": ORIGIN, **members})
    answer = authenticator.create(await keyhall.services.passkeys.registration_options(mia, PARTY))
    with pytest.raises(PasskeyRefused):
        await keyhall.services.passkeys.register(mia, "laptop", answer, PARTY)
    assert storage.tables.passkeys == {}


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - that it is refused is what is tested
        rsa.generate_private_key(3, 2048),
    ],
    ids=["P-384", "RSA of 1024 bits", "RSA with the exponent 3"],
)
async def test_a_key_that_was_not_asked_for_is_refused(keyhall: Keyhall, key: Any) -> None:
    with pytest.raises(PasskeyRefused):
        await added(keyhall, await signed_in(keyhall), Authenticator(ORIGIN, key=key))


async def test_an_id_beyond_1023_bytes_is_refused(keyhall: Keyhall) -> None:
    mia = await signed_in(keyhall)
    await added(keyhall, mia, Authenticator(ORIGIN, credential_id=bytes(1023)))
    with pytest.raises(PasskeyRefused):
        await added(keyhall, mia, Authenticator(ORIGIN, credential_id=bytes(1024)))


SIGNATURE: Final[dict[str, Spoil]] = {
    **MALFORMED,
    "no signature": _without("signature"),
    "a cut signature": _cut("signature", 20),
    "another signature": _response(signature=text(bytes(70))),
    "no authenticator data": _without("authenticatorData"),
    "cut authenticator data": _cut("authenticatorData", 36),
    "longer authenticator data": _response(authenticatorData=text(bytes(38))),
    "another user": _response(userHandle=text(b"another")),
    "a user that is no text": _response(userHandle=[]),
    "a passkey that nobody has": lambda answer: answer.update(id=text(b"unknown"), rawId=text(b"unknown")),
    "another person's passkey": lambda answer: answer.update(id=text(b"bob"), rawId=text(b"bob")),
}


@pytest.mark.parametrize("spoil", SIGNATURE.values(), ids=SIGNATURE)
async def test_a_malformed_sign_in_is_refused(keyhall: Keyhall, storage: FakeStorage, spoil: Spoil) -> None:
    await added(keyhall, await signed_in(keyhall, "bob"), Authenticator(ORIGIN, credential_id=b"bob"))
    authenticator = await added(keyhall, await signed_in(keyhall))
    answer = await answer_to_login(keyhall, authenticator)
    before = storage.tables.passkeys, set(storage.tables.sessions)
    spoil(answer)
    with pytest.raises(InvalidCredentials) as refused:
        await user_of_login(keyhall, answer)
    assert str(refused.value).startswith("This passkey is not accepted here")
    assert (storage.tables.passkeys, set(storage.tables.sessions)) == before


@pytest.mark.parametrize("members", FALSE.values(), ids=FALSE)
async def test_a_sign_in_that_is_not_for_us_is_refused(keyhall: Keyhall, members: dict[str, Any]) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))
    with pytest.raises(InvalidCredentials):
        await user_of_login(keyhall, await answer_to_login(keyhall, replace(authenticator, **members)))
    await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))


async def test_who_has_no_right_to_sign_in_gets_the_answer_of_an_unknown_passkey(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, passkeys: Any
) -> None:
    mia = await signed_in(keyhall)
    authenticator, answers = await added(keyhall, mia), set()
    async with storage.write() as uow:
        await uow.users.disable(mia.user_id, clock.now())
    for each in (authenticator, Authenticator(ORIGIN, rp_id=PARTY.id)):
        with pytest.raises(InvalidCredentials) as refused:
            await user_of_login(keyhall, await answer_to_login(keyhall, each))
        answers.add((type(refused.value), str(refused.value), refused.value.recorded))
    assert len(answers) == 1
    assert storage.trail().count((Action.LOGIN, Result.DENIED)) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Challenges
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_answer_serves_once(keyhall: Keyhall, storage: FakeStorage, passkeys: Any) -> None:
    mia, authenticator = await signed_in(keyhall), Authenticator(ORIGIN)
    answer = authenticator.create(await passkeys.registration_options(mia, PARTY))
    await passkeys.register(mia, "laptop", answer, PARTY)
    with pytest.raises(PasskeyRefused, match="answered already"):
        await passkeys.register(mia, "laptop", answer, PARTY)
    for counting in (1, 0):  # also where the counter shows nothing
        authenticator = await added(keyhall, mia, Authenticator(ORIGIN, counting=counting))
        signed = await answer_to_login(keyhall, authenticator)
        mia = await user_of_login(keyhall, signed)
        with pytest.raises(InvalidCredentials, match="not accepted here"):
            await user_of_login(keyhall, signed)
    assert all(each.detail.get("reason") != "copied" for each in storage.tables.audit)


async def test_a_challenge_is_for_one_ceremony_one_person_and_one_session(keyhall: Keyhall, passkeys: Any) -> None:
    mia, bob = await signed_in(keyhall), await signed_in(keyhall, "bob")
    other = await signed_in(keyhall, new=False)
    for theirs in (bob, other):
        answer = Authenticator(ORIGIN).create(await passkeys.registration_options(theirs, PARTY))
        with pytest.raises(PasskeyRefused):
            await passkeys.register(mia, "stolen", answer, PARTY)
    authenticator = await added(keyhall, other)
    asked = {
        "registration": await passkeys.registration_options(other, PARTY),
        "sign-in": await passkeys.login_options(PARTY),
        "of a browser": await passkeys.login_options(PARTY, browser="b"),
        "presence": await passkeys.reauthentication_options(other, PARTY),
        "nobody's": {"challenge": text(bytes(56))},
        "cut": {"challenge": text(raw((await passkeys.login_options(PARTY))["challenge"])[:55])},
    }
    for kind, options in asked.items():
        answer = authenticator.get({**options, "rpId": PARTY.id})
        if kind != "sign-in":
            with pytest.raises(InvalidCredentials):
                await passkeys.login(answer, WEB, PARTY)
        if kind != "presence":
            with pytest.raises(InvalidCredentials):
                await passkeys.reauthenticate(other, answer, PARTY)
        with pytest.raises(InvalidCredentials):
            await passkeys.reauthenticate(bob, answer, PARTY)


async def test_a_browser_alone_can_answer_what_it_was_asked(keyhall: Keyhall, passkeys: Any) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))

    async def asked(browser: str | None) -> Any:
        return authenticator.get(await passkeys.login_options(PARTY, browser=browser))

    for browser in (None, "another"):
        with pytest.raises(InvalidCredentials):
            await passkeys.login_browser(await asked("mine"), WEB, PARTY, browser=browser)
        with pytest.raises(InvalidCredentials):
            await passkeys.login(await asked("mine"), WEB, PARTY, browser=browser)
        with pytest.raises(InvalidCredentials):
            await passkeys.login_browser(await asked(None), WEB, PARTY, browser=browser)
    session = await passkeys.login_browser(await asked("mine"), WEB, PARTY, browser="mine")
    assert (await keyhall.services.requests.authenticate_browser(session.cookie.reveal(), WEB)).username == "mia"
    await passkeys.login(await asked("mine"), WEB, PARTY, browser="mine")
    await passkeys.login(await asked(None), WEB, PARTY, browser="mine")


async def test_a_challenge_ends_after_five_minutes(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, passkeys: Any
) -> None:
    mia = await signed_in(keyhall)
    authenticator = await added(keyhall, mia)
    late, in_time = await answer_to_login(keyhall, authenticator), await answer_to_login(keyhall, authenticator)
    new = Authenticator(ORIGIN).create(await passkeys.registration_options(mia, PARTY))
    keyhall.advance(clock, CHALLENGE_LASTS - timedelta(seconds=1))
    await user_of_login(keyhall, in_time)
    keyhall.advance(clock, timedelta(seconds=1))
    with pytest.raises(InvalidCredentials):
        await user_of_login(keyhall, late)
    with pytest.raises(PasskeyRefused, match="five minutes"):
        await passkeys.register(mia, "late", new, PARTY)
    assert len(storage.tables.spent_tickets) == 2
    keyhall.advance(clock, 2 * CHALLENGE_LASTS)
    await keyhall.housekeeping.sweep()
    assert storage.tables.spent_tickets == {}


async def test_asking_stores_nothing(keyhall: Keyhall, storage: FakeStorage, passkeys: Any) -> None:
    mia = await signed_in(keyhall)
    await added(keyhall, mia)
    commits = storage.commits
    for _ in range(100):
        await passkeys.login_options(PARTY)
    await passkeys.registration_options(mia, PARTY)
    await passkeys.reauthentication_options(mia, PARTY)
    assert storage.commits == commits


async def test_a_challenge_outlives_a_rotation_of_its_key(keyhall: Keyhall) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))
    answer, later = await answer_to_login(keyhall, authenticator), await answer_to_login(keyhall, authenticator)
    await keyhall.rotate(KeyName.API_SECRET_KEY)
    await keyhall.keys.reload()
    await user_of_login(keyhall, answer)
    await keyhall.destroy_former(KeyName.API_SECRET_KEY)
    with pytest.raises(InvalidCredentials):
        await user_of_login(keyhall, later)


# ---------------------------------------------------------------------------------------------------------------------
# Counters
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_counter_that_does_not_rise_shows_a_copy(keyhall: Keyhall, storage: FakeStorage) -> None:
    mia = await signed_in(keyhall)
    authenticator = await added(keyhall, mia)
    authenticator.count = 40
    copy = replace(authenticator, count=10)
    await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))
    copies = (copy, replace(authenticator, counting=0), replace(authenticator, count=0, counting=0))
    for each in copies:
        with pytest.raises(InvalidCredentials, match="a copy"):
            await user_of_login(keyhall, await answer_to_login(keyhall, each))
    denied = [each for each in storage.tables.audit if each.detail.get("reason") == "copied"]
    assert {(each.action, each.result, each.object_kind) for each in denied} == {
        (Action.LOGIN, Result.DENIED, "passkey")
    }
    await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))


async def test_a_false_signature_cannot_report_a_copy(keyhall: Keyhall, storage: FakeStorage) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall), Authenticator(ORIGIN, count=5))
    forger = replace(authenticator, key=ec.generate_private_key(ec.SECP256R1()), count=1)
    with pytest.raises(InvalidCredentials, match="not accepted here"):
        await user_of_login(keyhall, await answer_to_login(keyhall, forger))
    assert all(each.detail.get("reason") != "copied" for each in storage.tables.audit)


async def test_an_authenticator_without_a_counter_is_fine(keyhall: Keyhall) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall), Authenticator(ORIGIN, counting=0))
    for _ in range(3):
        await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))


# ---------------------------------------------------------------------------------------------------------------------
# Whose they are, how many, and how fresh
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_user_has_at_most_twenty(keyhall: Keyhall, passkeys: Any) -> None:
    mia = await signed_in(keyhall)
    for _ in range(PASSKEYS_MOST):
        await added(keyhall, mia)
    with pytest.raises(QuotaExceeded):
        await added(keyhall, mia)
    (first, *_) = (await passkeys.page(mia, limit=3)).items
    await passkeys.remove(mia, first.id)
    await added(keyhall, mia)
    one, cursor = set(), None
    for _ in range(3):
        page = await passkeys.page(mia, after=cursor, limit=9)
        one |= {each.id for each in page.items}
        cursor = page.next_cursor
    assert (len(one), cursor) == (PASSKEYS_MOST, None)


async def test_a_key_belongs_to_one_user(keyhall: Keyhall) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))
    for name in ("mia", "bob"):
        with pytest.raises(AlreadyExists):
            await added(keyhall, await signed_in(keyhall, name, new=name != "mia"), authenticator)


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "a\u202eb", "\0"])
async def test_names_are_a_line_of_text(keyhall: Keyhall, name: str) -> None:
    mia = await signed_in(keyhall)
    answer = Authenticator(ORIGIN).create(await keyhall.services.passkeys.registration_options(mia, PARTY))
    with pytest.raises(InvalidInput):
        await keyhall.services.passkeys.register(mia, name, answer, PARTY)
    added = await keyhall.services.passkeys.register(mia, "é" * 64, answer, PARTY)
    assert added.passkey.name == "é" * 64


async def test_nobody_sees_or_removes_what_is_somebody_elses(
    keyhall: Keyhall, storage: FakeStorage, passkeys: Any
) -> None:
    mia, bob = await signed_in(keyhall), await signed_in(keyhall, "bob")
    await added(keyhall, mia)
    assert (await passkeys.page(bob)).items == []
    (passkey,) = storage.tables.passkeys.values()
    answers = set()
    for passkey_id in (passkey.id, ABSENT):
        with pytest.raises(NotFound) as refused:
            await passkeys.remove(bob, passkey_id)
        answers.add(str(refused.value))
    assert (len(answers), storage.tables.passkeys) == (1, {passkey.id: passkey})
    assert storage.trail().count((Action.PASSKEY_REMOVED, Result.DENIED)) == 1
    with pytest.raises(NotFound):
        await passkeys.reauthentication_options(bob, PARTY)
    await added(keyhall, bob)
    options = await passkeys.reauthentication_options(bob, PARTY)
    theirs = Authenticator(ORIGIN)
    theirs.credential_id = passkey.credential_id
    with pytest.raises(InvalidCredentials):
        await passkeys.reauthenticate(bob, theirs.get(options), PARTY)


async def test_a_passkey_of_somebody_else_is_no_proof_of_presence(keyhall: Keyhall, passkeys: Any) -> None:
    mia, bob = await signed_in(keyhall), await signed_in(keyhall, "bob")
    authenticator = await added(keyhall, mia)
    await added(keyhall, bob)
    options = await passkeys.reauthentication_options(bob, PARTY)
    with pytest.raises(InvalidCredentials):
        await passkeys.reauthenticate(bob, authenticator.get(options), PARTY)


async def test_passkeys_are_changed_by_who_has_just_proven_who_they_are(
    keyhall: Keyhall, clock: FakeClock, passkeys: Any
) -> None:
    mia = await signed_in(keyhall)
    authenticator = await added(keyhall, mia)
    (passkey,) = (await passkeys.page(mia)).items
    answer = Authenticator(ORIGIN).create(await passkeys.registration_options(mia, PARTY))
    keyhall.advance(clock, REAUTHENTICATION_LASTS + timedelta(seconds=1))
    with pytest.raises(ReauthenticationRequired):
        await passkeys.registration_options(mia, PARTY)
    with pytest.raises(ReauthenticationRequired):
        await passkeys.register(mia, "late", answer, PARTY)
    with pytest.raises(ReauthenticationRequired):
        await passkeys.remove(mia, passkey.id)
    options = await passkeys.reauthentication_options(mia, PARTY)
    assert [each["id"] for each in options["allowCredentials"]] == [text(authenticator.credential_id)]
    assert await passkeys.reauthenticate(mia, authenticator.get(options), PARTY) is None
    async with keyhall.storage.lookup() as uow:
        found = await uow.sessions.get(mia.session_id or "")
    assert found is not None
    assert found.session.authenticated_at == clock.now()
    await passkeys.remove(replace(mia, authenticated_at=clock.now()), passkey.id)


async def test_the_last_way_in_is_not_removed(keyhall: Keyhall, storage: FakeStorage, passkeys: Any) -> None:
    mia = await signed_in(keyhall)
    await added(keyhall, mia)
    await added(keyhall, mia)
    first, second = storage.tables.passkeys
    password_hash = storage.tables.users[mia.user_id].password_hash

    def change(**members: Any) -> None:
        storage.tables.users[mia.user_id] = replace(storage.tables.users[mia.user_id], **members)

    change(password_hash=None)
    await passkeys.remove(mia, first)
    before = storage.tables.users[mia.user_id]
    with pytest.raises(NoOtherWayIn):
        await passkeys.remove(mia, second)
    assert (list(storage.tables.passkeys), storage.tables.users[mia.user_id]) == ([second], before)
    kept = storage.tables.passkeys[second]
    change(discord_id="42")
    await passkeys.remove(mia, second)
    storage.tables.passkeys[second] = kept
    change(discord_id=None, password_hash=password_hash)
    await passkeys.remove(mia, second)


async def test_a_session_that_has_ended_changes_nothing(keyhall: Keyhall, storage: FakeStorage, passkeys: Any) -> None:
    mia = await signed_in(keyhall)
    authenticator = await added(keyhall, mia)
    (passkey,) = storage.tables.passkeys
    new = Authenticator(ORIGIN).create(await passkeys.registration_options(mia, PARTY))
    presence = authenticator.get(await passkeys.reauthentication_options(mia, PARTY))
    await keyhall.services.authentication.end_session(mia)
    with pytest.raises(InvalidToken):
        await passkeys.register(mia, "after the end", new, PARTY)
    with pytest.raises(InvalidToken):
        await passkeys.reauthenticate(mia, presence, PARTY)
    with pytest.raises(InvalidToken):
        await passkeys.remove(mia, passkey)
    assert list(storage.tables.passkeys) == [passkey]
    with pytest.raises(InvalidToken):
        await passkeys.registration_options(replace(mia, session_id=None), PARTY)


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------


async def test_wrong_passkeys_are_limited_and_keep_nobody_out(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))
    stranger = Authenticator(ORIGIN, rp_id=PARTY.id)
    for _ in range(PER_NETWORK):
        with pytest.raises(InvalidCredentials):
            await user_of_login(keyhall, await answer_to_login(keyhall, stranger))
    commits = storage.commits
    for _ in range(5):
        with pytest.raises(TooManyAttempts):
            await user_of_login(keyhall, await answer_to_login(keyhall, stranger))
    assert storage.commits <= commits + 1, "a refusal that the limit makes is recorded once"
    await user_of_login(keyhall, await answer_to_login(keyhall, authenticator))
    await keyhall.services.authentication.login("mia", PASSWORD, WEB)


async def test_a_passkey_gets_in_where_wrong_passwords_have_locked_the_account(keyhall: Keyhall) -> None:
    authenticator = await added(keyhall, await signed_in(keyhall))
    stranger = replace(WEB, address="198.51.100.7")
    for _ in range(PER_ACCOUNT_AND_NETWORK):
        with pytest.raises(InvalidCredentials):
            await keyhall.services.authentication.login("mia", "wrong", stranger)
    with pytest.raises(TooManyAttempts):
        await keyhall.services.authentication.login("mia", PASSWORD, stranger)
    await user_of_login(keyhall, await answer_to_login(keyhall, authenticator), stranger)


def test_every_flag_has_a_bit_of_its_own() -> None:
    assert PRESENT | VERIFIED | ELIGIBLE | BACKED_UP | ATTESTED == 0b0101_1101
