"""A house in memory with somebody of every role, each with objects of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from app.domain import imports
from app.domain.identity import Actor, Client, GuildContext, Role, Session, Source, User
from app.domain.passkeys import Passkey
from app.domain.secrets import SecretText
from app.services.discord_accounts import TicketKind
from tests.support.database import api_token
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, open_keyhall
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.services import Services
    from app.services.credentials import CredentialService
    from app.services.credentials.values import Added
    from tests.support.fakes.tables import Tables

ROLES: Final = (Role.OWNER, Role.ADMIN, Role.MEMBER, Role.AUDITOR)
"""In the order in which a row of a table states its outcomes."""
GUILD: Final = "900000000000000011"
"""The server that the actor comes from."""
OTHER_GUILD: Final = "900000000000000022"
WEB: Final = Client(source=Source.WEB, address="192.0.2.7")
DISCORD: Final = Client(source=Source.DISCORD)


class Where(Enum):
    """Whose object it is, and from where the actor comes."""

    ANY = "there is no object"
    OWN = "the actor's own"
    FOREIGN = "somebody else's, who is a member"
    OF_ADMIN = "an admin's"
    OF_OWNER = "another owner's"
    SHARED = "the actor's own, shared with the server that they come from"
    GUILD = "of the server that the actor comes from, shared by somebody else"
    MANAGED = "the same, where the actor has Discord's permission to manage that server"
    OTHER_GUILD = "of a server, while the actor comes from another one that they manage"
    FROM_WEB = "of a server, shared by somebody else, while the actor is on the web"


@dataclass
class Person:
    """A user and what is theirs. ``discord_id`` is linked."""

    user: User
    session: str
    credential: str
    removed: str
    shared: str
    shared_removed: str
    message: str
    passkey: str
    token: str

    def actor(self, where: Where) -> Actor:
        """Freshly signed in on the web, or on Discord where the case is about a server."""
        actor = Actor(
            user_id=self.user.id,
            subject_id=self.user.subject_id,
            username=self.user.username,
            role=self.user.role,
            client=WEB,
            session_id=self.session,
            authenticated_at=FakeClock().now(),
            discord_id=self.user.discord_id,
        )
        if where not in {Where.SHARED, Where.GUILD, Where.MANAGED, Where.OTHER_GUILD}:
            return actor
        manages = where in {Where.MANAGED, Where.OTHER_GUILD}
        return replace(
            actor,
            client=DISCORD,
            session_id=None,
            authenticated_at=None,
            guild=GuildContext(
                guild_id=OTHER_GUILD if where is Where.OTHER_GUILD else GUILD,
                role_ids=frozenset(),
                manages_guild=manages,
            ),
        )


@dataclass
class World:
    """What a row calls: the services, the actor, and the ids of the object that the case is about."""

    keyhall: Keyhall
    storage: FakeStorage
    people: dict[Role, Person]
    others: dict[Role, Person]
    actor: Actor = field(init=False)
    target: Person = field(init=False)
    where: Where = Where.ANY
    _stored: Tables = field(init=False)

    def __post_init__(self) -> None:
        self._stored = self.storage.tables.snapshot()

    def set(self, role: Role, where: Where) -> None:
        """Begin a case, with everything as it was stored at first."""
        self.storage.tables = self._stored.snapshot()
        self.where = where
        self.actor = self.people[role].actor(where)
        match where:
            case Where.ANY | Where.OWN | Where.SHARED:
                self.target = self.people[role]
            case Where.OF_ADMIN:
                self.target = self.others[Role.ADMIN]
            case Where.OF_OWNER:
                self.target = self.others[Role.OWNER]
            case _:
                self.target = self.others[Role.MEMBER]

    @property
    def services(self) -> Services:
        return self.keyhall.services

    @property
    def proven_discord(self) -> str:
        """The ticket of a browser whose person has proven the actor's Discord account."""
        tickets = self.services.discord_linking._tickets
        return tickets.issue(TicketKind.PROVEN, self.actor.session_id or "", self.actor.discord_id or "")[1].reveal()

    @property
    def in_guild(self) -> bool:
        """Whether the case is about an object of a server."""
        return self.where in {Where.SHARED, Where.GUILD, Where.MANAGED, Where.OTHER_GUILD, Where.FROM_WEB}

    @property
    def guild_id(self) -> str | None:
        return GUILD if self.in_guild else None

    @property
    def credential(self) -> str:
        return self.target.shared if self.in_guild else self.target.credential

    @property
    def removed(self) -> str:
        return self.target.shared_removed if self.in_guild else self.target.removed

    @property
    def credentials(self) -> CredentialService:
        return self.services.credentials

    @property
    def label(self) -> str:
        """The label of ``credential``."""
        return f"{'shared' if self.in_guild else 'main'} of {self.name}"

    @property
    def id(self) -> str:
        return self.target.user.id

    @property
    def name(self) -> str:
        return self.target.user.username

    @property
    def unclaimed(self) -> str:
        """The name of that person, once they have no password any more."""
        user = self.target.user
        self.storage.tables.users[user.id] = replace(user, password_hash=None)
        return user.username

    @property
    def source(self) -> imports.Source:
        """Something to import, with nothing in it."""
        return imports.Source("env")

    @property
    def material(self) -> SecretText:
        """A key from outside."""
        return SecretText(bytes(range(32, 64)).hex())

    def add(self) -> Awaitable[Added]:
        """Store a credential, for the server where the case is about one."""
        return self.credentials.add(
            self.actor, provider="openai", label="new", secret=OTHER_SECRET, guild_id=self.guild_id
        )


async def open_world() -> World:
    """A house with an owner, an admin, a member and an auditor, and another of each."""
    clock = FakeClock()
    storage = FakeStorage(clock)
    keyhall = await open_keyhall(storage, clock, FakeRandomness())
    identity = keyhall.services.identity
    operator = await identity.operator()
    people: dict[Role, Person] = {}
    others: dict[Role, Person] = {}
    number = 100000000000000000
    for role in ROLES:
        for name, found in ((f"{role.value}-one", people), (f"{role.value}-two", others)):
            number += 1
            if role is Role.OWNER and not others and not people:
                user = await identity.create_owner(name, PASSWORD, WEB)
            else:
                user = await identity.create(operator, name, PASSWORD, Role.MEMBER)
            found[role] = await _person(keyhall, user, role, str(number))
    return World(keyhall, storage, people, others)


async def _person(keyhall: Keyhall, user: User, role: Role, discord_id: str) -> Person:
    """Give a user a role, a Discord account, a session, credentials of their own and shared ones, and a message."""
    now = keyhall.clock.now()
    session = Session(
        id=keyhall.randomness.new_id(),
        user_id=user.id,
        token_version=user.token_version,
        device=None,
        address=None,
        created_at=now,
        last_seen_at=now,
        authenticated_at=now,
        expires_at=now.replace(year=now.year + 1),
    )
    member = Actor(
        user_id=user.id,
        subject_id=user.subject_id,
        username=user.username,
        role=Role.MEMBER,
        client=DISCORD,
        discord_id=discord_id,
        guild=GuildContext(guild_id=GUILD, manages_guild=True),
    )
    made = []
    for label, guild_id in (("main", None), ("removed", None), ("shared", GUILD), ("shared-removed", GUILD)):
        added = await keyhall.credentials.add(
            member, provider="openai", label=f"{label} of {user.username}", secret=SECRET, guild_id=guild_id
        )
        made.append(added.view.id)
        await keyhall.credentials.replace(member, added.view.id, OTHER_SECRET)
        if "removed" in label:
            await keyhall.credentials.remove(member, added.view.id)
    user = replace(user, role=role, discord_id=discord_id)
    token = replace(api_token(keyhall.randomness.new_id()), user_id=user.id, created_at=now)
    async with keyhall.storage.write() as uow:
        await uow.api_tokens.add(token, user.id.encode())
        await uow.sessions.add(session, cookie_hash=None)
        uow.users._store(user)  # type: ignore[attr-defined]
        key = user.username.encode()
        passkey = Passkey(
            id=keyhall.randomness.new_id(),
            user_id=user.id,
            name="a key",
            credential_id=key,
            public_key=key,
            created_at=now,
        )
        await uow.passkeys.add(passkey, most=1)
    message = await keyhall.messages.encrypt(replace(member, guild=None), "a text")
    credential, gone, shared, shared_gone = made
    return Person(user, session.id, credential, gone, shared, shared_gone, message, passkey.id, token.id)
