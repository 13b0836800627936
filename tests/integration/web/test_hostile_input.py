"""Hostile input gets a 4xx that repeats nothing of it, and the server goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import Any

import pytest

from app.web import bodies, connection
from app.web.api.documentation import DOCUMENT
from tests.support.samples import ABSENT, PASSWORD, SECRET
from tests.support.web import Answer, Site, filled, raw

pytestmark = pytest.mark.asyncio(loop_scope="module")
CANARY = "kanarienvogel"
JSON = {"Content-Type": "application/json"}

MALFORMED = {
    "empty": b"",
    "blank": b"   ",
    "truncated": b'{"label": "' + CANARY.encode(),
    "trailing": b'{} "' + CANARY.encode() + b'"',
    "single quotes": b"{'a': 1}",
    "comment": b'{/* kanarienvogel */ "a": 1}',
    "bad UTF-8": b'{"label": "\xff\xfe kanarienvogel"}',
    "overlong UTF-8": b'{"label": "\xc0\x80"}',
    "UTF-16": '{"label": "kanarienvogel"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": b'{"label": "\\ud800 kanarienvogel"}',
    "lone surrogate as a name": b'{"\\udfff": 1}',
    "raw control character": b'{"label": "a\x01b"}',
    "duplicate name": b'{"label": "kanarienvogel", "label": "b"}',
    "duplicate name deep down": b'{"a": {"b": 1, "b": 2}}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}',
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "2 to the 64": b'{"a": 18446744073709551616}',
    "33 levels": b"[" * 33 + b"]" * 33,
    "8,000 levels": b"[" * 8_000 + b"]" * 8_000,
    "3,000 open objects": b'{"a":' * 3_000,
}
MISSHAPEN: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a text": CANARY,
    "a number": 1,
    "true": True,
    "nothing that is needed": {CANARY: 1},
    "only unknown members": {"__proto__": {CANARY: True}, "owner_id": ABSENT, "is_admin": True},
}
WRONG_TYPES = [1, 1.5, True, [CANARY], {CANARY: CANARY}]


def json_routes(site: Site) -> list[tuple[str, str, dict[str, Any], bool]]:
    """Method, path, schema and whether the body is required, of every route that reads JSON."""
    document = site.app[DOCUMENT].content
    routes = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
                required = operation["requestBody"]["required"]
                routes.append((method.upper(), filled(path), document["components"]["schemas"][name], required))
    assert len(routes) >= 11
    return routes


def refused(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, (answer.status, answer.text)
    assert answer.code
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_json_is_400_on_every_route(site: Site, case: str) -> None:
    for method, path, _, required in json_routes(site):
        if not required and not MALFORMED[case]:
            continue
        refused(await site.request(method, path, data=MALFORMED[case], headers=JSON), 400)


async def test_the_body_of_a_stranger_is_not_read_where_there_must_be_a_user(site: Site) -> None:
    """Who may is decided before anything that was sent is parsed."""
    checked = 0
    for method, path, _, _ in json_routes(site):
        operation = next(
            each[method.lower()]
            for template, each in site.app[DOCUMENT].content["paths"].items()
            if filled(template) == path and method.lower() in each
        )
        if operation.get("security") == []:
            continue
        answer = await site.request(method, path, data=b'{"a": ', headers=JSON, token="")
        assert (answer.status, answer.code) == (401, "invalid_token"), path
        checked += 1
    assert checked >= 15


@pytest.mark.parametrize("case", MISSHAPEN)
async def test_well_formed_json_of_another_shape_is_422_on_every_route(site: Site, case: str) -> None:
    for method, path, _, _ in json_routes(site):
        body = json.dumps(MISSHAPEN[case]).encode()
        refused(await site.request(method, path, data=body, headers=JSON), 422)


async def test_every_member_refuses_every_wrong_type(site: Site) -> None:
    checked = 0
    for method, path, schema, _ in json_routes(site):
        good = {name: _good(name) for name in schema["properties"]}
        for name, wrong in itertools.product(schema["properties"], WRONG_TYPES):
            # The answer of an authenticator is any object; what is wrong with it is said after it was judged.
            if type(wrong) is {"version": int, "rotation_days": int, "automatic": bool, "credential": dict}.get(name):
                continue
            refused(await site.request(method, path, json={**good, name: wrong}), 422)
            checked += 1
    assert checked > 85


def _good(name: str) -> Any:
    time = "2099-01-01T00:00:00Z"
    good = {"expires_at": time, "at": time, "version": 1, "guild_id": None, "otp": None, "rotation_days": 30}
    return {**good, "automatic": False}.get(name, "x" * 14)


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json; charset=utf-7",
        "application/json; charset=kanarienvogel",
        "application/json; boundary=x",
        "json",
    ],
)
async def test_only_json_is_read_as_json(site: Site, media_type: str | None) -> None:
    for method, path, _, _ in json_routes(site):
        headers = {} if media_type is None else {"Content-Type": media_type}
        refused(await _bare(site, method, path, b"{}", headers), 415)


async def _bare(site: Site, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """A request with exactly these headers: the client would add a Content-Type of its own."""
    async with site.client.request(
        method,
        site.url + path,
        data=body,
        headers={"Authorization": f"Bearer {site.token}", **headers},
        skip_auto_headers=["Content-Type"],
    ) as response:
        return Answer(response.status, response.headers, await response.read())


async def test_a_compressed_body_is_not_unpacked(site: Site) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    for method, path, _, _ in json_routes(site):
        refused(await site.request(method, path, data=b"\x1f\x8b" + b"\0" * 64, headers=headers), 415)


async def test_a_body_beyond_the_limit_is_413_however_it_is_announced(site: Site) -> None:
    huge = json.dumps({"secret": CANARY * 30_000}).encode()

    async def in_chunks() -> Any:
        for start in range(0, len(huge), 65_536):
            yield huge[start : start + 65_536]

    for method, path, _, _ in json_routes(site):
        refused(await site.request(method, path, data=huge, headers=JSON), 413)
        refused(await site.request(method, path, data=in_chunks(), headers=JSON), 413)
    assert (await site.request("GET", "/healthz")).status == 200


HOSTILE_TEXTS = {
    "NUL": f"{CANARY}\0x",
    "one megabyte": CANARY + "x" * 200_000,
    "right-to-left override": f"{CANARY}\u202e",
    "zero width": f"{CANARY}\u200b",
    "line break": f"{CANARY}\r\nSet-Cookie: a=b",
    "escape sequence": f"{CANARY}\x1b[31m",
    "unassigned": f"{CANARY}\U000e0fff",
}
STILL_TEXT = {
    "format string": "{0.__class__} %s %n",
    "template": "{{7*7}} ${7*7} <%= 7*7 %>",
    "markup": "<script> alert(1) </script> &lt;",
    "quotes": "'\"`; DROP TABLE users; --",
    "letters that combine": "Zalg\u00f3\u0302 \u05e9\u05dc\u05d5\u05dd \U0001f511",
}


@pytest.mark.parametrize("case", HOSTILE_TEXTS)
async def test_hostile_text_is_refused_in_every_text_that_people_read(site: Site, case: str) -> None:
    text = HOSTILE_TEXTS[case]
    base = {"provider": "openai", "label": "fine", "secret": SECRET}
    for name in ("provider", "label"):
        refused(await site.request("POST", "/api/v1/credentials", json={**base, name: text}), 422)
    made = await site.add(f"hostile {case}")
    refused(await site.request("PATCH", f"/api/v1/credentials/{made['id']}", json={"label": text}), 422)
    for name in ("username", "password"):
        body = {"username": f"nobody {case}", "password": "x" * 12, name: text}
        refused(await site.request("POST", "/api/v1/auth/login", json=body, token=""), 401, 413, 422)
    refused(await site.request("POST", "/api/v1/auth/refresh", json={"refresh_token": text}, token=""), 401, 413, 422)
    refused(await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": text}), 401, 422)
    setup = {"setup_token": text, "username": text, "password": text}
    refused(await site.request("POST", "/api/v1/setup", json=setup, token=""), 409, 413)


@pytest.mark.parametrize("case", STILL_TEXT)
async def test_text_that_other_software_stumbles_over_is_kept_to_the_letter(site: Site, case: str) -> None:
    text = STILL_TEXT[case]
    made = await site.add(text, secret=f"{text} {SECRET}")
    path = f"/api/v1/credentials/{made['id']}"
    assert (await site.request("GET", path)).json["label"] == text
    assert (await site.request("POST", f"{path}/reveal")).json == {"secret": f"{text} {SECRET}"}


@pytest.mark.parametrize(
    "text", ["%ud800", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "%00", "..", "*"]
)
async def test_a_hostile_path_is_not_found(site: Site, text: str) -> None:
    for path in (f"/api/v1/credentials/{text}", f"/static/{text}/{text}", f"/{text}", f"/credentials/{text}"):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        answer = await raw(site, f"{head}Authorization: Bearer {site.token}\r\n\r\n".encode("latin-1"))
        assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 404"}, (path, answer)


@pytest.mark.parametrize(
    "path", ["/.git/config", "/.env", "/keyhall.db", "/static/../app/settings.py", "/static/%2e%2e/server.py",
             "/static/x/..%2f..%2fserver.py", "/master.key", "/data/install.json", "/api/v1", "/api/v1/"],
)  # fmt: skip
async def test_what_is_not_served_is_not_found(site: Site, path: str) -> None:
    assert (
        await raw(site, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    ).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "data",
    [b"KANARIENVOGEL\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nkanarienvogel\r\n\r\n", b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nX: " + b"kanarienvogel" * 2_000 + b"\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"X: kanarienvogel\r\n" * 500 + b"\r\n",
     b"POST /api/v1/setup HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_http_gets_a_problem_and_is_hung_up_on(site: Site, data: bytes) -> None:
    answer = await raw(site, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400"), answer
    assert json.loads(body)["code"] == "malformed_request"
    assert b"nosniff" in head
    assert b"Server:" not in head
    assert CANARY.encode() not in answer.lower()
    assert (await site.request("GET", "/healthz")).status == 200


async def test_a_body_that_breaks_its_own_framing_is_400(site: Site) -> None:
    head = "POST /api/v1/auth/refresh HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = await raw(site, head.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nkanarienvogel\r\n")
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert CANARY.encode() not in answer


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("GET /healthz", 400, "malformed_request"),
        ("GET /healthz HTTP/0.9", 400, "malformed_request"),
        ("GET /healthz HTTP/2.0", 505, "unsupported_http_version"),
    ],
)
async def test_a_request_names_the_version_that_is_spoken_here(site: Site, line: str, status: int, code: str) -> None:
    answer = await raw(site, f"{line}\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(body)["code"] == code


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, chunked", "compress , chunked", "identity, chunked"])
async def test_a_body_that_is_coded_for_its_transfer_is_501(site: Site, coding: str) -> None:
    head = "POST /api/v1/auth/refresh HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = await raw(site, f"{head}Transfer-Encoding: {coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 501"), answer
    assert b'"code":"unsupported_transfer_coding"' in answer


async def test_the_body_of_a_stranger_is_small_and_that_of_a_member_holds_the_largest_secret(site: Site) -> None:
    for path in ("/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/setup"):
        large = await site.request("POST", path, data=b" " * 16_385, headers=JSON, token="")
        assert (large.status, large.code) == (413, "too_large")
        assert (await site.request("POST", path, data=b" " * 16_384, headers=JSON, token="")).status == 400
    page = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
    assert (await site.request("POST", "/login", data=b"a" * 16_385, headers=page, token="")).status == 413
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n"
    )
    writer.write((b"1000\r\n" + b" " * 4096 + b"\r\n") * 4)  # and it does not end
    assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 413")
    writer.close()
    assert (await site.add("large", secret="é" * 32 * 1024))["version"] == 1


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', " utf-8"])
async def test_utf_8_by_any_of_its_names_is_json(site: Site, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    answer = await site.request("POST", "/api/v1/auth/refresh", data=b"{}", headers=headers, token="")
    assert answer.status == 422


async def test_an_id_that_json_cannot_carry_as_a_number_gets_advice(site: Site) -> None:
    body = b'{"provider": "openai", "label": "x", "secret": "y", "guild_id": 123456789012345678}'
    answer = await site.request("POST", "/api/v1/credentials", data=body, headers=JSON)
    assert (answer.status, answer.code) == (400, "malformed_request")
    assert "send large ids as text" in answer.json["detail"]
    assert "123456789012345678" not in answer.text


async def test_pages_ignore_parameters_that_they_do_not_know_and_the_api_refuses_them(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    for path in ("/login?utm_source=x&fbclid=y", "/credentials?x=1&x=2", "/credentials?q=x&q=y"):
        assert (await site.page(path, cookie)).status == 200
    assert (await site.request("GET", "/api/v1/credentials?utm_source=x")).status == 422


@pytest.mark.parametrize(
    "cursor",
    ["Zm9v", "MDE", "MA", "LTE", "2aI", "MQ==", "MR", "MTI%3D", "x", "\u0661",
     "MDE4ZjNhN2MtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDBH"],
)  # fmt: skip
async def test_only_a_cursor_that_was_given_out_is_one(site: Site, cursor: str) -> None:
    """Base64 of something else, of a number that is written otherwise, or with bits to spare."""
    for path in ("/api/v1/credentials", "/api/v1/admin/jobs", "/api/v1/auth/sessions"):
        answer = await site.request("GET", f"{path}?cursor={cursor}")
        assert (answer.status, answer.code) == (422, "invalid_input"), (path, cursor)


async def test_an_unknown_expectation_is_417_in_our_form(site: Site) -> None:
    answer = await raw(site, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: kanarienvogel\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417")
    assert b'"code":"expectation_failed"' in answer
    assert b"nosniff" in answer
    assert CANARY.encode() not in answer


async def test_a_head_that_dribbles_in_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    assert await raw(site, b"GET /healthz HTTP/1.1\r\nHost: loc", within=60) == b""


async def test_a_head_that_dribbles_in_after_a_whole_request_is_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(whole)
    assert (await reader.readuntil(b'"alive"}')).startswith(b"HTTP/1.1 200")
    writer.write(b"GET /healthz HT")
    assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()


async def test_a_slow_request_in_progress_is_not_cut_off_by_the_deadline_for_heads(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    body = json.dumps({"refresh_token": "x"}).encode()
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/auth/logout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    for byte in body:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 204")
    writer.close()


async def test_a_body_that_dribbles_in_is_408(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    answer = await raw(
        site,
        b"POST /api/v1/auth/logout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 30\r\n\r\n{"refresh',
    )
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b'"code":"request_timeout"' in answer


async def test_no_secret_that_was_sent_reaches_the_log_at_debug(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret, password = "sk-canary-9f8e7d6c5b4a39281706f5e4", "canary password of nobody"
    made = await site.add("logged", secret=secret)
    await site.request("POST", f"/api/v1/credentials/{made['id']}/reveal")
    await site.request("POST", "/api/v1/credentials", data=f'{{"secret": "{secret}"'.encode(), headers=JSON)
    await site.request("POST", "/api/v1/credentials", json={"secret": secret, "label": secret, "provider": secret})
    await site.request("POST", "/api/v1/auth/login", json={"username": password, "password": password}, token="")
    await site.request("GET", f"/api/v1/auth/me?token={secret}", token=secret)
    await site.log_in(password=PASSWORD)
    text = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "keyhall.access" in text
    for canary in (secret, password, PASSWORD, site.token):
        assert canary not in text
