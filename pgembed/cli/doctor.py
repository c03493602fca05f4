"""`pgembed doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from pgembed.cli.common import AsJson, Dsn, console
from pgembed.dsn import connect

if TYPE_CHECKING:
    from pgembed.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Running")(doctor)


def doctor(
    *,
    dsn: Dsn = "",
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong and say what to do. Exit code 1 when there are errors."""
    from pgembed.doctor import examine

    with connect(dsn, autocommit=True) as conn:
        findings = examine(conn)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif findings:
        for finding in findings:
            _show(finding)
    else:
        console.print("Nothing found: triggers, indexes, models, privileges, services.")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    style = "bold red" if finding.severity == "error" else "yellow"
    about = f"{finding.embedding}: " if finding.embedding else ""
    # No table, and lines that the terminal wraps: the advice is there to be copied.
    console.print(
        Text.assemble((finding.severity, style), " ", about, finding.problem),
        soft_wrap=True,
    )
    console.print(Text(f"  {finding.advice}"), soft_wrap=True)
