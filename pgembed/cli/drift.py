"""`pgembed drift`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pgembed.cli.analysis import (
    PANEL,
    Seed,
    Source,
    progress_bar,
    say,
    say_left_out,
)
from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.evaluate import Chart
from pgembed.cli.search import Embedding, FilterText
from pgembed.dsn import connect
from pgembed.errors import InvalidFilter, InvalidParameter

if TYPE_CHECKING:
    from pgembed.analysis.drift import Drift

_STYLES = {"appeared": "green", "grew": "green", "went": "red", "shrank": "red"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=PANEL)(drift)


def drift(
    source: Source,
    *,
    dsn: Dsn = "",
    embedding: Embedding = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Rows before --at are compared with those from it on.",
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="VALUE", help="A time, or another value.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Where the first span begins.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Where the second span ends.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Instead: a filter, of the first side."),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="JSON", help="And of the second.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="Instead: another table or embedding is the first side, such as a "
            "copy of before.",
        ),
    ] = None,
    filter: FilterText = None,
    k: Annotated[int, typer.Option("-k", help="Clusters, at most.")] = 10,
    sample: Annotated[
        int, typer.Option(help="Rows of each side that the test of all is of.")
    ] = 1000,
    permutations: Annotated[
        int, typer.Option(help="How many times rows change sides for that test.")
    ] = 999,
    seed: Seed = 0,
    chart: Chart = None,
    as_json: AsJson = False,
) -> None:
    """Compare the rows of two times: do they differ, what appeared, what went.

    Sides are two spans of a column (--column, --at), two filters (--before, --after)
    or two tables (--against). Needs the extra `analysis`.
    """
    from pgembed import analysis
    from pgembed.analysis.charts import save_drift_chart
    from pgembed.evaluation.chart import check_chart_file

    if chart is not None:
        check_chart_file(chart)
    spans = {"column": column, "at": at, "since": since, "until": until}
    filters = _sides(spans, before, after, against)
    options = analysis.DriftOptions(
        k=k, sample=sample, permutations=permutations, seed=seed
    )
    with connect(dsn, autocommit=True) as conn, progress_bar() as progress:
        first, second = (
            analysis.read_vectors(
                conn,
                table,
                embedding=name,
                filter=_both(filter, own),
                progress=progress,
            )
            for table, name, own in (
                (against or source, None if against else embedding, filters[0]),
                (source, embedding, filters[1]),
            )
        )
        found = analysis.find_drift(conn, first, second, options, progress=progress)
    if chart is not None:
        save_drift_chart(found, chart)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _sides(
    spans: dict[str, str | None],
    before: str | None,
    after: str | None,
    against: str | None,
) -> tuple[Any, Any]:
    """Give the filters of both sides; None: all rows."""
    given = [
        any(value is not None for value in spans.values()),
        before is not None or after is not None,
        against is not None,
    ]
    hint = "Give --column and --at, or --before and --after, or --against."
    if sum(given) != 1:
        raise InvalidParameter("two sides are compared, in one way", hint=hint)
    if against is not None:
        return None, None
    if before is not None or after is not None:
        if before is None or after is None:
            raise InvalidParameter("a side is missing", hint=hint)
        return _parsed(before), _parsed(after)
    column, at = spans["column"], spans["at"]
    if column is None or at is None:
        raise InvalidParameter("--column and --at go together", hint=hint)
    first, second = {"$lt": at}, {"$gte": at}
    if spans["since"] is not None:
        first["$gte"] = spans["since"]
    if spans["until"] is not None:
        second["$lt"] = spans["until"]
    return {column: first}, {column: second}


def _both(given: str | None, own: Any) -> str | None:
    if given is not None and own is not None:
        return json.dumps({"$and": [_parsed(given), own]})
    return given if own is None else json.dumps(own)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidFilter(f"{text!r} is not JSON: {exc}") from exc


def _show(found: Drift) -> None:
    table = Table(
        title=Text(
            f"{found.embedding}: {found.before:,} rows before, {found.after:,} after"
        ),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("before", "after", "p"):
        table.add_column(column, justify="right")
    table.add_column("")
    table.add_column("words", ratio=1)
    table.add_column("nearest keys")
    for one in found.clusters:
        keys = ", ".join(json.dumps(key, ensure_ascii=False) for key in one.examples)
        table.add_row(
            f"{one.share_before:.1%}",
            f"{one.share_after:.1%}",
            _probability(one.p),
            Text(one.verdict, _STYLES.get(one.verdict, "dim")),
            Text(", ".join(one.words)),
            Text(keys),
        )
    console.print(table)
    say(
        f"{'Drift' if found.has_drifted else 'No drift that is more than chance'}: "
        f"energy distance {found.distance:.4f} (0 alike, 1 nothing in common), "
        f"p = {_probability(found.p)} by {found.options.permutations} permutations"
    )
    say_left_out(found.left_out)


def _probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
