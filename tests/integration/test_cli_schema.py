"""`pgembed install | upgrade | uninstall | sql | version` and errors in general."""

from __future__ import annotations

import psycopg
import pytest

from pgembed import __version__, schema
from tests.fixtures.cli import invoke


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGEMBED_DSN", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def test_install_then_uninstall(empty_dsn: str) -> None:
    first = invoke(["install", "--dsn", empty_dsn])
    assert (first.exit_code, first.stdout) == (
        0,
        f"pgembed {__version__} is installed (revision {schema.head_revision()}).\n",
    )
    again = invoke(["install", "--dsn", empty_dsn])
    assert again.exit_code == 0
    assert "nothing to do" in again.stdout
    gone = invoke(["uninstall", "--dsn", empty_dsn])
    assert gone.exit_code == 0
    assert schema.version(empty_dsn) is None


def test_install_upgrade_serves_a_new_an_older_and_a_current_database(
    empty_dsn: str,
) -> None:
    command = ["install", "--upgrade", "--dsn", empty_dsn]
    assert "is installed" in invoke(command).stdout
    assert "nothing to do" in invoke(command).stdout
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("comment on schema pgembed is 'pgembed 0.0.1, functions 0123'")
    refused = invoke(["install", "--dsn", empty_dsn])
    assert (refused.exit_code, "pgembed upgrade" in refused.stderr) == (1, True)
    assert invoke(command).exit_code == 0
    found = schema.version(empty_dsn)
    assert found is not None
    assert found.is_current


def test_dsn_comes_from_the_environment(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGEMBED_DSN", empty_dsn)
    assert invoke(["install"]).exit_code == 0
    assert schema.version(empty_dsn) is not None


def test_libpq_variables_serve_where_nothing_else_is_given(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in psycopg.conninfo.conninfo_to_dict(empty_dsn).items():
        variable = {"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}")
        monkeypatch.setenv(variable, str(value))
    assert invoke(["install"]).exit_code == 0
    assert schema.version(empty_dsn) is not None


def test_an_error_is_a_message_and_exit_code_1(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute('create table "[red]x" (id int primary key, body text)')
        conn.execute("""select pgembed.create_embedding('"[red]x"', 'body')""")
    result = invoke(["uninstall", "--dsn", dsn])
    assert result.exit_code == 1
    assert "ERROR: there are embeddings" in result.stderr
    assert "[red]x_embedding" in result.stderr
    assert "HINT: " in result.stderr
    assert "Traceback" not in result.output


def test_an_unreachable_server_is_a_message() -> None:
    result = invoke(["install", "--dsn", "host=/nonexistent"])
    assert result.exit_code == 1
    assert "ERROR: cannot connect to PostgreSQL" in result.stderr


def test_a_malformed_dsn_is_a_message() -> None:
    result = invoke(["install", "--dsn", "no dsn at all"])
    assert result.exit_code == 1
    assert "ERROR: " in result.stderr
    assert "Traceback" not in result.output


def test_wrong_usage_is_exit_code_2() -> None:
    assert invoke(["install", "--no-such-option"]).exit_code == 2
    assert invoke(["no-such-command"]).exit_code == 2


def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGEMBED_DEBUG", "1")
    result = invoke(["install", "--dsn", "host=/nonexistent"])
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_upgrade_reports_and_repairs(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("drop function pgembed.retry(text)")
    result = invoke(["upgrade", "--dsn", dsn])
    assert result.exit_code == 0
    assert "anew" in result.stdout
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select pgembed.retry()").fetchone() == (0,)


def test_uninstall_force_names_what_it_dropped(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table note (id int primary key, body text)")
        conn.execute("select pgembed.create_embedding('note', 'body')")
    result = invoke(["uninstall", "--force", "--dsn", dsn])
    assert result.exit_code == 0
    assert "Dropped embedding public.note_embedding." in result.stdout


def test_sql_prints_the_script_and_nothing_else() -> None:
    result = invoke(["sql"])
    assert result.exit_code == 0
    assert result.stdout == schema.script()
    assert result.stdout.endswith("COMMIT;\n\n")


def test_version_shows_library_and_database(dsn: str, empty_dsn: str) -> None:
    assert invoke(["version"]).stdout == f"pgembed {__version__}\n"
    assert "revision 0001" in invoke(["version", "--dsn", dsn]).stdout
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("comment on schema pgembed is 'pgembed 0.0.1, functions 00ff'")
    assert "pgembed upgrade" in invoke(["version", "--dsn", dsn]).stdout
    assert "no pgembed" in invoke(["version", "--dsn", empty_dsn]).stdout
