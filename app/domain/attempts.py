"""The rule that bounds guessing of passwords, without anybody being able to lock somebody else out.

Only a password that was judged and was wrong counts. It counts in budgets, each of which allows so many within a time;
which budgets an attempt needs depends on what is known about the sender (docs/security.md, "Guessing passwords"):

- a session that proves its password again, or a device that signed in to this account before, needs room in a budget of
  its own and in no other;
- everybody else needs room in the budgets of account and network, and of the network alone. Where too many strangers
  guess at one account, an attempt from a network with less than three guesses in a day is still judged;
- a network from which this account has signed in before needs room in the budget of account and network alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(minutes=15)
"""How far back every budget looks, except that of first tries: a lock ends this long after the last wrong password."""
STEP: Final = timedelta(minutes=1)
"""Wrong passwords are counted by the minute."""
FIRST_TRIES_WITHIN: Final = timedelta(days=1)

PER_OWN: Final = 10
"""Wrong passwords of one session, or of one device that signed in before (ASVS 5.0, 6.3.1)."""
PER_ACCOUNT_AND_NETWORK: Final = 10
PER_ACCOUNT_AND_SITE: Final = 30
PER_ACCOUNT: Final = 100
PER_NETWORK: Final = 100
PER_SITE: Final = 300
FIRST_TRIES: Final = 3
"""Wrong passwords of one network for one account within a day, while strangers have filled PER_ACCOUNT."""
WRONG_CODES: Final = 10
"""Wrong one-time codes for one account after a right password: of one session, of one known device, of Discord, and of
all others together (RFC 4226, 7.3)."""
WRONG_CODES_A_DAY: Final = 50
"""The same within a day: of a million codes three are right at any time, so this many find one once in 18 years."""
CODES_ASKED_FOR: Final = 30
"""How often in 15 minutes one sender may give a right password without a code: no more codes than that can be used."""


@dataclass(frozen=True, slots=True)
class Network:
    """Where an attempt comes from: an IPv4 address, or a /64 of IPv6 in a site, its /48 (RFC 6177)."""

    name: str
    site: str | None = None

    @classmethod
    def of(cls, address: str | None, otherwise: str) -> Network:
        """The network of an IP address; ``otherwise`` names the network of a client without one."""
        try:
            parsed = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return cls(otherwise)
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
            name, site = (str(ipaddress.ip_network((int(parsed), bits), strict=False)) for bits in (64, 48))
            return cls(name, site)
        return cls(str(getattr(parsed, "ipv4_mapped", None) or parsed))


@dataclass(frozen=True, slots=True)
class Budget:
    """So many wrong passwords are allowed under this key within that time."""

    key: str
    most: int
    within: timedelta = WINDOW


Counts = Mapping[str, Sequence[tuple[datetime, int]]]
"""Wrong passwords by key: for each minute that had any, its beginning and how many, in the order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The budgets that must have room for an attempt to be judged, and in which it counts if it was wrong.

    ``all_of`` must have room, and one of ``any_of``; ``at_home`` is enough for a network from which the account has
    signed in before. ``own`` attempts are those of a session or a device that is known.
    """

    all_of: tuple[Budget, ...]
    any_of: tuple[Budget, ...] = ()
    at_home: Budget | None = None
    own: bool = False

    @property
    def alone(self) -> Terms | None:
        """The terms for a network from which the account has signed in before."""
        return None if self.at_home is None else Terms(all_of=(self.at_home,))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Every budget that is looked at."""
        return self.all_of + self.any_of

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys under which a wrong password counts, each once."""
        return tuple(dict.fromkeys(budget.key for budget in self.budgets))

    def since(self, now: datetime) -> Mapping[str, datetime]:
        """For each key, from when on its wrong passwords matter."""
        return {each.key: now - each.within for each in sorted(self.budgets, key=lambda budget: budget.within)}

    def admitted_at(self, counts: Counts, pending: Mapping[str, int], now: datetime) -> datetime | None:
        """When an attempt may be judged: ``now`` or later; None where that depends on those being judged."""
        needed = [room_at(budget, counts, pending, now) for budget in self.all_of]
        if self.any_of:
            enough = [room_at(budget, counts, pending, now) for budget in self.any_of]
            needed.append(now if now in enough else None if None in enough else min(filter(None, enough)))
        later = [moment for moment in needed if moment is not None and moment > now]
        return max(later) if later else None if None in needed else now


def room_at(budget: Budget, counts: Counts, pending: Mapping[str, int], now: datetime) -> datetime | None:
    """When the budget has room: ``now``, or when enough has aged; None if that depends on those being judged."""
    recent = [each for each in counts.get(budget.key, ()) if each[0] > now - budget.within]
    over = sum(number for _, number in recent) - budget.most  # of no room while 0 or more
    if over < 0:
        return now if over + pending.get(budget.key, 0) < 0 else None
    for began, number in recent:
        over -= number
        if over < 0:
            return began + budget.within
    return now


def minute_of(now: datetime) -> datetime:
    """The beginning of the minute in which a wrong password is counted."""
    return now.replace(second=0, microsecond=0)


def account_prefix(account: str) -> str:
    """The beginning of the keys of all budgets of an account, and of no other key."""
    return f"account/{account}/"


NETWORKS: Final = "network/"
"""The beginning of the keys of the budgets of networks."""


def terms_of_session(account: str, session_id: str) -> Terms:
    """For a password that is proven again in a session."""
    return Terms(all_of=(Budget(f"{account_prefix(account)}session/{session_id}", PER_OWN),), own=True)


def terms_of_device(account: str, device_id: str) -> Terms:
    """For a sign-in from a device that signed in to this account before."""
    return Terms(all_of=(Budget(f"{account_prefix(account)}device/{device_id}", PER_OWN),), own=True)


def terms_of_discord_member(account: str, discord_id: str) -> Terms:
    """For a person whom Discord has identified as the one that the account is linked to."""
    return Terms(all_of=(Budget(f"{account_prefix(account)}discord/{discord_id}", PER_OWN),), own=True)


def terms_of_stranger(account: str, network: Network) -> Terms:
    """For a sign-in about whose sender nothing is known but the network."""
    prefix = account_prefix(account)
    pair = Budget(f"{prefix}network/{network.name}", PER_ACCOUNT_AND_NETWORK)
    first = Budget(pair.key, FIRST_TRIES, FIRST_TRIES_WITHIN)
    all_of = [pair, Budget(f"{NETWORKS}{network.name}", PER_NETWORK)]
    if network.site is not None:
        site = Budget(f"{prefix}network/{network.site}", PER_ACCOUNT_AND_SITE)
        first = Budget(site.key, FIRST_TRIES, FIRST_TRIES_WITHIN)
        all_of += [site, Budget(f"{NETWORKS}{network.site}", PER_SITE)]
    any_of = (Budget(f"{prefix}strangers", PER_ACCOUNT), first)
    return Terms(all_of=tuple(all_of), any_of=any_of, at_home=pair)


def _terms_of_network(network: Network, of: str) -> Terms:
    budgets = [Budget(f"{NETWORKS}{network.name}/{of}", PER_NETWORK)]
    if network.site is not None:
        budgets.append(Budget(f"{NETWORKS}{network.site}/{of}", PER_SITE))
    return Terms(all_of=tuple(budgets))


def terms_of_wrong_link(network: Network) -> Terms:
    """For a one-time link that serves nobody: a bound on what one network may ask, apart from sign-ins."""
    return _terms_of_network(network, "links")


def terms_of_wrong_passkey(network: Network) -> Terms:
    """For a passkey that is refused: a bound on what one network may ask, apart from passwords.

    Nobody can guess a signature, so that a passkey that is right needs no terms: no stranger can lock its holder out.
    """
    return _terms_of_network(network, "passkeys")


def terms_of_discord(network: Network) -> Terms:
    """For people who come from Discord: a bound on what one network may make Keyhall ask there."""
    return _terms_of_network(network, "discord")


def terms_of_link_code(discord_id: str) -> Terms:
    """For a code that somebody types in Discord: also a right one needs room, since codes are short."""
    return Terms(all_of=(Budget(f"discord/{discord_id}/codes", PER_OWN),), own=True)


def terms_of_good_link(link: str) -> Terms:
    """For a one-time link that is good: its claims are judged one after the other, and nothing counts against it."""
    return Terms(all_of=(Budget(f"link/{link}", PER_OWN),), own=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSender:
    """The sender of a one-time code. ``own`` names their session or device, None for a stranger."""

    account: str
    network: Network
    own: str | None = None

    @classmethod
    def of(cls, terms: Terms, account: str, network: Network) -> CodeSender:
        """The sender of a code whose password was judged on these terms."""
        return cls(
            account=account,
            network=network,
            own=terms.keys[0].removeprefix(account_prefix(account)) if terms.own else None,
        )


def terms_of_code(sender: CodeSender) -> Terms:
    """For a one-time code. Strangers share one budget: a code can be guessed, and each has networks enough."""
    key = f"{account_prefix(sender.account)}code/{sender.own or 'strangers'}"
    return Terms(all_of=(Budget(key, WRONG_CODES), Budget(key, WRONG_CODES_A_DAY, FIRST_TRIES_WITHIN)), own=True)


def terms_of_recovery_code(sender: CodeSender) -> Terms:
    """For a recovery code: nobody can guess one, so that of strangers each network has a budget of its own.

    So a person whose one-time codes are refused, because a stranger who has the password used up the room for them,
    gets in by a recovery code.
    """
    return Terms(all_of=(Budget(f"{account_prefix(sender.account)}recovery/{_of(sender)}", WRONG_CODES),), own=True)


def terms_of_no_code(sender: CodeSender) -> Terms:
    """For a right password without a code."""
    return Terms(all_of=(Budget(f"{account_prefix(sender.account)}asked/{_of(sender)}", CODES_ASKED_FOR),), own=True)


def _of(sender: CodeSender) -> str:
    return sender.own or f"network/{sender.network.name}"
