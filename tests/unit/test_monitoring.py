"""Alerts and dashboard: they ask for what a service exports, and for nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pgembed.service.metrics import Metrics

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = DOCKER / "prometheus" / "alerts.yml"
CASES = Path(__file__).parent / "prometheus" / "alerts_test.yml"


def alerts() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard() -> list[str]:
    board = json.loads((DOCKER / "grafana" / "pgembed.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def exported() -> dict[str, set[str]]:
    """Labels of each metric, by the name that Prometheus stores it under."""
    names: dict[str, set[str]] = {}
    for collector in Metrics().registry._collector_to_names:
        labels = set(collector._labelnames)  # type: ignore[attr-defined]
        for family in collector.collect():
            if family.type == "counter":
                names[f"{family.name}_total"] = labels
            elif family.type == "histogram":
                names[f"{family.name}_bucket"] = labels | {"le"}
                names[f"{family.name}_sum"] = names[f"{family.name}_count"] = labels
            else:
                names[family.name] = labels
    return names


@pytest.mark.parametrize(
    "expressions", [alerts(), dashboard()], ids=["alerts", "board"]
)
def test_every_metric_and_label_that_is_asked_for_is_exported(
    expressions: list[str],
) -> None:
    metrics = exported()
    asked = set()
    for expression in expressions:
        for name, selector in re.findall(r"\b(pgembed_\w+)(\{[^}]*\})?", expression):
            assert name in metrics, expression
            asked.add(name)
            labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selector))
            assert labels <= metrics[name] | {"instance", "job"}, expression
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        labels = {label for group in grouped for label in group.split(", ")}
        assert labels <= set.union(*metrics.values()), expression
    assert len(asked) >= 5


def test_every_metric_is_on_the_board_and_in_the_documentation() -> None:
    board = " ".join(dashboard())
    page = (DOCKER.parent / "docs" / "service.md").read_text()
    families = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in exported()}
    for name in sorted(families):
        assert name in board
        assert f"`{name}" in page


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    names = set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    fires: set[str] = set()
    quiet: set[str] = set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for one in case["alert_rule_test"]:
            (fires if one["exp_alerts"] else quiet).add(one["alertname"])
    assert fires == quiet == names


def test_alerts_fire_for_what_is_wrong_only() -> None:
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("THE ALERTS ARE NOT TESTED: there is no promtool (PROMTOOL=path)")
    done = subprocess.run(
        [promtool, "test", "rules", str(CASES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
