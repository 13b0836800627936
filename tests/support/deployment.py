"""What the deployment files run: each process with its command and environment, read from the files as they stand."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import PROJECT

DOCKERFILE = PROJECT / "Dockerfile"
COMPOSE = PROJECT / "compose.yaml"
COMPOSE_POSTGRES = PROJECT / "compose.postgres.yaml"
KUBERNETES = PROJECT / "deploy" / "kubernetes"
UNIT = PROJECT / "deploy" / "systemd" / "keyhall@.service"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """One process of a deployment: where its files say that things are, and the command that they run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    secrets_directory: str
    """Where the files of NAME_FILE are mounted."""

    def __str__(self) -> str:
        return self.name


@cache
def instructions() -> Sequence[tuple[str, str]]:
    """The instructions of the Dockerfile, in order, with their arguments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in (line.strip().partition(" ") for line in lines)]


def instruction(wanted: str) -> str:
    """The argument of the last instruction of that name."""
    return [rest for name, rest in instructions() if name == wanted][-1]


def image_environment() -> dict[str, str]:
    """The variables that the image sets, without its PATH."""
    pairs = (pair.partition("=") for pair in shlex.split(instruction("ENV")))
    return {name: value for name, _, value in pairs if name != "PATH"}


def health_check() -> tuple[str, ...]:
    """The command of the image's HEALTHCHECK."""
    command: list[str] = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    return tuple(command)


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The YAML documents of a file."""
    yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def manifests() -> Sequence[Path]:
    """Every file of the Kubernetes manifests that holds objects."""
    return [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name != "kustomization.yaml"]


def compose_service(*files: Path, public_host: str) -> Deployed:
    """Keyhall's service of these compose files, the later ones on top, as `docker compose` merges them."""
    merged: dict[str, str] = {}
    for file in files:
        (document,) = documents(file)
        merged |= document["services"]["keyhall"]["environment"]
    filled = {name: re.sub(r"\$\{PUBLIC_HOST:\?[^}]*\}", public_host, value) for name, value in merged.items()}
    command = (*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD")))
    return Deployed(
        name=files[-1].name,
        command=command,
        environment=image_environment() | filled,
        secrets_directory="/run/secrets",
    )


def pods() -> Iterator[Deployed]:
    """The containers of the Kubernetes manifests."""
    (settings,) = documents(KUBERNETES / "base" / "settings.yaml")
    for path in manifests():
        for document in documents(path):
            template = document.get("spec", {}).get("template")
            if template is None:
                continue
            (container,) = template["spec"]["containers"]
            own = {each["name"]: each["value"] for each in container.get("env", ())}
            yield Deployed(
                name=f"{path.parent.name}/{path.name}",
                command=(*json.loads(instruction("ENTRYPOINT")), *container["args"]),
                environment=image_environment() | settings["data"] | own,
                secrets_directory="/run/secrets/keyhall",
            )


def unit_values(name: str) -> Sequence[str]:
    """The values of one directive of the systemd unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def unit_process(instance: str) -> Deployed:
    """The process of the systemd unit, its specifiers filled in as systemd does."""
    credentials = "/run/credentials/keyhall"
    filled = [value.replace("%d", credentials).replace("%i", instance) for value in unit_values("Environment")]
    (command,) = unit_values("ExecStart")
    pairs = (pair.partition("=") for pair in filled)
    return Deployed(
        name=f"keyhall@{instance}.service",
        command=tuple(shlex.split(command.replace("%i", instance))),
        environment={name: value for name, _, value in pairs},
        secrets_directory=credentials,
    )
