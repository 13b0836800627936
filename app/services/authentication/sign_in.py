"""Sign-in: access and refresh tokens, browser sessions, and their ends."""

from __future__ import annotations

from app.domain.audit import Action, Result
from app.domain.errors import InvalidToken, NotFound, OtpRequired
from app.domain.identity import Actor, Client, Session, User
from app.domain.links import LinkPurpose
from app.domain.second_factor import TypedCode, typed_code
from app.domain.text import opaque
from app.services.audit import AuditTrail
from app.services.authentication.factor_proof import Attempt, FactorProof
from app.services.authentication.passwords import PasswordProof, ProvenUser
from app.services.authentication.pending import PendingSignIns
from app.services.authentication.requests import actor_of, token_digest
from app.services.authentication.sessions import BrowserSession, SessionStarts, TokenPair, Within
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, SessionAndUser, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals


class AuthenticationService:
    """Turns a password, and a code, into a session, and ends sessions.

    Every method may raise StorageError and NotReady.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        starts: SessionStarts,
        proof: PasswordProof,
        factors: FactorProof,
        pending: PendingSignIns,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._starts = starts
        self._proof = proof
        self._factors = factors
        self._pending = pending
        self._refusals = refusals
        self._trail = AuditTrail(clock)
        self._clock = clock

    # -- sign-in -------------------------------------------------------------------------------------------------------

    async def login(
        self,
        username: str,
        password: str,
        client: Client,
        *,
        otp: str | None = None,
        former_cookie: str | None = None,
    ) -> TokenPair:
        """Sign a program in; the session of ``former_cookie`` ends (ASVS 5.0, 7.2.4).

        ``otp`` is a one-time code or a recovery code, which is used up. It is judged after the password.

        Raises InvalidCredentials, OtpRequired, SecondFactorUnreadable, TooManyAttempts, InvalidInput, Overloaded.
        """
        code = typed_code(otp)
        proven = await self._proof.sign_in(username, password, client)
        within = await self._within(proven, code, client)
        return await self._starts.program(proven.user, client, former_cookie=former_cookie, within=within)

    async def login_browser(
        self,
        username: str,
        password: str,
        client: Client,
        *,
        otp: str | None = None,
        former_cookie: str | None = None,
    ) -> BrowserSession:
        """Sign a browser in; otherwise as ``login``. OtpRequired has what ``finish_browser`` needs besides a code."""
        code = typed_code(otp)
        proven = await self._proof.sign_in(username, password, client)
        try:
            within = await self._within(proven, code, client)
        except OtpRequired as asked:
            if proven.rehashed is not None:
                async with self._storage.write() as uow:
                    await self._proof.keep_hash(uow, proven)
            asked.pending = self._pending.issue(proven.user)
            raise
        return await self._starts.browser(proven.user, client, former_cookie=former_cookie, within=within)

    async def begin_browser(self, user: User, client: Client, *, former_cookie: str | None = None) -> BrowserSession:
        """Sign a browser in whose user was proven by Discord.

        The session is not fresh where the account has a password: anyone who holds the Discord account alone must not
        do what a password protects.

        Raises OtpRequired, with what ``finish_browser`` needs besides a code, where the account has a second factor;
        TooManyAttempts, and InvalidCredentials where the account was disabled meanwhile.
        """
        sender = await self._proof.sender(user, client)
        attempt = Attempt(user_id=user.id, who=client, action=Action.LOGIN, sender=sender)
        try:
            await self._factors.judge(attempt, None)
        except OtpRequired as asked:
            asked.pending = self._pending.issue(user, by_discord=True)
            raise
        fresh = user.password_hash is None
        return await self._starts.browser(user, client, former_cookie=former_cookie, fresh=fresh, by_discord=True)

    async def finish_browser(
        self, pending: str | None, otp: str, client: Client, *, former_cookie: str | None = None
    ) -> BrowserSession:
        """Sign a browser in whose password was right a moment ago, by a code.

        Raises as ``login``, and InvalidToken where the pending sign-in has ended.
        """
        found = self._pending.read(pending)
        async with self._storage.lookup() as uow:
            user = await uow.users.get(found.user_id) if found is not None else None
        if found is None or user is None or user.disabled_at is not None or not found.of(user):
            raise InvalidToken("The code was not entered in time: sign in again")
        attempt = Attempt(
            user_id=user.id, who=client, action=Action.LOGIN, sender=await self._proof.sender(user, client)
        )
        # Without a factor there is nothing left to prove: it was switched off since, which ended what is pending.
        use = await self._factors.judge(attempt, typed_code(otp))
        by_discord = self._pending.by_discord(found)
        return await self._starts.browser(user, client, former_cookie=former_cookie, within=use, by_discord=by_discord)

    async def _within(self, proven: ProvenUser, code: TypedCode | None, who: Client) -> Within:
        attempt = Attempt(user_id=proven.user.id, who=who, action=Action.LOGIN, sender=proven.sender)
        return self._using(proven, await self._factors.judge(attempt, code))

    def _using(self, proven: ProvenUser, use: Within | None) -> Within:
        """Use a proof up: store the new hash of the password where there is one, and strike off the code."""

        async def within(uow: UnitOfWork) -> None:
            await self._proof.keep_hash(uow, proven)
            if use is not None:
                await use(uow)

        return within

    # -- refresh and sign-out ------------------------------------------------------------------------------------------

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """Return a new pair for a refresh token, which is used up. A second use ends the session (RFC 9700, 4.14).

        Raises InvalidToken.
        """
        digest = _refresh_digest(refresh_token)
        if await self._of_refresh(digest) is None:
            raise InvalidToken
        now = self._clock.now()
        pair: TokenPair | None = None
        refusal = InvalidToken()
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            session = use.found.session if use else None
            if use and session and not use.first:
                if await uow.sessions.revoke(session.id, now):
                    about = ("session", session.id)
                    await self._trail.record(uow, client, Action.REFRESH_REUSED, about=about, result=Result.DENIED)
                    refusal = refusal.as_recorded()
            elif use and session and now < use.expires_at and session.alive(use.found.user, now):
                pair = await self._starts.issue(uow, session, use.found.user)
        if pair is None:
            raise refusal
        return pair

    async def _of_refresh(self, digest: bytes) -> SessionAndUser | None:
        """The session of a refresh token; that there is none is found out without a write, since anybody may ask."""
        async with self._storage.lookup() as uow:
            return await uow.sessions.by_refresh(digest)

    async def logout(self, refresh_token: str, client: Client) -> None:
        """End the session of a refresh token; an unknown token is no error (RFC 7009, 2.2)."""
        found = await self._of_refresh(_refresh_digest(refresh_token))
        if found is None:
            return
        async with self._storage.write() as uow:
            if await uow.sessions.revoke(found.session.id, self._clock.now()):
                await uow.links.withdraw(found.user.id, LinkPurpose.DISCORD)
                about = ("session", found.session.id)
                await self._trail.record(uow, actor_of(found, client), Action.LOGOUT, about=about)

    async def end_session(self, actor: Actor) -> None:
        """Sign out: end the session of this request."""
        actor.require_person()
        if actor.session_id is not None:
            await self._revoke(actor, actor.session_id, Action.LOGOUT)

    async def sessions(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Session]:
        """Return the actor's own live sessions, newest first. Raises InvalidInput."""
        actor.require_person()
        size, begin = page_size(limit), read_cursor(after)
        now = self._clock.now()
        async with self._storage.read() as uow:
            user = await uow.users.get(actor.user_id)
            found = await uow.sessions.live_of(actor.user_id, now)
        alive = [each for each in found if user is not None and each.alive(user, now)]
        newest_first = sorted(alive, key=lambda session: session.id, reverse=True)  # ids ascend with time
        rows = [each for each in newest_first if begin is None or each.id < begin]
        return paged(rows[: size + 1], size, lambda session: session.id)

    async def revoke_session(self, actor: Actor, session_id: str) -> None:
        """End one of the actor's own sessions. Raises NotFound."""
        actor.require_person()
        async with self._storage.lookup() as uow:
            found = await uow.sessions.get(session_id)
        if found is None:
            raise NotFound
        if found.user.id != actor.user_id:
            about = ("session", session_id)
            await self._refusals.record(Refusal(who=actor, action=Action.SESSION_REVOKED, about=about))
            raise NotFound
        if not await self._revoke(actor, session_id, Action.SESSION_REVOKED):
            raise NotFound

    async def _revoke(self, actor: Actor, session_id: str, action: Action) -> bool:
        async with self._storage.write() as uow:
            ended = await uow.sessions.revoke(session_id, self._clock.now())
            if ended:
                # A code that this session may have made must not link a Discord account after its end.
                await uow.links.withdraw(actor.user_id, LinkPurpose.DISCORD)
                await self._trail.record(uow, actor, action, about=("session", session_id))
        return ended

    async def reauthenticate(
        self, actor: Actor, password: str, *, otp: str | None = None, cookie: str | None = None
    ) -> BrowserSession | None:
        """Prove the password, and the second factor where there is one, again in this session.

        The ``cookie`` of a browser's is renewed (ASVS 5.0, 7.2.4): returns the session with its new cookie. Raises as
        ``login``, and InvalidToken where the session ended meanwhile.
        """
        code = typed_code(otp)
        proven = await self._proof.again(actor, password)
        use = await self._factors.judge(
            Attempt(user_id=actor.user_id, who=actor, action=Action.REAUTHENTICATED, sender=proven.sender), code
        )
        return await self._starts.prove(actor, cookie, within=self._using(proven, use))

    async def unlock(self, actor: Actor, username: str) -> User:
        """Forget the wrong passwords that keep a user out. Raises Forbidden, NotFound."""
        return await self._proof.unlock(actor, username)


def _refresh_digest(refresh_token: str) -> bytes:
    return token_digest(opaque(refresh_token, "refresh_token", longest=256))
