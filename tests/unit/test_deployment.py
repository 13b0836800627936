"""The deployment files: valid for the programs that read them, hardened, without a secret, and of one mind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from tests.support.deployment import (
    COMPOSE,
    COMPOSE_POSTGRES,
    DOCKERFILE,
    KUBERNETES,
    UNIT,
    compose_service,
    documents,
    image_environment,
    instruction,
    instructions,
    manifests,
    pods,
    unit_process,
    unit_values,
)
from tests.support.processes import PROJECT
from tests.support.tools import require_tool

BIN = Path(sys.executable).parent
KUBERNETES_VERSION = "1.34"


def _objects() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.parent.name}/{path.name}:{document['kind']}")
        for path in manifests()
        for document in documents(path)
    ]


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)


# ---------------------------------------------------------------------------------------------------------------------
# Valid
# ---------------------------------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    linted = _run(BIN / "hadolint", DOCKERFILE)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.compose-spec", COMPOSE),
        ("vendor.compose-spec", COMPOSE_POSTGRES),
        ("vendor.github-workflows", PROJECT / ".github" / "workflows" / "ci.yml"),
    ],
    ids=["compose.yaml", "compose.postgres.yaml", "ci.yml"],
)
def test_it_matches_the_published_schema(schema: str, file: Path) -> None:
    checked = _run(BIN / "check-jsonschema", "--builtin-schema", schema, file)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("document", _objects())
def test_kubernetes_knows_every_field_of_the_object(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("overlay", ["sqlite", "postgres"])
def test_a_kustomization_names_files_that_exist_and_leaves_none_out(overlay: str) -> None:
    named: set[Path] = set()
    directories = [KUBERNETES / overlay]
    while directories:
        directory = directories.pop()
        (kustomization,) = documents(directory / "kustomization.yaml")
        for resource in kustomization["resources"]:
            path = (directory / resource).resolve()
            assert path.exists(), path
            if path.is_dir():
                directories.append(path)
            else:
                named.add(path)
    there = {path for part in (overlay, "base") for path in (KUBERNETES / part).glob("*.yaml")}
    assert named == {path for path in there if path.name != "kustomization.yaml"}


def test_systemd_accepts_the_unit_and_rates_it_well_hardened(tmp_path: Path) -> None:
    analyze = require_tool("systemd-analyze")
    unit = tmp_path / "keyhall@.service"
    # The program is looked for, so it must be where this project is.
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/keyhall/.venv/bin", str(BIN)), encoding="utf-8")
    verified = _run(analyze, "verify", "--man=no", unit)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    rated = _run(analyze, "security", "--offline=true", "--threshold=15", unit)
    assert rated.returncode == 0, rated.stdout[-200:]


# ---------------------------------------------------------------------------------------------------------------------
# Hardened
# ---------------------------------------------------------------------------------------------------------------------


def test_the_image_installs_what_is_locked_and_runs_as_a_user_without_rights() -> None:
    names = [name for name, _ in instructions()]
    assert names.count("FROM") == 2
    (base,) = {rest.partition(" AS ")[0] for name, rest in instructions() if name == "FROM"}
    assert base == "python:${PYTHON_TAG}${PYTHON_DIGEST:+@}${PYTHON_DIGEST}"
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "--require-hashes --no-deps --requirement requirements/${REQUIREMENTS}.txt" in installs[0]
    assert all("--no-deps" in each for each in installs)
    last_stage = names[len(names) - names[::-1].index("FROM") :]
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(last_stage)
    assert instruction("USER") == "10001:10001"


def test_nothing_but_the_software_gets_into_the_image() -> None:
    """An allowlist: a `.env`, a database or a key that lies in the project is not in it."""
    lines = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    included = {line[1:] for line in lines if line.startswith("!")}
    assert all((PROJECT / each).exists() for each in included)
    assert included >= {"app", "alembic", "alembic.ini", "entrypoints", "requirements/run.txt", "pyproject.toml"}
    assert not any("env" in each.split("/")[0] and each != "alembic" for each in included)


@pytest.mark.parametrize("file", [COMPOSE, COMPOSE_POSTGRES], ids=lambda path: path.name)
def test_every_container_of_compose_is_read_only_and_without_capabilities(file: Path) -> None:
    (document,) = documents(file)
    for name, service in document["services"].items():
        if file == COMPOSE_POSTGRES and name == "keyhall":
            continue  # compose.yaml has the rest of it
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert all("file" in secret for secret in document["secrets"].values())


@pytest.mark.parametrize("document", [each for each in _objects() if "template" in each.values[0].get("spec", {})])
def test_every_pod_meets_the_restricted_standard(document: dict[str, Any]) -> None:
    pod = document["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted == {"data": "/var/lib/keyhall", "secrets": "/run/secrets/keyhall", "tmp": "/tmp"}  # noqa: S108 - a tmpfs
    assert document["metadata"]["labels"] == document["spec"]["selector"]["matchLabels"]


def test_only_the_web_is_probed_and_served() -> None:
    for path in manifests():
        for document in documents(path):
            if "template" not in document.get("spec", {}):
                continue
            (container,) = document["spec"]["template"]["spec"]["containers"]
            serves = container["args"][0] in {"run", "web"}
            assert serves == ("ports" in container) == ("livenessProbe" in container)
            component = document["metadata"]["labels"]["app.kubernetes.io/component"]
            assert serves == (component == "web"), "the service selects this component"
            if serves:
                assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
                assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


# ---------------------------------------------------------------------------------------------------------------------
# Alike, and without a secret
# ---------------------------------------------------------------------------------------------------------------------


def _deployed() -> list[Any]:
    every = [
        compose_service(COMPOSE, public_host="keyhall.example.org"),
        compose_service(COMPOSE, COMPOSE_POSTGRES, public_host="keyhall.example.org"),
        *pods(),
        *map(unit_process, ("run", "web", "bot", "worker")),
    ]
    return [pytest.param(each, id=each.name) for each in every]


@pytest.mark.parametrize("deployed", _deployed())
def test_settings_are_known_and_secrets_are_files(deployed: Any) -> None:
    known = set(Settings.names())
    others = {"PYTHONDONTWRITEBYTECODE"}
    for name, value in deployed.environment.items():
        assert name in known | others or name.removesuffix("_FILE") in known, name
        if name.endswith("_FILE"):
            assert Path(value).parent == Path(deployed.secrets_directory), name
    given = set(deployed.environment)
    assert {"MASTER_KEY_FILE", "DISCORD_BOT_TOKEN_FILE", "DATA_DIR"} <= given
    assert not given & {"MASTER_KEY", "DISCORD_BOT_TOKEN", "DATABASE_URL"}
    assert deployed.environment["DATA_DIR"] == "/var/lib/keyhall"


def test_secrets_of_the_unit_are_credentials_of_systemd() -> None:
    handed_over = {value.partition(":")[0] for value in unit_values("LoadCredential")}
    used = {value.rpartition("/")[2] for value in unit_values("Environment") if "_FILE=" in value}
    assert handed_over == used
    assert all(value.partition(":")[2].startswith("/etc/keyhall/") for value in unit_values("LoadCredential"))


def test_a_halt_that_no_restart_heals_is_not_tried_again() -> None:
    from app.domain import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    (listed,) = unit_values("RestartPreventExitStatus")
    assert {int(code) for code in listed.split()} - {2} == {code for code in codes if code not in {69, 71, 75}}


def test_python_is_one_that_is_supported() -> None:
    tag = next(rest for name, rest in instructions() if name == "ARG" and rest.startswith("PYTHON_TAG="))
    found = re.match(r"PYTHON_TAG=3\.(\d+)-slim-bookworm$", tag)
    assert found
    assert 11 <= int(found[1]) <= 14
    assert image_environment()["WEB_HOST"] == "0.0.0.0"  # noqa: S104 - inside a container


def test_no_file_holds_anything_that_looks_like_a_key() -> None:
    from app.domain.key_shapes import looks_like_key

    files = [DOCKERFILE, COMPOSE, COMPOSE_POSTGRES, UNIT, *KUBERNETES.rglob("*.yaml")]
    for file in files:
        for word in re.findall(r"[^\s\"'=]+", file.read_text(encoding="utf-8")):
            assert not looks_like_key(word), (file, word)
    assert not [doc for path in manifests() for doc in documents(path) if doc["kind"] == "Secret"]
    assert yaml.safe_load(COMPOSE.read_text())["services"]["caddy"]["cap_add"] == ["NET_BIND_SERVICE"]
