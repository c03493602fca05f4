"""How embeddings, services and indexes stand, refreshed while somebody looks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.rows import class_row, dict_row

from pgembed import aclient
from pgembed.doctor import Finding
from pgembed.errors import InsufficientPrivilege
from pgembed.studio import sources
from pgembed.studio.problems import Problem, problem_of
from pgembed.studio.render import page
from pgembed.studio.shared import studio_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from pgembed.client import EmbeddingStatus
    from pgembed.evaluation import RecallReport
    from pgembed.studio.database import Connection, Database

T = TypeVar("T")

REFRESH = 5  # seconds; of what is shown live, and
REFRESH_FINDINGS = 60  # of what doctor finds
_SHARE = 5  # to look takes at most this part of the server's time
_SERVICES = (
    "select w.hostname, w.pid, w.version, w.models, w.problems, w.alive,"
    " pg_catalog.clock_timestamp() operator(pg_catalog.-) w.heartbeat_at as silent"
    " from pgembed.workers as w order by w.alive desc, w.hostname, w.pid"
)
_SEARCHED = (
    "select pgembed._table_sql(s.source) as source, s.kind, s.name, s.model, s.state,"
    " s.state_reason, s.filling, s.waiting, s.fresh from pgembed.search_status as s"
    " order by 1, 2, 3"
)
_FINDINGS = (
    "select d.severity, d.code, d.embedding, d.problem, d.advice"
    " from pgembed.doctor() as d"
)
_RECALL_SAMPLE = 25  # rows that serve as queries
_RECALL_VALUES = (40, 100, 200)  # ef_search, or probes


@dataclass(frozen=True, slots=True)
class Health:
    """What the page shows.

    Attributes:
        searched: What the role may search, and whether it is fresh.
        statuses: All embeddings; None: only pgembed's owner may know.
        services: All services; None: likewise.
    """

    searched: Sequence[dict[str, Any]]
    statuses: Sequence[EmbeddingStatus] | None
    services: Sequence[dict[str, Any]] | None


class Kept(Generic[T]):
    """Something that is looked up once for all who look at the same time.

    Args:
        look: Looks it up.
        seconds: For how long it is kept, at least.
    """

    def __init__(self, look: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._found: T | None = None
        self._until = 0.0

    async def get(self) -> T:
        """Give it."""
        async with self._lock:
            if self._found is None or time.monotonic() > self._until:
                started = time.monotonic()
                self._found = await self._look()
                took = time.monotonic() - started
                self._until = time.monotonic() + max(self._seconds, _SHARE * took)
            return self._found


class Looks:
    """What the health page looks up.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.health = Kept(self._health, REFRESH - 1)
        self.findings = Kept(self._findings, REFRESH_FINDINGS - 1)
        #: One at a time: it compares with all rows.
        self.recall = asyncio.Lock()
        #: Likewise, for what the pages of rows and of the map show.
        self.rows = asyncio.Lock()

    async def _health(self) -> Health:
        async with (
            self._database.connection() as conn,
            self._database.reading(conn),
        ):
            return Health(
                await _rows(conn, _SEARCHED),
                await _if_allowed(conn, aclient.status(conn)),
                await _if_allowed(conn, _rows(conn, _SERVICES)),
            )

    async def _findings(self) -> Sequence[Finding]:
        async with (
            self._database.connection() as conn,
            self._database.reading(conn),
            conn.cursor(row_factory=class_row(Finding)) as cursor,
        ):
            await cursor.execute(_FINDINGS)
            return await cursor.fetchall()


async def health_page(request: Request) -> Response:
    """Show the page, which refreshes itself."""
    return page("health.html", refresh=REFRESH, **await _live(request))


async def health_part(request: Request) -> Response:
    """Show what is refreshed."""
    return page("_health.html", **await _live(request))


async def findings_part(request: Request) -> Response:
    """Show what doctor finds."""
    problem: Problem | None = None
    findings: Sequence[Finding] = ()
    try:
        findings = await studio_of(request).looks.findings.get()
    except psycopg.Error as exc:
        problem = problem_of(exc)
    return page("_findings.html", findings=findings, problem=problem)


async def recall_part(request: Request) -> Response:
    """Measure what the index of an embedding misses, and show it."""
    studio = studio_of(request)
    name = request.query_params.get("embedding", "")
    async with studio.database.connection() as conn, studio.database.reading(conn):
        tables = await sources.tables(conn)
        table = sources.chosen(tables, request.query_params.get("table"))
    assert table is not None
    async with studio.looks.recall:
        report = await asyncio.to_thread(
            _recall, studio.database, table.name, name or None
        )
    return page("_recall.html", report=report)


def _recall(database: Database, table: str, embedding: str | None) -> RecallReport:
    from pgembed.evaluation import RecallOptions, measure_recall

    options = RecallOptions(
        sample=_RECALL_SAMPLE, values=_RECALL_VALUES, embedding=embedding
    )
    with database.beside() as conn:
        return measure_recall(conn, table, options)


async def _live(request: Request) -> dict[str, Any]:
    found = await studio_of(request).looks.health.get()
    return {"health": found, "findings_refresh": REFRESH_FINDINGS}


async def _rows(conn: Connection, query: str) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode())
        return await cursor.fetchall()


async def _if_allowed(conn: Connection, look: Awaitable[T]) -> T | None:
    """Give what only pgembed's owner may see, or nothing."""
    try:
        async with conn.transaction():
            return await look
    except (InsufficientPrivilege, psycopg.errors.InsufficientPrivilege):
        return None
