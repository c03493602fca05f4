"""The files of docker/ that no test here can run: they are right as far as they say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry
from psycopg.conninfo import conninfo_to_dict
from typer.main import get_command

from pgembed.cli import app
from pgembed.service.health import HealthServer

DOCKER = Path(__file__).parents[2] / "docker"
# The oldest version that is still maintained when this is written, and a newer one.
VERSIONS = ("1.34", "1.37")


def _yaml(*names: str) -> Any:
    return yaml.safe_load(DOCKER.joinpath(*names).read_text())


def _documents(*names: str) -> list[Any]:
    return list(yaml.safe_load_all(DOCKER.joinpath(*names).read_text()))


def _manifests() -> list[dict[str, Any]]:
    return [
        manifest
        for file in sorted((DOCKER / "kubernetes").rglob("*.yaml"))
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
    "manifest",
    [one for one in _manifests() if one["apiVersion"] != "keda.sh/v1alpha1"],
    ids=lambda one: f"{one['kind']}-{one['metadata']['name']}",
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
    assert set(listed) == there - {"kustomization.yaml", "secrets.example.yaml"}


def test_containers_are_locked_up() -> None:
    assert len(_containers()) == 2
    for container in _containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def _container(name: str) -> dict[str, Any]:
    return next(one for one in _containers() if one["name"] == name)


def _secret(name: str) -> str:
    sources = _container(name)["envFrom"]
    assert len(sources) == 1
    return str(sources[0]["secretRef"]["name"])


def test_the_services_have_a_role_and_a_secret_of_their_own() -> None:
    """Not the migration's, in Kubernetes and in compose."""
    dsns = {
        one["metadata"]["name"]: conninfo_to_dict(one["stringData"]["PGEMBED_DSN"])
        for one in _manifests()
        if one["kind"] == "Secret"
    }
    users = {which: dsns[_secret(which)]["user"] for which in ("install", "encoder")}
    assert users == {"install": "pgembed_owner", "encoder": "pgembed_encoder"}
    services = _yaml("compose.yaml")["services"]
    for which, user in users.items():
        assert services[which]["environment"]["PGUSER"] == user
    passwords = {
        which: {
            name
            for name in re.findall(r"\$\{(\w+)", str(services[which]["environment"]))
            if name.endswith("PASSWORD")
        }
        for which in ("database", "roles", "install", "encoder")
    }
    owner, encoder = "PGEMBED_OWNER_PASSWORD", "PGEMBED_ENCODER_PASSWORD"
    assert passwords == {
        "database": {"POSTGRES_PASSWORD"},
        "roles": {"POSTGRES_PASSWORD", owner, encoder},
        "install": {owner},
        "encoder": {encoder},
    }
    needs = services["install"]["depends_on"]["roles"]["condition"]
    assert needs == "service_completed_successfully"


def test_probes_ask_what_the_service_answers_from_inside() -> None:
    encoder = _container("encoder")
    asked = {}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        *program, path = encoder[kind]["exec"]["command"]
        assert program[-1] == "/usr/local/lib/pgembed/healthcheck.py"
        asked[kind] = path
    assert asked == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    dockerfile = (DOCKER / "encoder" / "Dockerfile").read_text()
    assert program[-1] in dockerfile
    assert "PGEMBED_HEALTH_PORT=8080" in dockerfile
    assert "EXPOSE 8080" in dockerfile


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_health_check_asks_for_a_path(path: str) -> None:
    registry = CollectorRegistry()
    states = {"/healthz": (True, "alive"), "/readyz": (False, "starting")}
    server = HealthServer(
        "127.0.0.1",
        0,
        healthy=lambda: states["/healthz"],
        ready=lambda: states["/readyz"],
        registry=registry,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-E", DOCKER / "encoder" / "healthcheck.py", path],
            env={"PGEMBED_HEALTH_PORT": str(server.port)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.close()
    good, reason = states[path]
    assert (done.returncode == 0, done.stdout.strip()) == (good, reason)


def test_the_health_port_can_be_reached_only_where_that_is_asked_for() -> None:
    dockerfile = (DOCKER / "encoder" / "Dockerfile").read_text()
    assert "PGEMBED_HEALTH_HOST=127.0.0.1" in dockerfile
    encoder = _container("encoder")
    assert "ports" not in encoder
    assert "HEALTH_HOST" not in str(encoder)
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in _manifests()
        if one["kind"] == "NetworkPolicy"
    }
    labels = next(one for one in _manifests() if one["kind"] == "Deployment")["spec"][
        "template"
    ]["metadata"]["labels"]
    for spec in policies.values():
        assert spec["podSelector"]["matchLabels"] == labels
        assert spec["policyTypes"] == ["Ingress"]
    assert policies["pgembed-encoder"]["ingress"] == []
    (rule,) = policies["pgembed-encoder-metrics"]["ingress"]
    assert rule["from"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    # Compose: only where there is a Prometheus, and published nowhere.
    assert "HEALTH_HOST" not in str(_yaml("compose.yaml"))
    for file in ("compose.yaml", "compose.scale.yaml"):
        assert "ports" not in _yaml(file)["services"]["encoder"]
    scaled = _yaml("compose.scale.yaml")["services"]["encoder"]["environment"]
    assert scaled == {"PGEMBED_HEALTH_HOST": "0.0.0.0"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_deployment_is_valid_with_metrics(version: str) -> None:
    """What kustomize makes of it: its patches only add."""
    component = _yaml("kubernetes", "metrics", "kustomization.yaml")
    listed = set(component["resources"])
    there = {file.name for file in (DOCKER / "kubernetes" / "metrics").iterdir()}
    assert listed == there - {"kustomization.yaml"}
    manifest = next(one for one in _manifests() if one["kind"] == "Deployment")
    (patch,) = component["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": "pgembed-encoder"}
    for step in yaml.safe_load(patch["patch"]):
        assert step["op"] == "add"
        *folders, last = step["path"].strip("/").split("/")
        place: Any = manifest
        for folder in folders:
            place = place[int(folder) if isinstance(place, list) else folder]
        if isinstance(place, list):
            assert last == "-"
            place.append(step["value"])
        else:
            assert last not in place
            place[last] = step["value"]
    kubernetes_validate.validate(manifest, version, strict=True)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "PGEMBED_HEALTH_HOST", "value": "0.0.0.0"} in container["env"]
    assert container["ports"] == [{"name": "health", "containerPort": 8080}]


@pytest.mark.parametrize("folder", ["keda", "hpa"])
def test_what_scales_the_services_names_their_deployment(folder: str) -> None:
    component = _yaml("kubernetes", folder, "kustomization.yaml")
    (resource,) = component["resources"]
    scaler, *_ = _documents("kubernetes", folder, resource)
    (patch,) = component["patches"]
    deployment = next(one for one in _manifests() if one["kind"] == "Deployment")
    name = deployment["metadata"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == name
    assert patch["target"] == {"kind": "Deployment", "name": name}
    (step,) = yaml.safe_load(patch["patch"])
    assert step == {"op": "remove", "path": "/spec/replicas"}
    assert "replicas" in deployment["spec"]


def test_the_scaler_of_keda_asks_as_the_services_do() -> None:
    """The query is run by tests/sql/test_load.py."""
    scaler, access = _documents("kubernetes", "keda", "scaledobject.yaml")
    (trigger,) = scaler["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert trigger["authenticationRef"]["name"] == access["metadata"]["name"]
    secrets = _documents("kubernetes", "secrets.example.yaml")
    (reference,) = access["spec"]["secretTargetRef"]
    assert any(
        one["metadata"]["name"] == reference["name"]
        and reference["key"] in one["stringData"]
        for one in secrets
    )


def test_images_are_named_by_digest() -> None:
    (image,) = _yaml("kubernetes", "kustomization.yaml")["images"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image["digest"])
    assert "newTag" not in image
    assert {one["image"] for one in _containers()} == {image["name"]}
    document = (DOCKER.parent / "docs" / "containers.md").read_text()
    assert "image@sha256:" in document


def test_commands_and_their_options_exist() -> None:
    """Of the manifests and of the compose file."""
    compose = _yaml("compose.yaml")
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


def test_image_names_only_packages_that_it_installs() -> None:
    """What trim.py imports by name is required by pgembed, or Python's own."""
    required = subprocess.run(
        [sys.executable, DOCKER / "encoder" / "requirements.py", "encoder,onnx,api"],
        cwd=DOCKER.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    installed = {re.split(r"[\[>=<]", line)[0].replace("-", "_") for line in required}
    trim = runpy.run_path(str(DOCKER / "encoder" / "trim.py"))
    named = {name.partition(".")[0] for name in (*trim["USED"], *trim["EXTRA"])}
    assert named - set(sys.stdlib_module_names) <= installed
