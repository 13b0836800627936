"""The headers of every answer, and the look of failures."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from app.domain import errors
from app.domain.errors import ConfigInvalid
from app.web import SERVICES, WebOptions
from app.web.api.documentation import DOCUMENT
from app.web.server import build_app
from app.web.sessions import actor_of
from tests.support.documents import python_of
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site, raw, served, without

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET_IN_AN_ERROR = "sk-canary-in-an-exception-7f6e5d4c3b2a"

STANDING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def dressed(answer: Answer) -> None:
    for name, value in STANDING.items():
        assert answer.headers.getall(name) == [value]
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "Permissions-Policy" in answer.headers
    assert "Server" not in answer.headers
    assert "aiohttp" not in str(answer.headers).lower() + answer.text.lower()


async def _every_kind_of_answer(site: Site) -> list[Answer]:
    answers = []
    for path, operations in site.app[DOCUMENT].content["paths"].items():
        filled = re.sub(r"{\w+}", ABSENT, path)
        for method in operations:
            for token in ("", site.token):
                for accept in ("application/json", "text/html"):
                    headers = {"Accept": accept}
                    answers.append(await site.request(method.upper(), filled, token=token, headers=headers))
    answers += [
        await site.request("GET", "/nowhere"),
        await site.page("/nowhere"),
        await site.request("PUT", "/healthz"),
        await site.request("TRACE", "/"),
        await site.request("POST", "/api/v1/auth/login", json={"username": "x" * 300_000}),
        await site.request("GET", "/api/v1/credentials?limit=0"),
        await site.request("GET", "/api/v1/auth/me", headers={"Host": "evil.example"}),
        await site.request("POST", "/api/v1/auth/login", json={}, headers={"Origin": "https://evil.example"}),
    ]
    return answers


async def test_security_headers_stand_on_every_answer(site: Site) -> None:
    answers = await _every_kind_of_answer(site)
    assert {answer.status for answer in answers} >= {200, 303, 401, 403, 404, 405, 413, 415, 421, 422}
    for answer in answers:
        dressed(answer)
        assert "Strict-Transport-Security" not in answer.headers
        assert answer.status < 500
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
            assert not re.search(r"<script(?! src=)|<style| style=| on\w+=|javascript:", answer.text)
        if not answer.headers["Cache-Control"].startswith("public"):
            assert answer.headers["Cache-Control"] in {"no-store", "no-store, no-transform"}


async def test_every_answer_has_a_request_id_of_its_own(site: Site) -> None:
    answers = await _every_kind_of_answer(site)
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    for answer in answers:
        if answer.headers.get("Content-Type") == "application/problem+json" and answer.body:
            assert answer.json["request_id"] == answer.headers["X-Request-Id"]


async def test_over_https_browsers_are_told_to_stay_there(site: Site) -> None:
    async with served(site.services, WebOptions(public_url="https://keys.example.org")) as public:
        for path in ("/healthz", "/login", "/nowhere"):
            answer = await public.request("GET", path, headers={"Host": "keys.example.org"})
            assert answer.headers["Strict-Transport-Security"] == "max-age=34560000"
        malformed = await raw(public, b"KANARIENVOGEL\r\n\r\n")
        assert b"Strict-Transport-Security" in malformed


async def test_people_get_pages_and_programs_get_problems(site: Site) -> None:
    page = await site.page("/nowhere")
    assert page.status == 404
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["X-Request-Id"] in page.text
    assert (await site.request("GET", "/nowhere")).code == "not_found"
    in_a_browser = await site.request("GET", "/api/v1/auth/me", token="", headers={"Accept": "text/html"})
    assert in_a_browser.code == "invalid_token"


UNAVAILABLE = [
    errors.StorageError(),
    errors.StorageBusy(),
    errors.StorageReadOnly(),
    errors.StorageFull(),
    errors.NotReady(),
    errors.Overloaded(),
]


@pytest.mark.parametrize("error", UNAVAILABLE, ids=lambda error: error.code)
async def test_what_cannot_be_done_right_now_is_503_with_a_time_to_come_back(
    site: Site, error: errors.AppError
) -> None:
    setup = {"setup_token": "khs_x", "username": "mia", "password": "correct horse battery"}
    for name in ("requests", "credentials", "instances", "identity"):
        async with served(without(site.services, error, name)) as broken:
            broken.declared = False  # the error is put in the place of any other
            if name == "identity":
                answer = await broken.request("POST", "/api/v1/setup", token="", json=setup)
            else:
                answer = await broken.request("GET", "/api/v1/credentials", token=site.token)
            assert (answer.status, answer.code) == (503, error.code)
            assert int(answer.headers["Retry-After"]) > 0
            dressed(answer)
            page = await broken.request("GET", "/login", headers={"Accept": "text/html"})
            assert page.status == (503 if name in {"identity", "instances"} else 200)
            assert (await broken.request("GET", "/healthz")).status == 200


async def test_a_process_that_is_not_ready_says_so(site: Site) -> None:
    class Unready:
        async def readiness(self) -> dict[str, bool]:
            return {"database": True, "keys": False, "lease": True}

    services = replace(site.services, dashboard=Unready())  # type: ignore[arg-type]
    async with served(services) as unready:
        answer = await unready.request("GET", "/readyz")
        assert answer.status == 503
        checks = {"database": True, "keys": False, "lease": True}
        assert answer.json == {"status": "not_ready", "checks": checks, "bot": "off"}
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_bug_is_a_500_that_says_nothing_but_where_to_look(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    bug = RuntimeError(f"a bug near {SECRET_IN_AN_ERROR}")
    async with served(without(site.services, bug, "credentials")) as broken:
        answer = await broken.request("GET", "/api/v1/credentials", token=site.token)
        assert (answer.status, answer.code) == (500, "unexpected")
        assert SECRET_IN_AN_ERROR not in answer.text
        dressed(answer)
        record = next(each for each in caplog.records if each.levelno >= logging.ERROR)
        assert record.exc_info
        assert record.__dict__["request_id"] == answer.headers["X-Request-Id"]
        cookie = (await broken.submit("/login", "", username=OWNER, password=PASSWORD)).cookie()
        page = await broken.page("/credentials", cookie)
        assert (page.status, SECRET_IN_AN_ERROR in page.text) == (500, False)
        assert "RuntimeError" not in page.text


async def test_the_access_log_has_no_query_and_no_line_of_a_stranger(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="keyhall.access")
    await site.request("GET", f"/api/v1/credentials/{ABSENT}?token=canary%0d%0aforged")
    await site.request("POST", "/a/path%0d%0aforged?x=canary", json={}, headers={"User-Agent": "canary"})
    lines = [record.getMessage() for record in caplog.records if record.name == "keyhall.access"]
    said = [line.partition(" in ")[0] for line in lines]
    assert said == [
        "GET /api/v1/credentials/{credential_id} 404",
        "POST unmatched 404",
        "no route for /a/path%0D%0Aforged",  # a proxy with a wrong prefix is found by it
    ]
    assert caplog.records[-1].levelno == logging.DEBUG
    assert "canary" not in caplog.text


# -- extensions --------------------------------------------------------------------------------------------------------


async def _use(request: web.Request) -> web.Response:
    actor = await actor_of(request)
    async with request.app[SERVICES].credentials.use(actor, "openai") as credential:
        return web.json_response({"paid_by": credential.paid_by.value, "length": len(credential.reveal())})


async def _fail(request: web.Request) -> web.Response:
    raise errors.NoCredential


_AT_WORK = asyncio.Event()
_RELEASED = asyncio.Event()


async def _wait(_: web.Request) -> web.Response:
    _AT_WORK.set()
    await _RELEASED.wait()
    return web.Response()


def setup(app: web.Application) -> None:
    """The setup function of a web extension, which this module is."""
    app.router.add_get("/extension/wait", _wait)
    app.router.add_get("/extension/use", _use)
    app.router.add_get("/extension/fail", _fail)


async def test_an_extension_gets_the_same_services_and_the_same_gate(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "an_extension_of_ours", sys.modules[__name__])
    made = await site.add("for the extension")
    async with served(site.services, WebOptions(extensions=("an_extension_of_ours",))) as extended:
        answer = await extended.request("GET", "/extension/use", token=site.token)
        assert answer.json == {"paid_by": "member", "length": len(SECRET)}
        dressed(answer)
        assert (await extended.request("GET", "/extension/use")).code == "invalid_token"
        assert (await extended.request("GET", "/extension/fail")).code == "no_credential"
        assert (await extended.request("GET", "/extension/use", headers={"Host": "evil.example"})).status == 421
    await site.request("DELETE", f"/api/v1/credentials/{made['id']}")


async def test_the_route_in_the_documentation_works_as_it_is_printed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "documented_route.py").write_text(python_of("extend.md", "A route"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = await site.add("for the documented route")
    async with served(site.services, WebOptions(extensions=("documented_route",))) as extended:
        given: list[str] = []

        async def count(key: str) -> int:
            given.append(key)
            return 7

        monkeypatch.setattr(sys.modules["documented_route"], "count_models", count)
        answer = await extended.request("GET", "/api/models", token=site.token)
        assert (answer.json, given) == ({"models": 7}, [SECRET])
        assert (await extended.request("GET", "/api/models")).code == "invalid_token"
        await site.request("DELETE", f"/api/v1/credentials/{made['id']}")
        assert (await extended.request("GET", "/api/models", token=site.token)).code == "no_credential"


async def test_what_is_no_http_fills_no_memory_while_the_request_before_it_is_at_work(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "an_extension_of_ours", sys.modules[__name__])
    async with served(site.services, WebOptions(extensions=("an_extension_of_ours",))) as extended:
        host, _, port = extended.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /extension/wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await _AT_WORK.wait()
        for number in range(20):
            writer.write(b"KANARIENVOGEL%d\x00" % number + b"x" * 100_000 + b"\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        assert (await extended.request("GET", "/healthz")).status == 200
        gc.collect()
        queued = [each for each in gc.get_objects() if type(each) is _ErrInfo]
        assert len(queued) <= 1
        assert "KANARIENVOGEL" not in repr([(each.message, each.exc) for each in queued])
        _RELEASED.set()
        answers = await asyncio.wait_for(reader.read(), 60)
        assert (answers.count(b"HTTP/1.1 200"), answers.count(b"HTTP/1.1 400")) == (1, 1)
        writer.close()


@pytest.mark.parametrize("name", ["no.such.module", "json"])
async def test_an_extension_that_cannot_be_used_halts_the_start_and_is_named(site: Site, name: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"WEB_EXTENSIONS: {name} cannot be used"):
        build_app(site.services, WebOptions(extensions=(name,)))
