"""Drives the queue as the encoder service does, with made-up vectors."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import md5, sha256
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

TOY_MODEL = "toy"

# As the view status gives them.
_STATES = {
    "state": "case text_state when 'broken' then text_state else state end",
    "state_reason": "coalesce(text_reason, state_reason)",
}


def vector(text: str) -> str:
    """Make up the vector of a text: three whole numbers from its MD5 digest."""
    return "[{},{},{}]".format(*(byte + 1 for byte in md5(text.encode()).digest()))


def chunks(text: str) -> list[str]:
    """Split a text at empty lines."""
    return text.split("\n\n")


class Job(NamedTuple):
    """A leased job."""

    seq: int
    key: str | None
    op: str
    attempts: int
    priority: int


class Row(NamedTuple):
    """What `_read_v1` says of one key."""

    key: str
    found: bool
    deferred: bool
    current: bool
    content: str | None
    hash: bytes | None


@dataclass
class Service:
    """One session of an encoder service, for one embedding."""

    conn: psycopg.Connection
    embedding_id: int
    name: str

    def on(self, conn: psycopg.Connection) -> Service:
        """Give the same service over another connection."""
        return Service(conn, self.embedding_id, self.name)

    def column(self, expression: str) -> Any:
        """Read a value from the catalog; what is broken may be the text."""
        return value(
            self.conn,
            f"select {_STATES.get(expression, expression)} from pgembed.embedding"
            " join (select text_id, text_expression, canonical_expression,"
            " source_columns, capture, state as text_state,"
            " state_reason as text_reason from pgembed.captured_text) as t"
            " using (text_id) where embedding_id = %s",
            self.embedding_id,
        )

    def broken(self, reason: str, revision: int) -> None:
        """Take it out of service, as it was at that revision."""
        self.conn.execute(
            "select pgembed._broken_v1(%s, %s, %s)",
            [self.embedding_id, revision, reason],
        )

    def jobs(self) -> list[tuple[str, str | None]]:
        """List operation and key of what is queued, in the order of the queue."""
        return self.conn.execute(
            "select op::text, key from pgembed.queue where embedding_id = %s "
            "order by seq",
            [self.embedding_id],
        ).fetchall()

    def take_jobs(self) -> list[tuple[str, str | None]]:
        """List what is queued, and empty the queue."""
        jobs = self.jobs()
        self.conn.execute(
            "delete from pgembed.queue where embedding_id = %s", [self.embedding_id]
        )
        return jobs

    def claim(self, batch: int = 1000, lease: str = "1 minute") -> list[Job]:
        """Lease jobs."""
        rows = self.conn.execute(
            "select seq, key, op::text, attempts, priority "
            "from pgembed._claim_v1(%s, %s, %s::interval)",
            [self.embedding_id, batch, lease],
        )
        return [Job(*row) for row in rows]

    def read(self, keys: list[str], max_bytes: int = 1 << 20) -> list[Row]:
        """Compose the texts of rows."""
        rows = self.conn.execute(
            "select * from pgembed._read_v1(%s, %s, %s)",
            [self.embedding_id, keys, max_bytes],
        )
        return [Row(*row) for row in rows]

    def read_jobs(self, jobs: list[Job]) -> list[Row]:
        """Compose the texts of the rows that jobs are about, each once."""
        return self.read(list(dict.fromkeys(j.key for j in jobs if j.key is not None)))

    def write(
        self, jobs: list[Job], rows: list[Row], revision: int | None = None
    ) -> tuple[int, int]:
        """Write vectors of texts as they were read; return written and stale."""
        wanted = [row for row in rows if not row.current]
        places: list[tuple[int, int, str]] = [
            (position, chunk, text)
            for position, row in enumerate(wanted, 1)
            if row.content is not None
            for chunk, text in enumerate(chunks(row.content))
        ]
        written: tuple[int, int] = self.conn.execute(
            "select * from pgembed._write_v1(%s, %s, %s, %s::smallint[], %s::text[], "
            "%s::bytea[], %s::int[], %s::int[], %s::text[], %s::text[]::vector[])",
            [
                self.embedding_id,
                self.column("revision") if revision is None else revision,
                [job.seq for job in jobs],
                [job.attempts for job in jobs],
                [row.key for row in wanted],
                [row.hash for row in wanted],
                [position for position, _, _ in places],
                [chunk for _, chunk, _ in places],
                [text for _, _, text in places],
                [vector(text) for _, _, text in places],
            ],
        ).fetchone() or (0, 0)
        return written

    def backfill(self, batch: int = 1000) -> int | None:
        """Queue a page of rows."""
        queued: int | None = value(
            self.conn, "select pgembed._backfill_v1(%s, %s)", self.embedding_id, batch
        )
        return queued

    def control(self, job: Job) -> None:
        """Do a job that concerns the whole table."""
        self.conn.execute(
            "select pgembed._control_v1(%s, %s, %s::smallint, %s)",
            [self.embedding_id, job.seq, job.attempts, job.op],
        )

    def drain(self) -> int:
        """Work until nothing is left; return how many rows were written."""
        total = 0
        while True:
            jobs = self.claim()
            if not jobs:
                if self.column("backfill_state") == "done":
                    return total
                self.backfill()
                continue
            for job in jobs:
                if job.op in "TR":
                    self.control(job)
            keyed = [job for job in jobs if job.key is not None]
            total += self.write(keyed, self.read_jobs(keyed))[0]

    def embedded(self) -> dict[str, str]:
        """Give the text that each row's vectors were made of.

        The vectors themselves are checked against their texts.
        """
        side = value(
            self.conn, "select pgembed._table_sql(%s)", self.column("side_table::oid")
        )
        key = value(
            self.conn,
            "select coalesce(case when indnkeyatts > 1 then "
            "'array[' || pgembed._key_sql(%s, %s, 's.%%3$I::text', ', ') || ']::text' "
            "end, pgembed._key_sql(%s, %s, 's.%%3$I::text', '')) "
            "from pg_index where indrelid = %s and indisprimary",
            *(self.column("source::oid"), self.column("side_table::oid")) * 2,
            self.column("source::oid"),
        )
        found: dict[str, list[str]] = {}
        hashes: dict[str, bytes] = {}
        for row_key, chunk, content, embedding, text_hash in self.conn.execute(
            f"select {key}, chunk, content, embedding::text, text_hash "
            f"from {side} as s order by 1, 2"
        ):
            assert embedding == vector(content)
            assert chunk == len(found.setdefault(row_key, []))
            found[row_key].append(content)
            assert hashes.setdefault(row_key, text_hash) == text_hash
        texts = {row_key: "\n\n".join(parts) for row_key, parts in found.items()}
        for row_key, text in texts.items():
            assert hashes[row_key] == sha256(text.encode()).digest()
        return texts


def run(conn: psycopg.Connection, statement: str, *names: str) -> None:
    """Run a statement with identifiers put in."""
    conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def value(conn: psycopg.Connection, statement: str, *parameters: object) -> Any:
    """Run a statement that gives one value."""
    row = conn.execute(statement, parameters or None).fetchone()
    assert row is not None
    return row[0]


def register_toy(conn: psycopg.Connection, dimensions: int = 3) -> None:
    """Make the model known that `vector` stands for."""
    conn.execute(
        "select pgembed.register_model(%s, %s, provider => 'hashing')",
        [TOY_MODEL, dimensions],
    )


def create(
    conn: psycopg.Connection,
    source: str = "article",
    text_expression: str = "body",
    **options: object,
) -> str:
    """Call create_embedding and return the name."""
    options.setdefault("model", TOY_MODEL)
    statement = sql.SQL("select pgembed.create_embedding({})").format(
        sql.SQL(", ").join(
            [
                sql.Literal(source),
                sql.Literal(text_expression),
                *(
                    sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(given))
                    for name, given in options.items()
                ),
            ]
        )
    )
    row = conn.execute(statement).fetchone()
    assert row is not None
    return str(row[0])


def service_for(conn: psycopg.Connection, name: str) -> Service:
    """Give the service for an embedding."""
    number = value(
        conn, "select embedding_id from pgembed.embedding where name = %s", name
    )
    return Service(conn, number, name)


def declare(
    conn: psycopg.Connection,
    source: str = "article",
    text_expression: str = "body",
    **options: object,
) -> Service:
    """Declare an embedding with the made-up model, and give its service."""
    register_toy(conn)
    return service_for(conn, create(conn, source, text_expression, **options))


ARTICLE = """
    create table article (
        id int primary key, title text, body text, views int default 0, attrs jsonb)
"""
