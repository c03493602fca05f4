"""What the commands that analyse rows share."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress as Bar

from pgembed.cli.common import console, errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgembed.analysis.vectors import Progress

PANEL = "Analysis"

Source = Annotated[
    str, typer.Argument(metavar="TABLE", help="Table, as in SQL, or an embedding.")
]
Into = Annotated[
    str | None,
    typer.Option(metavar="TABLE", help="Write a row's key and result to a new table."),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Where that table is there, fill it with these."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the same to .csv, .jsonl or .parquet."),
]
Seed = Annotated[int, typer.Option(help="Another may give another result.")]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show what is being done, while it is."""
    with Bar(console=errors, transient=True) as bar:
        task = bar.add_task("", total=1)

        def show(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        yield show


def say(line: str, style: str | None = None) -> None:
    """Print a line as it is."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def say_left_out(left_out: int) -> None:
    """Say how many rows are in no result."""
    if left_out:
        say(f"Note: {left_out:,} rows have no vector yet, and are left out.", "yellow")
