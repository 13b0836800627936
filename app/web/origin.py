"""Where requests may come from: the Host they name, the page that sent them, and the address behind the proxies."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import replace
from functools import lru_cache
from typing import Final

from aiohttp import web

from app.domain.errors import NotConfigured
from app.domain.identity import Client, Source
from app.domain.passkeys import RelyingParty
from app.web.options import WebOptions
from app.web.problems import CrossSite, InsecureConnection, MalformedRequest, Misdirected

log = logging.getLogger(__name__)

UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Origin:
    """Keyhall's own origin, and the proxies that are trusted about addresses. Built once per application."""

    def __init__(self, options: WebOptions) -> None:
        scheme, _, authority = (options.public_url or "http://").partition("://")
        self._scheme = scheme
        self._authority = authority.lower() or None
        self._proxies = tuple(_unmapped(network) for network in options.trusted_proxies)
        self._unreadable_noted = False
        self._production = options.production

    @property
    def https(self) -> bool:
        """Whether browsers connect over TLS."""
        return self._scheme == "https"

    @property
    def cookie_name(self) -> str:
        """The session cookie's name; the prefix binds it to this host, https and all paths (RFC 6265bis, 4.1.3.2)."""
        return "__Host-keyhall" if self.https else "keyhall"

    @property
    def device_cookie_name(self) -> str:
        """The name of the cookie that shows that a browser signed in before."""
        return f"{self.cookie_name}-device"

    @property
    def pending_cookie_name(self) -> str:
        """The name of the cookie that a browser has between password and one-time code."""
        return f"{self.cookie_name}-pending"

    @property
    def passkey_cookie_name(self) -> str:
        """The name of the cookie that ties a question for a passkey to the browser that asked it."""
        return f"{self.cookie_name}-passkey"

    def relying_party(self, request: web.Request, *, browser: bool = False) -> RelyingParty:
        """For which host passkeys are made. Raises NotConfigured where browsers make none.

        That is PUBLIC_URL's, over https or on localhost; without PUBLIC_URL it is localhost, also for programs that
        call this machine by its address. A ``browser`` refuses an IP address (WebAuthn Level 3, 5.1.2), so its pages
        must come from a name.
        """
        name, port = _split_host(self._authority or request.host.lower())
        local = name == "localhost" or name.endswith(".localhost")
        if self._authority is None:
            if browser and not local:
                raise NotConfigured(
                    "Browsers make passkeys for a name, not for an IP address: open "
                    f"http://localhost:{(port or ':80')[1:]} instead, or set PUBLIC_URL to the https address of this "
                    "server"
                )
            return RelyingParty(id="localhost", origins=(f"http://localhost{port}", f"http://{request.host.lower()}"))
        if _address(name.strip("[]")) is not None:
            raise NotConfigured(
                "Passkeys need a host name, and PUBLIC_URL has an IP address: set PUBLIC_URL to an https address with "
                "the name of this server"
            )
        if not (self.https or local):
            raise NotConfigured("Browsers make passkeys over https only: set PUBLIC_URL to an https address")
        return RelyingParty(id=name, origins=(f"{self._scheme}://{self._authority}",))

    @property
    def ticket_cookie_name(self) -> str:
        """The name of the cookie that a browser has while its person is at Discord."""
        return f"{self.cookie_name}-discord"

    def cookies_allowed(self, request: web.Request) -> bool:
        """Whether a session cookie may travel: over https, or in the clear on this machine outside production."""
        return self.https or (not self._production and _is_loopback_host(request.host))

    def link(self, request: web.Request, path: str) -> str:
        """The address of a page, for somebody else: at PUBLIC_URL, or at the loopback name of this request."""
        return f"{self._scheme}://{self._authority or request.host}{path}"

    def check_connection(self, request: web.Request) -> None:
        """Refuse to make a session whose cookie may not travel. Raises InsecureConnection."""
        if not self.cookies_allowed(request):
            raise InsecureConnection

    def check_transport(self) -> None:
        """Production is served over https only: passwords and tokens must not travel in the clear."""
        if self._production and not self.https:
            raise InsecureConnection

    def check_host(self, request: web.Request) -> None:
        """Refuse a foreign Host, which also prevents DNS rebinding. Raises Misdirected or MalformedRequest."""
        hosts = request.headers.getall("Host", ())
        if len(hosts) != 1:
            raise MalformedRequest("Exactly one Host header is needed")
        host = _named_host(request)
        if host == self._authority:
            return
        if self._authority is None:
            if _is_loopback_host(host):
                return
        elif host.lower().removesuffix(_DEFAULT_PORTS.get(self._scheme, "")) == self._authority:
            return
        raise Misdirected

    def check_site(self, request: web.Request, *, browser: bool) -> None:
        """Refuse a request that another site made a browser send. Raises CrossSite.

        Sec-Fetch-Site decides if it is sent, Origin otherwise. With Referrer-Policy no-referrer a browser sends
        `Origin: null` from Keyhall's own forms too, so null counts only beside Sec-Fetch-Site: same-origin. A
        request that only a browser can have sent (``browser``) must carry one of the two.
        """
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None:
            same = site == "same-origin" and (origin in {None, "null"} or self._is_own(origin, request))
            same = same or (site == "none" and (origin is None or self._is_own(origin, request)))
        elif origin is not None:
            same = self._is_own(origin, request)
        else:
            same = not browser
        if not same:
            raise CrossSite

    def check_navigation(self, request: web.Request) -> None:
        """Refuse to open a page that begins something, where another site led the browser to it. Raises CrossSite.

        Programs and old browsers do not say where they come from; what such a page begins, a person still has to end.
        """
        if request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
            raise CrossSite

    def _is_own(self, origin: str | None, request: web.Request) -> bool:
        # The Host was checked before, so without PUBLIC_URL it is the name by which this machine was called.
        return origin is not None and origin.lower() == f"{self._scheme}://{self._authority or request.host.lower()}"

    def address(self, request: web.Request) -> str | None:
        """The client's IP address: the right-most one of X-Forwarded-For that no trusted proxy added itself."""
        remote = request.remote or ""
        headers = request.headers.getall("X-Forwarded-For", None) if self._proxies else None
        address = _address(remote) if headers else None
        if headers is None or address is None or not self._trusted(address):
            return _canonical(remote)
        hops = [hop for header in headers for hop in header.split(",")]
        for hop in reversed(hops):
            named = _forwarded(hop)
            if named is None:
                self._note_unreadable()
                break
            address = named
            if not self._trusted(address):
                break
        return str(address)

    def trusts(self, request: web.Request) -> bool:
        """Whether a trusted proxy sent the request: then its headers say what the proxy says."""
        address = _address(request.remote or "") if self._proxies else None
        return address is not None and self._trusted(address)

    def _note_unreadable(self) -> None:
        """Say once that a trusted proxy names no addresses: everybody behind it then shares its limits."""
        if not self._unreadable_noted:
            self._unreadable_noted = True
            log.warning(
                "X-Forwarded-For of a trusted proxy holds no IP address where one is needed: limits on signing in count"
                " everybody behind the proxy together; let it send the client's address"
            )

    def _trusted(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._proxies)

    def client(self, request: web.Request) -> Client:
        """The client, as the services record it."""
        client = _client(self.address(request), device_name(request.headers.get("User-Agent", "")))
        claim = cookie_of(request, self.device_cookie_name)
        return client if claim is None else replace(client, claim=claim)


def cookie_of(request: web.Request, name: str) -> str | None:
    """The value of a cookie; None where it was not sent, or sent with two values.

    Names and pairs are split as RFC 6265bis, 5.6.3 does it. aiohttp also splits values at blanks, so that a cookie
    which another site of the domain may set could hold a second session, past the prefix `__Host-`.
    """
    headers = request.headers.getall("Cookie", None)
    if headers is None:
        return None
    values = {
        value.strip(" \t")
        for header in headers
        for pair in header.split(";")
        for named, equals, value in (pair.partition("="),)
        if equals and named.strip(" \t") == name
    }
    return values.pop() if len(values) == 1 else None


def _named_host(request: web.Request) -> str:
    """The host that a request names: that of an absolute target counts instead of Host (RFC 9112, 3.2.2)."""
    target = request.raw_path
    if target.startswith("/") or target == "*":
        return request.headers.get("Host", "")
    return _authority_of(target)


def _authority_of(target: str) -> str:
    """The host and port in a request target in absolute form."""
    return target.partition("://")[2].partition("/")[0].partition("?")[0]


ORIGIN: web.AppKey[Origin] = web.AppKey("keyhall.origin", Origin)


def is_local(request: web.Request) -> bool:
    """Whether the request was made on this machine, and not passed on by a proxy on it."""
    address = _address(request.remote or "")
    forwarded = any(name in _FORWARDING or name.startswith("x-forwarded") for name in map(str.lower, request.headers))
    called_here = _is_loopback_host(_named_host(request))
    return address is not None and address.is_loopback and called_here and not forwarded


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FORWARDING: Final = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-forwarded-for"),
        *("true-client-ip", "cf-connecting-ip", "fastly-client-ip", "fly-client-ip", "x-envoy-external-address"),
        *("x-original-host", "x-original-url", "x-proxyuser-ip", "x-scheme", "x-appengine-user-ip", "cdn-loop"),
    }
)
"""The headers, in small letters, by which common proxies show that they passed a request on."""
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def _unmapped(network: _Network) -> _Network:
    """An IPv4 network that is written as IPv6 (RFC 4291, 2.5.5.2), as itself: addresses are compared as IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


_FORWARDED: Final = re.compile(r'"?\s*(?:\[([^\]]+)\](?::\d+)?|([0-9.]+)(?::\d+)?|([^"\s]+))\s*"?', re.ASCII)


def _forwarded(hop: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in one element of X-Forwarded-For, which some proxies write with a port, brackets or quotes."""
    found = _FORWARDED.fullmatch(hop.strip())
    return _address(next(part for part in found.groups() if part)) if found else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address without its zone, which is of no network, and which a client can choose behind a proxy."""
    text = text.partition("%")[0]
    return _parsed(text) if len(text) <= _LONGEST_ADDRESS else None


# The keys of these caches come from clients, so they are kept short.


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


@lru_cache(maxsize=1024)
def _client(address: str | None, device: str | None) -> Client:
    return Client(source=Source.WEB, address=address, device=device)


@lru_cache(maxsize=1024)
def _canonical(text: str) -> str | None:
    address = _address(text)
    return str(address) if address else None


def _is_loopback_host(host: str) -> bool:
    return len(host) <= _LONGEST_HOST and _is_loopback(host)


def _split_host(host: str) -> tuple[str, str]:
    """The name or address, an IPv6 one in its brackets, and the port with its colon, "" where none is named."""
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    return name, host[len(name) :]


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    name, port = _split_host(host)
    if port and not (port[1:].isascii() and port[1:].isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    address = _address(name.strip("[]"))
    return address is not None and address.is_loopback


_LONGEST_ADDRESS: Final = 45
"""An IPv6 address that ends in an IPv4 address (RFC 4291, 2.2)."""
_LONGEST_HOST: Final = 255 + len(":65535")
_READ_OF_USER_AGENT: Final = 512

_BROWSERS: Final = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"))
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def device_name(user_agent: str) -> str | None:
    """A few words for the session list, such as `Firefox on Linux` or `curl`; None without any."""
    return _device_name(user_agent[:_READ_OF_USER_AGENT])


@lru_cache(maxsize=1024)
def _device_name(user_agent: str) -> str | None:
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), None)
    if browser is None and "Safari/" in user_agent:
        browser = "Safari"
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    if browser and system:
        return f"{browser} on {system}"
    product = user_agent.partition("/")[0].partition(" ")[0]
    return product[:32] if product.isascii() and product.isprintable() and product else None
