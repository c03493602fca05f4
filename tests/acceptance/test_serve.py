"""`pgembed serve` as a process: signals, crashes, exit codes, the real model."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.serving import ServeProcess

Conn = psycopg.Connection[Any]
MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def serve(dsn: str, tmp_path: Path) -> Iterator[Callable[..., ServeProcess]]:
    services: list[ServeProcess] = []

    def start(*options: str) -> ServeProcess:
        log = tmp_path / f"{len(services)}.log"
        services.append(ServeProcess(dsn, log, *options))
        return services[-1]

    yield start
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def value(conn: Conn, statement: str) -> Any:
    row = conn.execute(statement).fetchone()
    assert row is not None
    return row[0]


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def article(conn: Conn) -> Conn:
    conn.execute("select pgembed.register_model('test', 32, 'hashing')")
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('article', 'body', model => 'test')")
    return conn


EMBEDDED = "select count(distinct id) from article_embedding"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly(
    serve: Callable[..., ServeProcess], article: Conn, number: int
) -> None:
    service = serve()
    service.event("service.started")
    article.execute("insert into article values (1, 'one')")
    wait_until(lambda: value(article, EMBEDDED) == 1)
    started = time.monotonic()
    assert service.stop(number) == 0
    assert time.monotonic() - started < 5
    assert service.events()[-1]["event"] == "service.stopped"
    assert value(article, "select count(*) from pgembed.worker") == 0


def test_killed_service_loses_nothing(
    serve: Callable[..., ServeProcess], article: Conn
) -> None:
    article.execute(
        "insert into article select i, repeat('word' || i || ' ', 400)"
        " from generate_series(1, 2000) i"
    )
    first = serve("--lease", "3", "--batch-size", "100")
    wait_until(lambda: value(article, EMBEDDED) > 0)
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    assert value(article, EMBEDDED) < 2000
    serve("--lease", "3")
    # Nobody announces that leases have run out: the sleep is bounded by them.
    wait_until(lambda: value(article, "select count(*) from pgembed.queue") == 0, 60)
    assert value(article, EMBEDDED) == 2000


def test_once_works_off_the_queue_and_ends(
    serve: Callable[..., ServeProcess], article: Conn
) -> None:
    article.execute("insert into article select i, 'x' from generate_series(1, 100) i")
    service = serve("--once")
    assert service.process.wait(60) == 0, service.log.read_text()
    assert value(article, EMBEDDED) == 100
    assert "100 rows embedded" in service.log.read_text()


def test_once_tells_by_its_exit_code_that_rows_failed(
    serve: Callable[..., ServeProcess], conn: Conn
) -> None:
    conn.execute("select pgembed.register_model('test', 32, 'hashing')")
    conn.execute("create table doc (id int primary key, n int)")
    conn.execute(
        "select pgembed.create_embedding('doc', $$'about ' || (1 / n)::text$$,"
        " model => 'test', max_attempts => 1)"
    )
    conn.execute("insert into doc values (1, 1), (2, 0)")
    service = serve("--once")
    assert service.process.wait(60) == 3, service.log.read_text()
    assert value(conn, "select key from pgembed.failed") == "2"


def test_once_tells_by_its_exit_code_that_a_model_is_missing(
    serve: Callable[..., ServeProcess], conn: Conn
) -> None:
    conn.execute("select pgembed.register_model('hosted', 8, 'litellm')")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('doc', 'body', model => 'hosted')")
    conn.execute("insert into doc values (1, 'x')")
    service = serve("--once")
    assert service.process.wait(60) == 4, service.log.read_text()
    assert "hosted" in service.log.read_text()


def test_missing_schema_is_told_with_the_remedy(
    serve: Callable[..., ServeProcess], conn: Conn
) -> None:
    conn.execute("drop schema pgembed cascade")
    once = serve("--once")
    assert once.process.wait(60) == 1
    assert "pgembed install" in once.log.read_text()
    # To end would only have it started again.
    service = serve()
    assert "pgembed install" in service.event("database.unavailable")["reason"]
    assert service.stop() == 0


def test_probes_answer(serve: Callable[..., ServeProcess], article: Conn) -> None:
    service = serve("--health-port", "0")
    port = service.event("health.listening")["port"]
    service.event("service.started")

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return str(answer.read().decode())

    assert get("/healthz") == "alive\n"
    assert re.search(r"^pgembed_reconnects 0\.0$", get("/metrics"), re.MULTILINE)


@pytest.mark.slow
def test_real_model_embeds_and_answers(
    serve: Callable[..., ServeProcess], conn: Conn
) -> None:
    conn.execute("create table note (id int primary key, body text)")
    conn.execute(
        "insert into note values (1, 'Parse an INI file of settings'),"
        " (2, 'Compress data with gzip'), (3, 'Draw a circle on a canvas')"
    )
    conn.execute("select pgembed.create_embedding('note', 'body')")
    service = serve()
    wait_until(lambda: value(conn, "select count(*) from note_embedding") == 3, 90)
    conn.execute("call pgembed.encode('read the configuration')")
    hits = conn.execute(
        "select (doc).id from pgembed.vector_search(null::note,"
        " 'read the configuration', k => 1)"
    ).fetchall()
    assert hits == [(1,)]
    assert service.stop() == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists them")
def test_a_service_without_torch_goes_on_with_the_models_vectors(
    serve: Callable[..., ServeProcess],
    conn: Conn,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGEMBED_EXPORTS", str(exported.parent))
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('article', 'body')")
    text = "cheap flights to Rome"
    conn.execute("insert into article values (1, %s)", [text])
    assert serve("--once", "--backend", "torch").process.wait(120) == 0
    weights = value(
        conn, f"select fingerprint from pgembed.model where name = '{MODEL}'"
    )

    conn.execute("insert into article values (2, %s)", [f" {text} "])
    service = serve("--backend", "auto")
    ready = service.event("model.ready", 120)
    assert (ready["model"], ready["backend"]) == (MODEL, "onnx")
    wait_until(lambda: value(conn, EMBEDDED) == 2)
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "/torch/" not in maps
    assert service.stop() == 0
    near = (
        "select a.embedding <=> b.embedding"
        " from article_embedding as a, article_embedding as b"
        " where a.id = 1 and b.id = 2"
    )
    assert value(conn, near) < 1e-6

    # Somebody else's file under the same name is refused.
    other = tmp_path / "exports" / exported.name
    shutil.copytree(exported, other)
    (other / "onnx" / "agreement.json").unlink()
    monkeypatch.setenv("PGEMBED_EXPORTS", str(other.parent))
    conn.execute("insert into article values (3, %s)", [text])
    refused = serve("--once", "--backend", "onnx")
    assert refused.process.wait(120) == 4
    assert weights in refused.log.read_text()
    assert value(conn, EMBEDDED) == 2


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_threads_of_torch_that_wait_do_not_spin_unless_told(
    given: str | None, found: str
) -> None:
    environment = {**os.environ, "PGEMBED_DSN": "host=/nowhere"}
    environment.pop("OMP_WAIT_POLICY", None)
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    program = (
        "import os, sys; from pgembed.cli import app\n"
        "try: app(['serve', '--once'])\n"
        "finally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [found, "False"], done.stderr
