"""`pgembed status`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import Dsn, console
from pgembed.dsn import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.client import EmbeddingStatus

_REFRESH_S = 1.0
_WIDE = 110  # characters that the table needs
_BYTES_A_STEP = 1024


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Running")(status)


def status(
    *,
    dsn: Dsn = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh each second until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how each embedding stands: rows, embedded, pending, failed, pace, index."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        if as_json:
            statuses = [_plain(one) for one in client.status(conn)]
            typer.echo(json.dumps(statuses, indent=2))
        elif watch:
            _watch(conn)
        else:
            console.print(_view(conn))


def _watch(conn: psycopg.Connection[Any]) -> None:
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(_view(conn), refresh=True)
                time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        return


def _service_count(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select count(*) from pgembed.workers where alive").fetchone()
    return int(row[0]) if row else 0


def _view(conn: psycopg.Connection[Any]) -> Group:
    from pgembed import client

    statuses = client.status(conn)
    parts: list[Table | Text] = []
    # Columns that share too little width are unreadable: then one block each.
    if statuses and console.width >= _WIDE:
        parts.append(_table(statuses))
    else:
        parts.extend(_block(one) for one in statuses)
    parts.extend(
        Text(f"{one.name}: {reason}", style="red")
        for one in statuses
        if (reason := one.state_reason or one.index_error)
    )
    parts.extend(
        Text(
            f"{one.name}: {_number(one.unseen)} rows were written while triggers did "
            "not fire: `pgembed repair`",
            style="red",
        )
        for one in statuses
        if one.unseen
    )
    parts.extend(_bm25_alone(conn))
    services = _service_count(conn)
    if not parts:
        parts.append(Text("No embedding is declared: see `pgembed create --help`."))
    summary = f"{services} encoder service{'' if services == 1 else 's'} running"
    if not services:
        summary += ": start one with `pgembed serve`"
    return Group(*parts, Text(summary))


def _block(one: EmbeddingStatus) -> Table:
    """Show an embedding over several lines, for narrow terminals and pipes."""
    wide = _table([one])
    block = Table.grid(padding=(0, 2))
    for column in wide.columns:
        (cell,) = column.cells
        block.add_row(Text(str(column.header), style="bold"), cell)
    block.add_row()
    return block


def _bm25_alone(conn: psycopg.Connection[Any]) -> list[Text]:
    """Show BM25 indexes that belong to no embedding, a line each."""
    # From the catalog, which everyone who searches may read.
    rows = conn.execute(
        "select b.name, b.source::text,"
        " case t.state when 'broken' then t.state else b.state end,"
        " coalesce(t.state_reason, b.state_reason)"
        " from pgembed.bm25 as b join pgembed.captured_text as t using (text_id)"
        " where b.embedding_id is null order by b.name, 2"
    )
    return [
        Text(
            f"BM25 index {name} on {source}: {state}"
            + (f". {reason}" if reason else ""),
            style="red" if state == "broken" else "",
        )
        for name, source, state, reason in rows
    ]


def _table(statuses: Sequence[EmbeddingStatus]) -> Table:
    table = Table()
    table.add_column("embedding", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("rows", "embedded", "pending", "failed", "oldest", "rows/s", "ETA"):
        table.add_column(name, justify="right")
    table.add_column("index")
    table.add_column("BM25")
    table.add_column("size", justify="right")
    for one in statuses:
        table.add_row(
            Text(f"{one.name}\n{one.source}"),
            _state(one),
            _number(one.rows),
            _number(one.embedded),
            _number(one.pending),
            Text(_number(one.failed), style="red" if one.failed else ""),
            _duration(one.oldest_pending),
            "" if one.rows_per_second is None else f"{one.rows_per_second:.0f}",
            _duration(one.eta) if one.pending else "",
            _index(one),
            _bm25(one),
            _size((one.index_bytes or 0) + (one.side_table_bytes or 0)),
        )
    return table


def _state(one: EmbeddingStatus) -> Text:
    style = {"active": "green", "paused": "yellow", "broken": "bold red"}[one.state]
    return Text(one.state, style=style)


def _index(one: EmbeddingStatus) -> Text:
    text: str = one.index_state
    if one.index_percent is not None:
        text += f" {one.index_percent:.0f} %"
    return Text(text, style="red" if one.index_state == "invalid" else "")


def _bm25(one: EmbeddingStatus) -> Text:
    if one.bm25_state is None:
        return Text("none")
    style = {"ready": "", "pending": "yellow", "broken": "red"}[one.bm25_state]
    return Text(one.bm25_state, style=style)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _duration(value: timedelta | None) -> str:
    if value is None:
        return ""
    if value < timedelta(seconds=1):
        return f"{1000 * value.total_seconds():.0f} ms"
    return str(timedelta(seconds=round(value.total_seconds())))


def _size(value: float) -> str:
    for unit in ("B", "kiB", "MiB", "GiB"):
        if value < _BYTES_A_STEP:
            return f"{value:.0f} {unit}"
        value /= _BYTES_A_STEP
    return f"{value:.1f} TiB"


def _plain(one: EmbeddingStatus) -> dict[str, object]:
    """Durations as seconds: what JSON can hold."""
    values = asdict(one)
    for name in ("oldest_pending", "eta"):
        value = values.pop(name)
        values[f"{name}_seconds"] = None if value is None else value.total_seconds()
    return values
