"""What is said of an error: what pgembed says itself, and of others nothing more."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from pgembed.errors import (
    AnalysisError,
    InsufficientPrivilege,
    NoEncoderService,
    PgembedError,
    SqlError,
    UnknownModel,
    from_psycopg,
)
from pgembed.studio.database import Busy

_log = logging.getLogger(__name__)
_TIMED_OUT = "57014"
_CLIENT = 400
_NOT_ALLOWED = 403
_NOT_FOUND = 404
_BROKEN = 500
_NOT_NOW = 503
RETRY_AFTER = 2  # seconds
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    500: "server_error",
    503: "server_error",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as people may see it.

    Attributes:
        status: HTTP's code.
        message: What is wrong.
        hint: What to do.
        code: SQLSTATE, where pgembed has one for it.
    """

    status: int
    message: str
    hint: str | None = None
    code: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """When to come back."""
        return {"Retry-After": str(RETRY_AFTER)} if self.status == _NOT_NOW else {}

    def as_openai(self) -> dict[str, Any]:
        """Write it as OpenAI's API does, whose clients read this."""
        message = (
            self.message
            if self.hint is None
            else f"{self.message.rstrip('.')}. {self.hint}"
        )
        error = {
            "message": message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": None,
            "code": self.code,
        }
        return {"error": error}


def problem_of(exc: Exception) -> Problem:
    """Say what may be said of an error; what is nobody's business goes to the log."""
    known = from_psycopg(exc) if isinstance(exc, psycopg.Error) else exc
    if isinstance(known, Busy):
        return Problem(
            _NOT_NOW,
            "there was no connection to the database in time",
            "All are in use, or it cannot be reached: try again in a moment. "
            "`pgembed studio --connections` sets how many there are.",
        )
    if isinstance(known, PgembedError):
        return Problem(_status(known), known.message, known.hint, known.sqlstate)
    if isinstance(known, psycopg.Error) and known.sqlstate == _TIMED_OUT:
        return Problem(
            _NOT_NOW,
            "the database took too long, and was stopped",
            "Ask for fewer rows, or narrow the filter.",
        )
    _log.error("a request failed", exc_info=exc)
    if isinstance(known, psycopg.OperationalError):
        return Problem(_NOT_NOW, "the database cannot be reached")
    return Problem(_BROKEN, "the request failed", "The studio's log says why.")


def _status(exc: PgembedError) -> int:
    if isinstance(exc, NoEncoderService):
        return _NOT_NOW
    if isinstance(exc, InsufficientPrivilege):
        return _NOT_ALLOWED
    if isinstance(exc, UnknownModel):
        return _NOT_FOUND
    return _CLIENT if isinstance(exc, SqlError | AnalysisError) else _BROKEN
