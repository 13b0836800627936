"""One request by each of the three things that a client may send, and a cheap one while 200 clients sign in at once."""

from __future__ import annotations

import asyncio
import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.domain.identity import Client, Source
from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.load import Load, Playing, expect, request, run_load
from tests.benchmarks.machine import pin, processor_seconds, resident_megabytes, two_cores, unpin
from tests.benchmarks.servers import PASSWORD, benchmark_place, ready
from tests.support.installs import Place

CONNECTIONS = 16
LOGINS_AT_ONCE = 200
_ME = "/api/v1/auth/me"


def carriers(directory: Path, size: Size) -> list[Figure]:
    """Processor time of a request by cookie and by API token, as ratios to that by access token; and a login storm."""
    place = benchmark_place(directory / "carriers")
    asyncio.run(_owner(place))
    with ready(place) as (_, running):
        said = next(line for line in running.lines if "listening on " in line)
        pid, port = running.process.pid, int(said.rpartition(":")[2].rstrip(")"))
        access = (
            f"Bearer {_json(port, '/api/v1/auth/login', {'username': 'owner', 'password': PASSWORD})['access_token']}"
        )
        body = {"name": "bench", "scopes": ["credentials:read"]}
        api_token = _json(port, "/api/v1/auth/tokens", body, Authorization=access)["token"]
        requests = {
            "access token": request("GET", _ME, Authorization=access),
            "session cookie": request("GET", _ME, Cookie=_cookie(port)),
            "API token": request("GET", _ME, Authorization=f"Bearer {api_token}"),
        }
        figures = _carried(pid, port, requests, size)
        unpin(pid)
        figures += _logins(pid, port, requests["API token"], size)
    return figures


async def _owner(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        await services.identity.create_owner("owner", PASSWORD, Client(source=Source.WEB))


def _json(port: int, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
    with connection.getresponse() as answer:
        content: dict[str, Any] = json.load(answer)
    connection.close()
    return content


def _cookie(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    form = urlencode({"username": "owner", "password": PASSWORD, "next": "/"})
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Sec-Fetch-Site": "same-origin",
        "Host": "localhost",
    }
    connection.request("POST", "/login", form, headers)
    with connection.getresponse() as answer:
        cookie = str(answer.headers["Set-Cookie"]).partition(";")[0]
    connection.close()
    return cookie


def _carried(pid: int, port: int, requests: dict[str, str], size: Size) -> list[Figure]:
    server_core, load_core = two_cores()
    pin(pid, server_core)
    floor = Figure(name="GET /auth/me by access token", unit="/s")
    ratios = {
        name: Figure(name=f"by {name} / by access token, processor time each", aim=1.1)
        for name in requests
        if name != "access token"
    }
    for _ in range(size.rounds):
        costs = {}
        for name, text in requests.items():
            before = processor_seconds(pid)
            load = Load(port=port, requests=[text], connections=CONNECTIONS, seconds=size.load_seconds, core=load_core)
            outcome = run_load(load)
            expect(outcome, {"200"})
            costs[name] = (processor_seconds(pid) - before) / outcome.answers
            if name == "access token":
                floor.values.append(outcome.per_second)
        for name, ratio in ratios.items():
            ratio.values.append(costs[name] / costs["access token"])
    return [floor, *ratios.values()]


def _logins(pid: int, port: int, cheap: str, size: Size) -> list[Figure]:
    """Right passwords from 200 addresses; where there is no room for one more, the answer is 503."""
    answered = Figure(name="200 logins at once: answered", unit="/s")
    late = Figure(name="200 logins at once: p99 of GET /auth/me", unit="ms", aim=50)
    memory = Figure(name="200 logins at once: memory afterwards", unit="MB", aim=150)
    body = {"username": "owner", "password": PASSWORD}
    logins = [
        request("POST", "/api/v1/auth/login", body=body, X_Forwarded_For=f"10.9.0.{number}")
        for number in range(LOGINS_AT_ONCE)
    ]
    for _ in range(size.storms):
        storm = Playing(Load(port=port, requests=logins, connections=LOGINS_AT_ONCE, seconds=size.storm_seconds))
        reads = Playing(
            Load(port=port, requests=[cheap], connections=2, pause=0.01, seconds=size.storm_seconds - 1)
        ).outcome()
        stormed = storm.outcome()
        expect(stormed, {"200", "429", "503"})
        expect(reads, {"200"})
        answered.values.append(stormed.per_second)
        late.values.append(reads.p99)
        memory.values.append(resident_megabytes(pid))
    return [answered, late, memory]
