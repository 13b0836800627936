"""Requests against floors, a storm of logins, and how much memory a process holds after all that."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from app.domain.identity import Client, Role, Source
from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.load import Load, Playing, expect, request, run_load
from tests.benchmarks.machine import pin, processor_seconds, resident_megabytes, two_cores, unpin
from tests.benchmarks.servers import PASSWORD, benchmark_place, discord, hello, peer, ready
from tests.support.installs import Place, Running

ATTEMPTS_PER_ACCOUNT = 10
"""As many as an account may fail before it is locked, so that every one of them costs a hash."""
LOAD_CONNECTIONS = 16
STORM_CONNECTIONS = 32


def serving(directory: Path, size: Size) -> list[Figure]:
    """One `keyhall run` with its bot connected: a hot read against floor and peer, a login storm, and what it holds."""
    place = benchmark_place(directory / "serving")
    credential = asyncio.run(_populate(place, size.storms * size.accounts))
    started = Figure(name="memory with a bot connected", unit="MB")
    loaded = Figure(name="memory after all this load", unit="MB", aim=125)
    with (
        discord() as bot,
        hello() as (hello_pid, hello_port),
        peer(directory) as (peer_pid, peer_port, peer_token),
        ready(place.having(**bot)) as (_, running),
    ):
        running.wait_for("connected to Discord")
        pid, port = running.process.pid, int(_address(running).rpartition(":")[2])
        started.values.append(resident_megabytes(pid))
        read = request("GET", f"/api/v1/credentials/{credential}", Authorization=_sign_in(port))
        me = request("GET", "/me", Authorization=f"Bearer {peer_token}")
        figures = _reads(
            _Server(hello_pid, hello_port, request("GET", "/hello")),
            _Server(pid, port, read),
            _Server(peer_pid, peer_port, me),
            size,
        )
        unpin(pid)
        figures += _storms(port, read, size)
        loaded.values.append(resident_megabytes(pid))
    return [*figures, started, loaded]


def _address(running: Running) -> str:
    said = next(line for line in running.lines if "listening on " in line)
    return said.rpartition("listening on ")[2].rstrip(")")


async def _populate(place: Place, accounts: int) -> str:
    """An install with an owner, their credential, whose id is returned, and members."""
    client = Client(source=Source.WEB)
    async with place.services() as services:
        await services.identity.create_owner("owner", PASSWORD, client)
        pair = await services.authentication.login("owner", PASSWORD, client)
        owner = await services.requests.authenticate(pair.access_token.reveal(), client)
        for number in range(accounts):
            await services.identity.create(owner, f"member{number}", PASSWORD, Role.MEMBER)
        secret = "sk-proj-" + "0123456789abcdef" * 4
        added = await services.credentials.add(owner, provider="openai", label="bench", secret=secret)
        return added.view.id


def _sign_in(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"username": "owner", "password": PASSWORD})
    connection.request("POST", "/api/v1/auth/login", body, {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        content: dict[str, Any] = json.load(answer)
    connection.close()
    return f"Bearer {content['access_token']}"


@dataclass(frozen=True)
class _Server:
    """A process that answers one request."""

    pid: int
    port: int
    request: str

    def play(self, seconds: float, core: int | None) -> tuple[float, float]:
        """Answers per second, and processor time per answer, under a load that comes from that core."""
        before = processor_seconds(self.pid)
        load = Load(port=self.port, requests=[self.request], connections=LOAD_CONNECTIONS, seconds=seconds, core=core)
        outcome = run_load(load)
        expect(outcome, {"200"})
        return outcome.per_second, (processor_seconds(self.pid) - before) / outcome.answers


def _reads(floor: _Server, keyhall: _Server, fastapi: _Server, size: Size) -> list[Figure]:
    server_core, load_core = two_cores()
    greetings = Figure(name="aiohttp hello", unit="/s")
    reads = Figure(name="authenticated GET of a credential", unit="/s")
    peers = Figure(name="peer: FastAPI + fastapi-users, authenticated GET /me", unit="/s")
    of_floor = Figure(name="GET / hello", aim=0.33, more=True)
    cost_of_floor = Figure(name="hello / GET, processor time each")
    of_peer = Figure(name="GET / peer's GET", aim=10, more=True)
    cost_of_peer = Figure(name="peer's GET / GET, processor time each")
    for server in (floor, keyhall, fastapi):
        pin(server.pid, server_core)
        server.play(size.load_seconds / 4, load_core)
    for _ in range(size.rounds):
        hello_rate, hello_cost = floor.play(size.load_seconds, load_core)
        read_rate, read_cost = keyhall.play(size.load_seconds, load_core)
        peer_rate, peer_cost = fastapi.play(size.load_seconds, load_core)
        greetings.values.append(hello_rate)
        reads.values.append(read_rate)
        peers.values.append(peer_rate)
        of_floor.values.append(read_rate / hello_rate)
        cost_of_floor.values.append(hello_cost / read_cost)
        of_peer.values.append(read_rate / peer_rate)
        cost_of_peer.values.append(peer_cost / read_cost)
    return [greetings, reads, of_floor, cost_of_floor, peers, of_peer, cost_of_peer]


def _storms(port: int, read: str, size: Size) -> list[Figure]:
    hashes = Figure(name="storm: wrong passwords answered", unit="/s")
    alive = Figure(name="storm: p99 of /healthz", unit="ms", aim=50)
    hot = Figure(name="storm: p99 of the GET", unit="ms", aim=50)
    worst = Figure(name="storm: slowest of both", unit="ms")
    for number in range(size.storms):
        wrong, seconds = _wrong_passwords(number, size.accounts), size.storm_seconds
        storm = Playing(Load(port=port, requests=wrong, connections=STORM_CONNECTIONS, seconds=seconds))
        cheap = [
            Playing(Load(port=port, requests=[text], connections=2, pause=0.01, seconds=seconds - 1))
            for text in (request("GET", "/healthz"), read)
        ]
        healthz, reads = (playing.outcome() for playing in cheap)
        stormed = storm.outcome()
        expect(stormed, {"401"})
        expect(healthz, {"200"})
        expect(reads, {"200"})
        hashes.values.append(stormed.per_second)
        alive.values.append(healthz.p99)
        hot.values.append(reads.p99)
        worst.values.append(max(healthz.slowest, reads.slowest))
    return [hashes, alive, hot, worst]


def _wrong_passwords(storm: int, accounts: int) -> list[str]:
    """Every account of this storm as often as it may fail, every attempt from another address: no limit is met."""
    attempts = range(accounts * ATTEMPTS_PER_ACCOUNT)
    return [
        request(
            "POST",
            "/api/v1/auth/login",
            body={
                "username": f"member{storm * accounts + attempt % accounts}",
                "password": "not it, by far",
            },
            X_Forwarded_For=f"10.{storm}.{attempt // 250}.{attempt % 250}",
        )
        for attempt in attempts
    ]
