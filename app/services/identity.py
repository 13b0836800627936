"""Users: the first owner, accounts created by the operator, and people who come from Discord."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.domain.audit import Action
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    InvalidInput,
    InvalidToken,
    InvitationRequired,
    MembershipRequired,
    NotFound,
    SetupClosed,
    UniqueViolation,
)
from app.domain.identity import (
    Actor,
    Client,
    GuildContext,
    Permission,
    Registration,
    Role,
    Source,
    User,
    guessable,
    name_key,
    new_password,
    new_username,
    operator,
    snowflake,
)
from app.domain.links import LinkPurpose
from app.domain.roles import require_may_give, require_may_manage
from app.domain.scopes import Scope
from app.domain.text import opaque
from app.services.alive import require_alive
from app.services.audit import SYSTEM, AuditTrail
from app.services.credentials import Renamed
from app.services.joining import AccountJoining, discord_name
from app.services.keys import KeyManagementService
from app.services.links import Claimable, OneTimeLinks
from app.services.ports import Clock, PasswordHasher, Randomness, Storage, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscordEvent:
    """The sender of an interaction, from the gateway event; ``member_of_known_guild`` asks Discord if it is needed."""

    discord_id: str
    guild: GuildContext | None
    member_of_known_guild: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class LinkResult:
    """A user linked to a Discord account, how many credentials moved over from that account, and which were renamed."""

    user: User
    moved: int
    renamed: Sequence[Renamed] = ()


class IdentityService:
    """Creates and links users. Every method may raise StorageError."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        joining: AccountJoining,
        passwords: PasswordHasher,
        clock: Clock,
        randomness: Randomness,
        links: OneTimeLinks,
        registration: Registration,
    ) -> None:
        self._links = links
        self._storage = storage
        self._keys = keys
        self._joining = joining
        self._passwords = passwords
        self._clock = clock
        self._randomness = randomness
        self._registration = registration
        self._trail = AuditTrail(clock)

    # -- accounts with a password --------------------------------------------------------------------------------------

    async def owner_ever_existed(self) -> bool:
        """Whether an owner was ever created, even if the account is gone."""
        async with self._storage.lookup() as uow:
            return await uow.users.owner_ever_existed()

    async def setup(self, setup_token: str, username: str, password: str, client: Client) -> User:
        """Create the first owner. Raises SetupClosed, InvalidToken for a wrong setup token, InvalidInput."""
        if await self.owner_ever_existed():
            raise SetupClosed
        # Pasted alone, or with the address behind whose "#" it was printed.
        given = opaque(setup_token, "setup_token", longest=256).strip().rpartition("#")[2]
        if not hmac.compare_digest(given.encode(), self._keys.setup_token().reveal().encode()):
            raise InvalidToken("The setup token is wrong: copy it from the server's standard error")
        return await self.create_owner(username, password, client)

    async def create_owner(self, username: str, password: str, client: Client) -> User:
        """Create the first owner; there is one in the life of an install. Raises SetupClosed, InvalidInput."""
        user = await self._with_password(username, password, Role.OWNER)
        try:
            async with self._storage.write() as uow:
                if await uow.users.owner_ever_existed():
                    raise SetupClosed
                await self._store(uow, user)
                await uow.users.claim_owner(user.id, user.created_at)
                await self._trail.record(uow, client, Action.OWNER_CREATED, about=("user", user.id))
        except UniqueViolation:
            raise SetupClosed from None
        return user

    async def create(self, actor: Actor, username: str, password: str, role: Role) -> User:
        """Create an account with a password.

        Raises Forbidden, ReauthenticationRequired, InvalidInput, AlreadyExists.
        """
        require_may_give(actor, role)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        user = await self._with_password(username, password, role)
        async with self._storage.write() as uow:
            require_may_give(await require_alive(uow, actor, self._clock.now()), role)
            await self._store(uow, user)
            await self._trail.record(uow, actor, Action.USER_CREATED, about=("user", user.id), role=role.value)
        return user

    async def create_claimable(self, actor: Actor, username: str, role: Role) -> Claimable:
        """Create an account without a password: its link must be used before anybody signs in. Raises as ``create``."""
        require_may_give(actor, role)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        name = new_username(username)
        async with self._storage.write() as uow:
            require_may_give(await require_alive(uow, actor, self._clock.now()), role)
            return await self.add_claimable(uow, actor, name, role)

    async def add_claimable(self, uow: UnitOfWork, who: Actor | Client, username: str, role: Role) -> Claimable:
        """The same within a unit of work, for a name that `new_username` accepts. Raises AlreadyExists."""
        user = self._new(username, role)
        await self._store(uow, user)
        token = await self._links.issue(uow, LinkPurpose.CLAIM, user.id)
        await self._trail.record(uow, who, Action.USER_CREATED, about=("user", user.id), role=role.value)
        return Claimable(user=user, token=token)

    async def _with_password(self, username: str, password: str, role: Role) -> User:
        name, typed = new_username(username), new_password(password)
        if await self._passwords.is_guessable(typed, context=(name,)):
            raise guessable()
        return self._new(name, role, await self._passwords.hash(typed))

    def _new(self, name: str, role: Role, password_hash: str | None = None) -> User:
        return User(
            id=self._randomness.new_id(),
            subject_id=self._randomness.new_id(),
            username=name,
            role=role,
            password_hash=password_hash,
            created_at=self._clock.now(),
        )

    @staticmethod
    async def _store(uow: UnitOfWork, user: User) -> None:
        if await uow.users.by_name(user.name_key) is not None:
            raise AlreadyExists("A user of that name exists")
        try:
            await uow.users.add(user)
        except UniqueViolation:
            raise AlreadyExists("A user of that name, or of one that looks like it, exists") from None

    # -- Discord -------------------------------------------------------------------------------------------------------

    async def link(self, actor: Actor, username: str, discord_id: str) -> LinkResult:
        """Link an account to a Discord account; credentials that the Discord account had stored move to it.

        Everything happens in one transaction. Raises NotFound, AlreadyExists, Forbidden, ReauthenticationRequired,
        InvalidInput, and LastOwner where the Discord account is that of the only owner.
        """
        actor.require(Permission.MANAGE_USERS)
        actor.require_fresh(self._clock.now())
        number = snowflake(discord_id)
        async with self._storage.write() as uow:
            await self._joining.lock(uow, number)
            acting = await require_alive(uow, actor, self._clock.now())
            user = await self._named(uow, username)
            require_may_manage(acting, user)
            other = (await self._joining.look(uow, user, number)).other
            if other is not None:
                require_may_manage(acting, other)
            moved = await self._joining.join(uow, user, number)
            await self._trail.record(uow, actor, Action.USER_LINKED, about=("user", user.id), moved=moved.count)
            linked = await uow.users.get(user.id)
        return LinkResult(linked or user, moved.count, moved.renamed)

    async def unlink(self, actor: Actor, username: str) -> User:
        """Unlink an account from its Discord account; credentials stay with the account.

        Raises NotFound, Forbidden, ReauthenticationRequired.
        """
        actor.require(Permission.MANAGE_USERS)
        now = self._clock.now()
        actor.require_fresh(now)
        async with self._storage.write() as uow:
            await uow.users.hold_roles()
            acting = await require_alive(uow, actor, now)
            user = await self._named(uow, username)
            require_may_manage(acting, user)
            if user.discord_id is None:
                raise NotFound("This user is not linked to a Discord account")
            if user.password_hash is None:
                raise InvalidInput("username", "has no password: without Discord nobody could use this account")
            await uow.users.set_discord(user.id, None, now)
            await self._trail.record(uow, actor, Action.USER_UNLINKED, about=("user", user.id))
            unlinked = await uow.users.get(user.id)
        return unlinked or user

    async def discord_id_of(self, user_id: str) -> str | None:
        """Return the Discord account of a user; None where there is none."""
        async with self._storage.lookup() as uow:
            user = await uow.users.get(user_id)
        return None if user is None else user.discord_id

    async def from_discord(self, event: DiscordEvent) -> Actor:
        """Return the sender of an interaction; a first use creates an account, if REGISTRATION allows it.

        Raises Forbidden.
        """
        number = snowflake(event.discord_id)
        user = await self.user_from_discord(number, event.member_of_known_guild)
        if user.disabled_at is not None:
            raise Forbidden("This account is disabled")
        return Actor(
            user_id=user.id,
            subject_id=user.subject_id,
            username=user.username,
            role=user.role,
            client=Client(source=Source.DISCORD),
            discord_id=number,
            guild=event.guild,
        )

    async def user_from_discord(self, number: str, member_of_known_guild: Callable[[], Awaitable[bool]]) -> User:
        """Return the user of a Discord account, disabled or not; one who is new gets an account if REGISTRATION allows.

        ``member_of_known_guild`` asks Discord where that is needed. Raises Forbidden.
        """
        async with self._storage.lookup() as uow:
            user = await uow.users.by_discord(number)
        return user or await self._register(number, member_of_known_guild)

    def refusal_of_strangers(self) -> Forbidden:
        """The answer to people who get no account, for any reason."""
        return MembershipRequired() if self._registration is Registration.GUILD else InvitationRequired()

    async def _register(self, number: str, member_of_known_guild: Callable[[], Awaitable[bool]]) -> User:
        match self._registration:
            case Registration.INVITE:
                raise InvitationRequired
            case Registration.GUILD:
                if not await member_of_known_guild():
                    raise MembershipRequired
            case Registration.OPEN:
                pass
        user = User(
            id=self._randomness.new_id(),
            subject_id=self._randomness.new_id(),
            username=discord_name(number),
            role=Role.MEMBER,
            discord_id=number,
            created_at=self._clock.now(),
        )
        try:
            async with self._storage.write() as uow:
                known = await uow.users.by_discord(number)
                if known is not None:
                    return known
                await uow.users.add(user)
                await self._trail.record(uow, SYSTEM, Action.USER_CREATED, about=("user", user.id))
        except UniqueViolation:  # another process was faster, or an account of that name was linked elsewhere since
            async with self._storage.lookup() as uow:
                known = await uow.users.by_discord(number)
            if known is None:
                raise Forbidden("Ask the owner to link your account again") from None
            return known
        return user

    # -- the operator --------------------------------------------------------------------------------------------------

    async def operator(self) -> Actor:
        """Return the person at the command line, who has the owner's rights because they hold the master key."""
        return operator()

    async def operator_for(self, *, username: str | None = None, guild_id: str | None = None) -> Actor:
        """Return the operator, acting on a user's or a guild's credentials. Raises NotFound, InvalidInput."""
        if guild_id is not None:
            guild = GuildContext(guild_id=snowflake(guild_id, "guild_id"), manages_guild=True)
            return operator(guild=guild)
        if username is None:
            return await self.operator()
        async with self._storage.lookup() as uow:
            user = await self._named(uow, username)
        return operator(user_id=user.id, username=user.username, discord_id=user.discord_id)

    @staticmethod
    async def _named(uow: UnitOfWork, username: str) -> User:
        user = await uow.users.by_name(name_key(opaque(username, "username", longest=256).strip()))
        if user is None:
            raise NotFound("There is no user of that name")
        return user
