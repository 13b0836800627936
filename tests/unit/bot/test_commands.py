"""The rules for every command, found by walking the tree."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
from discord import app_commands

from app.bot.client import KeyhallBot

SECRET_WORDS = {"secret", "password", "passwort", "token", "credential", "value", "api_key", "apikey", "key", "text"}


def leaves(bot: KeyhallBot) -> Iterator[app_commands.Command[Any, ..., Any]]:
    found = [command for command in bot.tree.walk_commands() if isinstance(command, app_commands.Command)]
    assert found, "the walk found no commands at all"
    yield from found


def test_the_commands_are_those_that_are_promised(bot: KeyhallBot) -> None:
    assert {command.qualified_name for command in leaves(bot)} == {
        "key add",
        "key list",
        "key replace",
        "key remove",
        "encrypt",
        "decrypt",
        "privacy export",
        "privacy delete",
    }


def test_no_command_takes_a_secret_as_an_option(bot: KeyhallBot) -> None:
    """The text typed as an option stays in the client's input history and is shown to others while it is typed."""
    for command in leaves(bot):
        for option in command.parameters:
            assert option.name.lower() not in SECRET_WORDS, f"/{command.qualified_name} {option.name}"
            assert option.type in {
                discord.AppCommandOptionType.string,
                discord.AppCommandOptionType.boolean,
            }, f"/{command.qualified_name} {option.name}"
            if option.type is discord.AppCommandOptionType.string:
                assert option.max_value is not None, "an option without a bound would take a whole key file"
                assert option.max_value <= 100


def test_every_command_can_be_installed_and_used_everywhere(bot: KeyhallBot) -> None:
    for payload in (command.to_dict(bot.tree) for command in bot.tree.get_commands()):
        assert payload["integration_types"] == [0, 1]
        assert payload["contexts"] == [0, 1, 2]


async def test_every_description_is_there_in_german_and_fits(bot: KeyhallBot) -> None:
    translator = bot.tree.translator
    assert translator is not None

    def check(node: dict[str, Any], path: str) -> None:
        german = node.get("description_localizations", {}).get("de")
        assert german, f"{path} has no German description"
        assert german != node["description"], path
        for text in (node["description"], german):
            assert 1 <= len(text) <= 100, path
        assert not node.get("name_localizations"), f"{path}: names are the same in every language"
        for option in node.get("options", []):
            check(option, f"{path} {option['name']}")

    for command in bot.tree.get_commands():
        payload = await command.get_translated_payload(bot.tree, translator)
        check(payload, f"/{payload['name']}")


def test_nobody_is_ever_mentioned(bot: KeyhallBot) -> None:
    assert bot.allowed_mentions is not None
    mentioned = bot.allowed_mentions
    assert not any((mentioned.everyone, mentioned.users, mentioned.roles, mentioned.replied_user))


def test_only_the_guilds_are_asked_for_unless_content_is_wanted(bot: KeyhallBot) -> None:
    assert [name for name, on in bot.intents if on] == ["guilds"]
    wanting = KeyhallBot(bot.session.services, bot.session.options, message_content=True)
    assert {name for name, on in wanting.intents if on} >= {"guilds", "guild_messages", "message_content"}
    assert not wanting.intents.members
    assert not wanting.intents.presences


def test_what_was_served_is_remembered_and_the_memory_is_bounded(
    bot: KeyhallBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bot.session._REMEMBERED_INTERACTIONS", 3)

    def first_time(number: int) -> bool:
        return bot.session.first_time(cast("Any", SimpleNamespace(id=number)))

    assert [first_time(number) for number in (1, 2, 3, 3, 1)] == [True, True, True, False, False]
    assert first_time(4)
    assert first_time(1), "the oldest was forgotten"
    assert [first_time(number) for number in (3, 4, 1)] == [False, False, False]
    assert first_time(2), "no more than three are remembered"


async def test_a_listener_that_fails_is_logged_without_what_it_was_called_with(
    bot: KeyhallBot, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_thing(value: str) -> None:
        raise RuntimeError("broken")

    await bot._run_event(on_thing, "on_thing", "a canary")
    assert "on_thing failed" in caplog.text
    assert "broken" in caplog.text
    assert "a canary" not in caplog.text
