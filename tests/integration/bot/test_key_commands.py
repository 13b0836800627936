"""`/key` as members use it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.domain.credentials import CredentialView, OwnerKind
from app.domain.errors import NotReady, StorageBusy, StorageError, StorageFull
from app.domain.identity import GuildContext, Role
from app.infrastructure.clock import SystemClock

SECRET = "sk-canary-0123456789-abcdefghijklmnopqrstuvwxyz"
OTHER_SECRET = "sk-second-9876543210-zyxwvutsrqponmlkjihgfedcba"

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
    (StorageError(), "The database does not answer. Try again in a moment."),
    (StorageFull(), "takes no changes right now"),
    (NotReady(), "Keyhall is not ready"),
]


async def reveal(hall: Any, member: Any, view: CredentialView) -> str:
    """The stored secret, by use: members never see it again."""
    actor = await hall.actor(member, GuildContext(guild_id=str(hall.guild.id), manages_guild=True))
    async with hall.services.credentials.use(actor, view.provider, view.label) as credential:
        return str(credential.reveal())


class TestAdd:
    async def test_a_key_typed_into_the_form_is_stored_and_shown_as_a_mask(self, hall: Any, shown: Any) -> None:
        answer = await hall.add(label="work")
        text = shown(answer)
        (view,) = await hall.views()
        assert view.label == "work"
        assert view.provider == "openai"
        assert await reveal(hall, hall.alice, view) == SECRET
        assert "Stored." in text
        assert "**work** · openai" in text
        assert "You pay for its use." in text
        assert view.masked in text
        assert SECRET[8:-4] not in text

    async def test_the_form_says_who_could_read_the_key_before_it_is_typed(self, hall: Any, form_texts: Any) -> None:
        form = await hall.alice.slash(hall.channel, "key add", provider="OpenAI", label="work")
        text = form_texts(form)
        assert "Who could read this key?" in text
        assert "could technically read it" in text
        assert "spending limit" in text
        assert "https://keys.example.org/credentials" in text
        assert "openai" in text.splitlines()
        assert "work" in text.splitlines()

    async def test_an_expiry_counts_from_the_interactions_own_time(self, hall: Any) -> None:
        """Every delivery of an interaction asks for the same, so that a repeated one can be recognised."""
        await hall.env.advance_time(3600)
        await hall.add(expires="30")
        (view,) = await hall.views()
        assert abs(view.expires_at - hall.env.now() - timedelta(days=30)) < timedelta(seconds=1)

    async def test_the_answer_offers_the_web(self, hall: Any) -> None:
        answer = await hall.add()
        links = [part.get("url") for part in answer.response.components[0]["components"][-1]["components"]]
        assert links == ["https://keys.example.org/credentials"]

    @pytest.mark.parametrize("label", REFUSED_LABELS.values(), ids=REFUSED_LABELS.keys())
    async def test_a_label_that_cannot_be_shown_is_refused_and_not_repeated(
        self, hall: Any, shown: Any, label: str
    ) -> None:
        text = shown(await hall.add(label=label))
        assert text.startswith("Not accepted: label")
        assert label.strip() not in text or not label.strip()
        assert await hall.views() == []

    async def test_a_secret_given_as_the_label_option_never_reaches_the_form(self, hall: Any, shown: Any) -> None:
        answer = await hall.alice.slash(hall.channel, "key add", label="sk-0123456789abcdefghijkl")
        assert answer.modal is None
        assert "looks like a secret" in shown(answer)
        assert "sk-0123" not in shown(answer)

    async def test_markup_in_a_label_stays_text(self, hall: Any, shown: Any) -> None:
        text = shown(await hall.add(label=MARKUP))
        assert "Stored." in text
        for mark in ("<@1>", "](", "**b**", "`c`"):
            assert mark not in text
        assert [view.label for view in await hall.views()] == [MARKUP]

    @pytest.mark.parametrize("secret", ["nul\0inside-of-it", "lone\ud800surrogate"], ids=["NUL", "surrogate"])
    async def test_a_secret_that_cannot_be_kept_to_the_letter_is_refused(
        self, hall: Any, shown: Any, secret: str
    ) -> None:
        text = shown(await hall.add(secret=secret))
        assert text.startswith("Not accepted: secret")
        assert await hall.views() == []

    async def test_a_taken_label_is_explained(self, hall: Any, shown: Any) -> None:
        await hall.add()
        assert "Choose another label" in shown(await hall.add(secret=OTHER_SECRET))
        (view,) = await hall.views()
        assert await reveal(hall, hall.alice, view) == SECRET

    async def test_days_become_an_expiry(self, hall: Any, shown: Any) -> None:
        text = shown(await hall.add(expires=" 30 "))
        (view,) = await hall.views()
        assert view.expires_at is not None
        assert timedelta(days=29) < view.expires_at - view.created_at < timedelta(days=31)
        assert f"expires <t:{int(view.expires_at.timestamp())}:R>" in text

    @pytest.mark.parametrize("days", ["0", "-1", "soon", "9999", "1.5", "٣"], ids=ascii)
    async def test_days_that_are_none_are_refused(self, hall: Any, shown: Any, days: str) -> None:
        assert "must be a whole number of days" in shown(await hall.add(expires=days))
        assert await hall.views() == []


class TestAddForTheServer:
    async def test_a_manager_stores_a_key_of_the_server(self, hall: Any, shown: Any) -> None:
        text = shown(await hall.add(hall.mona, for_server=True))
        assert "This server's key" in text
        assert await hall.views(hall.mona) == []
        listed = shown(await hall.mona.slash(hall.channel, "key list", for_server=True))
        assert "**work**" in listed

    async def test_a_member_may_not(self, hall: Any, shown: Any) -> None:
        assert shown(await hall.add(hall.alice, for_server=True)) == "You may not do this."
        assert "no stored keys that you may see" in shown(
            await hall.mona.slash(hall.channel, "key list", for_server=True)
        )

    async def test_there_is_no_server_in_a_direct_message(self, hall: Any, shown: Any) -> None:
        for command in ("key add", "key list", "encrypt"):
            assert shown(await hall.alice.user.slash(command, for_server=True)) == "This only works in a server."


class TestList:
    async def test_nothing_stored_says_how_to_begin(self, hall: Any, shown: Any) -> None:
        text = shown(await hall.alice.slash(hall.channel, "key list"))
        assert "/key add" in text
        assert "Add on the web" in text

    async def test_only_ones_own_keys_are_listed(self, hall: Any, shown: Any) -> None:
        await hall.add(hall.alice, label="of alice")
        await hall.add(hall.bob, label="of bob", secret=OTHER_SECRET)
        text = shown(await hall.bob.slash(hall.channel, "key list"))
        assert "of bob" in text
        assert "of alice" not in text

    async def test_many_keys_come_page_by_page(self, hall: Any, shown: Any) -> None:
        actor = await hall.actor(hall.alice)
        for number in range(9):
            await hall.services.credentials.add(actor, provider="openai", label=f"n{number}", secret=f"{number}" * 9)
        first = await hall.alice.slash(hall.channel, "key list")
        seen = {f"n{number}" for number in range(9) if f"**n{number}**" in shown(first)}
        assert len(seen) == 8
        second = await hall.alice.click(first.response, custom_id="keyhall:next")
        rest = {f"n{number}" for number in range(9) if f"**n{number}**" in shown(second)}
        assert seen | rest == {f"n{number}" for number in range(9)}
        assert not seen & rest
        again = await hall.alice.click(second.response, custom_id="keyhall:first")
        assert {f"n{number}" for number in range(9) if f"**n{number}**" in shown(again)} == seen

    async def test_an_expired_key_says_so(self, hall: Any, shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        await hall.add(expires="1")
        late = SystemClock().now() + timedelta(days=2)
        monkeypatch.setattr(SystemClock, "now", lambda self: late)
        assert "Expired: replace it." in shown(await hall.alice.slash(hall.channel, "key list"))


class TestReplace:
    async def submit(self, hall: Any, member: Any, label: str, **fields: str) -> Any:
        form = await member.slash(hall.channel, "key replace", label=label)
        return await member.submit_modal(form, {"secret": OTHER_SECRET} | fields)

    @pytest.mark.parametrize("typed", ["work", " WORK "], ids=["exact", "as typed"])
    async def test_a_key_is_found_by_its_label(self, hall: Any, shown: Any, typed: str) -> None:
        await hall.add()
        assert "Replaced" in shown(await self.submit(hall, hall.alice, typed))
        (view,) = await hall.views()
        assert await reveal(hall, hall.alice, view) == OTHER_SECRET

    async def test_a_suggestion_names_exactly_one_key(self, hall: Any, shown: Any) -> None:
        await hall.add(provider="openai")
        await hall.add(provider="github")
        assert "fits several keys" in shown(await self.submit(hall, hall.alice, "work"))
        choices = await hall.alice.autocomplete(hall.channel, "key replace", "label", "wo")
        github = next(choice["value"] for choice in choices if "github" in choice["name"])
        assert "github" in shown(await self.submit(hall, hall.alice, github))

    async def test_an_expiry_stays_unless_a_new_one_is_given(self, hall: Any, shown: Any) -> None:
        await hall.add(expires="30")
        (before,) = await hall.views()
        assert "Replaced" in shown(await self.submit(hall, hall.alice, "work"))
        (after,) = await hall.views()
        assert after.expires_at == before.expires_at
        assert "Replaced" in shown(await self.submit(hall, hall.alice, "work", expires="60"))
        (later,) = await hall.views()
        assert later.expires_at > before.expires_at + timedelta(days=20)

    async def test_somebody_elses_key_is_not_there_by_label_or_id(self, hall: Any, shown: Any) -> None:
        await hall.add(hall.alice)
        (view,) = await hall.views(hall.alice)
        for name in ("work", view.id):
            assert "no such key" in shown(await self.submit(hall, hall.bob, name))
        assert await reveal(hall, hall.alice, view) == SECRET


class TestRemove:
    async def test_it_asks_first_and_danger_stands_last(self, hall: Any, shown: Any) -> None:
        await hall.add()
        question = await hall.alice.slash(hall.channel, "key remove", label="work")
        assert "7 days" in shown(question)
        buttons = question.response.components[0]["components"][-1]["components"]
        assert [(button["label"], button["style"]) for button in buttons] == [("Keep", 2), ("Remove", 4)]
        assert len(await hall.views()) == 1

    async def test_keeping_changes_nothing(self, hall: Any, shown: Any) -> None:
        await hall.add()
        question = await hall.alice.slash(hall.channel, "key remove", label="work")
        assert "Kept." in shown(await hall.alice.click(question.response, custom_id="keyhall:keep"))
        assert len(await hall.views()) == 1

    async def test_a_removed_key_can_be_restored(self, hall: Any, shown: Any) -> None:
        await hall.add()
        question = await hall.alice.slash(hall.channel, "key remove", label="work")
        removed = await hall.alice.click(question.response, custom_id="keyhall:remove")
        assert "Removed." in shown(removed)
        assert "7 days" in shown(removed)
        assert await hall.views() == []
        restored = await hall.alice.click(removed.response, custom_id="keyhall:restore")
        assert "Restored." in shown(restored)
        (view,) = await hall.views()
        assert await reveal(hall, hall.alice, view) == SECRET

    async def test_what_changed_since_the_question_is_not_removed(self, hall: Any, shown: Any) -> None:
        await hall.add()
        question = await hall.alice.slash(hall.channel, "key remove", label="work")
        (view,) = await hall.views()
        await hall.services.credentials.replace(await hall.actor(hall.alice), view.id, OTHER_SECRET)
        answer = await hall.alice.click(question.response, custom_id="keyhall:remove")
        assert "changed in the meantime" in shown(answer)
        assert len(await hall.views()) == 1

    async def test_somebody_elses_key_is_not_there_by_label_or_id(self, hall: Any, shown: Any) -> None:
        await hall.add(hall.alice)
        (view,) = await hall.views(hall.alice)
        for name in ("work", view.id, "7c1f6e0e-3b1a-4b52-9a37-3a8f6b1f0a11"):
            assert "no such key" in shown(await hall.bob.slash(hall.channel, "key remove", label=name))
        assert len(await hall.views(hall.alice)) == 1

    async def test_a_button_that_outlived_its_time_is_explained(self, hall: Any, shown: Any) -> None:
        await hall.add()
        question = await hall.alice.slash(hall.channel, "key remove", label="work")
        await hall.env.advance_time(15 * 60)
        answer = await hall.alice.click(question.response, custom_id="keyhall:remove")
        assert "no longer in use" in shown(answer)
        assert len(await hall.views()) == 1


class TestSuggestions:
    async def test_only_ones_own_labels_are_offered_and_nothing_of_a_secret(self, hall: Any) -> None:
        await hall.add(hall.alice, label="work")
        await hall.add(hall.bob, label="workshop", secret=OTHER_SECRET)
        choices = await hall.alice.autocomplete(hall.channel, "key remove", "label", "WO")
        assert [choice["name"] for choice in choices] == ["work · openai"]
        assert "sk-" not in str(choices)
        assert await hall.alice.autocomplete(hall.channel, "key remove", "label", "nothing like it") == []

    async def test_a_manager_is_offered_the_servers_labels(self, hall: Any) -> None:
        await hall.add(hall.mona, for_server=True, label="shared")
        choices = await hall.mona.autocomplete(hall.channel, "key replace", "label", "")
        assert [choice["name"] for choice in choices] == ["shared · openai"]
        assert await hall.alice.autocomplete(hall.channel, "key replace", "label", "") == []

    @pytest.mark.parametrize("error", [StorageBusy(), NotReady()], ids=repr)
    async def test_a_failure_offers_nothing(self, hall: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        await hall.add()

        async def failing(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(hall.services.credentials, "labels", failing)
        assert await hall.alice.autocomplete(hall.channel, "key remove", "label", "wo") == []


class TestWhenTheHouseFails:
    @pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure[0]).__name__)
    @pytest.mark.parametrize("method", ["add", "page", "get", "replace"])
    async def test_every_command_says_so_in_a_sentence(
        self, hall: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, failure: tuple[Exception, str], method: str
    ) -> None:
        error, said = failure
        await hall.add()

        async def failing(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(hall.services.credentials, method, failing)
        match method:
            case "add":
                answer = await hall.add(label="another")
            case "page":
                answer = await hall.alice.slash(hall.channel, "key list")
            case "get":
                answer = await hall.alice.slash(hall.channel, "key remove", label="work")
            case _:
                form = await hall.alice.slash(hall.channel, "key replace", label="work")
                answer = await hall.alice.submit_modal(form, {"secret": OTHER_SECRET})
        assert said in shown(answer)

    async def test_a_process_that_may_not_serve_says_so_before_anything_is_done(
        self, hall: Any, shown: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stale() -> None:
            raise NotReady

        with monkeypatch.context() as patch:
            patch.setattr(hall.services.instances, "catch_up", stale)
            assert "Keyhall is not ready" in shown(await hall.add())
        assert await hall.views() == []

    async def test_what_nobody_foresaw_shows_a_reference_that_is_in_the_log_and_nothing_else(
        self, hall: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def failing(*_: object, **__: object) -> None:
            raise RuntimeError("an inner detail")

        monkeypatch.setattr(hall.services.credentials, "page", failing)
        text = shown(await hall.alice.slash(hall.channel, "key list"))
        hall.crashes_expected = 1
        assert "Something went wrong" in text
        assert "inner detail" not in text
        reference = text.rsplit(" ", 1)[-1].rstrip(".")
        assert f"interaction {reference} failed" in caplog.text


async def test_a_linked_account_is_the_same_user_as_on_the_web(hall: Any, shown: Any) -> None:
    operator = await hall.services.identity.operator()
    owner = await hall.services.identity.create(operator, "alice", "correct horse battery staple", Role.MEMBER)
    await hall.services.identity.link(operator, "alice", str(hall.alice.id))
    await hall.add()
    (view,) = await hall.views()
    assert view.owner.kind is OwnerKind.USER
    assert view.owner.id == owner.id
