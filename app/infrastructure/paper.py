"""The master key on paper: a page with a QR code and 24 words, and the way back from the scanned or typed text.

The words are those of BIP-39 in English: 256 bits of key and 8 bits of checksum. Only the bytes are kept in them; the
seed that wallets derive from such words has no part in this.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from xml.sax.saxutils import escape

import segno
from mnemonic import Mnemonic

from app.domain.bitting import blade
from app.domain.errors import InvalidInput
from app.domain.key_material import WeakKey, master_key_from_text
from app.domain.keys import Environment
from app.domain.secrets import SecretBytes

WORDS: Final = 24

_LONGEST_WORD: Final = 8
_NUMBERING: Final = "0123456789.:()#"
_COLUMNS: Final = 4


def words(material: SecretBytes) -> tuple[str, ...]:
    """The 24 words of a master key of 32 bytes. Raises ValueError for any other length."""
    found = tuple(Mnemonic("english").to_mnemonic(material.reveal()).split())
    if len(found) != WORDS:
        raise ValueError(f"a master key has 32 bytes, not {len(material)}")
    return found


def from_words_or_text(text: str, environment: Environment) -> SecretBytes:
    """The master key from its words, numbered or not, or from the text of the QR code, which is base64; hex does too.

    Raises InvalidInput, which says what is wrong and where, and repeats nothing of the text.
    """
    entered = [each for each in re.split(r"[\s,;]+", text) if each]
    if not entered:
        raise _refused("nothing was given")
    if len(entered) == 1 and len(entered[0].strip(_NUMBERING)) > _LONGEST_WORD:
        return _judged(entered[0], environment)
    material = _from_words([word for each in entered if (word := each.strip(_NUMBERING).lower())])
    return _judged(base64.b64encode(material).decode(), environment)


def _from_words(entered: Sequence[str]) -> bytes:
    if len(entered) != WORDS:
        raise _refused(f"it takes {WORDS} words, and {len(entered)} were given")
    mnemonic = Mnemonic("english")
    known = frozenset(mnemonic.wordlist)
    unknown = [str(number) for number, word in enumerate(entered, 1) if word not in known]
    if unknown:
        which = f"word {unknown[0]} is" if len(unknown) == 1 else f"words {', '.join(unknown)} are"
        raise _refused(f"{which} not on the list of words: compare with the paper")
    try:
        return bytes(mnemonic.to_entropy(list(entered)))
    except ValueError:
        raise _refused("the checksum of the words is wrong: one of them is mistyped or two are swapped") from None


def _judged(text: str, environment: Environment) -> SecretBytes:
    try:
        return SecretBytes(master_key_from_text(text, environment))
    except WeakKey as weak:
        raise _refused(str(weak)) from None


def _refused(reason: str) -> InvalidInput:
    return InvalidInput("master key", reason)


# ---------------------------------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------------------------------

_SENTENCES: Final = (
    (
        "Its use",
        "Together with the database it opens every credential of this install;",
        "without it, nobody can.",
    ),
    ("Where to keep it", "Keep this page under lock, away from the database and its backups,", "and shred the file."),
    (
        "How to put it back",
        "Run `keyhall keys restore-master` and give it the words, or the text of",
        "the code; with `--check` it only tests them.",
    ),
)
_BOW: Final = "M12 4a10 10 0 1 0 0 20a10 10 0 1 0 0-20ZM8.5 11a3 3 0 1 1 0 6a3 3 0 1 1 0-6Z"

_STYLE: Final = """
@page { size: 210mm 297mm; margin: 0 }
text { font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif; fill: #1d1b18 }
.title { font-size: 9px; font-weight: 500; letter-spacing: -.1px }
.label { font-size: 3.2px; fill: #6a655d }
.value, .word, .number, .code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.value { font-size: 3.7px }
.word { font-size: 4.8px; font-weight: 600 }
.number { font-size: 3.2px; fill: #6a655d; text-anchor: end }
.sentence { font-size: 3.4px }
.hair { stroke: #8f887b; stroke-width: .2; fill: none }
.cut { stroke: #8a5a12; stroke-width: 1.25; stroke-linejoin: round; fill: none }
"""


def page(material: SecretBytes, install_id: str, master_key_id: str, made_at: datetime) -> str:
    """One A4 page as a self-contained SVG document, in millimetres, legible in black and white.

    The QR code holds the key in base64 at error correction level Q or better: a quarter of it may be lost.
    """
    code = segno.make(base64.b64encode(material.reveal()).decode(), error="q", micro=False)
    drawn = code.svg_inline(border=0, omitsize=True)
    facts = (("Install", install_id), ("Master key", master_key_id), ("Printed", f"{made_at:%-d %B %Y}"))
    parts = (
        f'<path class="cut" transform="translate(23 24) scale(.5)" d="{_BOW}{blade(master_key_id)}"/>',
        _text("title", 24, 54, "Keyhall master key"),
        _hairline(63),
        *(_fact(76 + 18 * row, label, value) for row, (label, value) in enumerate(facts)),
        # A quiet zone of four modules, which readers need, is left on every side.
        f'<svg x="126" y="71" width="60" height="60" shape-rendering="crispEdges">{drawn}</svg>',
        _hairline(139),
        _text("label", 24, 148, "The same key in words, to be read from left to right"),
        *(_word(place, word) for place, word in enumerate(words(material))),
        _hairline(228),
        *(_sentence(240 + 14.5 * row, *sentence) for row, sentence in enumerate(_SENTENCES)),
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 210 297">\n'
        f"<title>Keyhall master key {escape(master_key_id)}</title>\n<style>{_STYLE}</style>\n"
        '<rect width="210" height="297" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _hairline(y: float) -> str:
    return f'<path class="hair" d="M24 {y:g}h162"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    """A line of text; what stands between backticks is code."""
    parts = (
        f'<tspan class="code">{part}</tspan>' if odd % 2 else part for odd, part in enumerate(escape(text).split("`"))
    )
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{"".join(parts)}</text>'


def _fact(y: float, label: str, value: str) -> str:
    return _text("label", 24, y, label) + _text("value", 24, y + 6, value)


def _word(place: int, word: str) -> str:
    row, column = divmod(place, _COLUMNS)
    x, y = 24 + 41 * column, 161 + 11.5 * row
    return _text("number", x + 5, y, str(place + 1)) + _text("word", x + 7, y, word)


def _sentence(y: float, label: str, *lines: str) -> str:
    told = (_text("sentence", 60, y + 5 * number, line) for number, line in enumerate(lines))
    return _text("label", 24, y, label) + "".join(told)
