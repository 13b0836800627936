"""How `make docs` makes a site of these pages. The navigation stands here, so that the pages are plain Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sphinx.application import Sphinx

import app as keyhall

NAVIGATION: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "index": {
        "Start": ("quickstart", "members", "pictures"),
        "Run": ("install", "operations", "runbooks/*"),
        "Look up": ("reference", "api", "keys", "envelope"),
        "Trust": ("security", "compliance", "asvs"),
        "Build": ("extend", "contribute"),
    },
    "contribute": {"More": ("architecture", "performance", "texts", "decisions/*")},
}
"""Which pages stand below which, under which heading."""

project = "Keyhall"
version = release = keyhall.__version__
extensions = ["myst_parser"]
exclude_patterns = ["images", "vectors"]
nitpicky = True
myst_heading_anchors = 4
# A fence without a language is text, not Python.
highlight_language = "none"

html_theme = "furo"
html_title = "Keyhall"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8a5a12", "color-brand-content": "#8a5a12"},
    "dark_css_variables": {"color-brand-primary": "#d9a441", "color-brand-content": "#d9a441"},
}


def _add_navigation(_: Sphinx, page: str, source: list[str]) -> None:
    for heading, pages in NAVIGATION.get(page, {}).items():
        listed = "\n".join(pages)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {heading}\n\n{listed}\n```\n"


def setup(sphinx: Sphinx) -> None:
    """Add the navigation to the pages as they are read."""
    sphinx.connect("source-read", _add_navigation)
