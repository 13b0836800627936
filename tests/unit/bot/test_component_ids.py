"""Ids of components say everything that any process needs, and fit into what Discord takes."""

from __future__ import annotations

import discord
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bot import panels
from app.bot.component_ids import LONGEST, PREFIX, ComponentId

ENGLISH = discord.Locale.american_english
LONGEST_SNOWFLAKE = str((1 << 64) - 1)
CREDENTIAL = "ffffffff-ffff-4fff-bfff-ffffffffffff"

component_ids = st.builds(
    ComponentId,
    action=st.from_regex("[a-z]{1,8}", fullmatch=True),
    guild_id=st.none() | st.integers(1, (1 << 64) - 1).map(str),
    credential_id=st.none() | st.uuids().map(str),
    number=st.none() | st.integers(0, 10**10 - 1),
    text=st.text(),
)


@given(component_ids)
def test_what_an_id_says_is_read_back(named: ComponentId) -> None:
    assert ComponentId.read(str(named)) == named


@pytest.mark.parametrize("action", ["store", "renew", "replace", "list", "pick", "ask", "keep", "remove", "restore"])
def test_the_longest_id_of_every_action_fits(action: str) -> None:
    named = ComponentId(
        action=action,
        guild_id=LONGEST_SNOWFLAKE,
        credential_id=CREDENTIAL,
        number=10**10 - 1,
        text=LONGEST_SNOWFLAKE,
    )
    assert len(str(named)) <= LONGEST


@given(st.text(max_size=200))
def test_what_is_no_id_of_this_form_is_none(text: str) -> None:
    assert ComponentId.read(PREFIX + text.replace(":", "")) is None
    assert ComponentId.read(text.replace(":", "")) is None


@pytest.mark.parametrize(
    "custom_id",
    [
        f"{PREFIX}{'0123456789abcdef' * 2}",
        f"{PREFIX}remove",
        f"{PREFIX}remove:u:\u0663::",
        f"{PREFIX}remove:x1:::",
        f"{PREFIX}remove:g{10**20}:::",
        f"{PREFIX}remove:u:short::",
        f"{PREFIX}REMOVE:u:::",
    ],
)
def test_ids_of_earlier_versions_and_forged_ones_are_none(custom_id: str) -> None:
    assert ComponentId.read(custom_id) is None


def test_a_button_that_opens_the_form_again_leaves_out_what_does_not_fit() -> None:
    short = panels.add_again(ENGLISH, "Open it again", "1", provider="openai", label="a: b")
    assert ComponentId.read(short.custom_id or "") == ComponentId(action="add", guild_id="1", text="openai:a: b")
    long = panels.add_again(ENGLISH, "Open it again", LONGEST_SNOWFLAKE, provider="o" * 32, label="x" * 64)
    assert ComponentId.read(long.custom_id or "") == ComponentId(
        action="add", guild_id=LONGEST_SNOWFLAKE, text=f"{'o' * 32}:"
    )
