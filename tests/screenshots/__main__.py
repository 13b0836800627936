"""`make screenshots`: the pictures in docs/images, of a furnished site in Chromium, in both themes."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import oxipng
from playwright.async_api import Browser, async_playwright

from app.domain.identity import Client, Source
from tests.screenshots.furnished import furnish
from tests.screenshots.panel import answers
from tests.support.browsing import DESKTOP_LIGHT, PHONE_DARK, opened, sign_in
from tests.support.environment import forget_settings
from tests.support.processes import PROJECT
from tests.support.web import Site, open_site, sqlite_place

IMAGES: Final = PROJECT / "docs" / "images"
_DESKTOP: Final[Mapping[str, Mapping[str, Any]]] = {
    "light": DESKTOP_LIGHT,
    "dark": {**DESKTOP_LIGHT, "color_scheme": "dark"},
}
_PAGES: Final = {"overview": "/", "credentials": "/credentials", "account": "/account"}
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


async def _of_the_site(browser: Browser, site: Site, pictures: Path) -> None:
    listed = (await site.request("GET", "/api/v1/credentials?limit=100")).json["items"]
    shown = next(each["id"] for each in listed if each["label"] == "Team account")
    pages = {**_PAGES, "credential": f"/credentials/{shown}"}
    for theme, look in _DESKTOP.items():
        async with opened(browser, look) as page:
            await sign_in(page, site)
            for name, path in pages.items():
                await page.goto(site.url + path)
                await page.screenshot(path=pictures / f"{name}-{theme}.png")
    async with opened(browser, PHONE_DARK) as page:
        await sign_in(page, site)
        await page.screenshot(path=pictures / "overview-phone.png")


async def _of_the_bot(browser: Browser, site: Site, pictures: Path) -> None:
    client = Client(source=Source.WEB, address="127.0.0.1", device=None)
    content = await answers(site.services, await site.services.requests.authenticate(site.token, client))
    for theme, look in _DESKTOP.items():
        async with opened(browser, look) as page:
            await page.set_content(content)
            await page.locator("body").screenshot(path=pictures / f"discord-{theme}.png")


async def _of_the_first_run(browser: Browser, site: Site, pictures: Path) -> None:
    for theme, look in _DESKTOP.items():
        async with opened(browser, look) as page:
            await page.goto(f"{site.url}/setup")
            await page.screenshot(path=pictures / f"setup-{theme}.png")


async def _take(directory: Path, pictures: Path, chromium: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        async with open_site(sqlite_place(directory / "furnished"), owner=False) as opened_site:
            # Browsers make passkeys for a name, not for an address.
            site = replace(opened_site, url=opened_site.url.replace("127.0.0.1", "localhost"))
            site.token = await site.log_in()
            await _of_the_site(browser, site, pictures)
            await _of_the_bot(browser, site, pictures)
        (directory / "empty").mkdir()
        async with open_site(sqlite_place(directory / "empty"), owner=False) as site:
            await _of_the_first_run(browser, site, pictures)
        await browser.close()


def main() -> None:
    """Take every picture, and put them in their place once all are there."""
    chromium = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if chromium is None:
        sys.exit("make screenshots: Chromium is not installed")
    forget_settings()
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        pictures = directory / "pictures"
        pictures.mkdir()
        (directory / "furnished").mkdir()
        furnish(sqlite_place(directory / "furnished"))
        asyncio.run(_take(directory, pictures, chromium))
        IMAGES.mkdir(exist_ok=True)
        for picture in sorted(pictures.glob("*.png")):
            oxipng.optimize(picture, IMAGES / picture.name, level=4, strip=oxipng.StripChunks.all())
            print(f"{picture.name}  {(IMAGES / picture.name).stat().st_size // 1024} kB")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
