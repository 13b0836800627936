"""Names, passwords and secrets that tests use, public and of no worth."""

from __future__ import annotations

from typing import Final

OWNER: Final = "olga"
PASSWORD: Final = "correct horse battery staple"
NEW_PASSWORD: Final = "eleven lanterns cross a quiet harbour"
SECRET: Final = "sk-proj-4f9aC1xQ7mZr2LtW8vNb3KdYp6Hs0GjE"
OTHER_SECRET: Final = "sk-proj-Hn5sPw1JxU8eQg2Bt7Vf4Mz9"
ABSENT: Final = "00000000-0000-4000-8000-000000000000"
"""A well-formed id that nothing has."""
