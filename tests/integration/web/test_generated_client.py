"""A client that a public generator makes from the OpenAPI document: whole, and it works."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.installs import Place
from tests.support.processes import PROJECT
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import open_site

_BIN: Final = PROJECT / ".venv" / "generator" / "bin"
_USES_THE_CLIENT: Final = """
import sys
from keyhall_client import AuthenticatedClient, Client
from keyhall_client.api.credentials import get_credentials, post_credentials
from keyhall_client.api.signing_in import post_auth_login
from keyhall_client.models import Credential, CredentialPage, Login, NewCredential, Problem, Tokens

address, username, password, secret = sys.stdin.read().split("\\n")
tokens = post_auth_login.sync(client=Client(base_url=address), body=Login(username=username, password=password))
assert isinstance(tokens, Tokens), tokens
client = AuthenticatedClient(base_url=address, token=tokens.access_token)
new = NewCredential(provider="openai", label="generated", secret=secret)
made = post_credentials.sync(client=client, body=new)
assert isinstance(made, Credential), made
again = post_credentials.sync(client=client, body=new)
assert isinstance(again, Problem) and again.code == "already_exists", again
page = get_credentials.sync(client=client, limit=10)
assert isinstance(page, CredentialPage), page
print([each.label for each in page.items])
"""


async def _run(*command: str, cwd: Path, stdin: str = "") -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, "PATH": os.pathsep.join((str(_BIN), os.environ.get("PATH", os.defpath)))},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(stdin.encode())
    return process.returncode, output.decode()


async def test_a_client_is_generated_whole_and_works(sqlite_url: str, tmp_path: Path) -> None:
    if not (_BIN / "openapi-python-client").exists():
        pytest.skip("the generator of clients is not installed: run make setup")
    async with open_site(Place(sqlite_url, tmp_path / "data")) as site:
        document = (await site.request("GET", "/api/openapi.json")).json
        (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
        code, said = await _run(
            *("openapi-python-client", "generate", "--path", "openapi.json", "--fail-on-warning"), cwd=tmp_path
        )
        assert (code, "WARNING" in said) == (0, False), said
        package = tmp_path / "keyhall-client" / "keyhall_client"
        operations = {
            operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
        }
        assert {each.stem for each in package.glob("api/*/*.py")} - {"__init__"} == operations
        models = set(re.findall(r'"(\w+)",', (package / "models" / "__init__.py").read_text(encoding="utf-8")))
        assert set(document["components"]["schemas"]) <= models
        code, said = await _run(
            *("python", "-c", _USES_THE_CLIENT),
            cwd=tmp_path / "keyhall-client",
            stdin=f"{site.url}\n{OWNER}\n{PASSWORD}\n{SECRET}",
        )
        assert (code, said) == (0, "['generated']\n")
