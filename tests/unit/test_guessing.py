"""A simulation of attackers and of people who know their password, under the rule and figures of docs/security.md."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.domain.attempts import (
    FIRST_TRIES,
    FIRST_TRIES_WITHIN,
    PER_ACCOUNT,
    PER_ACCOUNT_AND_NETWORK,
    PER_ACCOUNT_AND_SITE,
    PER_NETWORK,
    PER_OWN,
    PER_SITE,
    WINDOW,
    Network,
    Terms,
    minute_of,
    terms_of_device,
    terms_of_session,
    terms_of_stranger,
)

ACCOUNT = "owner"
BEGIN = datetime(2026, 11, 20, 12, 0, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@dataclass
class Gate:
    """The counters, as the database keeps them."""

    counted: dict[str, dict[datetime, int]] = field(default_factory=dict)

    def admitted_at(self, terms: Terms, now: datetime, *, home: bool = False) -> datetime:
        """When an attempt on those terms is judged; ``home``: from where the account has signed in before."""
        counts = {
            key: [each for each in self.counted.get(key, {}).items() if each[0] > since]
            for key, since in terms.since(now).items()
        }
        admitted = terms.admitted_at(counts, {}, now)
        if home and admitted != now and terms.alone is not None:
            admitted = terms.alone.admitted_at(counts, {}, now)
        assert admitted is not None
        return admitted

    @staticmethod
    def kept(key: str) -> timedelta:
        """How long a count is of interest; a real one is kept for a day."""
        return FIRST_TRIES_WITHIN if "/network/" in key else WINDOW

    def wrong(self, terms: Terms, now: datetime) -> bool:
        """Try a wrong password; whether it was judged."""
        if self.admitted_at(terms, now) != now:
            return False
        for key in terms.keys:
            minutes = self.counted.setdefault(key, {})
            minutes[minute_of(now)] = minutes.get(minute_of(now), 0) + 1
            for old in [each for each in minutes if each < now - self.kept(key)]:
                del minutes[old]
        return True


class Attacker:
    """Guesses at one account from many addresses, and never leaves room unused for longer than a minute."""

    def __init__(self, addresses: list[str]) -> None:
        terms = [terms_of_stranger(ACCOUNT, Network.of(address, "")) for address in addresses]
        self._unspent = deque((BEGIN, each) for each in terms)
        self._all = deque(terms)

    def guess(self, gate: Gate, now: datetime) -> int:
        """Everything that is possible at this moment; how many guesses were judged."""
        judged = refused = 0
        while refused < min(50, len(self._all)):  # whatever room strangers have left, with one address after another
            if gate.wrong(self._all[0], now):
                judged += 1
                refused = 0
            else:
                refused += 1
                self._all.rotate(-1)
        while self._unspent and self._unspent[0][0] <= now:
            _, terms = self._unspent.popleft()
            while gate.wrong(terms, now):
                judged += 1
            self._unspent.append((now + FIRST_TRIES_WITHIN, terms))
        return judged


def ipv4(number: int) -> list[str]:
    return [f"198.{18 + each // 65536}.{each // 256 % 256}.{each % 256}" for each in range(number)]


ATTACKERS = {
    "one address": (ipv4(1), 40),
    "a /64 of IPv6": ([f"2001:db8:1:1::{each:x}" for each in range(1, 300)], 40),
    "a /48 of IPv6": ([f"2001:db8:1:{each:x}::1" for each in range(300)], 120),
    "100 addresses": (ipv4(100), 413),
    "10,000 addresses": (ipv4(10_000), 1650),
    "10,000 sites (/48) of IPv6": ([f"2001:{each // 256:x}:{each % 256:x}::1" for each in range(10_000)], 1650),
}
"""Who attacks, and the most guesses an hour at one account, over a day."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKERS)
def test_guesses_at_one_account_are_bounded_and_whoever_knows_the_password_gets_in(name: str) -> None:
    addresses, most = ATTACKERS[name]
    attacker, gate, judged, admitted = Attacker(addresses), Gate(), 0, 0
    device = terms_of_device(ACCOUNT, "seen before")
    session = terms_of_session(ACCOUNT, "signed in")
    home = terms_of_stranger(ACCOUNT, Network.of("203.0.113.7", ""))
    for minute in range(24 * 60):
        now = BEGIN + minute * MINUTE
        judged += attacker.guess(gate, now)
        assert gate.admitted_at(session, now) == now, "a session can always prove its password"
        assert gate.admitted_at(device, now) == now, "a device that signed in before, also behind the same address"
        assert gate.admitted_at(home, now, home=True) == now, "a network that the account has signed in from"
        if minute % 5 == 0:  # somebody on a new device in a new network, who mistypes twice first
            elsewhere = terms_of_stranger(ACCOUNT, Network.of(f"192.0.{minute // 256}.{minute % 256}", ""))
            mistakes = sum(gate.wrong(elsewhere, now) for _ in range(FIRST_TRIES - 1))
            admitted += gate.admitted_at(elsewhere, now) == now and mistakes == FIRST_TRIES - 1
            _take_back(gate, elsewhere, now)
    assert admitted == 288
    assert most * 0.98 <= judged / 24 <= most * 1.08, "a minute's guesses age together, a little early"


def _take_back(gate: Gate, terms: Terms, now: datetime) -> None:
    for key in terms.keys:
        minutes = gate.counted[key]
        minutes[minute_of(now)] -= FIRST_TRIES - 1


def test_a_lock_ends_fifteen_minutes_after_the_last_wrong_password() -> None:
    victim = terms_of_stranger(ACCOUNT, Network.of("203.0.113.7", ""))
    gate, now = Gate(), BEGIN
    while gate.wrong(victim, now):
        now += timedelta(seconds=7)
    last = now - timedelta(seconds=7)
    opens = gate.admitted_at(victim, now)
    assert now < opens <= last + WINDOW
    assert gate.admitted_at(victim, opens) == opens
    assert gate.admitted_at(victim, opens - timedelta(seconds=1)) == opens


@pytest.mark.slow
def test_a_siege_and_all_that_it_locks_ends_fifteen_minutes_after_the_last_wrong_password() -> None:
    gate = Gate()
    Attacker(ipv4(10_000)).guess(gate, BEGIN)
    clumsy = terms_of_stranger(ACCOUNT, Network.of("203.0.113.7", ""))
    while gate.wrong(clumsy, BEGIN):
        pass
    assert gate.admitted_at(clumsy, BEGIN) <= BEGIN + WINDOW
    assert gate.admitted_at(clumsy, BEGIN + WINDOW) == BEGIN + WINDOW


@pytest.mark.slow
def test_whoever_mistypes_three_times_in_a_siege_that_goes_on_waits_a_day_at_most() -> None:
    gate, attacker = Gate(), Attacker(ipv4(10_000))
    clumsy = terms_of_stranger(ACCOUNT, Network.of("203.0.113.7", ""))
    attacker.guess(gate, BEGIN)
    while gate.wrong(clumsy, BEGIN):
        pass
    for minute in range(0, 24 * 60, 10):
        attacker.guess(gate, BEGIN + minute * MINUTE)
    end = BEGIN + DAY
    assert gate.admitted_at(clumsy, end) == end


@pytest.mark.parametrize(
    ("addresses", "most"), [(["198.51.100.1"], PER_NETWORK), ([f"2001:db8:1:{n:x}::1" for n in range(300)], PER_SITE)]
)
def test_one_network_cannot_try_many_names(addresses: list[str], most: int) -> None:
    gate, judged = Gate(), 0
    for number in range(2 * most):
        terms = terms_of_stranger(f"name {number}", Network.of(addresses[number % len(addresses)], ""))
        judged += gate.wrong(terms, BEGIN)
    assert judged == most
    fresh = terms_of_stranger("another", Network.of(addresses[0], ""))
    assert gate.admitted_at(fresh, BEGIN) != BEGIN
    assert gate.admitted_at(fresh, BEGIN, home=True) == BEGIN, "not those who have signed in from there before"
    assert gate.admitted_at(terms_of_device("another", "seen before"), BEGIN) == BEGIN


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", Network("192.0.2.7")),
        ("::ffff:192.0.2.7", Network("192.0.2.7")),
        ("2001:db8:a:b:c:d:e:f", Network("2001:db8:a:b::/64", "2001:db8:a::/48")),
        ("fe80::1%eth0", Network("fe80::/64", "fe80::/48")),
        ("", Network("web")),
        (None, Network("web")),
        ("no address", Network("web")),
    ],
)
def test_the_network_of_an_address(address: str | None, network: Network) -> None:
    assert Network.of(address, "web") == network


def test_the_documentation_states_these_figures() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.partition("## Guessing passwords")[2].partition("\n## ")[0]
    figures = re.findall(r"^\| `([a-z -]+)` \|.*?\| (\d+) in (\d+ (?:minutes|hours)) \|$", section, re.MULTILINE)
    assert figures == [
        ("session", str(PER_OWN), "15 minutes"),
        ("device", str(PER_OWN), "15 minutes"),
        ("account and network", str(PER_ACCOUNT_AND_NETWORK), "15 minutes"),
        ("account and site", str(PER_ACCOUNT_AND_SITE), "15 minutes"),
        ("network", str(PER_NETWORK), "15 minutes"),
        ("site", str(PER_SITE), "15 minutes"),
        ("strangers", str(PER_ACCOUNT), "15 minutes"),
        ("first tries", str(FIRST_TRIES), "24 hours"),
    ]
    assert (timedelta(minutes=15), timedelta(hours=24)) == (WINDOW, FIRST_TRIES_WITHIN)
    attacks = dict(re.findall(r"^\| ([^|`]+) \| ([\d,]+) \|$", section, re.MULTILINE))
    assert {name: int(most.replace(",", "")) for name, most in attacks.items()} == {
        name: most for name, (_, most) in ATTACKERS.items()
    }
