"""Values that stand where a token or a credential belongs, as templates and tutorials leave them.

Unlike a placeholder of a key (key_material.py), such a value is recognised in any case: providers' tokens hold more
than a key's alphabet, and a real one is no sentence.
"""

from __future__ import annotations

import re
from typing import Final

_SEPARATORS: Final = re.compile(r"[\s_.:/-]+")
_WHOLE: Final = re.compile(
    r"[x*#?0.…•_-]+"  # nothing but x or dots
    r"|<.*>|\{+.*\}+|\[.*\]|\$\{?\w+\}?"  # <token>, {{ token }}, [token], ${TOKEN}
    r"|(none|null|nil|undefined|todo|tbd|fixme|secret|token|password|key|api[ _-]?key|unset|not[ _-]?set|changeit)"
    r"|(an?|my|the|some|this|dummy|fake|sample|example|test|invalid)[ _-]?(\w+[ _-])*(api)?[ _-]?(key|token|secret|id)",
    re.IGNORECASE | re.DOTALL,
)
# Seven letters or more each, since a shorter word turns up in a random token now and then.
_INSIDE: Final = re.compile(
    r"your(own|new|real|actual|discord|bot|openai|anthropic|github|google|client|provider|personal|access|api|secret)*"
    r"(key|token|secret|credential|password|value)"
    r"|(api)?(key|token|secret|value|password)(goes)?here|(insert|paste|put|enter|add|fill|type)(in)?your"
    r"|placeholder|change(me|this)|replace(me|this|with)|x{8}|\*{4}|…"
)
_ELLIPSIS: Final = re.compile(r"\.{3}")


def is_placeholder(text: str) -> bool:
    """Whether a token or credential is none but the place for one."""
    plain = text.strip()
    return bool(
        _WHOLE.fullmatch(plain) or _ELLIPSIS.search(plain) or _INSIDE.search(_SEPARATORS.sub("", plain).lower())
    )
