"""Keys that come from outside: each must be one that may be used, and serve one purpose alone."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.errors import InsecureKey
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from tests.support.installs import Place

MATERIAL = secrets.token_bytes(32)
HEX = MATERIAL.hex()
BASE64 = base64.b64encode(MATERIAL).decode()
URLSAFE = base64.urlsafe_b64encode(MATERIAL).decode().rstrip("=")


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


async def _open(place: Place) -> None:
    async with place.keys():
        pass


SAME = [
    {"AES_KEY": HEX, "ENCRYPTION_KEY": HEX},
    {"AES_KEY": HEX, "ENCRYPTION_KEY": BASE64},
    {"AES_KEY": URLSAFE, "ENCRYPTION_KEY": HEX.upper()},
    {"AES_KEY": HEX, "MASTER_KEY": BASE64},
    {"ENCRYPTION_KEY": HEX, "MASTER_KEY": HEX},
    {"API_SECRET_KEY": HEX, "JWT_SECRET_KEY": HEX},
    {"API_SECRET_KEY": HEX, "SECRET_KEY": BASE64},
    {"JWT_SECRET_KEY": HEX, "MASTER_KEY": HEX},
    {"API_SECRET_KEY": HEX, "AES_KEY": URLSAFE},
    {
        "API_SECRET_KEY": "a text that is no encoding at all, 1",
        "JWT_SECRET_KEY": "a text that is no encoding at all, 1",
    },
    {"AES_KEY": HEX, "MASTER_KEY": secrets.token_hex(32), "MASTER_KEY_PREVIOUS": HEX},
]


@pytest.mark.parametrize("settings", SAME, ids=" ".join)
async def test_one_key_for_two_purposes_halts(place: Place, settings: dict[str, str]) -> None:
    with pytest.raises(InsecureKey, match="the same value") as caught:
        await _open(place.having(**settings))
    names = ["JWT_SECRET_KEY" if name == "SECRET_KEY" else name for name in settings]
    assert sum(name in caught.value.happened for name in names) == 2
    assert not any(value in caught.value.line() for value in (HEX, BASE64, URLSAFE))
    assert not (place.data_dir / "install.json").exists()


async def test_a_later_start_halts_too(place: Place) -> None:
    place = place.having(AES_KEY=HEX)
    await _open(place)
    with pytest.raises(InsecureKey, match="the same value"):
        await _open(place.having(ENCRYPTION_KEY=BASE64))
    await _open(place)


async def test_a_master_key_under_change_may_be_given_twice(place: Place) -> None:
    await _open(place.having(MASTER_KEY=HEX, MASTER_KEY_PREVIOUS=HEX))


@pytest.mark.parametrize("spelling", [HEX, BASE64, URLSAFE], ids=["hex", "base64", "base64url"])
async def test_a_key_that_has_another_purpose_already_is_not_imported(place: Place, spelling: str) -> None:
    async with place.having(AES_KEY=HEX).services() as services:
        actor = await services.identity.operator()
        for name in (KeyName.ENCRYPTION_KEY, KeyName.API_SECRET_KEY):
            with pytest.raises(InsecureKey, match="that of AES_KEY"):
                await services.rotation.import_(actor, name, SecretText(spelling))
        await services.rotation.import_(actor, KeyName.AES_KEY, SecretText(spelling))


async def test_the_master_key_is_not_imported(place: Place) -> None:
    async with place.having(MASTER_KEY=HEX).services() as services:
        actor = await services.identity.operator()
        with pytest.raises(InsecureKey, match="the master key"):
            await services.rotation.import_(actor, KeyName.AES_KEY, SecretText(BASE64))


@pytest.mark.parametrize("environment", ["test", "development"])
@pytest.mark.parametrize("value", ["short", "x", "0123456789"])
async def test_a_legacy_key_is_checked_like_the_others(place: Place, environment: str, value: str) -> None:
    with pytest.raises(InsecureKey, match="CREDENTIAL_ENCRYPTION_KEY"):
        await _open(place.having(APP_ENV=environment, CREDENTIAL_ENCRYPTION_KEY=value))


UNFIT: dict[str, Callable[[], str]] = {
    "a placeholder": lambda: "your-secret-key-0123456789abcdef0123456789abc",
    "zeros": lambda: "0" * 64,
    "too short": lambda: secrets.token_hex(16),
    "text of 32 characters": lambda: "abcdefghijklmnopqrstuvwxyz012345",
}


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize("name", ["CREDENTIAL_ENCRYPTION_KEY", "ENCRYPTION_KEY", "AES_KEY"])
async def test_an_unfit_key_halts_whatever_it_is_for(place: Place, what: str, name: str) -> None:
    with pytest.raises(InsecureKey, match=name):
        await _open(place.having(APP_ENV="development", **{name: UNFIT[what]()}))


async def test_a_legacy_key_may_equal_the_key_that_it_becomes(place: Place) -> None:
    await _open(place.having(CREDENTIAL_ENCRYPTION_KEY=HEX, ENCRYPTION_KEY=HEX))


async def test_quotes_in_the_master_keys_file_are_named(place: Place, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.write_text(f'"{HEX}"\n')
    mounted.chmod(0o600)
    with pytest.raises(InsecureKey, match="is in quotes") as caught:
        await _open(place.having(MASTER_KEY_FILE=str(mounted)))
    assert HEX not in caught.value.line()
    mounted.write_bytes(f"  {HEX}  \r\n".encode())
    await _open(place.having(MASTER_KEY_FILE=f" {mounted}\r"))
