"""The code in the documents, for tests that run it as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def python_of(document: str, heading: str) -> str:
    """The first block of Python under a heading."""
    _, found, rest = (DOCS / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    block = re.search(r"```python\n(.*?)```", rest, re.DOTALL)
    assert found
    assert block
    return block[1]
