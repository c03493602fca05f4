from __future__ import annotations

import inspect
from pathlib import Path

from pgembed import errors

SQLSTATES = {
    cls.sqlstate: cls for cls in errors.SqlError.__subclasses__() if cls.sqlstate
}


def test_every_sqlstate_that_the_sql_raises_has_a_class() -> None:
    raised = {
        word.strip("',;:.)(")
        for path in (Path(__file__).parents[2] / "sql").rglob("*.sql")
        for word in path.read_text().split()
        if word.strip("',;:.)(").startswith("PE0")
    }
    # PE000 is caught where it is raised: it takes a subtransaction back.
    assert raised - {"PE000"} <= SQLSTATES.keys()
    assert len(raised) > 10


def test_sqlstates_are_the_documented_ones() -> None:
    assert sorted(SQLSTATES) == [f"PE{number:03}" for number in range(1, 21)]


def test_every_error_has_one_root_and_a_docstring() -> None:
    classes = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, BaseException)
    ]
    for cls in classes:
        assert issubclass(cls, errors.PgembedError)
        assert cls.__doc__
        assert cls.__name__ in (errors.__doc__ or ""), "the tree shows every class"


def test_str_shows_detail_and_hint() -> None:
    error = errors.InvalidFilter("bad filter", detail="column x", hint="use y")
    assert str(error) == "bad filter\nDETAIL: column x\nHINT: use y"
    assert str(errors.InvalidFilter("bad filter")) == "bad filter"


def test_missing_extra_says_what_to_install() -> None:
    assert "pip install 'pgembed-kit[encoder]'" in str(errors.MissingExtra("encoder"))
