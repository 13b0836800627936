"""The bot alone: ``python -m entrypoints.bot_entrypoint``."""

from __future__ import annotations

from entrypoints.cli_entrypoint import main

if __name__ == "__main__":
    main(["bot"])
