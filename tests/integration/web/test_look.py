"""The look: colours with enough contrast, and keys that are drawn from their fingerprints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.domain.bitting import blade

STYLES = (Path(__file__).parents[3] / "app" / "web" / "static" / "keyhall.css").read_text(encoding="utf-8")


def palette(mode: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", STYLES, re.DOTALL)[:2]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light if mode == "light" else dark))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_edges_stand_out_from_their_ground(mode: str) -> None:
    colours = palette(mode)
    for ground in ("paper", "wash"):
        for text in ("ink", "soft", "brass", "alarm"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["edge"], colours["paper"]) >= 3


def test_the_palette_is_the_one_of_the_house() -> None:
    assert palette("light").items() >= {"paper": "#fbfaf7", "ink": "#1d1b18", "brass": "#8a5a12"}.items()
    assert palette("dark").items() >= {"paper": "#161513", "ink": "#ede9e1", "brass": "#d9a441"}.items()


def test_the_stylesheet_fetches_nothing_and_casts_no_shadow() -> None:
    assert not re.search(r"url\(|@import|shadow|transition", STYLES)


def test_only_what_rotates_moves_and_only_for_those_who_want_motion() -> None:
    willing = "@media (prefers-reduced-motion: no-preference) {"
    moving = [line for line in STYLES.splitlines() if "animation" in line]
    assert moving
    assert all(line.startswith("  .going ") for line in moving)
    within = STYLES.partition(willing)[2].partition("\n}\n")[0].splitlines()
    assert set(moving) <= set(within)


def test_the_same_fingerprint_is_the_same_cut_and_another_one_is_not() -> None:
    assert blade("00e0204060a0c0ff") == blade("00e0204060a0c0ff" + "0" * 8)
    assert blade("00e0204060a0c0ff") != blade("00e0204060a0c000")
    assert blade(None) == blade("ff" * 8)


def test_every_depth_is_a_height_of_its_own_within_the_picture() -> None:
    heights = [float(y) for y in re.findall(r"L\d+ ([\d.]+)", blade("0020406080a0c0e0"))]
    cut = heights[2:18:2]
    assert cut == sorted(cut, reverse=True)
    assert len(set(cut)) == 8
    assert all(0 < y < 28 for y in heights)
