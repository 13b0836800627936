"""The page of the list: its tabs, its search and its pages are links, and keep each other."""

from __future__ import annotations

import re

import pytest

from tests.support.samples import SECRET
from tests.support.web import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_tabs_search_and_pages_keep_each_other(site: Site) -> None:
    for number in range(52):
        await site.add(f"serial {number:02}")
    await site.add("serial & soon", expires_at="2099-12-31T00:00:00Z", provider="groq")
    cookie, _ = await site.log_in_browser()
    first = await site.page("/credentials?q=Serial", cookie)
    assert first.text.count('class="row"') == 50
    assert 'rel="prev"' not in first.text
    assert re.search(r'aria-current="page">All <span class="count">53</span>', first.text)
    assert 'href="/credentials?show=removed&amp;q=Serial"' in first.text
    following = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert following
    assert following[1].startswith("/credentials?q=Serial&amp;cursor=")
    second = await site.page(following[1].replace("&amp;", "&"), cookie)
    assert second.text.count('class="row"') == 3
    assert 'rel="next"' not in second.text
    back = re.search(r'rel="prev" href="([^"]+)"', second.text)
    assert back
    assert "serial 00" in (await site.page(back[1].replace("&amp;", "&"), cookie)).text

    one = await site.page("/credentials?q=groq+%26", cookie)
    assert one.text.count('class="row"') == 1
    assert 'value="groq &amp;"' in one.text
    assert "not checked" not in one.text
    none = await site.page("/credentials?show=removed&q=%3Cb%3Eparchment", cookie)
    assert "Nothing here has “&lt;b&gt;parchment” in its label or provider." in none.text
    assert 'href="/credentials?show=removed">Show all of them' in none.text


async def test_the_former_address_of_removed_ones_leads_on(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    answer = await site.page("/credentials?removed=true&done=purged", cookie)
    assert (answer.status, answer.headers["Location"]) == (303, "/credentials?show=removed&done=purged")
    assert "Nothing was removed in the last seven days." in (await site.page("/credentials?show=removed", cookie)).text


@pytest.mark.parametrize(
    "query", ["show=none", "q=" + "x" * 101, "q=%00", f"q={SECRET}", "cursor=x", "cursor=" + "x" * 3000, "show=all%00"]
)
async def test_a_query_that_is_none_is_refused_on_a_page_that_repeats_nothing(site: Site, query: str) -> None:
    cookie, _ = await site.log_in_browser()
    answer = await site.page(f"/credentials?{query}", cookie)
    assert answer.status == 422
    assert SECRET not in answer.text
