"""AWS Secrets Manager for tests: a moto server over HTTP, behind a proxy that denies, delays and breaks answers."""

from __future__ import annotations

import functools
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import boto3
import botocore.loaders
import botocore.session
from moto.server import ThreadedMotoServer

REGION: Final = "eu-central-1"
NAME: Final = "keyhall/test"
Answer = tuple[int, dict[str, str], bytes]


def refusal(code: str, status: int = 400) -> Callable[[bytes], Answer]:
    """An answer of the proxy: AWS's error of that code."""
    body = json.dumps({"__type": code, "message": "as a test wants it"}).encode()
    return lambda _: (status, {"Content-Type": "application/x-amz-json-1.1"}, body)


class Aws:
    """One secret in AWS. ``fault`` answers in AWS's place while it is set; ``requests`` counts what came."""

    def __init__(self, moto: tuple[str, int]) -> None:
        self.fault: Callable[[bytes], Answer] | None = None
        self.released = threading.Event()
        self.requests = 0
        self._moto = moto
        self.client = boto3.session.Session().client(
            "secretsmanager",
            region_name=REGION,
            endpoint_url=f"http://{moto[0]}:{moto[1]}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """AWS's own variables, for whoever reads the secret."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{self.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def settings(self) -> dict[str, str]:
        """Keyhall's settings that name the secret."""
        return {"SECRETS_BACKEND": "aws", "AWS_REGION": REGION, "AWS_SECRET_NAME": NAME}

    def create(self, values: Mapping[str, Any] | str) -> str:
        """Create the secret; the id of its version."""
        text = values if isinstance(values, str) else json.dumps(dict(values))
        found: str = self.client.create_secret(Name=NAME, SecretString=text)["VersionId"]
        return found

    def put(self, values: Mapping[str, Any] | str) -> str:
        """Put a new AWSCURRENT; its id."""
        text = values if isinstance(values, str) else json.dumps(dict(values))
        found: str = self.client.put_secret_value(SecretId=NAME, SecretString=text)["VersionId"]
        return found

    def move_back(self) -> None:
        """Make AWSPREVIOUS the current version again, as an operator rolls back."""
        stages = {
            stage: self.client.get_secret_value(SecretId=NAME, VersionStage=stage)["VersionId"]
            for stage in ("AWSCURRENT", "AWSPREVIOUS")
        }
        self.client.update_secret_version_stage(
            SecretId=NAME,
            VersionStage="AWSCURRENT",
            RemoveFromVersionId=stages["AWSCURRENT"],
            MoveToVersionId=stages["AWSPREVIOUS"],
        )

    def hang(self, _: bytes) -> Answer:
        """An answer that comes when the test is over."""
        self.released.wait(60)
        return 500, {}, b""

    def forward(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """What moto says."""
        self.requests += 1
        if self.fault is not None:
            return self.fault(body)
        moto = http.client.HTTPConnection(*self._moto)
        try:
            moto.request("POST", "/", body, dict(headers))
            answer = moto.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            moto.close()


# Every session reads the description of the service anew, which takes most of the time of a test.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)


@contextmanager
def running_moto() -> Iterator[tuple[str, int]]:
    """A moto server on loopback; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield host, port
    finally:
        server.stop()


@contextmanager
def running_aws(moto: tuple[str, int]) -> Iterator[Aws]:
    """An empty AWS behind a proxy."""
    reset = http.client.HTTPConnection(*moto)
    reset.request("POST", "/moto-api/reset")
    reset.getresponse().read()
    reset.close()
    aws = Aws(moto)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Pass on, or break."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, answer = aws.forward(dict(self.headers.items()), body)
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "transfer-encoding", "date", "server"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class names it
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    aws.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield aws
    finally:
        aws.released.set()
        server.shutdown()
        server.server_close()
