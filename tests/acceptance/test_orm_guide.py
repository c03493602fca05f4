"""The first steps of docs/sqlalchemy.md, executed line by line; README's too."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.urls import sqlalchemy_url

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "sqlalchemy.md"

pytestmark = pytest.mark.slow


def blocks() -> list[tuple[str, str]]:
    """Give the code of the first section, in order, with its language."""
    text = GUIDE.read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    return re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_it_takes_less_than_thirty_lines() -> None:
    lines = [line for _, code in blocks() for line in code.splitlines() if line]
    assert len(lines) < 30


def test_readme_shows_the_same() -> None:
    readme = (ROOT / "README.md").read_text()
    if "alembic revision --autogenerate" in readme:
        assert [code for _, code in blocks() if code not in readme] == []


def test_the_lines_do_what_they_say(empty_dsn: str, tmp_path: Path) -> None:
    url = sqlalchemy_url(empty_dsn).render_as_string(hide_password=False)
    environment = {**os.environ, "PGEMBED_DSN": empty_dsn}
    services: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shell(line: str) -> None:
        words = shlex.split(line)
        if words[0] == "pip":
            return
        assert words[0] in ("alembic", "pgembed")
        if words[-1] == "&":
            assert words[:2] == ["pgembed", "serve"]
            command = [sys.executable, "-m", "pgembed", "serve"]
            log = (tmp_path / "serve.log").open("wb")
            services.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
            log.close()
            return
        run("-m", *words)
        if words[1] == "init":
            change("alembic.ini", r"^sqlalchemy.url = .*$", f"sqlalchemy.url = {url}")

    def change(name: str, pattern: str, text: str) -> None:
        file = tmp_path / name
        text = text.replace("%", "%%") if name.endswith(".ini") else text
        changed, times = re.subn(
            pattern, lambda _: text, file.read_text(), flags=re.MULTILINE
        )
        assert times == 1
        file.write_text(changed)

    try:
        python = iter(["models.py", "env.py", "search.py"])
        for language, code in blocks():
            if language == "sh":
                for line in code.splitlines():
                    shell(line)
                continue
            name = next(python)
            if name == "env.py":
                change("migrations/env.py", r"^target_metadata = None$", code)
                continue
            code = code.replace("postgresql+psycopg://localhost/shop", url)
            (tmp_path / name).write_text(code)
        assert run("search.py").startswith("Getaways 0.0")
    finally:
        for service in services:
            service.terminate()
            service.wait(20)
