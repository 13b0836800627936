"""The site of the documentation: built without a warning, whole, and without anything from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
_BUILD = ("-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet")
pytestmark = pytest.mark.slow


class _Fetched(HTMLParser):
    """What a browser would fetch for a page: all but the links that a person follows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = {"link": ("href",), "a": ()}.get(tag, ("src", "srcset", "data", "poster"))
        self.addresses += [value for name in names if (value := given.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, *_BUILD, "-d", made / "read", DOCS, made / "pages"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT_ROOT,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return made / "pages"


def test_every_page_can_be_reached_by_the_navigation(site: Path) -> None:
    navigation = (site / "index.html").read_text(encoding="utf-8").partition('class="sidebar-tree"')[2]
    listed = set(re.findall(r'href="([\w/-]+\.html)"', navigation.partition("</aside>")[0]))
    pages = {str(page.relative_to(DOCS).with_suffix(".html")) for page in DOCS.rglob("*.md")}
    assert pages - listed == {"index.html"}


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        fetched = _Fetched(page.read_text(encoding="utf-8")).addresses
        assert fetched
        assert [each for each in fetched if re.match(r"(?:\w+:)?//", each)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:\w+:)?//|@import", style.read_text(encoding="utf-8")), style


def test_the_site_can_be_searched_without_a_server(site: Path) -> None:
    assert "passkey" in (site / "searchindex.js").read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Site\n\n[away](nowhere.md) [gone](#no-such-heading)\n")
    command: list[str | Path] = [
        sys.executable,
        *_BUILD,
        "-c",
        DOCS,
        "-D",
        "root_doc=index",
        tmp_path / "docs",
        tmp_path / "pages",
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert built.returncode != 0
    assert "nowhere.md" in built.stderr
    assert "no-such-heading" in built.stderr
