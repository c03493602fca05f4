"""`pgembed demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgembed.cli import studio as studio_command
from pgembed.cli.common import checked_dsn, console


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Running")(demo)


def demo(
    *,
    rows: Annotated[
        int, typer.Option(min=100, help="Rows to load, at most about 5,000.")
    ] = 3000,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the server and the service running."),
    ] = False,
    studio: Annotated[
        bool,
        typer.Option(
            "--studio", help="Open the studio over it at the end; keeps it running."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an earlier run left.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop what --keep left running, and end.")
    ] = False,
    # Not $PGEMBED_DSN: a demo must not begin to fill a database that was named for
    # something else.
    dsn: Annotated[
        str | None,
        typer.Option(
            help="Use this database instead of the embedded PostgreSQL.",
            show_default=False,
            callback=checked_dsn,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the embedded server.", show_default=False),
    ] = None,
) -> None:
    """Search Python's own documentation: a complete tour in about a minute.

    Starts an embedded PostgreSQL, loads the docstrings of the standard library,
    declares one embedding, lets the encoder service fill it, searches, and shows
    that the search follows when rows change.
    """
    if stop:
        from pgembed.demo.database import stop_all

        stopped = stop_all(data_dir)
        console.print("Stopped." if stopped else "Nothing was running.")
        return
    from pgembed.demo.demo import DemoOptions, run_demo

    if studio:
        studio_command.check_extra()
    shown = run_demo(
        DemoOptions(
            rows=rows,
            keep=keep or studio,
            fresh=fresh,
            dsn=dsn,
            data_dir=data_dir,
        ),
        console,
    )
    if studio:
        console.print()
        studio_command.studio(dsn=shown, port=0)
