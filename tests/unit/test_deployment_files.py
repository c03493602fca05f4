"""The files of docker/ that no test here can run: they are right as far as they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from pgembed.cli import app

DOCKER = Path(__file__).parents[2] / "docker"
# The oldest version that is still maintained when this is written, and a newer one.
VERSIONS = ("1.34", "1.37")


def _manifests() -> list[dict[str, Any]]:
    return [
        manifest
        for file in sorted((DOCKER / "kubernetes").glob("*.yaml"))
        if file.name != "kustomization.yaml"
        for manifest in yaml.safe_load_all(file.read_text())
    ]


def _containers() -> list[dict[str, Any]]:
    return [
        container
        for manifest in _manifests()
        if "template" in manifest.get("spec", {})
        for container in manifest["spec"]["template"]["spec"]["containers"]
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "manifest", _manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_validation_finds_a_misspelt_field() -> None:
    manifest = next(one for one in _manifests() if one["kind"] == "Deployment")
    manifest["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


def test_kustomization_names_the_files_that_are_there() -> None:
    folder = DOCKER / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    there = {file.name for file in folder.glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml", "secret.example.yaml"}


def test_containers_are_locked_up() -> None:
    assert len(_containers()) == 2
    for container in _containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_probes_ask_what_the_service_answers() -> None:
    encoder = next(one for one in _containers() if one["name"] == "encoder")
    ports = {port["name"]: port["containerPort"] for port in encoder["ports"]}
    paths = {
        kind: (probe["httpGet"]["path"], ports[probe["httpGet"]["port"]])
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        for probe in [encoder[kind]]
    }
    assert paths == {
        "startupProbe": ("/healthz", 8080),
        "livenessProbe": ("/healthz", 8080),
        "readinessProbe": ("/readyz", 8080),
    }
    dockerfile = (DOCKER / "encoder" / "Dockerfile").read_text()
    assert "PGEMBED_HEALTH_PORT=8080" in dockerfile
    assert "EXPOSE 8080" in dockerfile


def test_commands_and_their_options_exist() -> None:
    """Of the manifests and of the compose file."""
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    lines = [container["args"] for container in _containers()]
    lines.append(compose["services"]["install"]["command"])
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, *options in lines:
        known = {option for one in commands[command].params for option in one.opts}
        assert set(options) <= known


def test_variables_of_the_image_are_options_of_the_service() -> None:
    dockerfile = (DOCKER / "encoder" / "Dockerfile").read_text()
    named = set(re.findall(r"\b(PGEMBED_[A-Z_]+)=", dockerfile))
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    assert named
    assert named <= {one.envvar for one in serve.params}


def test_alerts_ask_for_metrics_that_exist() -> None:
    from pgembed.service.metrics import Metrics

    rules = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    asked = {
        name
        for group in rules["groups"]
        for rule in group["rules"]
        for name in re.findall(r"\bpgembed_\w+", rule["expr"])
    }
    exported = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for family in Metrics().registry.collect()
    }
    assert asked
    assert asked <= exported
