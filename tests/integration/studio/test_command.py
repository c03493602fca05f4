"""`pgembed studio` as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import httpx
import psycopg

from tests.fixtures.cli import invoke


def test_the_address_that_it_prints_opens_it(
    tables: psycopg.Connection[Any], dsn: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pgembed", "studio", "--port", "0"],
        env={**os.environ, "PGEMBED_DSN": dsn, "COLUMNS": "20"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            url = process.stdout.readline().strip()
            found = re.fullmatch(
                r"(http://127\.0\.0\.1:\d+)/login\?token=(\S{43})", url
            )
            assert found is not None, url
            with httpx.Client(base_url=found[1]) as browser:
                assert browser.get("/").status_code == 401
                assert browser.get(url).status_code == 200
                text = browser.get("/", params={"q": "tea"}).text
                assert "a pot of <mark>tea</mark>" in text
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_is_said(dsn: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = invoke(["studio", "--dsn", dsn, "--port", str(port)])
    assert done.exit_code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in done.output


def test_a_database_without_pgembed_is_said(empty_dsn: str) -> None:
    done = invoke(["studio", "--dsn", empty_dsn, "--port", "0"])
    assert done.exit_code == 1
    assert "pgembed install" in done.output
