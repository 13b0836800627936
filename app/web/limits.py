"""The domain's limits as the OpenAPI document states them. The domain judges; nothing here refuses anything.

A ``format`` beside a limit names a rule that JSON Schema cannot express, such as "no label looks like a key".
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from app.domain.api_tokens import NAME_LONGEST
from app.domain.credentials import LABEL_LONGEST, PROVIDER_LONGEST, PROVIDER_PATTERN, SECRET_LONGEST
from app.domain.identity import (
    PASSWORD_LONGEST,
    PASSWORD_SHORTEST,
    REASON_LONGEST,
    SNOWFLAKE_PATTERN,
    USERNAME_LONGEST,
    USERNAME_SHORTEST,
)
from app.domain.keys import LONGEST_SCHEDULE, SHORTEST_SCHEDULE
from app.domain.links import INVITATION_LONGEST, INVITATION_SHORTEST
from app.domain.passkeys import PASSKEY_NAME_LONGEST
from app.domain.scopes import SCOPE_PATTERN
from app.services.audit_trail import ABOUT_PATTERN, ACTION_PATTERN


def _text(shortest: int, longest: int, **more: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": shortest, "maxLength": longest, **more})


def _number(smallest: int, largest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": smallest, "maximum": largest})


def whole(pattern: str) -> str:
    """A pattern for the whole of a text, as JSON Schema writes it."""
    return f"^(?:{pattern})$"


Provider = Annotated[str, _text(1, PROVIDER_LONGEST, pattern=whole(PROVIDER_PATTERN), format="provider")]
Label = Annotated[str, _text(1, LABEL_LONGEST, format="label")]
Secret = Annotated[str, _text(1, SECRET_LONGEST, format="secret")]
TokenName = Annotated[str, _text(1, NAME_LONGEST, format="label")]
ScopeName = Annotated[str, WithJsonSchema({"type": "string", "pattern": whole(SCOPE_PATTERN)})]
GuildId = Annotated[str, _text(1, 20, pattern=whole(SNOWFLAKE_PATTERN), format="snowflake")]
NewUsername = Annotated[str, _text(USERNAME_SHORTEST, USERNAME_LONGEST, format="username")]
NewPassword = Annotated[str, _text(PASSWORD_SHORTEST, PASSWORD_LONGEST, format="new-password")]
Username = Annotated[str, _text(1, USERNAME_LONGEST, format="typed-text")]
Password = Annotated[str, _text(1, PASSWORD_LONGEST, format="typed-text")]
Token = Annotated[str, _text(1, 256, format="typed-text")]
PasskeyName = Annotated[str, _text(1, PASSKEY_NAME_LONGEST, format="label")]
Cursor = Annotated[str, _text(1, 100, pattern=whole("[A-Za-z0-9_-]+"), format="cursor")]
Reason = Annotated[str, _text(1, REASON_LONGEST, format="label")]
Action = Annotated[str, _text(1, 81, pattern=whole(ACTION_PATTERN))]
About = Annotated[str, _text(3, 241, pattern=whole(ABOUT_PATTERN))]
InvitationSeconds = Annotated[
    int, _number(int(INVITATION_SHORTEST.total_seconds()), int(INVITATION_LONGEST.total_seconds()))
]
ScheduleDays = Annotated[int, _number(SHORTEST_SCHEDULE, LONGEST_SCHEDULE)]
Version = Annotated[int, _number(1, 2**53)]

IF_MATCH: Final[dict[str, Any]] = {"type": "string", "pattern": r'^(?:\*|(?:W/)?"(?:0|[1-9][0-9]{0,17})")$'}
