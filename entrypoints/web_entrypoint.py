"""The web alone: ``python -m entrypoints.web_entrypoint``."""

from __future__ import annotations

from entrypoints.cli_entrypoint import main

if __name__ == "__main__":
    main(["web"])
