"""Who may make a browser do what: Host, Origin, cookies, form tokens, and addresses behind proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from unittest import mock

import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request

from app.web import WebOptions
from app.web.api.documentation import DOCUMENT
from app.web.origin import Origin, device_name
from tests.support.samples import OWNER, PASSWORD
from tests.support.web import Site, filled, raw, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
PUBLIC = "https://keys.example.org"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def public(site: Site) -> AsyncIterator[Site]:
    """The same house behind a proxy that ends TLS."""
    options = WebOptions(public_url=PUBLIC, production=True)
    async with served(site.services, options) as opened:
        opened.token = site.token
        yield opened


# -- Host --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:8080", "[::1]", "[::1]:8080"])
async def test_without_public_url_loopback_names_are_served(site: Site, host: str) -> None:
    assert (await site.request("GET", "/api/v1/auth/me", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "keys.example.org", "10.0.0.1", "[::2]",
     "localhost:80:80", "localhost:x", "user@localhost", "localhost, evil.example", "localhost/", "0.0.0.0:80", "[::1"],
)  # fmt: skip
async def test_without_public_url_no_other_host_is_served(site: Site, host: str) -> None:
    answer = await site.request("GET", "/api/v1/auth/me", headers={"Host": host})
    assert answer.status in {400, 421}
    assert answer.code in {"misdirected", "malformed_request"}
    assert "evil" not in answer.text


@pytest.mark.parametrize("host", ["keys.example.org", "KEYS.example.org", "keys.example.org:443"])
async def test_with_public_url_its_host_is_served(public: Site, host: str) -> None:
    assert (await public.request("GET", "/api/v1/auth/me", headers={"Host": host})).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "keys.example.org:80", "keys.example.org.", "example.org"])
async def test_with_public_url_no_other_host_is_served(public: Site, host: str) -> None:
    assert (await public.request("GET", "/api/v1/auth/me", headers={"Host": host})).code == "misdirected"


async def test_monitors_may_call_this_machine_by_any_name(public: Site) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await public.request("GET", path, headers={"Host": "10.1.2.3:8080"})).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "keys.example.org"},
        {"Host": "10.1.2.3:8080"},
        *(
            {"Host": "localhost", name: "198.51.100.7"}
            for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto",
                         "True-Client-IP", "CF-Connecting-IP", "X-Client-IP", "Fly-Client-IP",
                         "X-Envoy-External-Address")
        ),
    ],
)  # fmt: skip
async def test_metrics_are_for_this_machine_under_its_own_name(public: Site, headers: dict[str, str]) -> None:
    """A page that a name server leads here (DNS rebinding), and whatever a proxy on this machine passes on."""
    answer = await public.request("GET", "/metrics", headers=headers)
    assert (answer.status, answer.code) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
async def test_metrics_are_served_to_this_machine(public: Site, host: str) -> None:
    assert (await public.request("GET", "/metrics", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://evil.example/login", b"421"),
        ("http://evil.example", b"421"),
        ("http://localhost@evil.example/login", b"421"),
        ("http://localhost:80/healthz", b"200"),
        ("http://localhost/login", b"200"),
    ],
)
async def test_the_host_of_an_absolute_target_counts(site: Site, target: str, status: bytes) -> None:
    answer = await raw(site, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == status, answer


async def test_the_host_of_an_absolute_target_counts_for_the_metrics_as_well(public: Site) -> None:
    head = b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await raw(public, head)).startswith(b"HTTP/1.1 403")


async def test_a_cookie_of_another_site_of_the_domain_never_stands_for_the_session(public: Site) -> None:
    """Such a site cannot set a cookie whose name begins with `__Host-`, but it can set others, with any value."""
    sent = {"Host": "keys.example.org", "Sec-Fetch-Site": "same-origin", "Origin": PUBLIC, "Accept": "text/html"}
    own = (await public.submit("/login", "", headers=sent, username=OWNER, password=PASSWORD)).cookie()
    name, _, value = own.partition("=")
    assert name == "__Host-keyhall"

    async def opened(cookies: str) -> int:
        return (await public.request("GET", "/credentials", cookie=cookies, token="", headers=sent)).status

    assert await opened(f"{own}; x=a {name}=khc_evil") == 200
    assert await opened(f"x=a {name}=khc_evil; {own}") == 200
    for planted in (f"x=a {name}={value}", f"\u2003{name}={value}", f"x=1,{name}={value}", f"{own}; {name}=khc_evil"):
        assert await opened(planted) == 303, planted


async def test_another_scheme_of_authorization_is_not_meant_for_keyhall(site: Site) -> None:
    """A proxy that asks for a password of its own passes it on with every request."""
    cookie, form_token = await site.log_in_browser()
    for scheme in ("Basic YWxpY2U6c2VjcmV0", "Digest username=alice", "Negotiate YII", "AWS4-HMAC-SHA256 x"):
        page = await site.request("GET", "/credentials", cookie=cookie, token="", headers={"Authorization": scheme})
        assert page.status == 200
        me = await site.request("GET", "/api/v1/auth/me", token="", headers={"Authorization": scheme})
        assert (me.status, me.code) == (401, "invalid_token")
    changing = {"Authorization": "Basic YWxpY2U6c2VjcmV0", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
    assert (await site.submit("/logout", cookie, headers=changing, form_token=form_token)).status == 303


@pytest.mark.parametrize("bearer", ["Bearer", "Bearer ", "bearer x", "BEARER nonsense", "Bearer\tx", "Bearerx"])
async def test_a_bearer_token_is_never_backed_up_by_a_cookie(site: Site, bearer: str) -> None:
    cookie, _ = await site.log_in_browser()
    refused = await site.request("GET", "/api/v1/auth/me", cookie=cookie, token="", headers={"Authorization": bearer})
    assert (refused.status, refused.code) == (401, "invalid_token")


# -- where a request comes from ----------------------------------------------------------------------------------------

FOREIGN = {
    "foreign origin": {"Origin": "https://evil.example"},
    "origin null": {"Origin": "null"},
    "same host, other scheme": {"Origin": "ftp://localhost"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "no-cors from elsewhere": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "same-origin with a foreign origin": {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    "none with origin null": {"Sec-Fetch-Site": "none", "Origin": "null"},
    "unknown word": {"Sec-Fetch-Site": "Same-Origin "[:11]},
}
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


def unsafe_routes(site: Site) -> list[tuple[str, str, bool]]:
    """Method, path and whether it is a form, of everything that changes something."""
    routes = []
    for path, operations in site.app[DOCUMENT].content["paths"].items():
        for method, operation in operations.items():
            if method.upper() in UNSAFE:
                routes.append((method.upper(), path, "Pages" in operation["tags"]))
    assert len(routes) > 18
    return routes


async def _snapshot(site: Site) -> list[object]:
    live = (await site.request("GET", "/api/v1/credentials")).json["items"]
    removed = (await site.request("GET", "/api/v1/credentials?removed=true")).json["items"]
    keys = (await site.request("GET", "/api/v1/admin/keys")).json["items"]
    jobs = (await site.request("GET", "/api/v1/admin/jobs")).json["items"]
    return [*live, *removed, *keys, *jobs]


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("carrier", ["cookie", "token", "nothing"])
async def test_nothing_changes_for_another_site(site: Site, case: str, carrier: str) -> None:
    made = await site.add(f"target {case} {carrier}")
    cookie, form_token = await site.log_in_browser()
    before = await _snapshot(site)
    for method, path, is_form in unsafe_routes(site):
        body = {"json": {}} if not is_form else {"data": {"form_token": form_token, "version": "1", "label": "taken"}}
        answer = await site.request(
            method,
            filled(path, credential_id=made["id"]),
            cookie=cookie if carrier == "cookie" else None,
            token=site.token if carrier == "token" else "",
            headers=FOREIGN[case],
            **body,
        )
        assert (answer.status, answer.code) == (403, "cross_site"), (method, path)
    assert await _snapshot(site) == before


async def test_a_cookie_changes_nothing_without_a_word_from_the_browser_about_where_it_comes_from(site: Site) -> None:
    made = await site.add("silent")
    cookie, form_token = await site.log_in_browser()
    for method, path, is_form in unsafe_routes(site):
        if not is_form and path.startswith(
            (
                "/api/v1/auth/claim",
                "/api/v1/auth/log",
                "/api/v1/auth/passkeys/login",
                "/api/v1/auth/refresh",
                "/api/v1/setup",
            )
        ):
            continue  # they look at no cookie
        where = filled(path, credential_id=made["id"])
        answer = await site.request(method, where, cookie=cookie, token="", data={"form_token": form_token}, headers={})
        assert (answer.status, answer.code) == (403, "cross_site"), (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_our_own_pages_may(site: Site, headers: dict[str, str]) -> None:
    cookie, form_token = await site.log_in_browser()
    fields = {"provider": "openai", "label": f"own {len(headers)} {sorted(headers.items())}"[:60], "secret": "x" * 20}
    answer = await site.submit("/credentials", cookie, headers=headers, form_token=form_token, fields=fields)
    assert answer.status == 303, answer.text


async def test_an_origin_of_ours_is_enough_for_a_browser_that_sends_no_sec_fetch_site(site: Site) -> None:
    cookie, form_token = await site.log_in_browser()
    answer = await site.submit("/logout", cookie, headers={"Origin": site.url}, form_token=form_token)
    assert answer.status == 303


@pytest.mark.parametrize("wrong", ["", "0" * 64, "of somebody else", "\u00e9"])
async def test_a_form_needs_the_token_of_its_own_session(site: Site, wrong: str) -> None:
    cookie, _ = await site.log_in_browser()
    _, other = await site.log_in_browser()
    token = other if wrong == "of somebody else" else wrong
    answer = await site.submit(
        "/logout", cookie, headers={"Sec-Fetch-Site": "same-origin"}, fields={"form_token": token} if token else {}
    )
    assert (answer.status, answer.code) == (403, "cross_site")
    assert (await site.page("/", cookie)).status == 200


async def test_a_form_is_not_read_as_json_nor_as_multipart(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    headers = {"Sec-Fetch-Site": "same-origin"}
    as_json = await site.request("POST", "/logout", cookie=cookie, json={"form_token": token}, headers=headers)
    assert as_json.status == 415
    assert (await site.page("/", cookie)).status == 200


# -- the cookie --------------------------------------------------------------------------------------------------------


def attributes(set_cookie: str) -> dict[str, str]:
    parts = [part.strip().partition("=") for part in set_cookie.split(";")[1:]]
    return {name.lower(): value for name, _, value in parts}


async def test_on_loopback_the_cookie_has_a_plain_name(site: Site) -> None:
    answer = await site.submit("/login", "", username=OWNER, password=PASSWORD)
    assert answer.headers["Set-Cookie"].startswith("keyhall=")
    given = attributes(answer.headers["Set-Cookie"])
    assert (given["path"], given["samesite"]) == ("/", "Lax")
    assert "httponly" in given
    assert "domain" not in given
    assert given["expires"].endswith("GMT")


async def test_over_https_the_cookie_is_bound_to_its_host(public: Site) -> None:
    headers = {"Host": "keys.example.org", "Sec-Fetch-Site": "same-origin", "Origin": PUBLIC}
    answer = await public.submit("/login", "", headers=headers, username=OWNER, password=PASSWORD)
    assert answer.status == 303
    assert answer.headers["Set-Cookie"].startswith("__Host-keyhall=")
    given = attributes(answer.headers["Set-Cookie"])
    assert {"secure", "httponly"} <= given.keys()
    assert given["path"] == "/"
    assert "domain" not in given
    # The plain name is not looked at there.
    plain = answer.cookie().removeprefix("__Host-")
    assert (await public.request("GET", "/", cookie=plain, headers={"Host": "keys.example.org"})).status == 401
    assert (
        await public.request("GET", "/", cookie=answer.cookie(), headers={"Host": "keys.example.org"})
    ).status == 200


async def test_signing_out_takes_the_cookie_back_under_its_own_attributes(site: Site) -> None:
    login = await site.submit("/login", "", username=OWNER, password=PASSWORD)
    page = await site.page("/", login.cookie())
    answer = await site.submit("/logout", login.cookie(), form_token=page.form_token())
    assert answer.headers["Location"] == "/login?done=out"
    given, taken = attributes(login.headers["Set-Cookie"]), attributes(answer.headers["Set-Cookie"])
    assert answer.headers["Set-Cookie"].startswith('keyhall=""')
    assert taken["max-age"] == "0"
    for name in ("path", "samesite", "httponly"):
        assert taken[name] == given[name]
    assert (await site.page("/", login.cookie())).headers["Location"] == "/login"


async def test_every_sign_in_is_a_session_of_its_own(site: Site) -> None:
    first = await site.submit("/login", "keyhall=khs_chosen-by-somebody-else", username=OWNER, password=PASSWORD)
    second = await site.submit("/login", first.cookie(), username=OWNER, password=PASSWORD)
    assert len({"keyhall=khs_chosen-by-somebody-else", first.cookie(), second.cookie()}) == 3


async def test_no_cookie_is_given_out_in_the_clear(site: Site) -> None:
    """Neither under http on another name than loopback, nor in production."""
    for options, host in (
        (WebOptions(public_url="http://keys.lan"), "keys.lan"),
        (WebOptions(production=True), "localhost"),
    ):
        async with served(site.services, options) as open_to_all:
            headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}
            answer = await open_to_all.submit("/login", "", headers=headers, username=OWNER, password=PASSWORD)
            assert "Set-Cookie" not in answer.headers
            assert answer.status == 403
            page = await open_to_all.request("GET", "/login", headers={"Host": host})
            assert "PUBLIC_URL" in page.text


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/%2f/evil.example", "javascript:alert(1)", "evil",
     "/ /evil.example", "/\tevil", "/credentials?x=//evil.example", "/credentials\n"],
)  # fmt: skip
async def test_signing_in_leads_to_no_other_site(site: Site, target: str) -> None:
    answer = await site.submit("/login", "", username=OWNER, password=PASSWORD, next=target)
    assert answer.headers["Location"] == "/"


async def test_signing_in_leads_back_to_where_one_was(site: Site) -> None:
    asked = await site.page("/credentials/new")
    assert asked.headers["Location"] == "/login?next=/credentials/new"
    assert 'name="next" value="/credentials/new"' in (await site.page(asked.headers["Location"])).text
    answer = await site.submit("/login", "", username=OWNER, password=PASSWORD, next="/credentials/new")
    assert answer.headers["Location"] == "/credentials/new"


# -- addresses ---------------------------------------------------------------------------------------------------------

PROXIES = (
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("2001:db8:1::/48"),
    ipaddress.ip_network("::ffff:172.18.0.0/111"),
)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1, 10.2.2.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9, 10.2.2.2"], "10.9.9.9"),
        ("10.0.0.1", ["198.51.100.1, not an address"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, evil\x1b, 10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.66:41234"], "198.51.100.66"),
        ("10.0.0.1", ["[2001:db8:9::9]:443"], "2001:db8:9::9"),
        ("10.0.0.1", ["[2001:db8:9::9]"], "2001:db8:9::9"),
        ("10.0.0.1", ['"[2001:db8:9::9]:443"'], "2001:db8:9::9"),
        ("10.0.0.1", ['"198.51.100.1"'], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, ::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1:99, 10.2.2.2:1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1:port"], "10.0.0.1"),
        ("10.0.0.1", ["[198.51.100.1"], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("172.18.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:172.18.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("172.19.9.9", ["198.51.100.1"], "198.51.100.1"),
        ("172.20.0.1", ["198.51.100.1"], "172.20.0.1"),
        ("2001:db8:1::7", ["2001:db8:9::9"], "2001:db8:9::9"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], None),
    ],
)
async def test_an_address_is_believed_from_trusted_proxies_only(
    peer: str, forwarded: list[str], address: str | None
) -> None:
    from multidict import CIMultiDict

    headers = CIMultiDict([("Host", "localhost"), *(("X-Forwarded-For", hop) for hop in forwarded)])
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (peer, 1) if name == "peername" else default
    request = make_mocked_request("GET", "/", headers=headers, transport=transport)
    assert Origin(WebOptions(trusted_proxies=PROXIES)).address(request) == address
    assert Origin(WebOptions()).address(request) == (peer.removeprefix("::ffff:") or None)


async def test_a_proxy_that_names_no_addresses_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: ("10.0.0.1", 1) if name == "peername" else default
    origin = Origin(WebOptions(trusted_proxies=PROXIES))
    for hop in ("unknown", "_hidden", "sk-proj-canary"):
        assert origin.address(make_mocked_request("GET", "/", headers={"X-Forwarded-For": hop}, transport=transport))
    (noted,) = [record.getMessage() for record in caplog.records]
    assert "X-Forwarded-For of a trusted proxy holds no IP address" in noted
    assert "canary" not in noted


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("2001:db8::1%" + "z" * 4000, "2001:db8::1"),  # a zone, which the client chose
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("1" * 4000, "10.0.0.1"),
        ("0000:0000:0000:0000:0000:ffff:192.168.100.228", "192.168.100.228"),
    ],
)
async def test_an_address_is_no_longer_than_an_address(hop: str, address: str) -> None:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: ("10.0.0.1", 1) if name == "peername" else default
    origin = Origin(WebOptions(trusted_proxies=PROXIES))
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": hop}, transport=transport)
    assert origin.address(request) == address


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/150.0 Safari/537.36 Edg/150.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1", "Safari on iPhone"),
        ("curl/8.14.1", "curl"),
        ("", None),
        ("\x1b[31m", None),
        ("é", None),
        ("curl/" + "x" * 8000, "curl"),
        ("x" * 8000, "x" * 32),
    ],
)
async def test_a_device_is_named_in_a_few_words(agent: str, device: str | None) -> None:
    assert device_name(agent) == device
