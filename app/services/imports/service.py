"""Imports: everything is judged first, then stored account by account, each with the marks of its entries.

An import that ended at any point is completed by running it again: what is marked is not imported twice. Entries that
are broken stop an import before anything is stored, unless they are to be skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.domain.credentials import (
    LABEL_LONGEST,
    QUOTA,
    Owner,
    OwnerKind,
)
from app.domain.errors import AlreadyExists, AppError, CryptoError, InvalidInput, UniqueViolation
from app.domain.identity import Actor, Client, Permission, Role, User, name_key
from app.domain.imports import ClaimLink, ImportReport, ImportStopped, Passed, Source
from app.domain.keys import KeyName
from app.domain.lookalikes import skeleton
from app.domain.secrets import SecretBytes, SecretText
from app.services.credentials.storing import CredentialStoring, NewCredential, require_present
from app.services.identity import IdentityService
from app.services.imports.preparation import Group, Ready, prepare
from app.services.keys import KeyManagementService
from app.services.ports import Clock, KeyDerivation, LegacyCipher, Randomness, Storage, UnitOfWork
from app.services.privacy.erasure import erased_name_mark

_TRIES: Final = 5
"""How often an account is judged again when another process was faster."""

_ERASED: Final = "belongs to a person who was erased here, so nothing of it is imported"

Progress = Callable[[int, int], None]
"""Called with how many of all accounts are stored."""
Created = Callable[[ClaimLink], None]
"""Called with each account that was created, once it is stored."""


@dataclass(slots=True, kw_only=True)
class _Judged:
    """The effect of storing a group now."""

    user: User | None = None
    owner: Owner | None = None
    new: list[tuple[Ready, str]] = field(default_factory=list)
    already_done: int = 0
    broken: list[Passed] = field(default_factory=list)
    erased: list[Passed] = field(default_factory=list)
    """Entries of a person who was erased: they are passed over, also where somebody else has that name now."""

    @property
    def new_account(self) -> bool:
        """Whether an account is to be made."""
        return self.owner is None and self.user is None and not self.erased and not _refused(self)


class ImportService:
    """Imports what other programs stored. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        storing: CredentialStoring,
        identity: IdentityService,
        legacy: LegacyCipher,
        derivation: KeyDerivation,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._storing = storing
        self._identity = identity
        self._legacy = legacy
        self._derivation = derivation
        self._clock = clock
        self._randomness = randomness
        self._failure: str | None = None

    async def run(
        self,
        who: Actor | Client,
        source: Source,
        *,
        owner: Owner | None = None,
        key: SecretText | None = None,
        dry_run: bool = False,
        skip_broken: bool = False,
        progress: Progress | None = None,
        created: Created | None = None,
    ) -> ImportReport:
        """Import a source; ``owner`` gets the entries that name no account. A dry run changes nothing.

        ``key`` is the text of the key file. Raises ImportStopped, Forbidden, InvalidInput for a key that is none.
        """
        if isinstance(who, Actor):
            who.require(Permission.MANAGE_USERS)
        prepared = await asyncio.to_thread(prepare, source, owner, self._legacy, self._given(key))
        groups, broken = prepared.groups, prepared.broken
        report = ImportReport(skipped=prepared.passed_over, renamed=prepared.renamed, doubtful=prepared.doubtful)
        judged = []
        for group in groups:
            async with self._storage.lookup(large=True) as uow:
                judged.append(await self._judge(uow, group))
            broken += judged[-1].broken
        if broken and not skip_broken:
            raise ImportStopped(
                f"nothing was imported, because {len(broken)} of its entries are broken: correct them, or skip them "
                "with --skip-broken",
                broken,
            )
        report.skipped += broken
        for number, (group, known) in enumerate(zip(groups, judged, strict=True)):
            new_user: ClaimLink | None = None
            now = known
            if not dry_run and (known.new or known.new_account):
                now, new_user = await self._store(who, group, source.kind)
                if created is not None and new_user is not None:
                    created(new_user)
                report.skipped += [each for each in now.broken if each not in known.broken]
            report.skipped += now.erased
            self._report(report, group, now, new_user)
            if progress is not None:
                progress(number + 1, len(groups))
        return report

    async def run_once(
        self, who: Actor | Client, source: Source, content: bytes, *, key: SecretText | None = None
    ) -> ImportReport | None:
        """Import a source whose file has this ``content``; None where the same content was imported completely.

        So an account that was erased since does not come back. Raises as ``run``.
        """
        material = self._keys.primary(KeyName.AUDIT_SEAL_KEY).material
        mark = await asyncio.to_thread(self._derivation.mac, material, "imported-file", content)
        async with self._storage.lookup() as uow:
            if await uow.imports.known([mark]):
                return None
        report = await self.run(who, source, key=key)
        try:
            async with self._storage.write() as uow:
                await uow.imports.add(mark, "", self._clock.now())
        except UniqueViolation:  # another process imported it at the same time
            pass
        return report

    def note_failure(self, why: str) -> None:
        """Remember why the import at this process's start failed."""
        self._failure = why

    def failure_at_start(self, actor: Actor) -> str | None:
        """Why the import at this process's start failed, for those who manage users; None where it did not."""
        return self._failure if actor.may(Permission.MANAGE_USERS) else None

    @staticmethod
    def _report(report: ImportReport, group: Group, now: _Judged, made: ClaimLink | None) -> None:
        report.credentials += len(now.new)
        report.already_done += now.already_done
        report.relabelled += [(entry.where, label) for entry, label in now.new if label != entry.label]
        if made is not None:
            report.claim_links.append(made)
        if group.username is not None and now.user is None and not now.erased and not _refused(now):
            report.users += 1
        elif group.username is not None and now.user is not None and now.new:
            report.matched.append(now.user.username)
        if now.user is not None and group.username is not None and now.user.password_hash is None:
            report.unclaimed.append(now.user.username)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _given(self, key: SecretText | None) -> Sequence[SecretBytes]:
        if key is None:
            return ()
        try:
            return (self._legacy.read_key(key),)
        except CryptoError as error:
            reason = str(error)
        raise InvalidInput("key file", reason)

    async def _judge(self, uow: UnitOfWork, group: Group) -> _Judged:
        """Compare a group with the database: its account, the marks, the room and the labels."""
        judged = _Judged(owner=group.owner)
        if group.username is not None:
            material = self._keys.primary(KeyName.AUDIT_SEAL_KEY).material
            if await uow.imports.known([erased_name_mark(material, self._derivation, group.username)]):
                judged.erased += [Passed(group.where, _ERASED), *_all(group, _ERASED)]
                return judged
            judged.user = await uow.users.by_name(name_key(group.username))
            if judged.user is None and (other := await uow.users.by_skeleton(skeleton(group.username))) is not None:
                why = f"looks like the account {other.username}, which is another one"
                judged.broken += [Passed(group.where, why), *_all(group, "belongs to an account that was refused")]
                return judged
            if judged.user is not None:
                judged.owner = Owner(OwnerKind.USER, judged.user.id)
        fresh = group.entries
        labels: set[tuple[str, str]] = set()
        room = QUOTA
        if judged.owner is not None:
            known = await self._known(uow, judged.owner, group.entries)
            fresh = [each for each in group.entries if self._mark(judged.owner, each) not in known]
            judged.already_done = len(group.entries) - len(fresh)
            if fresh:
                count, account = await uow.credentials.count_and_account(judged.owner)
                try:
                    require_present(account)
                except AppError as refused:
                    judged.broken += [Passed(each.where, refused.detail) for each in fresh]
                    return judged
                room = max(0, QUOTA - count)
                stored = await uow.credentials.of_owner(judged.owner, limit=QUOTA)
                labels = {(each.provider, each.label.casefold()) for each in stored}
        judged.new = [(each, _free(each, labels)) for each in fresh[:room]]
        why = f"is one too many: an owner has at most {QUOTA} credentials, removed ones included for 7 days"
        judged.broken += [Passed(each.where, why) for each in fresh[room:]]
        return judged

    async def _known(self, uow: UnitOfWork, owner: Owner, entries: Sequence[Ready]) -> frozenset[bytes]:
        marks = [self._mark(owner, each) for each in entries]
        found: frozenset[bytes] = frozenset()
        for begin in range(0, len(marks), QUOTA):
            found |= await uow.imports.known(marks[begin : begin + QUOTA])
        return found

    def _mark(self, owner: Owner, entry: Ready) -> bytes:
        """The MAC of an entry, under the one key that no rotation replaces; where its source lies does not matter."""
        material = self._keys.primary(KeyName.AUDIT_SEAL_KEY).material
        parts = (owner.kind.value, owner.id, entry.provider, entry.name, entry.secret.reveal())
        return self._derivation.mac(material, "imported", *(part.encode() for part in parts))

    # -- storing -------------------------------------------------------------------------------------------------------

    async def _store(self, who: Actor | Client, group: Group, kind: str) -> tuple[_Judged, ClaimLink | None]:
        """Store a group in one unit of work, as it is judged there: other processes may import the same."""
        for _ in range(_TRIES):
            try:
                async with self._storage.write() as uow:
                    return await self._store_in(uow, who, group, kind)
            except (AlreadyExists, UniqueViolation):
                continue
        raise ImportStopped(f"{group.where} is being imported by another process: run the import again")

    async def _store_in(
        self, uow: UnitOfWork, who: Actor | Client, group: Group, kind: str
    ) -> tuple[_Judged, ClaimLink | None]:
        if group.owner is not None:
            await uow.credentials.lock_owner(group.owner)
        judged = await self._judge(uow, group)
        made: ClaimLink | None = None
        owner = judged.owner
        if judged.new_account and group.username is not None:
            claimable = await self._identity.add_claimable(uow, who, group.username, Role.MEMBER)
            made = ClaimLink(username=claimable.user.username, token=claimable.token)
            owner = Owner(OwnerKind.USER, claimable.user.id)
        if owner is None or not judged.new:
            return judged, made
        await self._storing.make_room(uow, owner)
        ring = await self._keys.ring_under_lock(uow)
        created_by = owner.id if owner.kind is OwnerKind.USER else _name_of(who)
        for entry, label in judged.new:
            new = NewCredential(
                id=self._randomness.new_id(),
                owner=owner,
                created_by=created_by,
                provider=entry.provider,
                label=label,
            )
            await uow.imports.add(self._mark(owner, entry), new.id, self._clock.now())
            await self._storing.add(uow, who, new, entry.secret.reveal(), ring, imported=kind)
        return judged, made


def _refused(judged: _Judged) -> bool:
    """Whether the account itself is refused, and not just some entries."""
    return bool(judged.broken) and judged.owner is None and not judged.new


def _all(group: Group, why: str) -> list[Passed]:
    return [Passed(each.where, why) for each in group.entries]


def _name_of(who: Actor | Client) -> str:
    return who.user_id if isinstance(who, Actor) else who.source.value


def _free(entry: Ready, labels: set[tuple[str, str]]) -> str:
    """The label, with a number where it is taken; the one that is chosen is taken from now on."""
    label, number = entry.label, 1
    while (entry.provider, label.casefold()) in labels:
        number += 1
        ending = f" ({number})"
        label = entry.label[: LABEL_LONGEST - len(ending)].rstrip() + ending
    labels.add((entry.provider, label.casefold()))
    return label
