"""After an erasure nothing of the person is in the bytes of the embedded database, which nobody vacuumed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from app.domain.identity import Client, Role, Source
from tests.support.installs import Place
from tests.support.samples import PASSWORD
from tests.support.second_factors import enrol

if TYPE_CHECKING:
    from app.services import Services

NAME, LABEL, DEVICE, ADDRESS = "erased-canary-5d1e", "label-canary-77c0", "Device-Canary/91", "198.51.100.231"
SECRET = "sk-proj-canary-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
HOME = Client(source=Source.WEB, address=ADDRESS, device=DEVICE)
CROWD = 40
"""Other members before, between and after: their rows make pages split around those that are deleted."""


async def _crowd(services: Services, begin: int) -> None:
    for number in range(begin, begin + CROWD):
        await services.identity.create_claimable(await services.identity.operator(), f"member{number:04}", Role.MEMBER)
        member = await services.identity.operator_for(username=f"member{number:04}")
        await services.credentials.add(member, provider="openai", label=f"label {number}", secret=f"{SECRET}{number}")


def _traces(file: Path) -> dict[str, bytes]:
    """Everything stored for the person that could be recognised: texts, hashes and ciphertext."""
    with closing(sqlite3.connect(file)) as connection:
        ((user_id, password_hash),) = connection.execute(
            "SELECT id, password_hash FROM users WHERE username = ?", (NAME,)
        ).fetchall()
        values = [
            ("password", password_hash.encode()),
            *(
                (table, bytes(value))
                for table, statement in {
                    "credential": "SELECT encrypted_value FROM api_credentials WHERE owner_id = ?",
                    "version": "SELECT h.encrypted_value FROM credential_history h JOIN api_credentials c "
                    "ON c.id = h.credential_id WHERE c.owner_id = ?",
                    "factor": "SELECT encrypted_secret FROM totp_factors WHERE user_id = ?",
                    "cookie": "SELECT cookie_hash FROM sessions WHERE cookie_hash IS NOT NULL AND user_id = ?",
                }.items()
                for (value,) in connection.execute(statement, (user_id,))
            ),
        ]
    texts = {each: each.encode() for each in (NAME, LABEL, DEVICE, ADDRESS)}
    return texts | {f"{name} {number}": value for number, (name, value) in enumerate(values)}


def _found(file: Path, traces: dict[str, bytes]) -> set[str]:
    content = b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*") if each.suffix != ".age")
    return {name for name, value in traces.items() if value in content}


async def test_no_byte_of_a_person_is_left(sqlite_url: str, tmp_path: Path) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    file = Path(make_url(sqlite_url).database or "")
    async with place.services() as services:
        await _crowd(services, 0)
        await services.identity.create(await services.identity.operator(), NAME, PASSWORD, Role.MEMBER)
        for _ in range(3):
            await services.authentication.login_browser(NAME, PASSWORD, HOME)
        pair = await services.authentication.login(NAME, PASSWORD, HOME)
        mia = await services.requests.authenticate(pair.access_token.reveal(), HOME)
        for number in range(10):
            label = LABEL if number == 0 else f"{LABEL}-{number}"
            added = await services.credentials.add(mia, provider="openai", label=label, secret=f"{SECRET}x{number}")
            await services.credentials.replace(mia, added.view.id, f"{SECRET}y{number}")
        await _crowd(services, CROWD)
        pair = await services.authentication.login(NAME, PASSWORD, HOME)
        mia = await services.requests.authenticate(pair.access_token.reveal(), HOME)
        assert mia.authenticated_at is not None
        enrolled = await enrol(services, mia, mia.authenticated_at)
        traces = _traces(file)
        assert _found(file, traces) == set(traces), "the search finds what is there"
        await services.erasure.of_oneself(mia, PASSWORD, otp=enrolled.recovery_codes[0])
        await _crowd(services, 2 * CROWD)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert _found(file, traces) == set()
