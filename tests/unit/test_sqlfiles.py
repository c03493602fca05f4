from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgembed import sqlfiles

SQL = Path(__file__).parents[2] / "sql"


def test_folder_has_every_file_in_order() -> None:
    tables = [file.name for file in sqlfiles.folder("tables")]
    assert tables == sorted(f"tables/{path.name}" for path in SQL.glob("tables/*"))
    functions = [file.name for file in sqlfiles.folder("functions")]
    on_disk = [path.relative_to(SQL).as_posix() for path in SQL.rglob("*.sql")]
    on_disk = [name for name in on_disk if name.startswith("functions/")]
    assert sorted(functions) == sorted(on_disk)
    folders = [name.removeprefix("functions/").rpartition("/")[0] for name in functions]
    order = [sqlfiles.FUNCTION_FOLDERS.index(folder) for folder in folders]
    assert order == sorted(order)
    assert functions[-1] == "functions/status/privileges.sql"


def test_load_gives_the_bytes_as_they_are() -> None:
    file = sqlfiles.load("preflight.sql")
    on_disk = (SQL / "preflight.sql").read_bytes()
    assert file.text.encode() == on_disk
    assert file.sha256 == hashlib.sha256(on_disk).hexdigest()


def test_load_of_a_missing_file_fails() -> None:
    with pytest.raises(FileNotFoundError):
        sqlfiles.load("tables/999_nothing.sql")


def test_queries_are_all_there() -> None:
    names = [
        line
        for line in (SQL / "queries.sql").read_text().splitlines()
        if line.startswith("-- ") and line.endswith(" --")
    ]
    assert len(sqlfiles.queries()) == len(names)


def test_parse_queries_keeps_comments_inside_a_statement() -> None:
    text = """\
-- What the file is for.

-- first --
-- Purpose.
-- Second line of it.
select 1
-- why
from t

-- second_2 --
select 2
"""
    assert sqlfiles.parse_queries(text) == {
        "first": "select 1\n-- why\nfrom t",
        "second_2": "select 2",
    }


def test_parse_queries_refuses_a_name_twice() -> None:
    with pytest.raises(ValueError, match="'a' twice"):
        sqlfiles.parse_queries("-- a --\nselect 1\n-- a --\nselect 2\n")


def test_parse_queries_refuses_an_empty_statement() -> None:
    with pytest.raises(ValueError, match="no statement for a"):
        sqlfiles.parse_queries("-- a --\n-- Only words.\n-- b --\nselect 2\n")


def test_every_encoding_of_a_database_has_what_the_files_say() -> None:
    """A database in LATIN1 or SQL_ASCII can hold no other letters than ASCII's."""
    for path in SQL.rglob("*.sql"):
        text = path.read_text("utf-8")
        assert text.isascii(), [(path.name, c) for c in text if not c.isascii()]
