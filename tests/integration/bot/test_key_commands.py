"""`/key` as members use it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from app.domain.bitting import cut
from app.domain.credentials import CredentialView, OwnerKind
from app.domain.errors import NotReady, StorageBusy, StorageError, StorageFull
from app.domain.identity import GuildContext, Role
from app.infrastructure.clock import SystemClock
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

MARKUP = "**b** <@1> @everyone [a](http://x) `c` {0.__class__} %s"
REFUSED_LABELS = {
    "NUL": "wo\0rk",
    "right to left": "wo\u202erk",
    "zero width": "wo\u200brk",
    "a secret": "sk-0123456789abcdefghijkl",
    "lone surrogate": "wo\ud800rk",
    "blank": "   ",
}

FAILURES = [
    (StorageError(), "Keyhall cannot reach its storage."),
    (StorageFull(), "Keyhall cannot save anything right now."),
    (NotReady(), "Keyhall is catching up"),
]


async def reveal(community: Any, member: Any, view: CredentialView) -> str:
    """The stored secret, by use: members never see it again."""
    actor = await community.actor(member, GuildContext(guild_id=str(community.guild.id), manages_guild=True))
    async with community.services.credentials.use(actor, view.provider, view.label) as credential:
        return str(credential.reveal())


class TestAdd:
    async def test_a_key_typed_into_the_form_is_stored_and_shown_as_a_mask(self, community: Any, shown: Any) -> None:
        answer = await community.add(label="work")
        text = shown(answer)
        (view,) = await community.views()
        assert view.label == "work"
        assert view.provider == "openai"
        assert await reveal(community, community.alice, view) == SECRET
        assert text.startswith("**Stored.**")
        assert "**work** · openai" in text
        assert "billed to you" in text
        assert view.masked in text
        assert SECRET[8:-4] not in text

    async def test_the_form_says_who_could_read_the_key_before_it_is_typed(
        self, community: Any, form_texts: Any
    ) -> None:
        form = await community.alice.slash(community.channel, "key add", provider="OpenAI", label="work")
        text = form_texts(form)
        assert "Who can read it?" in text
        assert "could technically read it" in text
        assert "spending limit" in text
        assert "https://keys.example.org/credentials" in text
        assert "openai" in text.splitlines()
        assert "work" in text.splitlines()

    async def test_an_expiry_counts_from_the_interactions_own_time(self, community: Any) -> None:
        """Every delivery of an interaction asks for the same, so that a repeated one can be recognised."""
        await community.env.advance_time(3600)
        await community.add(expires="30")
        (view,) = await community.views()
        assert abs(view.expires_at - community.env.now() - timedelta(days=30)) < timedelta(seconds=1)

    async def test_what_was_just_stored_can_be_undone(self, community: Any, shown: Any) -> None:
        answer = await community.add()
        assert "Removed." in shown(await community.press(community.alice, answer, "remove"))
        assert await community.views() == []

    async def test_the_quota_is_known_before_a_secret_is_typed(
        self, community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await community.add()
        monkeypatch.setattr("app.services.credentials.service.QUOTA", 1)
        refused = await community.alice.slash(community.channel, "key add")
        assert refused.modal is None
        assert shown(refused).startswith("**Nothing was stored.** The quota is used up")

    async def test_a_taken_label_leads_to_another_one_or_to_the_key_that_has_it(
        self, community: Any, shown: Any, form_texts: Any
    ) -> None:
        await community.add()
        refused = await community.alice.slash(community.channel, "key add", provider="openai", label="WORK")
        assert refused.modal is None
        assert shown(refused).startswith("**Nothing was stored.** You already have a key for openai called **WORK**.")
        assert "openai" in form_texts(await community.press(community.alice, refused, "add")).splitlines()
        form = await community.press(community.alice, refused, "renew")
        assert "**Your key:**" in form_texts(form)
        answer = await community.alice.submit_modal(form, {"secret": OTHER_SECRET})
        assert shown(answer).startswith("**Stored.**")
        (view,) = await community.views()
        assert await reveal(community, community.alice, view) == OTHER_SECRET

    async def test_a_secret_in_the_label_field_is_not_repeated_by_the_button_that_opens_the_form_again(
        self, community: Any, shown: Any, form_texts: Any
    ) -> None:
        refused = await community.add(label=SECRET[:60])
        assert SECRET[8:40] not in str(refused.response.components)
        again = form_texts(await community.press(community.alice, refused, "add"))
        assert "openai" in again.splitlines()
        assert SECRET[8:40] not in again

    @pytest.mark.parametrize("label", REFUSED_LABELS.values(), ids=REFUSED_LABELS.keys())
    async def test_a_label_that_cannot_be_shown_is_refused_and_not_repeated(
        self, community: Any, shown: Any, label: str
    ) -> None:
        text = shown(await community.add(label=label))
        assert text.startswith("**Nothing was stored.** ")
        assert "abel" in text
        assert label.strip() not in text or not label.strip()
        assert await community.views() == []

    async def test_a_secret_given_as_the_label_option_never_reaches_the_form(self, community: Any, shown: Any) -> None:
        answer = await community.alice.slash(community.channel, "key add", label="sk-0123456789abcdefghijkl")
        assert answer.modal is None
        assert "looks like a key" in shown(answer)
        assert "sk-0123" not in shown(answer)

    async def test_markup_in_a_label_stays_text(self, community: Any, shown: Any) -> None:
        text = shown(await community.add(label=MARKUP))
        assert text.startswith("**Stored.**")
        for mark in ("<@1>", "](", "**b**", "`c`"):
            assert mark not in text
        assert [view.label for view in await community.views()] == [MARKUP]

    @pytest.mark.parametrize("secret", ["nul\0inside-of-it", "lone\ud800surrogate"], ids=["NUL", "surrogate"])
    async def test_a_secret_that_cannot_be_kept_to_the_letter_is_refused(
        self, community: Any, shown: Any, secret: str
    ) -> None:
        text = shown(await community.add(secret=secret))
        assert text.startswith("**Nothing was stored.** “Key” has characters in it that nobody can type")
        assert await community.views() == []

    async def test_a_taken_label_is_explained(self, community: Any, shown: Any) -> None:
        await community.add()
        refused = await community.add(secret=OTHER_SECRET)
        said = "**Nothing was stored.** You already have a key for openai called **work**."
        assert shown(refused).startswith(said)
        (view,) = await community.views()
        assert await reveal(community, community.alice, view) == SECRET

    async def test_days_become_an_expiry(self, community: Any, shown: Any) -> None:
        text = shown(await community.add(expires=" 30 "))
        (view,) = await community.views()
        assert view.expires_at is not None
        assert timedelta(days=29) < view.expires_at - view.created_at < timedelta(days=31)
        assert f"expires <t:{int(view.expires_at.timestamp())}:R>" in text

    @pytest.mark.parametrize("days", ["0", "-1", "soon", "9999", "1.5", "٣"], ids=ascii)
    async def test_days_that_are_none_are_refused(self, community: Any, shown: Any, days: str) -> None:
        refused = shown(await community.add(expires=days))
        assert refused.startswith(
            "**Nothing was stored.** “Expires in days” takes a number from 1 to 3650, or nothing."
        )
        assert await community.views() == []


class TestAddForTheServer:
    async def test_a_manager_stores_a_key_of_the_server(self, community: Any, shown: Any) -> None:
        text = shown(await community.add(community.mona, for_server=True))
        assert "this server's" in text
        assert await community.views(community.mona) == []
        listed = shown(await community.mona.slash(community.channel, "key list", for_server=True))
        assert "**work**" in listed

    async def test_a_member_may_not(self, community: Any, shown: Any) -> None:
        refused = await community.alice.slash(community.channel, "key add", for_server=True)
        assert refused.modal is None, "nothing is typed in vain"
        said = "**Nothing was stored.** Only people who may manage this server can do that with its keys."
        assert shown(refused) == said
        assert "no keys** that you may see" in shown(
            await community.mona.slash(community.channel, "key list", for_server=True)
        )

    async def test_there_is_no_server_in_a_direct_message(self, community: Any, shown: Any) -> None:
        for command in ("key add", "key list", "encrypt"):
            answer = shown(await community.alice.user.slash(command, for_server=True))
            assert answer.endswith("This only works in a server.")


class TestWhoPays:
    async def test_the_sharer_is_named_to_other_managers(self, community: Any, shown: Any) -> None:
        nora = community.guild.add_member(community.env.create_user("nora"), roles=[community.manager])
        stored = await community.add(community.mona, for_server=True)
        assert "billed to you" in shown(stored)
        for member, said in [(community.mona, "Billed to you."), (nora, f"Billed to <@{community.mona.id}>.")]:
            listed = await member.slash(community.channel, "key list", for_server=True)
            number = re.findall("[0-9a-f-]{36}", str(listed.response.components))[0]
            one = await community.choose(member, listed, number)
            assert said in shown(one)
            form = await community.press(member, one, "renew")
            replaced = await member.submit_modal(form, {"secret": f"{OTHER_SECRET}-{member.id}"})
            assert said[1:-1] in shown(replaced)


class TestList:
    async def test_nothing_stored_says_how_to_begin(self, community: Any, shown: Any) -> None:
        text = shown(await community.alice.slash(community.channel, "key list"))
        assert text.startswith("**You have no keys yet.**")
        assert "Add on the web" in text

    async def test_only_ones_own_keys_are_listed(self, community: Any, shown: Any) -> None:
        await community.add(community.alice, label="of alice")
        await community.add(community.bob, label="of bob", secret=OTHER_SECRET)
        text = shown(await community.bob.slash(community.channel, "key list"))
        assert "of bob" in text
        assert "of alice" not in text

    async def test_many_keys_come_page_by_page_with_their_count_and_a_way_back(
        self, community: Any, shown: Any
    ) -> None:
        actor = await community.actor(community.alice)
        for number in range(19):
            await community.services.credentials.add(
                actor, provider="openai", label=f"n{number:02}", secret=f"{number}" * 9
            )

        def labels(answer: Any) -> list[str]:
            return re.findall(r"\*\*(n[0-9]+)\*\*", shown(answer))

        page = await community.alice.slash(community.channel, "key list")
        assert "Your keys · 1\u20138 of 19" in shown(page)
        assert labels(page) == [f"n{number:02}" for number in range(8)]
        assert "Back" not in shown(page).splitlines()
        page = await community.alice.click(page.response, label="Next")
        assert "9\u201316 of 19" in shown(page)
        page = await community.alice.click(page.response, label="Next")
        assert labels(page) == ["n16", "n17", "n18"]
        assert "Next" not in shown(page).splitlines()
        page = await community.alice.click(page.response, label="Back")
        assert labels(page) == [f"n{number:02}" for number in range(8, 16)]

    async def test_a_key_that_is_chosen_of_the_list_can_be_replaced_and_removed(
        self, community: Any, shown: Any, form_texts: Any
    ) -> None:
        await community.add()
        await community.add(label="other", secret=OTHER_SECRET)
        views = {view.label: view for view in await community.views()}
        listed = await community.alice.slash(community.channel, "key list")
        one = await community.choose(community.alice, listed, views["other"].id)
        assert "**other**" in shown(one)
        assert "**work**" not in shown(one)
        form = await community.press(community.alice, one, "renew")
        assert "**other**" in form_texts(form)
        replaced = await community.alice.submit_modal(form, {"secret": SECRET[::-1]})
        assert "**Stored.**" in shown(replaced)
        listed = await community.press(community.alice, replaced, "list")
        assert "2 of 2" in shown(listed)
        one = await community.choose(community.alice, listed, views["other"].id)
        question = await community.press(community.alice, one, "ask")
        assert "Removed." in shown(await community.press(community.alice, question, "remove"))
        assert [view.label for view in await community.views()] == ["work"]

    async def test_the_list_leads_to_the_form_for_a_new_key_of_the_same_owner(
        self, community: Any, form_texts: Any
    ) -> None:
        for options in ({}, {"for_server": True}):
            listed = await community.mona.slash(community.channel, "key list", **options)
            text = form_texts(await community.press(community.mona, listed, "add"))
            assert ("will be the server's" in text) is bool(options)

    async def test_secrets_too_simple_for_a_fingerprint_have_no_bitting(self, community: Any, shown: Any) -> None:
        await community.add(label="pin", secret="1234")
        await community.add(label="door", secret="9876")
        text = shown(await community.alice.slash(community.channel, "key list"))
        assert "**pin**" in text
        assert not set(text) & set("▁▂▃▄▅▆▇█")

    async def test_an_expired_key_says_so(self, community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        await community.add(expires="1")
        late = SystemClock().now() + timedelta(days=2)
        monkeypatch.setattr(SystemClock, "now", lambda self: late)
        assert "expired: replace it" in shown(await community.alice.slash(community.channel, "key list"))


class TestReplace:
    async def submit(self, community: Any, member: Any, label: str, **fields: str) -> Any:
        form = await member.slash(community.channel, "key replace", label=label)
        return await member.submit_modal(form, {"secret": OTHER_SECRET} | fields)

    @pytest.mark.parametrize("typed", ["work", " WORK "], ids=["exact", "as typed"])
    async def test_a_key_is_found_by_its_label(self, community: Any, shown: Any, typed: str) -> None:
        await community.add()
        assert "**Stored.** The old one is in the history." in shown(
            await self.submit(community, community.alice, typed)
        )
        (view,) = await community.views()
        assert await reveal(community, community.alice, view) == OTHER_SECRET

    async def test_a_suggestion_names_exactly_one_key(self, community: Any, shown: Any) -> None:
        await community.add(provider="openai")
        await community.add(provider="github")
        assert "choose one of the suggestions" in shown(
            await community.alice.slash(community.channel, "key replace", label="work")
        )
        choices = await community.alice.autocomplete(community.channel, "key replace", "label", "wo")
        github = next(choice["value"] for choice in choices if "github" in choice["name"])
        assert "github" in shown(await self.submit(community, community.alice, github))

    async def test_an_expiry_stays_unless_a_new_one_is_given(self, community: Any, shown: Any) -> None:
        await community.add(expires="30")
        (before,) = await community.views()
        assert "**Stored.** The old one is in the history." in shown(
            await self.submit(community, community.alice, "work")
        )
        (after,) = await community.views()
        assert after.expires_at == before.expires_at
        assert "**Stored:** the new expiry." in shown(
            await self.submit(community, community.alice, "work", expires="60")
        )
        (later,) = await community.views()
        assert later.expires_at > before.expires_at + timedelta(days=20)

    async def test_somebody_elses_key_is_not_there_by_label_or_id(self, community: Any, shown: Any) -> None:
        await community.add(community.alice)
        (view,) = await community.views(community.alice)
        for name in ("work", view.id):
            refused = await community.bob.slash(community.channel, "key replace", label=name)
            assert refused.modal is None, "nothing is typed in vain"
            assert shown(refused).startswith("**Nothing was stored.** There is no such key")
        assert await reveal(community, community.alice, view) == SECRET


class TestWhose:
    """A member's key and the server's may have the same label: nothing is said or asked without saying whose."""

    async def both(self, community: Any) -> None:
        await community.add(community.mona, label="main")
        await community.add(community.mona, label="main", for_server=True, secret=OTHER_SECRET)

    @pytest.mark.parametrize("command", ["key replace", "key remove"])
    async def test_suggestions_say_whose(self, community: Any, command: str) -> None:
        await self.both(community)
        choices = await community.mona.autocomplete(community.channel, command, "label", "main")
        assert [choice["name"] for choice in choices] == ["main · openai · yours", "main · openai · this server's"]

    @pytest.mark.parametrize("shared", [False, True], ids=["own", "the server's"])
    async def test_the_form_says_whose_and_which_and_changes_no_other(
        self, community: Any, shown: Any, form_texts: Any, *, shared: bool
    ) -> None:
        await self.both(community)
        (own,) = await community.views(community.mona)
        guild = GuildContext(guild_id=str(community.guild.id), manages_guild=True)
        page = await community.services.credentials.page(
            await community.actor(community.mona, guild), guild_id=guild.guild_id
        )
        choices = await community.mona.autocomplete(community.channel, "key replace", "label", "main")
        form = await community.mona.slash(community.channel, "key replace", label=choices[shared]["value"])
        text = form_texts(form)
        assert ("**This server's key:**" in text) is shared
        assert ("**Your key:**" in text) is not shared
        replaced, other = (page.items[0], own) if shared else (own, page.items[0])
        assert cut(replaced.fingerprint) in text
        assert cut(other.fingerprint) not in text
        answer = await community.mona.submit_modal(form, {"secret": "sk-a-third-secret-0123456789abcdef"})
        assert ("this server's" in shown(answer)) is shared
        actor = await community.actor(community.mona, guild)
        assert (await community.services.credentials.get(actor, replaced.id)).version == 2
        assert (await community.services.credentials.get(actor, other.id)).version == 1

    async def test_the_form_for_a_new_key_says_whose_it_will_be(self, community: Any, form_texts: Any) -> None:
        own = form_texts(await community.mona.slash(community.channel, "key add"))
        shared = form_texts(await community.mona.slash(community.channel, "key add", for_server=True))
        assert "will be the server's" in shared
        assert "Store a key for this server" in shared
        assert "server's" not in own

    async def test_questions_and_answers_say_whose(self, community: Any, shown: Any) -> None:
        await self.both(community)
        choices = await community.mona.autocomplete(community.channel, "key remove", "label", "main")
        for choice, shared in zip(choices, (False, True), strict=True):
            question = await community.mona.slash(community.channel, "key remove", label=choice["value"])
            assert ("this server's" in shown(question)) is shared


class TestRemove:
    async def test_it_asks_first_and_danger_stands_last(self, community: Any, shown: Any) -> None:
        await community.add()
        question = await community.alice.slash(community.channel, "key remove", label="work")
        assert "**Remove this key?**" in shown(question)
        buttons = question.response.components[0]["components"][-1]["components"]
        assert [(button["label"], button["style"]) for button in buttons] == [("Keep", 2), ("Remove", 4)]
        assert len(await community.views()) == 1

    async def test_keeping_changes_nothing(self, community: Any, shown: Any) -> None:
        await community.add()
        question = await community.alice.slash(community.channel, "key remove", label="work")
        assert "Kept." in shown(await community.press(community.alice, question, "keep"))
        assert len(await community.views()) == 1

    async def test_a_removed_key_can_be_restored(self, community: Any, shown: Any) -> None:
        await community.add()
        question = await community.alice.slash(community.channel, "key remove", label="work")
        removed = await community.press(community.alice, question, "remove")
        assert "**Removed.**" in shown(removed)
        assert "7 days" in shown(removed)
        assert await community.views() == []
        restored = await community.press(community.alice, removed, "restore")
        assert "**Restored.**" in shown(restored)
        (view,) = await community.views()
        assert await reveal(community, community.alice, view) == SECRET

    async def test_what_changed_since_the_question_is_not_removed(self, community: Any, shown: Any) -> None:
        await community.add()
        question = await community.alice.slash(community.channel, "key remove", label="work")
        (view,) = await community.views()
        await community.services.credentials.replace(await community.actor(community.alice), view.id, OTHER_SECRET)
        answer = await community.press(community.alice, question, "remove")
        assert "changed in the meantime" in shown(answer)
        assert len(await community.views()) == 1

    async def test_somebody_elses_key_is_not_there_by_label_or_id(self, community: Any, shown: Any) -> None:
        await community.add(community.alice)
        (view,) = await community.views(community.alice)
        for name in ("work", view.id, "7c1f6e0e-3b1a-4b52-9a37-3a8f6b1f0a11"):
            assert "no such key" in shown(await community.bob.slash(community.channel, "key remove", label=name))
        assert len(await community.views(community.alice)) == 1


class TestSuggestions:
    async def test_only_ones_own_labels_are_offered_and_nothing_of_a_secret(self, community: Any) -> None:
        await community.add(community.alice, label="work")
        await community.add(community.bob, label="workshop", secret=OTHER_SECRET)
        choices = await community.alice.autocomplete(community.channel, "key remove", "label", "WO")
        assert [choice["name"] for choice in choices] == ["work · openai · yours"]
        assert "sk-" not in str(choices)
        assert await community.alice.autocomplete(community.channel, "key remove", "label", "nothing like it") == []

    async def test_a_manager_is_offered_the_servers_labels(self, community: Any) -> None:
        await community.add(community.mona, for_server=True, label="shared")
        choices = await community.mona.autocomplete(community.channel, "key replace", "label", "")
        assert [choice["name"] for choice in choices] == ["shared · openai · this server's"]
        assert await community.alice.autocomplete(community.channel, "key replace", "label", "") == []

    @pytest.mark.parametrize("error", [StorageBusy(), NotReady()], ids=repr)
    async def test_a_failure_offers_nothing(
        self, community: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        await community.add()

        async def failing(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(community.services.credentials.lists, "labels", failing)
        assert await community.alice.autocomplete(community.channel, "key remove", "label", "wo") == []


class TestWhenTheHouseFails:
    @pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure[0]).__name__)
    @pytest.mark.parametrize("method", ["add", "stretch", "get", "replace"])
    async def test_every_command_says_so_in_a_sentence(
        self, community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, failure: tuple[Exception, str], method: str
    ) -> None:
        error, said = failure
        await community.add()

        async def failing(*_: object, **__: object) -> None:
            raise error

        owner = community.services.credentials.lists if method == "stretch" else community.services.credentials
        monkeypatch.setattr(owner, method, failing)
        match method:
            case "add":
                answer = await community.add(label="another")
            case "stretch":
                answer = await community.alice.slash(community.channel, "key list")
            case "get":
                answer = await community.alice.slash(community.channel, "key remove", label="work")
            case _:
                form = await community.alice.slash(community.channel, "key replace", label="work")
                answer = await community.alice.submit_modal(form, {"secret": OTHER_SECRET})
        assert said in shown(answer)

    async def test_a_process_that_may_not_serve_says_so_before_anything_is_done(
        self, community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stale() -> None:
            raise NotReady

        with monkeypatch.context() as patch:
            patch.setattr(community.services.instances, "catch_up", stale)
            refused = await community.alice.slash(community.channel, "key add")
            assert shown(refused).startswith("**Nothing was stored.** Keyhall is catching up")
        assert await community.views() == []

    async def test_what_nobody_foresaw_shows_a_reference_that_is_in_the_log_and_nothing_else(
        self, community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def failing(*_: object, **__: object) -> None:
            raise RuntimeError("an inner detail")

        monkeypatch.setattr(community.services.credentials.lists, "stretch", failing)
        text = shown(await community.alice.slash(community.channel, "key list"))
        community.crashes_expected = 1
        assert "Something went wrong" in text
        assert "inner detail" not in text
        reference = text.rsplit(" ", 1)[-1].rstrip(".")
        assert f"interaction {reference} failed" in caplog.text


async def test_a_linked_account_is_the_same_user_as_on_the_web(community: Any, shown: Any) -> None:
    operator = await community.services.identity.operator()
    owner = await community.services.identity.create(operator, "alice", PASSWORD, Role.MEMBER)
    await community.services.identity.link(operator, "alice", str(community.alice.id))
    await community.add()
    (view,) = await community.views()
    assert view.owner.kind is OwnerKind.USER
    assert view.owner.id == owner.id
