"""Which role may send a request to which route of the OpenAPI document.

A row states an outcome for somebody who is not signed in, and for owner, admin, member and auditor, in this order.
Parts of a path that are ids are ids of nothing.

- ``A`` allowed: the answer is neither 401, 403 nor 404, or its code is in ``passes``
- ``U`` 401, sign in first; a browser is led to the page for that
- ``F`` 403
- ``N`` 404, which is the answer for an id of nothing where the role may look

``body`` is an acceptable JSON body, ``form`` acceptable fields of a page; ``ends_sessions`` says that the visitors have
to sign in again afterwards. A route without a row fails the test, which asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.support.samples import NEW_PASSWORD, OTHER_SECRET, OWNER, PASSWORD, SECRET

EVERYBODY: Final = "AAAAA"
SIGNED_IN: Final = "UAAAA"
ABSENT_TO_ALL: Final = "UNNNN"
OWNERS: Final = "UAFFF"
ADMINS: Final = "UAAFF"
READERS: Final = "UAAFA"
"""Owners, admins and auditors."""


@dataclass(frozen=True)
class Route:
    """One route and who gets through to it."""

    route: str
    outcomes: str
    body: Any = None
    form: Mapping[str, str] | None = None
    passes: Sequence[str] = ()
    ends_sessions: bool = False

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.route.partition(" ")[2]

    @property
    def is_page(self) -> bool:
        """Whether it is opened in a browser, with its cookie."""
        return not self.path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))


_KEY: Final = "/api/v1/admin/keys/{name}"
_KEY_PAGE: Final = "/admin/keys/{name}"
_ONE: Final = "/api/v1/credentials/{credential_id}"
_PAGE: Final = "/credentials/{credential_id}"

ROUTES: Final = (
    # -- what is open to everybody -------------------------------------------------------------------------------------
    Route("GET /healthz", EVERYBODY),
    Route("GET /readyz", EVERYBODY),
    Route("GET /metrics", EVERYBODY),
    Route("GET /api/openapi.json", EVERYBODY),
    Route("GET /api/docs", EVERYBODY),
    Route("GET /static/{digest}/{name}", "NNNNN"),
    Route("POST /api/v1/setup", EVERYBODY, {"setup_token": "x", "username": "new-owner", "password": PASSWORD}),
    Route("POST /api/v1/auth/claim", EVERYBODY, {"token": "x", "password": PASSWORD}, passes=("invalid_token",)),
    Route("POST /api/v1/auth/login", EVERYBODY, {"username": OWNER, "password": PASSWORD}),
    Route("POST /api/v1/auth/logout", EVERYBODY, {"refresh_token": "x"}),
    Route("POST /api/v1/auth/passkeys/login", EVERYBODY, {"credential": {}}, passes=("invalid_credentials",)),
    Route("POST /api/v1/auth/passkeys/login/options", EVERYBODY),
    Route("POST /api/v1/auth/refresh", EVERYBODY, {"refresh_token": "x"}, passes=("invalid_token",)),
    Route("GET /setup", "UUUUU"),  # leads to /login once there is an owner
    Route("POST /setup", EVERYBODY, form={"setup_token": "x", "username": "new-owner", "password": PASSWORD}),
    Route("GET /claim", EVERYBODY),
    Route("POST /claim", EVERYBODY, form={"token": "x", "password": PASSWORD}, passes=("401",)),
    Route("GET /login", EVERYBODY),
    Route("POST /login/passkey", EVERYBODY, form={"credential": "{}"}, passes=("401",)),
    Route("POST /login", EVERYBODY, form={"username": OWNER, "password": PASSWORD}),
    Route("GET /login/code", "UUUUU"),  # leads to /login without a right password before
    Route("POST /login/code", EVERYBODY, form={"otp": "123456"}),
    Route("GET /auth/discord", EVERYBODY, passes=("409",)),  # without an application at Discord
    Route("GET /auth/discord/callback", EVERYBODY),
    Route("GET /auth/discord/failed", EVERYBODY),
    # -- one's own account ---------------------------------------------------------------------------------------------
    Route("GET /api/v1/auth/factors", SIGNED_IN),
    Route("GET /api/v1/auth/me", SIGNED_IN),
    Route("PATCH /api/v1/auth/me", SIGNED_IN, {"language": "en", "time_zone": None}),
    Route("GET /api/v1/auth/passkeys", SIGNED_IN),
    Route("POST /api/v1/auth/passkeys", SIGNED_IN, {"name": "a key", "credential": {}}),
    Route("POST /api/v1/auth/passkeys/options", SIGNED_IN),
    Route("DELETE /api/v1/auth/passkeys/{passkey_id}", ABSENT_TO_ALL),
    Route("POST /api/v1/auth/passkeys/reauthenticate", SIGNED_IN, {"credential": {}}, passes=("invalid_credentials",)),
    Route("POST /api/v1/auth/passkeys/reauthenticate/options", ABSENT_TO_ALL),  # nobody here has one
    Route("POST /api/v1/auth/reauthenticate", SIGNED_IN, {"password": PASSWORD}),
    Route(
        "POST /api/v1/auth/password",
        SIGNED_IN,
        {"password": "not the password", "new_password": NEW_PASSWORD},
        passes=("invalid_credentials",),
    ),
    Route("GET /api/v1/auth/sessions", SIGNED_IN),
    Route("DELETE /api/v1/auth/sessions", SIGNED_IN, ends_sessions=True),
    Route("DELETE /api/v1/auth/sessions/{session_id}", ABSENT_TO_ALL),
    Route("POST /api/v1/auth/tokens", SIGNED_IN, {"name": "ci", "scopes": ["credentials:read"]}),
    Route("GET /api/v1/auth/tokens", SIGNED_IN),
    Route("DELETE /api/v1/auth/tokens/{token_id}", ABSENT_TO_ALL),
    Route("POST /hide-first-run", OWNERS, form={}),
    Route("POST /logout", SIGNED_IN, form={}, ends_sessions=True),
    Route("POST /api/v1/auth/discord/link-code", SIGNED_IN),
    Route("DELETE /api/v1/auth/discord", ABSENT_TO_ALL),
    Route("GET /auth/discord/link", SIGNED_IN, passes=("409",)),
    Route("GET /account/discord", "UFFFF"),
    Route("POST /account/discord", "UFFFF", form={}),
    Route("POST /account/discord/code", SIGNED_IN, form={}),
    Route("POST /account/discord/unlink", ABSENT_TO_ALL, form={}),
    Route("GET /account/confirm", SIGNED_IN),
    Route("POST /account/confirm", SIGNED_IN, form={"password": PASSWORD}, ends_sessions=True),
    Route("GET /account", SIGNED_IN),
    Route("GET /security", SIGNED_IN),
    Route("POST /account/confirm/passkey", SIGNED_IN, form={"credential": "{}"}, passes=("401",)),
    Route("POST /account/passkeys", SIGNED_IN, form={"passkey_name": "a key", "credential": "{}"}),
    Route("POST /account/passkeys/{passkey_id}/remove", ABSENT_TO_ALL, form={}),
    Route("GET /account/factors/new", SIGNED_IN),
    Route("POST /account/factors/new", SIGNED_IN, form={"otp": "123456"}, passes=("401", "404")),
    Route("POST /account/factors/codes", ABSENT_TO_ALL, form={}),
    Route("POST /account/factors/remove", ABSENT_TO_ALL, form={}),
    Route("POST /account/factors/start", SIGNED_IN, form={}),
    Route("POST /api/v1/auth/totp", SIGNED_IN),
    Route(
        "POST /account/password",
        SIGNED_IN,
        form={"password": "not the password", "new_password": NEW_PASSWORD},
        passes=("401",),
    ),
    Route("POST /account/preferences", SIGNED_IN, form={"language": "en"}),
    Route("POST /account/tokens", SIGNED_IN, form={"name": "ci", "credentials_read": "yes"}),
    Route("POST /account/tokens/{token_id}/revoke", ABSENT_TO_ALL, form={}),
    Route("POST /account/sessions/end", SIGNED_IN, form={}, ends_sessions=True),
    Route("POST /account/sessions/{session_id}/end", ABSENT_TO_ALL, form={}),
    Route(
        "POST /api/v1/auth/totp/confirm",
        SIGNED_IN,
        {"otp": "123456"},
        passes=("not_found", "invalid_credentials"),  # for those who have not begun, and those who have
    ),
    Route("POST /api/v1/auth/totp/recovery-codes", ABSENT_TO_ALL),
    Route("DELETE /api/v1/auth/totp", ABSENT_TO_ALL),
    # -- one's own data ------------------------------------------------------------------------------------------------
    Route("GET /api/v1/privacy/export", SIGNED_IN),
    Route("POST /api/v1/privacy/erase", SIGNED_IN, {}, passes=("reauthentication_required",)),
    Route("GET /privacy", SIGNED_IN),
    Route("POST /privacy/export", SIGNED_IN, form={}),
    Route("POST /privacy/erase", SIGNED_IN, form={}, passes=("401",)),
    # -- credentials ---------------------------------------------------------------------------------------------------
    Route("GET /api/v1/credentials", SIGNED_IN),
    Route("POST /api/v1/credentials", "UAAAF", {"provider": "openai", "label": "by route", "secret": SECRET}),
    Route("GET /api/v1/credentials/health", SIGNED_IN),
    Route(f"GET {_ONE}", ABSENT_TO_ALL),
    Route(f"PATCH {_ONE}", ABSENT_TO_ALL, {"label": "x"}),
    Route(f"DELETE {_ONE}", ABSENT_TO_ALL),
    Route(f"PUT {_ONE}/secret", ABSENT_TO_ALL, {"secret": OTHER_SECRET}),
    Route(f"POST {_ONE}/restore", ABSENT_TO_ALL),
    Route(f"POST {_ONE}/reveal", ABSENT_TO_ALL),
    Route(f"POST {_ONE}/rollback", ABSENT_TO_ALL, {}),
    Route(f"GET {_ONE}/versions", ABSENT_TO_ALL),
    Route("GET /", SIGNED_IN),
    Route("GET /credentials", SIGNED_IN),
    Route("GET /credentials/new", SIGNED_IN),
    Route("POST /credentials", "UAAAF", form={"provider": "openai", "label": "by page", "secret": SECRET}),
    Route(f"GET {_PAGE}", ABSENT_TO_ALL),
    Route(f"POST {_PAGE}/change", ABSENT_TO_ALL, form={"label": "x", "version": "1"}),
    Route(f"POST {_PAGE}/purge", ABSENT_TO_ALL, form={"version": "1"}),
    Route(f"POST {_PAGE}/remove", ABSENT_TO_ALL, form={"version": "1"}),
    Route(f"POST {_PAGE}/replace", ABSENT_TO_ALL, form={"secret": OTHER_SECRET, "version": "1"}),
    Route(f"POST {_PAGE}/rollback", ABSENT_TO_ALL, form={"former": "1", "version": "2"}),
    Route(f"POST {_PAGE}/restore", ABSENT_TO_ALL, form={}),
    Route(f"POST {_PAGE}/reveal", ABSENT_TO_ALL, form={}),
    # -- administration ------------------------------------------------------------------------------------------------
    Route("GET /api/v1/admin/audit", READERS),
    Route("GET /api/v1/admin/backups", READERS),
    Route("POST /api/v1/admin/backups", ADMINS),
    Route("POST /api/v1/admin/cache/clear", ADMINS),
    Route("GET /api/v1/admin/jobs", READERS),
    Route("GET /api/v1/admin/jobs/{job_id}", "UNNFN"),
    Route("GET /api/v1/admin/invitations", ADMINS),
    Route("POST /api/v1/admin/invitations", ADMINS, {"role": "member"}),
    Route("DELETE /api/v1/admin/invitations/{invitation_id}", "UNNFF"),
    Route("GET /api/v1/admin/users", ADMINS),
    Route("POST /api/v1/admin/users", ADMINS, {"username": "by-route", "role": "member"}),
    Route("GET /api/v1/admin/users/{user_id}", "UNNFF"),
    Route("PATCH /api/v1/admin/users/{user_id}", "UNNFF", {"role": "auditor"}),
    Route("POST /api/v1/admin/users/{user_id}/reset", "UNNFF"),
    Route("GET /admin/users", ADMINS),
    Route("GET /admin/users/new", ADMINS),
    Route("POST /admin/users/new", ADMINS, form={"username": "by-page", "role": "member"}, passes=("409",)),
    Route("POST /admin/users/invitations", ADMINS, form={"invited_role": "member"}),
    Route("POST /admin/users/invitations/{invitation_id}/withdraw", "UNNFF", form={}),
    Route("GET /admin/users/{user_id}", "UNNFF"),
    Route("POST /admin/users/{user_id}/role", "UNNFF", form={"role": "auditor"}),
    Route("POST /admin/users/{user_id}/disable", "UNNFF", form={}),
    Route("POST /admin/users/{user_id}/enable", "UNNFF", form={}),
    Route("POST /admin/users/{user_id}/unlock", "UNNFF", form={}),
    Route("POST /admin/users/{user_id}/reset", "UNNFF", form={}),
    Route("GET /guilds/{guild_id}", "UAANA"),
    Route("POST /guilds/{guild_id}/credentials/{credential_id}/remove", ABSENT_TO_ALL, form={"version": "1"}),
    Route("GET /admin/backups", READERS),
    Route("POST /admin/backups", ADMINS, form={}, passes=("409",)),
    Route("POST /admin/backups/rehearse", "UNNFF", form={}),
    Route("GET /admin/health", READERS),
    Route("GET /api/v1/admin/health", READERS),
    Route("GET /admin/audit", READERS),
    Route("GET /admin/audit/export", READERS),
    Route("POST /admin/audit/verify", READERS, form={}),
    Route("GET /api/v1/admin/keys", READERS),
    Route(f"POST {_KEY}/rotate", OWNERS, {}),
    Route(f"POST {_KEY}/cancel", OWNERS, {}),
    Route(f"POST {_KEY}/rollback", OWNERS, {}),
    Route(f"PUT {_KEY}/schedule", OWNERS, {"rotation_days": 30, "automatic": False}),
    Route(f"POST {_KEY}/versions/{{version}}/retire", OWNERS, {}),
    Route(f"POST {_KEY}/versions/{{version}}/revoke", OWNERS, {}),
    Route("GET /admin/credentials", READERS),
    Route("GET /admin/keys", READERS),
    Route("GET /admin/keys/jobs/{job_id}", "UNNFN"),
    Route("GET /admin/keys/jobs/{job_id}/events", "UNNFN"),
    Route(f"GET {_KEY_PAGE}", READERS),
    Route(f"POST {_KEY_PAGE}/announce", OWNERS, form={"at": "2026-01-01"}),
    Route(f"POST {_KEY_PAGE}/cancel", OWNERS, form={}),
    Route(f"POST {_KEY_PAGE}/schedule", OWNERS, form={"days": "90"}),
    Route(f"GET {_KEY_PAGE}/rotate", OWNERS),
    Route(f"POST {_KEY_PAGE}/rotate", OWNERS, form={"primary": "1"}),
    Route(f"GET {_KEY_PAGE}/rollback", OWNERS),
    Route(f"POST {_KEY_PAGE}/rollback", OWNERS, form={"primary": "2", "former": "1"}),
    Route(f"GET {_KEY_PAGE}/versions/{{version}}/revoke", OWNERS),
    Route(f"POST {_KEY_PAGE}/versions/{{version}}/revoke", OWNERS, form={"confirmation": "AES_KEY"}),
    Route(f"GET {_KEY_PAGE}/versions/{{version}}/retire", OWNERS),
    Route(f"POST {_KEY_PAGE}/versions/{{version}}/retire", OWNERS, form={}),
)
"""One row each."""

OBJECTS: Final[Mapping[str, str]] = {
    "credential_id": "credential",
    "passkey_id": "passkey",
    "session_id": "session",
    "invitation_id": "",
    "token_id": "token",
    "job_id": "",
    "user_id": "",
    "guild_id": "",
    "name": "",
    "version": "",
    "digest": "",
}
"""For each part of a path, the kind of object of another user that it may name; "" where it names nobody's."""
