"""Which role may call which method of which service, on whose object.

A row states an outcome for owner, admin, member and auditor, in this order, for each situation (`Where`) that makes a
difference to the method:

- ``A`` allowed
- ``F`` Forbidden
- ``N`` NotFound or NoCredential: the answer for an id that nobody has
- ``R`` ReauthenticationRequired
- ``C`` CannotOpen

``fresh`` rows demand a password that was proven within ten minutes; the test tries them without, too. Where an allowed
call ends with an error of the object's state, the row names that error in ``passes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.domain.errors import (
    AppError,
    CannotOpen,
    Forbidden,
    InvalidCredentials,
    KeyStateConflict,
    LastOwner,
    NoCredential,
    NotFound,
    PasskeyRefused,
)
from app.domain.errors import ReauthenticationRequired as Stale
from app.domain.identity import Role
from app.domain.keys import KeyName
from app.domain.passkeys import RelyingParty
from app.services.audit_trail import AuditQuery
from tests.support.access.people import OTHER_GUILD, ROLES, Where, World
from tests.support.samples import ABSENT, NEW_PASSWORD, OTHER_SECRET, PASSWORD

OUTCOMES: Final[Mapping[str, tuple[type[AppError], ...]]] = {
    "A": (),
    "F": (Forbidden,),
    "N": (NotFound, NoCredential),
    "R": (Stale,),
    "C": (CannotOpen,),
}


@dataclass(frozen=True)
class Row:
    """One method; ``call`` makes the call in a world, ``outcomes`` say how it ends."""

    method: str
    call: Callable[[World], Any]
    outcomes: Mapping[Where, str]
    fresh: bool = False
    passes: tuple[type[AppError], ...] = ()

    @property
    def allows_somebody(self) -> bool:
        """Whether a role gets through in the first situation."""
        return bool(set(next(iter(self.outcomes.values()))) - set("FC"))

    def __post_init__(self) -> None:
        for each in self.outcomes.values():
            assert len(each) == len(ROLES), f"{self.method}: an outcome for each of owner, admin, member, auditor"
            assert set(each) <= OUTCOMES.keys(), f"{self.method}: {each}"


def _row(
    method: str,
    call: Callable[[World], Any],
    outcomes: str | Mapping[str, str],
    *,
    fresh: bool = False,
    passes: tuple[type[AppError], ...] = (),
) -> Row:
    """A row: outcomes for ``Where.ANY``, or for situations in lower case (``own``, ``foreign``, ``of_admin``, …)."""
    named = {"any": outcomes} if isinstance(outcomes, str) else outcomes
    return Row(method, call, {Where[name.upper()]: each for name, each in named.items()}, fresh=fresh, passes=passes)


_EVERYBODY: Final = "AAAA"
_NOBODY: Final = "NNNN"
_OWNERS: Final = "AFFF"
_ADMINS: Final = "AAFF"
_READERS: Final = "AAFA"
"""Owners, admins and auditors."""
_CREDENTIAL: Final = {
    "own": "AAAA",
    "foreign": "NNNN",
    "of_owner": "NNNN",
    "shared": "AAAA",
    "guild": "AANN",
    "managed": "AAAA",
    "other_guild": "NNNN",
    "from_web": "AANN",
}
"""Changing a credential, but not seeing its secret."""
_ABOUT_USER: Final = {"foreign": "AAFF", "of_admin": "AAFF", "of_owner": "AFFF"}
"""Acting on somebody's account."""
_KEY: Final = KeyName.AES_KEY
_PARTY: Final = RelyingParty(id="localhost", origins=("http://localhost",))
_STATE: Final = (KeyStateConflict,)


async def _reset(world: World) -> object:
    async with world.storage.write() as uow:
        return await world.services.claims.issue_reset(uow, world.actor, world.target.user)


ROWS: Final = (
    _row(
        "api_tokens.create",
        lambda w: w.services.api_tokens.create(w.actor, name="ci", scopes=["credentials:read"]),
        "AAAA",
        fresh=True,
    ),
    _row("api_tokens.page", lambda w: w.services.api_tokens.page(w.actor), _EVERYBODY),
    _row(
        "api_tokens.revoke",
        lambda w: w.services.api_tokens.revoke(w.actor, w.target.token),
        {"own": "AAAA", "foreign": "NNNN", "of_owner": "NNNN"},
    ),
    _row("audit.all", lambda w: w.services.audit.all(w.actor, AuditQuery()), _READERS),
    _row("audit.page", lambda w: w.services.audit.page(w.actor, AuditQuery()), _READERS),
    _row("audit.stretch", lambda w: w.services.audit.stretch(w.actor, AuditQuery()), _READERS),
    _row(
        "audit_verification.verify_within",
        lambda w: w.services.audit_verification.verify_within(w.actor, 60.0),
        _READERS,
    ),
    _row("audit_verification.verify", lambda w: w.services.audit_verification.verify(w.actor), _READERS),
    _row("authentication.end_session", lambda w: w.services.authentication.end_session(w.actor), _EVERYBODY),
    _row(
        "authentication.reauthenticate", lambda w: w.services.authentication.reauthenticate(w.actor, PASSWORD), "AAAA"
    ),
    _row(
        "authentication.revoke_session",
        lambda w: w.services.authentication.revoke_session(w.actor, w.target.session),
        {"own": "AAAA", "foreign": "NNNN", "of_owner": "NNNN"},
    ),
    _row("authentication.sessions", lambda w: w.services.authentication.sessions(w.actor), _EVERYBODY),
    _row("authentication.unlock", lambda w: w.services.authentication.unlock(w.actor, w.name), _ABOUT_USER),
    _row("backups.arrangement", lambda w: w.services.backups.arrangement(w.actor), _READERS),
    _row("install_health.report", lambda w: w.services.install_health.report(w.actor), _READERS),
    _row("backups.page", lambda w: w.services.backups.page(w.actor), _READERS),
    _row("backups.request", lambda w: w.services.backups.request(w.actor), _ADMINS, fresh=True),
    _row("rehearsal.request", lambda w: w.services.rehearsal.request(w.actor), _ADMINS, passes=(NotFound,)),
    _row("claims.issue", lambda w: w.services.claims.issue(w.actor, w.unclaimed), _ABOUT_USER, fresh=True),
    _row("claims.issue_reset", _reset, _ABOUT_USER, fresh=True),
    _row(
        "credentials.add",
        lambda w: w.add(),
        {"any": "AAAF", "guild": "AAFF", "managed": "AAAA", "other_guild": "FFFF", "from_web": "AAFF"},
    ),
    _row("credentials.change", lambda w: w.credentials.change(w.actor, w.credential, label="x"), _CREDENTIAL),
    _row(
        "credentials.check_add",
        lambda w: w.credentials.check_add(w.actor, guild_id=w.guild_id),
        {"any": "AAAF", "guild": "AAFF", "managed": "AAAA", "other_guild": "FFFF", "from_web": "AAFF"},
    ),
    _row("credentials.detail", lambda w: w.credentials.detail(w.actor, w.credential), _CREDENTIAL),
    _row("credentials.guilds.page", lambda w: w.credentials.guilds.page(w.actor, OTHER_GUILD), "AANA"),
    _row("credentials.get", lambda w: w.credentials.get(w.actor, w.credential), _CREDENTIAL),
    _row("credentials.health.page", lambda w: w.credentials.health.page(w.actor), _READERS),
    _row("credentials.health.report", lambda w: w.credentials.health.report(w.actor), _EVERYBODY),
    _row("credentials.health.verify_all", lambda w: w.credentials.health.verify_all(w.actor), _READERS),
    _row("credentials.overview.of", lambda w: w.credentials.overview.of(w.actor), _EVERYBODY),
    _row("credentials.lists.labels", lambda w: w.credentials.lists.labels(w.actor, ""), _EVERYBODY),
    _row("credentials.lists.page", lambda w: w.credentials.lists.page(w.actor), _EVERYBODY),
    _row("credentials.lists.stretch", lambda w: w.credentials.lists.stretch(w.actor), _EVERYBODY),
    _row("credentials.page", lambda w: w.credentials.page(w.actor), _EVERYBODY),
    _row("credentials.purge", lambda w: w.credentials.purge(w.actor, w.removed), _CREDENTIAL),
    _row("credentials.remove", lambda w: w.credentials.remove(w.actor, w.credential), _CREDENTIAL),
    _row("credentials.replace", lambda w: w.credentials.replace(w.actor, w.credential, OTHER_SECRET), _CREDENTIAL),
    _row("credentials.restore", lambda w: w.credentials.restore(w.actor, w.removed), _CREDENTIAL),
    _row(
        "credentials.reveal",
        lambda w: w.credentials.reveal(w.actor, w.credential),
        {
            "own": "AAAA",
            "foreign": "NNNN",
            "of_owner": "NNNN",
            "shared": "RRRR",
            "guild": "RRRR",
            "managed": "RRRR",
            "other_guild": "RRRR",
            "from_web": "NNNN",
        },
        fresh=True,
    ),
    _row(
        "credentials.rollback",
        lambda w: w.credentials.rollback(w.actor, w.credential),
        _CREDENTIAL,
    ),
    _row(
        "credentials.use",
        lambda w: w.credentials.use(w.actor, "openai", w.label),
        {
            "own": "AAAN",
            "foreign": "NNNN",
            "of_owner": "NNNN",
            "shared": "AAAA",
            "guild": "NNNN",
            "managed": "AAAA",
            "other_guild": "NNNN",
            "from_web": "NNNN",
        },
    ),
    _row("credentials.versions", lambda w: w.credentials.versions(w.actor, w.credential), _CREDENTIAL),
    _row("dashboard.dashboard", lambda w: w.services.dashboard.dashboard(w.actor), _EVERYBODY),
    _row("dashboard.hide_first_run", lambda w: w.services.dashboard.hide_first_run(w.actor), _OWNERS),
    _row(
        "discord_linking.issue_code", lambda w: w.services.discord_linking.issue_code(w.actor), _EVERYBODY, fresh=True
    ),
    _row(
        "discord_linking.link",
        lambda w: w.services.discord_linking.link(w.actor, w.proven_discord),
        _EVERYBODY,
        fresh=True,
    ),
    _row("discord_linking.offer", lambda w: w.services.discord_linking.offer(w.actor, w.proven_discord), _EVERYBODY),
    _row("discord_linking.unlink", lambda w: w.services.discord_linking.unlink(w.actor), _EVERYBODY, fresh=True),
    _row(
        "discord_sign_in.begin_link", lambda w: w.services.discord_sign_in.begin_link(w.actor), _EVERYBODY, fresh=True
    ),
    _row(
        "erasure.of_oneself",
        lambda w: w.services.erasure.of_oneself(w.actor, PASSWORD),
        _EVERYBODY,
        passes=(LastOwner,),
    ),
    _row(
        "erasure.of_user",
        lambda w: w.services.erasure.of_user(w.actor, w.name, confirm=w.name),
        {"foreign": _OWNERS, "of_admin": _OWNERS, "of_owner": _OWNERS},
        fresh=True,
    ),
    # It is for accounts without a password alone, which nobody of the table has.
    _row("erasure.on_discord", lambda w: w.services.erasure.on_discord(w.actor, "x", discord_name="x"), "FFFF"),
    _row("erasure.preview", lambda w: w.services.erasure.preview(w.actor), _EVERYBODY),
    _row(
        "identity.create",
        lambda w: w.services.identity.create(w.actor, "newcomer", PASSWORD, Role.ADMIN),
        _ADMINS,
        fresh=True,
    ),
    _row(
        "identity.create_claimable",
        lambda w: w.services.identity.create_claimable(w.actor, "newcomer", Role.ADMIN),
        _ADMINS,
        fresh=True,
    ),
    _row(
        "identity.link",
        lambda w: w.services.identity.link(w.actor, w.name, w.target.user.discord_id or ""),
        _ABOUT_USER,
        fresh=True,
    ),
    _row("identity.unlink", lambda w: w.services.identity.unlink(w.actor, w.name), _ABOUT_USER, fresh=True),
    _row("imports.failure_at_start", lambda w: w.services.imports.failure_at_start(w.actor), _EVERYBODY),
    _row("imports.run", lambda w: w.services.imports.run(w.actor, w.source), _ADMINS),
    _row("imports.run_once", lambda w: w.services.imports.run_once(w.actor, w.source, b"content"), _ADMINS),
    _row("jobs.get", lambda w: w.services.jobs.get(w.actor, ABSENT), "NNFN"),
    _row("jobs.page", lambda w: w.services.jobs.page(w.actor), _READERS),
    _row("key_inspection.before_change", lambda w: w.services.key_inspection.before_change(w.actor, _KEY), _OWNERS),
    _row(
        "key_inspection.before_retirement",
        lambda w: w.services.key_inspection.before_retirement(w.actor, _KEY, 99),
        "NFFF",
    ),
    _row(
        "key_inspection.before_revocation",
        lambda w: w.services.key_inspection.before_revocation(w.actor, _KEY, 99),
        "NFFF",
    ),
    _row("key_inspection.dependents", lambda w: w.services.key_inspection.dependents(w.actor, _KEY, 1), _READERS),
    _row("key_inspection.list", lambda w: w.services.key_inspection.list(w.actor), _READERS),
    _row("key_inspection.plan", lambda w: w.services.key_inspection.plan(w.actor, _KEY), _READERS),
    _row(
        "messages.decrypt",
        lambda w: w.services.messages.decrypt(w.actor, w.target.message),
        {"own": "AAAA", "foreign": "CCCC", "of_owner": "CCCC"},
    ),
    _row("messages.encrypt", lambda w: w.services.messages.encrypt(w.actor, "text"), _EVERYBODY),
    _row("outside_secrets.clear_caches", lambda w: w.services.outside_secrets.clear_caches(w.actor), _ADMINS),
    _row("passkeys.page", lambda w: w.services.passkeys.page(w.actor), _EVERYBODY),
    _row(
        "passkeys.reauthenticate",
        lambda w: w.services.passkeys.reauthenticate(w.actor, {}, _PARTY),
        _EVERYBODY,
        passes=(InvalidCredentials,),
    ),
    _row(
        "passkeys.reauthentication_options",
        lambda w: w.services.passkeys.reauthentication_options(w.actor, _PARTY),
        _EVERYBODY,
    ),
    _row(
        "passkeys.register",
        lambda w: w.services.passkeys.register(w.actor, "a key", {}, _PARTY),
        _EVERYBODY,
        fresh=True,
        passes=(PasskeyRefused,),
    ),
    _row(
        "passkeys.registration_options",
        lambda w: w.services.passkeys.registration_options(w.actor, _PARTY),
        _EVERYBODY,
        fresh=True,
    ),
    _row(
        "passkeys.remove",
        lambda w: w.services.passkeys.remove(w.actor, w.target.passkey),
        {"own": "AAAA", "foreign": "NNNN", "of_owner": "NNNN"},
        fresh=True,
    ),
    _row("passwords.change", lambda w: w.services.passwords.change(w.actor, PASSWORD, NEW_PASSWORD), _EVERYBODY),
    _row("passwords.end_other_sessions", lambda w: w.services.passwords.end_other_sessions(w.actor), _EVERYBODY),
    _row("passwords.has_password", lambda w: w.services.passwords.has_password(w.actor), _EVERYBODY),
    # The command line alone: nobody else learns another one's password.
    _row("passwords.set", lambda w: w.services.passwords.set(w.actor, w.name, NEW_PASSWORD), "FFFF"),
    _row("preferences.change", lambda w: w.services.preferences.change(w.actor, language="de"), _EVERYBODY),
    _row("personal_data.of_oneself", lambda w: w.services.personal_data.of_oneself(w.actor), _EVERYBODY, fresh=True),
    _row(
        "personal_data.of_user",
        lambda w: w.services.personal_data.of_user(w.actor, w.name),
        {"foreign": _OWNERS, "of_admin": _OWNERS, "of_owner": _OWNERS},
        fresh=True,
    ),
    _row("rotation_watch.look", lambda w: w.services.rotation_watch.look(w.actor, ABSENT), "NNFN"),
    _row("rotation_watch.watch", lambda w: w.services.rotation_watch.watch(w.actor, ABSENT), "NNFN"),
    _row("rotation.cancel", lambda w: w.services.rotation.cancel(w.actor, _KEY), _OWNERS, fresh=True, passes=_STATE),
    _row(
        "rotation.destroy",
        lambda w: w.services.rotation.destroy(w.actor, _KEY, 1, typed=_KEY.value),
        _OWNERS,
        fresh=True,
        passes=_STATE,
    ),
    _row("rotation.import_", lambda w: w.services.rotation.import_(w.actor, _KEY, w.material), _OWNERS, fresh=True),
    _row("rotation.retire", lambda w: w.services.rotation.retire(w.actor, _KEY, 1), _OWNERS, fresh=True, passes=_STATE),
    _row("rotation.revoke", lambda w: w.services.rotation.revoke(w.actor, _KEY, 99), "NFFF", fresh=True),
    _row(
        "rotation.rollback", lambda w: w.services.rotation.rollback(w.actor, _KEY), _OWNERS, fresh=True, passes=_STATE
    ),
    _row("rotation.rotate", lambda w: w.services.rotation.rotate(w.actor, _KEY), _OWNERS, fresh=True),
    _row(
        "rotation.set_schedule",
        lambda w: w.services.rotation.set_schedule(w.actor, _KEY, rotation_days=30, automatic=False),
        _OWNERS,
        fresh=True,
    ),
    _row("second_factor.confirm", lambda w: w.services.second_factor.confirm(w.actor, "123456"), _NOBODY, fresh=True),
    _row(
        "second_factor.new_recovery_codes",
        lambda w: w.services.second_factor.new_recovery_codes(w.actor),
        _NOBODY,
        fresh=True,
    ),
    _row("second_factor.pending", lambda w: w.services.second_factor.pending(w.actor), _EVERYBODY, fresh=True),
    _row("second_factor.prove", lambda w: w.services.second_factor.prove(w.actor, "123456"), _NOBODY),
    _row("second_factor.remove", lambda w: w.services.second_factor.remove(w.actor), _NOBODY, fresh=True),
    _row("second_factor.start", lambda w: w.services.second_factor.start(w.actor), _EVERYBODY, fresh=True),
    _row("second_factor.status", lambda w: w.services.second_factor.status(w.actor), _EVERYBODY),
    _row("users.change", lambda w: w.services.users.change(w.actor, w.id, disabled=True), _ABOUT_USER, fresh=True),
    _row("users.create", lambda w: w.services.users.create(w.actor, "newcomer", Role.ADMIN), _ADMINS, fresh=True),
    _row("users.directory", lambda w: w.services.users.directory(w.actor), _ADMINS),
    _row("users.get", lambda w: w.services.users.get(w.actor, w.id), {"foreign": "AAFF", "of_owner": "AAFF"}),
    _row("users.invitations", lambda w: w.services.users.invitations(w.actor), _ADMINS),
    _row("users.invite", lambda w: w.services.users.invite(w.actor, Role.ADMIN), _ADMINS, fresh=True),
    _row("users.named", lambda w: w.services.users.named(w.actor, w.name), {"foreign": "AAFF", "of_owner": "AAFF"}),
    _row("users.page", lambda w: w.services.users.page(w.actor), _ADMINS),
    _row("users.profile", lambda w: w.services.users.profile(w.actor, w.id), {"foreign": "AAFF", "of_owner": "AAFF"}),
    _row("users.reset", lambda w: w.services.users.reset(w.actor, w.id), _ABOUT_USER, fresh=True),
    _row("users.withdraw", lambda w: w.services.users.withdraw(w.actor, ABSENT), "NNFF", fresh=True),
)
"""Methods that act for somebody, in the order of their names: one row each."""

WITHOUT_ACTOR: Final[Mapping[str, str]] = {
    "api_tokens.status": "a part of page",
    "audit_retention.*": "the worker drops what is too old",
    "audit_sealing.*": "the sealer",
    "audit_verification.flaw_of_rows": "a part of verify",
    "audit_verification.segments": "a part of verify",
    "authentication.begin_browser": "a part of signing in with Discord",
    "authentication.finish_browser": "proves a second factor, after a password",
    "authentication.login": "proves a password",
    "authentication.login_browser": "proves a password",
    "authentication.logout": "whoever holds the refresh token may end its session",
    "authentication.refresh": "proves a refresh token",
    "backups.carry_on": "the worker",
    "backups.watch": "the worker",
    "bot_guilds.*": "the bot's process notes in which servers it is",
    "bot_state.*": "the bot's process notes facts about itself",
    "claims.claim": "proves a link",
    "clock.*": "a port",
    "credentials.overview.people": "a part of detail, for a credential that was authorised",
    "credentials.overview.usage": "a part of the dashboard, for credentials that were authorised",
    "dashboard.key_ages": "the dashboard and the metrics, which judge who asks",
    "dashboard.note_guilds": "the bot",
    "dashboard.readiness": "for monitors, who see that it is ready and no more",
    "deadlines.*": "the edges",
    "discord_linking.link_by_code": "proves a code",
    "discord_linking.offer_by_code": "proves a code",
    "discord_sign_in.begin": "anyone may begin to sign in",
    "discord_sign_in.finish": "proves a Discord account",
    "erasure.sweep": "the worker erases what requests that were under way have stored since",
    "failures.*": "the edges",
    "feed.*": "processes",
    "first_owner.set_up": "proves the setup token",
    "housekeeping.*": "the worker deletes what is too old",
    "identity.add_claimable": "a part of imports and of create_claimable, within their unit of work",
    "identity.create_owner": "once in the life of an install, at the command line",
    "identity.discord_id_of": "the bot asks whom it talks to",
    "identity.from_discord": "makes the actor",
    "identity.operator": "makes the actor of the command line",
    "identity.operator_for": "makes the actor of the command line",
    "identity.owner_ever_existed": "decides whether /setup is shown",
    "identity.refusal_of_strangers": "a sentence",
    "identity.setup": "proves the setup token",
    "identity.user_from_discord": "a part of from_discord and of the sign-in with Discord",
    "imports.note_failure": "the start",
    "instances.*": "processes",
    "jobs.claim": "the worker",
    "jobs.due_in": "the worker",
    "jobs.follow": "the command line waits for a job that it has queued",
    "jobs.new": "services queue it within a change that they have authorised",
    "jobs.work": "the worker",
    "key_inspection.every_status": "the worker and the doctor",
    "key_inspection.require_retirable": "a part of before_retirement and of rotation.retire",
    "key_inspection.status": "a part of list",
    "key_inspection.version": "a part of dependents",
    "keys.*": "the key store, below all authorisation; no edge calls it for somebody",
    "monitoring.figures": "the metrics, whose route judges who asks",
    "outside_secrets.keep_up": "the process",
    "outside_secrets.read_again": "the process",
    "passkeys.login": "proves a passkey",
    "passkeys.login_browser": "proves a passkey",
    "passkeys.login_options": "asks for a passkey, of anybody",
    "randomness.*": "a port",
    "refusals.*": "records who was refused",
    "rehearsal.age": "of a backup that was read",
    "rehearsal.carry_on": "the worker",
    "rehearsal.follow": "the command line waits for a job that it has queued",
    "rehearsal.newest": "the dashboard and the metrics, which judge who asks",
    "rehearsal.rehearse": "the worker",
    "rehearsal.watch": "the worker",
    "requests.*": "makes the actor",
    "rotation.follow": "the command line waits for a job that it has queued",
    "rotation.job.*": "the worker",
    "rotation.look_at_ages": "the worker",
    "rotation.watch_ages": "the worker",
    "second_factor.demanded": "decides whether a form asks for a code",
    "tracer.*": "a port",
}
"""Methods that act for nobody, or that find out who it is, and why; ``service.*`` stands for all of a service."""
