"""What can go wrong between the service and PostgreSQL, by what to do about it."""

from __future__ import annotations

from enum import Enum, auto

import psycopg

from pgembed.errors import PgembedError


class Blame(Enum):
    """Who or what a failed statement is to be blamed on."""

    MOMENT = auto()
    """Locks, load, shutdown: the same statement may well succeed later."""
    DECLARATION = auto()
    """A table, column, function or right is missing: no row can succeed."""
    ROW = auto()
    """Anything else: some row's data."""


class ConnectionLost(PgembedError):
    """The connection to PostgreSQL is gone; what it was doing may be done again."""


class StatementFailed(PgembedError):
    """PostgreSQL refused a statement.

    Attributes:
        code: Its SQLSTATE.
        blame: What to do about it.
    """

    def __init__(self, error: psycopg.Error) -> None:
        """Keep what the service needs of a driver error."""
        message = error.diag.message_primary or str(error)
        super().__init__(f"{message} (SQLSTATE {error.sqlstate})")
        self.code = error.sqlstate or ""
        self.blame = _blame(self.code)


# 40 serialization, deadlock · 53 resources · 55 object in use, lock timeout ·
# 57 operator intervention, statement timeout · 58 input/output · 25006 hot standby
_MOMENT = ("40", "53", "55", "57", "58", "25006")


def _blame(code: str) -> Blame:
    if code.startswith(_MOMENT):
        return Blame.MOMENT
    # 42 syntax error or access rule violation, 3F000 no such schema.
    if code.startswith(("42", "3F")):
        return Blame.DECLARATION
    return Blame.ROW
