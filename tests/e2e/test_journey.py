"""The main job from outside: real processes, real sockets, a Discord on loopback."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp

from app.infrastructure.database.schema import audit_events
from tests.support.discord_wire import WireSimulator
from tests.support.installs import Place, client_of, sign_in, sign_up

PASSWORD = "correct horse battery staple"
WORK = "sk-canary-work-0123456789-abcdefghijklmnop"
HOME = "sk-canary-home-9876543210-zyxwvutsrqponmlk"
TEXT = "meet at nine"


async def _labels(client: aiohttp.ClientSession) -> set[str]:
    async with client.get("/api/v1/credentials") as answer:
        assert answer.status == 200
        return {each["label"] for each in (await answer.json())["items"]}


async def _secrets(client: aiohttp.ClientSession) -> dict[str, str]:
    async with client.get("/api/v1/credentials") as answer:
        items = (await answer.json())["items"]
    found = {}
    for each in items:
        async with client.post(f"/api/v1/credentials/{each['id']}/reveal") as answer:
            assert answer.status == 200, await answer.text()
            found[each["label"]] = (await answer.json())["secret"]
    return found


async def test_a_community_sets_up_and_finds_everything_again_after_a_restart(
    place: Place, wire: WireSimulator
) -> None:
    here = place.having(**wire.environment)
    alice = wire.user(1001, "alice")
    guild = wire.add_guild(id=2001, name="Hall", owner=alice)

    with here.running("run", fresh=True) as running:
        address = await asyncio.to_thread(running.address)
        token = await asyncio.to_thread(running.setup_token)
        await wire.wait_ready(within=90)
        async with client_of(address) as client:
            await sign_up(client, token, "alice", PASSWORD)
            await sign_in(client, "alice", PASSWORD)
            linked = await asyncio.to_thread(here.command, "users", "link", "alice", str(alice.id))
            assert linked.returncode == 0, linked.stderr
            body = {"provider": "openai", "label": "work", "secret": WORK}
            async with client.post("/api/v1/credentials", json=body) as answer:
                assert answer.status == 201, await answer.text()
                assert WORK not in await answer.text()
            listed = await wire.slash(alice, "key list", guild=guild)
            assert listed.ephemeral
            assert "work" in listed.text
            form = await wire.slash(alice, "key add", guild=guild)
            values = {"provider": "github", "label": "home", "secret": HOME}
            stored = await wire.submit_modal(form, values)
            assert stored.ephemeral
            assert "Stored." in stored.text
            assert HOME not in stored.text
            assert await _labels(client) == {"work", "home"}
        sealed = await wire.submit_modal(await wire.slash(alice, "encrypt", guild=guild), {"text": TEXT})
        assert sealed.ephemeral
        message = re.search(r"gAAAA[\w=-]+", sealed.text)
        assert message is not None
        assert running.end() == 0

    identified = len(wire.identifies)
    with here.running("run", fresh=True) as running:
        address = await asyncio.to_thread(running.address)
        await wire.wait_ready(identifies=identified + 1, within=90)
        async with client_of(address) as client:
            await sign_in(client, "alice", PASSWORD)
            assert await _secrets(client) == {"work": WORK, "home": HOME}
        listed = await wire.slash(alice, "key list", guild=guild)
        assert "work" in listed.text
        assert "home" in listed.text
        opened = await wire.submit_modal(await wire.slash(alice, "decrypt", guild=guild), {"token": message[0]})
        assert opened.ephemeral
        assert TEXT in opened.text
        assert running.end() == 0
        assert not any("NEW INSTALL" in line or "setup token=" in line for line in running.lines)


async def test_the_web_stays_up_without_the_bot_and_says_so(sqlite_place: Place, wire: WireSimulator) -> None:
    refused = sqlite_place.having(**wire.environment | {"DISCORD_BOT_TOKEN": "not-the-token-of-this-bot"})
    with refused.running("run") as running:
        address = await asyncio.to_thread(running.address)
        said = await asyncio.to_thread(running.wait_for, r"keyhall: the bot stopped: (.+) — (.+)")
        assert "token" in said[0]
        async with client_of(address) as client:
            async with client.get("/readyz") as answer:
                assert answer.status == 200
                assert (await answer.json())["bot"] == "stopped"
            async with client.get("/setup") as answer:
                assert "The bot stopped. Discord refused the token: set DISCORD_BOT_TOKEN" in await answer.text()
        assert running.process.poll() is None
        assert running.end() == 0


async def test_the_bot_alone_ends_where_discord_refuses_it(sqlite_place: Place, wire: WireSimulator) -> None:
    refused = sqlite_place.having(**wire.environment | {"DISCORD_BOT_TOKEN": "not-the-token-of-this-bot"})
    done = await asyncio.to_thread(refused.command, "bot")
    assert done.returncode == 77
    assert re.fullmatch(r"keyhall: halted \[bot_login_failed\] .+ — .+", done.stderr.splitlines()[-1])
    assert "not-the-token-of-this-bot" not in done.stderr
    assert await loaded(refused) == []


async def loaded(place: Place) -> list[str]:
    """The kind of process in each row that says that keys were loaded."""
    column = [each.name for each in audit_events.columns].index("detail")
    rows = [row for row in (await place.contents())["audit_events"] if "keys.loaded" in row]
    details = [each if isinstance(each, dict) else json.loads(each) for each in (row[column] for row in rows)]
    assert all("AES_KEY 1" in each["versions"] for each in details)
    return [each["process"] for each in details]


async def test_each_start_that_succeeds_says_that_it_loaded_the_keys(sqlite_place: Place, wire: WireSimulator) -> None:
    place = sqlite_place.having(**wire.environment)
    for kinds, said in ((["web"], "setup token"), (["web", "bot"], "invite the bot")):
        with place.running(kinds[-1]) as running:
            await asyncio.to_thread(running.wait_for, said)
            async with asyncio.timeout(60):
                while await loaded(place) != kinds:
                    pass
            assert running.end() == 0
