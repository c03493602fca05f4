"""What all commands share: the connection option, the console, clean errors."""

from __future__ import annotations

import os
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from typer.core import TyperGroup

from pgembed.dsn import check, redact, redact_typed
from pgembed.errors import PgembedError, from_psycopg


def checked_dsn(value: str | None) -> str | None:
    """Refuse a connection string that cannot be read, without showing any of it."""
    return None if value is None else check(value)


Dsn = Annotated[
    str,
    typer.Option(
        "--dsn",
        envvar="PGEMBED_DSN",
        help="Connection string (postgresql://… or key=value); without it libpq's "
        "own variables count: PGHOST, PGDATABASE, …",
        show_default=False,
        callback=checked_dsn,
    ),
]
SearchDsn = Annotated[
    str | None,
    typer.Option(
        "--search-dsn",
        envvar="PGEMBED_SEARCH_DSN",
        help="Connection string of a standby, where searches run; --dsn is its "
        "primary then.",
        show_default=False,
        callback=checked_dsn,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# A wrong word on the command line; the class has moved between versions of typer.
_UsageError: type[Exception] = typer.BadParameter.__base__ or Exception

console = Console()
"""For results: standard output."""
errors = Console(stderr=True)
"""For messages: standard error."""


class CleanErrors(TyperGroup):
    """Prints what pgembed or the database reports as a message, not a traceback.

    The exit code is 1 then, and 2 for wrong usage. `PGEMBED_DEBUG=1` lets the
    traceback through.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except _UsageError as exc:
            # It quotes what was typed: a connection string where none belongs, too.
            if isinstance(said := getattr(exc, "message", None), str):
                exc.message = redact_typed(said)  # type: ignore[attr-defined]
            raise
        except (PgembedError, psycopg.Error) as exc:
            if os.environ.get("PGEMBED_DEBUG") == "1":
                raise
            known = from_psycopg(exc) if isinstance(exc, psycopg.Error) else exc
            text = redact(str(known).strip(), os.environ.get("PGEMBED_DSN", ""))
            text = text or type(known).__name__
            # Not as markup: a message may hold square brackets of its own.
            errors.print("ERROR:", style="bold red", end=" ", highlight=False)
            errors.print(text, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from exc
