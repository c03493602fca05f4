"""`pgembed demo`: from nothing to a semantic search that keeps itself fresh."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import psycopg
from rich.markup import escape

from pgembed import client
from pgembed.demo import table
from pgembed.demo.database import DemoDatabase
from pgembed.demo.screen import Screen, first_line
from pgembed.demo.searches import HYBRID_QUERIES, possible_searches
from pgembed.demo.service import ServiceProcess
from pgembed.dsn import connect
from pgembed.encoders import load_encoder
from pgembed.errors import BrokenEmbedding, NotEmbeddedInTime
from pgembed.query_encoder.store import train_query_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from pgembed.client import EmbeddingStatus, VectorHit
    from pgembed.options import QueryEncoder, VectorSearchOptions

MODEL = "all-MiniLM-L6-v2"
DEFAULT_ROWS = 3000

_POLL_S = 0.2
_START_WITHIN_S = 180.0  # a first start reads libraries and model from the disk
_FRESH_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What a demo run may be told.

    Attributes:
        rows: Rows to load, at most.
        keep: Leave the server and the encoder service running at the end.
        fresh: Start from nothing, even where an earlier run left its data.
        dsn: Database to use instead of the embedded server.
        data_dir: Folder of the embedded server; None: in the user's cache.
    """

    rows: int = DEFAULT_ROWS
    keep: bool = False
    fresh: bool = False
    dsn: str | None = field(default=None, repr=False)
    data_dir: Path | None = None


def run_demo(options: DemoOptions, console: Console) -> str:
    """Run the demo from beginning to end.

    Returns:
        The connection string of its database.

    Raises:
        PgembedError: Something is missing; the message says what to do.
    """
    screen = Screen(console)
    with ExitStack() as stack:
        screen.title("A PostgreSQL with pgembed")
        database = stack.enter_context(
            DemoDatabase(options.dsn, options.data_dir, fresh=options.fresh)
        )
        screen.say(escape(database.description))
        conn = stack.enter_context(connect(database.dsn, autocommit=True))
        row_count = _prepare(screen, conn, options)
        service = stack.enter_context(ServiceProcess(database.dsn, database.log_dir))
        _fill(screen, conn, service, row_count)
        demo = _Demo(screen, conn)
        demo.searches()
        demo.hybrid()
        demo.filtered()
        demo.similar()
        demo.changes()
        # Without the embedded server the service is the user's to start.
        keeps = options.keep and database.is_embedded
        demo.without_service(None if keeps else service)
        if keeps:
            database.keep_running(service.pid)
            service.keep()
        _farewell(screen, database, service, options)
        return database.dsn


def _prepare(
    screen: Screen, conn: psycopg.Connection[Any], options: DemoOptions
) -> int:
    loaded = table.is_loaded(conn, options.rows, MODEL)
    if loaded and not options.fresh:
        screen.title("The corpus is there from an earlier run")
        conn.execute(f"delete from {table.TABLE} where module = %s", [table.OWN_MODULE])
        # An earlier version made it without.
        client.alter_embedding(conn, table.EMBEDDING, bm25=True)
    else:
        screen.title("The docstrings of Python's standard library")
        screen.sql(table.CREATE_TABLE + ";")
        started = time.perf_counter()
        rows = table.load(conn, options.rows)
        seconds = time.perf_counter() - started
        screen.say(f"{len(rows):,} rows read and loaded in {seconds:.1f} s.")
        screen.title("One statement declares the embedding")
        screen.sql(
            f"SELECT pgembed.create_embedding('{table.TABLE}', "
            f"$$ {table.TEXT_EXPRESSION} $$);"
        )
        client.create_embedding(conn, table.TABLE, table.TEXT_EXPRESSION, model=MODEL)
    counted = conn.execute(f"select count(*) from {table.TABLE}").fetchone()
    return int(counted[0]) if counted else 0


def _status(conn: psycopg.Connection[Any]) -> EmbeddingStatus:
    status = next(s for s in client.status(conn) if s.name == table.EMBEDDING)
    if status.state == "broken":
        raise BrokenEmbedding(
            f'embedding "{status.name}" is broken', detail=status.state_reason
        )
    return status


def _fill(
    screen: Screen,
    conn: psycopg.Connection[Any],
    service: ServiceProcess,
    row_count: int,
) -> None:
    screen.title("The encoder service")
    screen.say(escape(service.command_line))
    started = time.monotonic()
    with screen.console.status("loading the model ..."):
        while not service.is_alive(conn):
            if time.monotonic() - started > _START_WITHIN_S:
                raise NotEmbeddedInTime(
                    f"no sign of the encoder service in {_START_WITHIN_S:.0f} seconds",
                    hint=f"Its log: {service.log_path}",
                )
            time.sleep(_POLL_S)
        # A query nobody has asked before: answered once the model is loaded.
        client.encode(conn, f"ready? {time.time_ns()}", MODEL, timeout=_START_WITHIN_S)
    screen.say(f"Ready after {time.monotonic() - started:.1f} s.")
    status = _status(conn)
    if status.embedded == row_count and status.up_to_date:
        screen.say(f"All {row_count:,} rows have their vectors already.")
        return
    began, before = time.monotonic(), status.embedded or 0
    with screen.fill(row_count) as fill:
        while not status.up_to_date:
            service.check()
            fill.update(status.embedded or 0)
            time.sleep(_POLL_S)
            status = _status(conn)
        fill.update(status.embedded or 0)
    seconds = time.monotonic() - began
    done = (status.embedded or 0) - before
    pace = f" at {done / seconds:.0f} rows/s" if done and seconds > 1 else ""
    screen.say(
        f"{status.embedded:,} of {row_count:,} rows embedded{pace}"
        + (f", {status.failed} failed." if status.failed else ".")
    )
    with screen.console.status("building the HNSW index ..."):
        while status.index_state in ("pending", "building"):
            service.check()
            time.sleep(_POLL_S)
            status = _status(conn)
    size = (status.index_bytes or 0) / 2**20
    screen.say(f"HNSW index: {status.index_state}, {size:.1f} MiB.")


class _Demo:
    """The sections that search."""

    def __init__(self, screen: Screen, conn: psycopg.Connection[Any]) -> None:
        self.screen = screen
        self.conn = conn
        self.texts: dict[str, str] = dict(
            conn.execute(f"select name, text from {table.TABLE}").fetchall()
        )

    def searches(self) -> None:
        """Ask questions in other words than the answers."""
        self.screen.title("Searches in other words than the answers")
        self.screen.sql(
            "SELECT similarity, (doc).name, (doc).text\n"
            f"FROM pgembed.vector_search(NULL::{table.TABLE}, 'shuffle cards', k => 3);"
        )
        for search in possible_searches(self.texts):
            hits, milliseconds = self._timed_search(search.query, k=3)
            self._show(search.query, hits, f"{milliseconds:.0f} ms")

    def hybrid(self) -> None:
        """Ask by meaning and by words at once, and show what each arm says."""
        self.screen.title("Words and meaning together, by BM25 and vectors")
        self.screen.sql(
            "SELECT (doc).name, vector_rank, similarity, bm25_rank, bm25\n"
            f"FROM pgembed.hybrid_search(NULL::{table.TABLE}, '{HYBRID_QUERIES[0]}',"
            " k => 3);"
        )
        for query in HYBRID_QUERIES:
            self._show_both(query)
        self.screen.say(
            "\n  Each arm: rank (similarity, or BM25 score); - where it has not found "
            "the row. A row is found by its words in the transaction that writes it."
        )

    def filtered(self) -> None:
        """Search among some of the rows only."""
        self.screen.title("A filter on the table's own columns")
        query = "ask for a passphrase secretly"
        self.screen.sql(
            f"SELECT ... FROM pgembed.vector_search(NULL::{table.TABLE}, '{query}',\n"
            """    k => 3, filter => '{"kind": "module"}');"""
        )
        hits, milliseconds = self._timed_search(query, k=3, filter={"kind": "module"})
        self._show(query, hits, f"modules only, {milliseconds:.0f} ms")

    def similar(self) -> None:
        """Ask for more like a row."""
        name = next((n for n in ("zipfile", "csv") if n in self.texts), None)
        if name is None:
            return
        row = self.conn.execute(
            f"select id from {table.TABLE} where name = %s", [name]
        ).fetchone()
        if row is None:
            return
        self.screen.title("More like this row")
        self.screen.sql(
            f"SELECT ... FROM pgembed.similar(NULL::{table.TABLE}, {row[0]}, k => 3);"
            f"  -- {name}"
        )
        self._show(name, client.similar(self.conn, table.TABLE, row[0], k=3), "")

    def changes(self) -> None:
        """Change rows and see that the search follows."""
        self.screen.title("Rows change, the search follows")
        name = f"{table.OWN_MODULE}.cook"
        drink, music = "prepare a hot beverage", "get ready for the orchestra"
        tea = "Steep the tea for four minutes."
        violin = "Tune the violin before every concert."
        for query in (drink, music):
            client.encode(self.conn, query, MODEL)

        def finds(query: str) -> Callable[[], bool]:
            return lambda: self._best(query) == name

        self._change(
            f"INSERT INTO {table.TABLE} (name, kind, module, text) VALUES\n"
            f"    ('{name}', 'function', '{table.OWN_MODULE}', '{tea}');",
            finds(drink),
            f"'{drink}' finds it",
        )
        self._change(
            f"UPDATE {table.TABLE} SET text = '{violin}'\nWHERE name = '{name}';",
            finds(music),
            f"'{music}' finds it",
        )
        still = "still finds" if self._best(drink) == name else "no longer finds"
        self.screen.say(f"  '{drink}' {still} it.")
        self._change(
            f"DELETE FROM {table.TABLE} WHERE name = '{name}';",
            lambda: self._best(music) != name,
            "it is found no more",
        )

    def without_service(self, service: ServiceProcess | None) -> None:
        """Search once more, when PostgreSQL has learnt to encode queries by itself.

        Args:
            service: Is stopped before; None: it goes on.
        """
        self.screen.title("And now without a service")
        self._train()
        if service is not None:
            service.stop()
            self.screen.say("The encoder service has stopped.")
        query = "configuration file parser"
        self.screen.sql(
            "SELECT (doc).name, vector_rank, bm25_rank, encoded_by\n"
            f"FROM pgembed.hybrid_search(NULL::{table.TABLE}, '{query}', k => 3,\n"
            "                           query_encoder => 'static');"
        )
        self._show_both(query, query_encoder="static")

    def _train(self) -> None:
        self.screen.say(f"pgembed train-query-encoder {table.EMBEDDING}")
        there = self.conn.execute("select count(*) from pgembed.token_encoder")
        if there.fetchone() != (0,):
            self.screen.say("An earlier run has done that.")
            return
        with self.screen.console.status("learning from the stored vectors ..."):
            started = time.monotonic()
            trained = train_query_encoder(
                self.conn, table.EMBEDDING, encoder=load_encoder(MODEL)
            )
        self.screen.say(
            f"{trained.vectors.any(axis=1).sum():,} pieces of words in "
            f"{time.monotonic() - started:.0f} s."
        )

    def _show_both(self, query: str, query_encoder: QueryEncoder | None = None) -> None:
        started = time.perf_counter()
        hits = client.hybrid_search(
            self.conn,
            table.TABLE,
            query,
            k=3,
            snippets=True,
            query_encoder=query_encoder,
        )
        milliseconds = 1000 * (time.perf_counter() - started)
        self.screen.say(
            f"\n[bold yellow]{escape(query)}[/]  [dim]({milliseconds:.0f} ms)[/]"
        )
        self.screen.ranks(
            (
                _arm(hit.vector_rank, hit.similarity, "{:.3f}"),
                _arm(hit.bm25_rank, hit.bm25, "{:.1f}"),
                hit.doc["name"],
                (hit.snippet if hit.bm25_rank else None) or first_line(hit.doc["text"]),
            )
            for hit in hits
        )

    def _change(self, statement: str, seen: Callable[[], bool], what: str) -> None:
        self.screen.sql(statement)
        self.conn.execute(statement.encode())
        committed = time.perf_counter()
        while not seen():
            if time.perf_counter() - committed > _FRESH_WITHIN_S:
                raise NotEmbeddedInTime(
                    f"the change was not searchable after {_FRESH_WITHIN_S:.0f} seconds"
                )
            time.sleep(0.001)
        milliseconds = 1000 * (time.perf_counter() - committed)
        self.screen.say(
            f"  {what} [bold green]{milliseconds:.0f} ms[/] after the commit."
        )

    def _best(self, query: str) -> str:
        hits = client.vector_search(self.conn, table.TABLE, query, k=1)
        return str(hits[0].doc["name"]) if hits else ""

    def _timed_search(
        self, query: str, **options: Unpack[VectorSearchOptions]
    ) -> tuple[list[VectorHit[dict[str, Any]]], float]:
        started = time.perf_counter()
        hits = client.vector_search(self.conn, table.TABLE, query, **options)
        return hits, 1000 * (time.perf_counter() - started)

    def _show(
        self, question: str, hits: list[VectorHit[dict[str, Any]]], note: str
    ) -> None:
        suffix = f"  [dim]({escape(note)})[/]" if note else ""
        self.screen.say(f"\n[bold yellow]{escape(question)}[/]{suffix}")
        self.screen.hits(
            (hit.similarity, hit.doc["name"], first_line(hit.doc["text"]))
            for hit in hits
        )


def _arm(rank: int | None, score: float | None, form: str) -> str:
    if rank is None or score is None:
        return "-"
    return f"{rank}. ({form.format(score)})"


def _farewell(
    screen: Screen,
    database: DemoDatabase,
    service: ServiceProcess,
    options: DemoOptions,
) -> None:
    screen.title("What to try next")
    if not database.is_embedded:
        screen.say(
            "The encoder service of this demo stops now; the table stays. "
            "Start one with"
            f"\n  pgembed serve --dsn {escape(database.shown_dsn)}"
            "\nRemove what the demo made with"
            f"\n  SELECT pgembed.drop_embedding('{table.EMBEDDING}');"
            f" DROP TABLE {table.TABLE};"
        )
        return
    if options.keep:
        screen.say(
            "The server and the encoder service keep running "
            f"(service: process {service.pid}, log {escape(str(service.log_path))})."
            f"\n  connection  {escape(database.dsn)}"
            f"\n  psql        {escape(database.psql_command)}"
            f"\n  in psql     CALL pgembed.encode('wait for a child process');"
            "\n              SELECT similarity, (doc).name FROM pgembed.vector_search("
            f"NULL::{table.TABLE}, 'wait for a child process');"
            f"\n  status      pgembed status --dsn '{escape(database.dsn)}'"
            f"\n  browser     pgembed studio --dsn '{escape(database.dsn)}'"
            "\n  stop both   pgembed demo --stop"
        )
    else:
        screen.say(
            "The server and the encoder service stop now; the data stays in "
            f"{escape(str(database.data_dir))} for a quick second run."
            "\n  pgembed demo --keep    keeps them running, to try searches in psql:"
            f"\n                         {escape(database.psql_command)}"
            "\n  pgembed demo --studio  opens a page in the browser over it"
            "\n  pgembed demo --fresh   starts from nothing"
            f"\n  connection             {escape(database.dsn)} (while it runs)"
        )
