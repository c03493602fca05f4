"""What can go wrong between the service and PostgreSQL, by what to do about it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Self

import psycopg

from pgembed.errors import ForeignCodeFailed, PgembedError


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
        foreign: Whether code of a table's owner raised it, and chose the SQLSTATE.
    """

    def __init__(self, message: str, code: str, *, foreign: bool = False) -> None:
        super().__init__(f"{message} (SQLSTATE {code})" if code else message)
        self.code = code
        self.foreign = foreign

    @classmethod
    def of(cls, error: psycopg.Error) -> Self:
        """Keep what the service needs of a driver error."""
        foreign = error.sqlstate == ForeignCodeFailed.sqlstate
        code = error.diag.datatype_name if foreign else error.sqlstate
        message = error.diag.message_primary or str(error)
        return cls(message, code or "", foreign=foreign)

    @property
    def blame(self) -> Blame:
        """What to do about it. A foreign SQLSTATE says nothing of that."""
        if self.foreign:
            return Blame.ROW
        if self.may_pass:
            return Blame.MOMENT
        # 42 syntax error or access rule violation, 3F000 no such schema.
        return Blame.DECLARATION if self.code.startswith(("42", "3F")) else Blame.ROW

    @property
    def may_pass(self) -> bool:
        """Whether it claims to be of a moment. Believed of our own statements only."""
        return self.code.startswith(_MOMENT)

    @property
    def timed_out(self) -> bool:
        """Whether it was ended before it was done: by its deadline, as a rule."""
        return self.code == "57014"


# 40 serialization, deadlock · 53 resources · 55 object in use, lock timeout ·
# 57 operator intervention, statement timeout · 58 input/output · 25006 hot standby
_MOMENT = ("40", "53", "55", "57", "58", "25006")
