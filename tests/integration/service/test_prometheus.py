"""A real Prometheus scrapes a real service; the board's queries have data."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from pgembed.service import ServiceSettings
from tests.integration.service.support import FaultyEncoder, running, until, value
from tests.unit.test_monitoring import ALERTS, dashboard

#: Of a service that has nothing to do, and no hosted model.
WITHOUT_DATA = (
    "/ (sum by (embedding) (pgembed_rows_per_second",
    "pgembed_hosted_",
)


def program() -> str | None:
    return os.environ.get("PROMETHEUS") or shutil.which("prometheus")


def get(port: int, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[int]:
    """Scrape a port of this machine each second; gives Prometheus's own port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "pgembed",
                "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            str(program()),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def test_board_and_alerts_work_on_what_a_service_exports(
    dsn: str,
    article: psycopg.Connection[Any],
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    tmp_path: Path,
) -> None:
    if program() is None:
        pytest.skip(
            "NOT TESTED WITH A REAL PROMETHEUS: there is none (PROMETHEUS=path)"
        )
    article.execute("update pgembed.embedding set max_attempts = 2")
    article.execute(
        "insert into article select i, 'text ' || i from generate_series(1, 50) as i;"
        "insert into article values (0, 'poison')"
    )
    with_port = replace(settings, health_port=0)
    async with running(dsn, with_port, {"test": encoder}) as service:
        await until(lambda: service.health)
        assert service.health is not None
        await until(lambda: value(article, "select count(*) from pgembed.failed") == 1)
        await asyncio.to_thread(article.execute, "call pgembed.encode('what', 'test')")
        built = "select index_state = 'valid' from pgembed.status"
        await until(lambda: value(article, built))
        await service._maintenance.measure()
        await service._maintenance.reconcile()
        with prometheus(tmp_path, service.health.port) as port:

            def scraped() -> bool:
                try:
                    found = get(port, "query", query="count_over_time(up[1m]) >= 3")
                except OSError:
                    return False
                return bool(found["result"])

            await until(scraped, seconds=30, pause=0.2)
            for expression in dashboard():
                asked = expression.replace("$embedding", ".*")
                found = get(port, "query", query=asked)["result"]
                assert found or any(one in asked for one in WITHOUT_DATA), asked
            failed = 'max(pgembed_doctor_findings{code="failed"})'
            assert get(port, "query", query=failed)["result"][0]["value"][1] == "1"

            def rules() -> dict[str, tuple[str, str]]:
                (group,) = get(port, "rules")["groups"]
                return {
                    one["name"]: (one["health"], one["state"]) for one in group["rules"]
                }

            await until(
                lambda: {health for health, _ in rules().values()} == {"ok"}, pause=0.2
            )
            await until(lambda: rules()["PgembedRowsFailed"][1] == "pending", pause=0.2)
            assert [
                name for name, (_, state) in rules().items() if state != "inactive"
            ] == ["PgembedRowsFailed"]
