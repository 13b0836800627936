"""structlog, imported without rich.

Where it finds rich, structlog imports it at once, to draw tracebacks with. Those of Keyhall's log are plain text, and
rich would take a twentieth of a start.
"""

from __future__ import annotations

import sys

_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # importing it raises ImportError
try:
    import structlog
finally:
    if _hidden:
        del sys.modules["rich"]

__all__ = ["structlog"]
