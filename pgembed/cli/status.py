"""`pgembed status`."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from pgembed.cli.common import AsJson, Dsn, console
from pgembed.dsn import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pgembed.client import EmbeddingStatus

_REFRESH_S = 1.0
_SHARE = 5  # to look takes at most this part of the server's time
_BYTES_A_STEP = 1024
_MINUTE_S = 60
_COLORS = {"active": "green", "paused": "yellow", "broken": "bold red"}


_IN_FULL = 4  # embeddings whose screen is 24 lines high at most


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Running")(status)


def status(
    *,
    dsn: Dsn = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh each second until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how each embedding stands: rows, pace, model, indexes.

    Rows are counted; above 200,000 they are estimates, with a ~ before them.
    """
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        if as_json:
            statuses = [_plain(one) for one in client.status(conn)]
            typer.echo(json.dumps(statuses, indent=2))
        elif watch:
            _watch(conn)
        else:
            for line in _lines(conn):
                console.print(line, soft_wrap=True)


def _watch(conn: psycopg.Connection[Any]) -> None:
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                started = time.monotonic()
                live.update(_screen(conn), refresh=True)
                seconds = time.monotonic() - started
                time.sleep(max(_REFRESH_S, (_SHARE - 1) * seconds))
    except KeyboardInterrupt:
        return


def _screen(conn: psycopg.Connection[Any]) -> Group:
    """Give what fits a terminal: a line that is too long is cut."""
    lines = list(_lines(conn))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _lines(conn: psycopg.Connection[Any]) -> Iterator[Text]:
    from pgembed import client

    statuses = client.status(conn)
    alone = _bm25_alone(conn)
    tables = Counter(one.source for one in statuses if one.generation == "current")
    few = len(statuses) <= _IN_FULL
    for one in sorted(statuses, key=lambda one: _in_order(one) and not few):
        if few or not _in_order(one):
            yield from _embedding(one, one.is_default and tables[one.source] > 1)
            yield Text()
        else:
            yield _short(one)
    yield from alone
    if not statuses and not alone:
        yield Text("No embedding is declared: see `pgembed create --help`.")
    yield from _hosted(conn)
    yield from _services(conn)
    yield from _standbys(conn)


def _hosted(conn: psycopg.Connection[Any]) -> Iterator[Text]:
    """Show what hosted models were sent, and at which price."""
    from pgembed.cli.models import tokens_sent
    from pgembed.encoders.cards import find_card

    for name, (today, total) in tokens_sent(conn).items():
        card = find_card(name)
        price = ""
        if card is not None and card.price is not None:
            price = f", about ${total * card.price / 1e6:,.2f}"
        yield Text(f"{name} was sent {today:,} tokens today, {total:,} in all{price}")


def _in_order(one: EmbeddingStatus) -> bool:
    """Whether there is nothing to tell but that all is done."""
    told = (one.failed, one.unseen, one.state_reason, one.model_reason, one.index_error)
    return (
        one.state == "active"
        and one.up_to_date
        and not any(told)
        and one.index_state in ("valid", "none")
        and one.bm25_state in ("ready", None)
    )


def _short(one: EmbeddingStatus) -> Text:
    """Show in a line an embedding of many that is in order."""
    return Text.assemble(
        (one.name, "bold"),
        ": ",
        (one.state, _COLORS[one.state]),
        f", {_number(one.embedded)} rows with a vector, {_bm25(one)}, {one.source}",
    )


def _embedding(one: EmbeddingStatus, is_chosen: bool) -> Iterator[Text]:
    """Show an embedding in four lines, and one more for each thing that is wrong."""
    # What matters first: a long line is cut at its end.
    yield Text.assemble(
        (one.name, "bold"),
        ": ",
        (one.state, _COLORS[one.state]),
        ", model ",
        _model(one),
        f" ({one.model}) on {one.source}",
        ", its default" if is_chosen else "",
    )
    yield _text(_has(one))
    yield _text(_to_do(one))
    size = (one.index_bytes or 0) + (one.side_table_bytes or 0)
    yield _text([_index(one), _bm25(one), *_query_encoder(one), _size(size)])
    if one.generation != "current":
        yield Text(f"  {_place(one)}")
    for wrong in (one.state_reason, one.model_reason, one.index_error):
        if wrong:
            yield Text(f"  {_one_line(wrong)}", style="red")
    if one.index_notice:
        yield Text(f"  {one.index_notice}", style="yellow")
    if one.unseen:
        yield Text(
            f"  {one.unseen:,} rows were written while triggers did not fire: "
            "`pgembed repair`",
            style="red",
        )


def _place(one: EmbeddingStatus) -> str:
    lacks = one.switch_waits_for
    if one.generation == "previous":
        back = "`pgembed switch --back` goes back to it, `pgembed drop` drops it"
        return f"previous generation, kept up to date: {back}"
    how = "by itself" if one.switch == "auto" else "at `pgembed switch`"
    waits = f"; waits for {lacks}" if lacks else "; complete"
    return f"next generation, takes its place {how}{waits}"


def _has(one: EmbeddingStatus) -> Iterator[str | tuple[str, str]]:
    about = "~" if one.estimated else ""
    if one.rows is None:
        yield f"{_number(one.embedded)} rows with a vector, its table cannot be read"
    else:
        share = "" if one.coverage is None else f" ({_percent(one.coverage)})"
        yield (
            f"{about}{_number(one.embedded)} of {about}{one.rows:,} rows "
            f"with a vector{share}"
        )
    if one.without_text:
        yield f"{one.without_text:,} without text"
    if one.failed:
        yield f"{one.failed:,} failed", "red"


def _to_do(one: EmbeddingStatus) -> Iterator[str | tuple[str, str]]:
    yield f"{one.waiting:,} waiting"
    yield f"{one.encoding:,} being encoded"
    if one.rows_per_second:
        yield f"{one.rows_per_second:,.1f} rows/s"
    if one.eta is not None and one.pending:
        yield f"{_duration(one.eta)} to go"
    if one.oldest_pending is not None:
        yield f"oldest {_duration(one.oldest_pending)}"


def _text(parts: Iterable[str | tuple[str, str]]) -> Text:
    line = Text("  ")
    for n, part in enumerate(parts):
        line.append(", " if n else "")
        line.append(*((part,) if isinstance(part, str) else part))
    return line


def _model(one: EmbeddingStatus) -> tuple[str, str]:
    if one.model_state is None:
        return "loaded by no service", "yellow"
    seconds = timedelta(seconds=round(one.model_seconds or 0))
    return {
        "ready": ("ready", "green"),
        "loading": (f"loading for {_duration(seconds)}", "yellow"),
        "unavailable": (f"unavailable for {_duration(seconds)}", "bold red"),
    }[one.model_state]


def _services(conn: psycopg.Connection[Any]) -> Iterator[Text]:
    rows = conn.execute("select problems from pgembed.workers where alive").fetchall()
    summary = f"{len(rows)} encoder service{'' if len(rows) == 1 else 's'} running"
    if not rows:
        summary += ": start one with `pgembed serve`"
    yield Text(summary)
    for problem in dict.fromkeys(problem for row in rows for problem in row[0]):
        yield Text(f"  {_one_line(problem)}", style="red")


def _standbys(conn: psycopg.Connection[Any]) -> Iterator[Text]:
    """Show how far standbys are behind, where there are any."""
    for name, state, lag, size in conn.execute("select * from pgembed._standbys()"):
        if size is None and lag is None:
            yield Text(f"{name}: cannot be seen (GRANT pg_read_all_stats)")
        elif not size and not lag:
            yield Text(f"{name}: up to date" + (f", {state}" if state else ""))
        else:
            time_behind = f"{_duration(lag)}, " if lag else ""
            yield Text(f"{name}: {time_behind}{_size(float(size or 0))} behind")


def _bm25_alone(conn: psycopg.Connection[Any]) -> list[Text]:
    """Show BM25 indexes that belong to no embedding, a line each."""
    rows = conn.execute(
        "select name, source::text, state, state_reason, percent,"
        " is_default and exists (select from pgembed.bm25 as b"
        " where b.source = s.source and not b.is_default)"
        " from pgembed.bm25_status as s where embedding is null order by name, 2"
    )
    return [
        Text(
            f"BM25 index {name} on {source}"
            + (", its default" if is_chosen else "")
            + f": {state}"
            + (f". {reason}" if reason else "")
            + (f", {percent:.0f} % read" if percent is not None else ""),
            style="red" if state == "broken" else "",
        )
        for name, source, state, reason, percent, is_chosen in rows
    ]


def _index(one: EmbeddingStatus) -> str | tuple[str, str]:
    text = f"index {one.index_state}"
    if one.index_phase is not None:
        share = "" if one.index_percent is None else f" {one.index_percent:.0f} %"
        text += f"{share} ({one.index_phase.removeprefix('building index: ')})"
    return (text, "red") if one.index_state == "invalid" else text


def _bm25(one: EmbeddingStatus) -> str | tuple[str, str]:
    if one.bm25_state is None:
        return "no BM25"
    text = f"BM25 {one.bm25_state}"
    if one.bm25_percent is not None:
        text = f"BM25 {one.bm25_percent:.0f} % read"
    return (text, "red") if one.bm25_state == "broken" else text


def _query_encoder(one: EmbeddingStatus) -> Iterator[str | tuple[str, str]]:
    if one.query_encoder_state == "none":
        return
    text = f"query encoder {one.query_encoder_state}"
    if one.query_encoder_trained_at is not None:
        text += f" of {one.query_encoder_trained_at:%Y-%m-%d}"
    if one.query_encoder_agreement is not None:
        text += f" (cosine {one.query_encoder_agreement:.2f}"
        text += f", overlap {100 * (one.query_encoder_overlap or 0):.0f} %)"
    yield (text, "yellow") if one.query_encoder_state == "stale" else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _percent(share: float) -> str:
    """Give a share in percent; 100 only where nothing is missing."""
    return f"{min(100 * share, 99.9 if share < 1 else 100):.1f} %"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _duration(value: timedelta | None) -> str:
    if value is None:
        return ""
    if value < timedelta(seconds=1):
        return f"{1000 * value.total_seconds():.0f} ms"
    if value < timedelta(seconds=_MINUTE_S):
        return f"{value.total_seconds():.0f} s"
    return str(timedelta(seconds=round(value.total_seconds())))


def _size(value: float) -> str:
    for unit in ("B", "kiB", "MiB", "GiB"):
        if value < _BYTES_A_STEP:
            return f"{value:.0f} {unit}"
        value /= _BYTES_A_STEP
    return f"{value:.1f} TiB"


def _plain(one: EmbeddingStatus) -> dict[str, object]:
    """Durations as seconds, times as text: what JSON can hold."""
    values = asdict(one)
    if one.query_encoder_trained_at is not None:
        values["query_encoder_trained_at"] = one.query_encoder_trained_at.isoformat()
    for name in ("oldest_pending", "eta"):
        value = values.pop(name)
        values[f"{name}_seconds"] = None if value is None else value.total_seconds()
    return values
