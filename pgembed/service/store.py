"""The only place that executes SQL: one method a statement of queries.sql."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from psycopg.errors import Diagnostic
from psycopg.rows import args_row, class_row, dict_row
from psycopg.types.json import Jsonb

from pgembed.encoders.stored import StoredModel
from pgembed.service.connection import QUERIES, Connection, Link
from pgembed.service.records import (
    DueProjection,
    DueQueryEncoder,
    Embedding,
    Finding,
    Job,
    Measure,
    Model,
    ModelStanding,
    Query,
    Readiness,
    Row,
    Vector,
    Work,
    WriteBatch,
    fences,
)

T = TypeVar("T")

# Functions of the schema that this version calls; one missing means that the
# schema is older than the service.
LOOK_SECONDS = 15.0
"""Of a look at everything: code of users composes texts of rows without a vector."""

SAMPLE_SECONDS = 60.0
"""Of drawing vectors at random: a large table is read as a whole."""

STORED_VECTORS = 5000  # of tokens, read at once

NEEDED_FUNCTIONS = (
    "_backfill_v1",
    "_bm25_due_v1",
    "_bm25_maintain_v1",
    "_broken_v1",
    "_chunks_v1",
    "_claim_fresh_v1",
    "_claim_v1",
    "_control_v1",
    "_embeddings_v1",
    "_extend_v1",
    "_fail_v1",
    "_follow_v1",
    "_goodbye_v1",
    "_findings_v1",
    "_heartbeat_v1",
    "_index_done_v1",
    "_index_next_v1",
    "_measures_v1",
    "_model_seen_v1",
    "_models_v1",
    "_projection_learnt_v1",
    "_projection_sample_v1",
    "_projection_v1",
    "_projections_due_v1",
    "_query_answer_v1",
    "_query_claim_v1",
    "_query_encoders_due_v1",
    "_query_extend_v1",
    "_read_v1",
    "_ready_v1",
    "_reconcile_rest_v1",
    "_reconcile_text_v1",
    "_release_v1",
    "_spend_v1",
    "_stored_model_v1",
    "_stored_tokens_v1",
    "_stored_vectors_v1",
    "_switch_due_v1",
    "_write_v1",
)


class Store:
    """Statements over one link. Each is a short transaction of its own.

    Every method raises `ConnectionLost`, `StatementFailed`, or pgembed's own error
    of an SQLSTATE of class PE.
    """

    def __init__(self, link: Link) -> None:
        self.link = link

    async def in_recovery(self) -> bool:
        """Whether the server is a standby."""
        return bool(await self._value("recovery", {}))

    async def missing_functions(self) -> list[str]:
        """Names of functions that this version needs and the schema lacks."""
        rows = await self._rows(
            "installed_functions", tuple, {"names": list(NEEDED_FUNCTIONS)}
        )
        return sorted(set(NEEDED_FUNCTIONS) - {row[0] for row in rows})

    async def embeddings(self) -> list[Embedding]:
        """Active embeddings."""
        async with self.link.use() as connection:
            return await _embeddings(connection)

    async def models(self, model_ids: Sequence[int]) -> list[Model]:
        """Models by id."""
        async with self.link.use() as connection:
            cursor = connection.cursor(row_factory=class_row(Model))
            await cursor.execute(QUERIES["models"], {"model_ids": list(model_ids)})
            return await cursor.fetchall()

    async def ready(self, skip: Sequence[int] = ()) -> Readiness:
        """Whether anything can be claimed, embeddings in `skip` left out."""
        rows = await self._rows("ready", Readiness, {"skip": list(skip)})
        return rows[0]

    async def fall_asleep(
        self, skip: Sequence[int]
    ) -> tuple[bool, Readiness, list[Embedding]]:
        """Take the sleep lock, and look again while holding it.

        In that order and as statements with a snapshot each: whoever wrote without
        notifying had committed before the lock was granted.

        Returns:
            Whether the lock is held, what the second look saw, and the active
            embeddings. Behind a pooler the lock is not taken.
        """
        async with self.link.use() as connection, connection.pipeline():
            if not self.link.pooled:
                lock = await connection.execute(QUERIES["try_sleep_lock"])
            look = connection.cursor(row_factory=args_row(Readiness))
            await look.execute(QUERIES["ready"], {"skip": list(skip)})
            catalog = connection.cursor(row_factory=class_row(Embedding))
            await catalog.execute(QUERIES["embeddings"])
            locked = None if self.link.pooled else await lock.fetchone()
            seen = await look.fetchone()
            assert seen is not None
            return bool(locked and locked[0]), seen, await catalog.fetchall()

    async def wake_up(self) -> None:
        """Release the sleep lock: writers need not notify any more."""
        await self._execute("release_sleep_lock", {})

    async def other_service_sleeps(self) -> bool:
        """Whether it is another service that holds the sleep lock."""
        return bool(await self._value("sleep_lock_holder", {}))

    async def claim_fresh(
        self,
        embedding_ids: Sequence[int],
        batch: int,
        lease: float,
        *,
        awake: bool,
    ) -> list[Job]:
        """Lease fresh changes of several embeddings.

        Args:
            embedding_ids: Whose changes.
            batch: Most jobs of each embedding.
            lease: Seconds.
            awake: False releases the sleep lock in the same round trip.
        """
        async with self.link.use() as connection, connection.pipeline():
            if not awake:
                await connection.execute(QUERIES["release_sleep_lock"])
            cursor = connection.cursor(row_factory=args_row(Job))
            await cursor.execute(
                QUERIES["claim_fresh"],
                {
                    "embedding_ids": list(embedding_ids),
                    "batch": batch,
                    "lease": lease,
                },
            )
            return await cursor.fetchall()

    async def claim(self, embedding_id: int, batch: int, lease: float) -> list[Job]:
        """Lease jobs of one embedding, most urgent first; `lease` in seconds."""
        return await self._rows(
            "claim",
            Job,
            {"embedding_id": embedding_id, "batch": batch, "lease": lease},
        )

    async def backfill(self, embedding_id: int, batch: int) -> int | None:
        """Queue the next page of a backfill: how many, None when it is finished."""
        queued = await self._value(
            "backfill", {"embedding_id": embedding_id, "batch": batch}
        )
        return None if queued is None else int(queued)

    async def read(
        self,
        embedding_id: int,
        keys: Sequence[str],
        max_bytes: int,
        *,
        seconds: float,
    ) -> list[Row]:
        """Composed texts of rows, up to a number of bytes, within some seconds."""
        return await self._rows(
            "read",
            Row,
            {
                "embedding_id": embedding_id,
                "keys": list(keys),
                "max_bytes": max_bytes,
            },
            seconds=seconds,
        )

    async def chunks(
        self, embedding_id: int, keys: Sequence[str]
    ) -> list[tuple[str, Vector]]:
        """Texts and vectors of the chunks that rows have now."""
        async with self.link.use() as connection:
            cursor = connection.cursor(binary=True)
            await cursor.execute(
                QUERIES["chunks"],
                {"embedding_id": embedding_id, "keys": list(keys)},
            )
            return [
                (content, vector.to_numpy())
                for content, vector in await cursor.fetchall()
                if content is not None and vector is not None
            ]

    async def write(
        self,
        embedding_id: int,
        revision: int,
        batch: WriteBatch,
        *,
        in_column: bool,
        seconds: float,
    ) -> tuple[int, int]:
        """Write chunks and remove jobs: numbers of rows written, and stale.

        Args:
            embedding_id: Whose.
            revision: Of the declaration that the vectors were made for.
            batch: What to write.
            in_column: Whether the vectors are in the source itself: writing them runs
                triggers of the table's owner, and what these leave in the session is
                cleaned away.
            seconds: How long it may take: the rows are read again.
        """
        try:
            return await self._write(embedding_id, revision, batch, seconds)
        finally:
            if in_column:
                await self.link.clean()

    async def _write(
        self, embedding_id: int, revision: int, batch: WriteBatch, seconds: float
    ) -> tuple[int, int]:
        rows = await self._rows(
            "write" if batch.embeddings else "write_nothing",
            tuple,
            {
                "embedding_id": embedding_id,
                "revision": revision,
                **fences(batch.jobs),
                "keys": batch.keys,
                "hashes": batch.hashes,
                "chunk_rows": batch.chunk_rows,
                "chunks": batch.chunks,
                "contents": batch.contents,
                "embeddings": [
                    np.ascontiguousarray(vector) for vector in batch.embeddings
                ],
            },
            seconds=seconds,
        )
        written, stale = rows[0]
        return written, stale

    async def release(
        self, jobs: Sequence[Job], delay: float = 0.0, *, refund: bool = True
    ) -> None:
        """Give jobs back, claimable after `delay` seconds.

        Args:
            jobs: What was claimed.
            delay: Seconds.
            refund: Do not count the attempt: the jobs were not to blame.
        """
        await self._execute(
            "release", {**fences(jobs), "delay": delay, "refund": refund}
        )

    async def extend(self, jobs: Sequence[Job], lease: float) -> int:
        """Renew leases for `lease` seconds; returns how many are still held."""
        return int(await self._value("extend", {**fences(jobs), "lease": lease}))

    async def fail(self, job: Job, error: str, delay: float) -> str:
        """Record a failure: 'retry' (after `delay` seconds) or 'dead'."""
        outcome = await self._value(
            "fail",
            {
                "embedding_id": job.embedding_id,
                "seq": job.seq,
                "attempts": job.attempts,
                # PostgreSQL has no NUL in text; an error may quote one.
                "error": error.replace("\0", "\\0"),
                "delay": delay,
            },
        )
        return str(outcome)

    async def control(self, job: Job) -> None:
        """Perform a job that concerns the whole table."""
        await self._execute(
            "control",
            {
                "embedding_id": job.embedding_id,
                "seq": job.seq,
                "attempts": job.attempts,
                "op": job.op,
            },
        )

    async def follow(self, embedding_id: int) -> bool:
        """Look at the table of an embedding; whether it can be read at all."""
        return bool(await self._value("follow", {"embedding_id": embedding_id}))

    async def switch_due(self) -> str | None:
        """Have a complete generation take its place; gives the embedding's name."""
        name: str | None = await self._value("switch_due", {})
        return name

    async def broken(self, embedding_id: int, revision: int, reason: str) -> None:
        """Take an embedding out of service, as it was at a revision."""
        await self._execute(
            "broken",
            {"embedding_id": embedding_id, "revision": revision, "reason": reason},
        )

    async def model_seen(
        self,
        model_id: int,
        *,
        dimensions: int,
        max_tokens: int | None,
        normalized: bool,
        fingerprint: str,
        images: bool,
    ) -> None:
        """Tell what has been loaded.

        Raises:
            ModelMismatch: The weights differ from those of the stored vectors.
            DimensionMismatch: The model is registered with other dimensions.
        """
        await self._execute(
            "model_seen",
            {
                "model_id": model_id,
                "dimensions": dimensions,
                "max_tokens": max_tokens,
                "normalized": normalized,
                "fingerprint": fingerprint,
                "images": images,
            },
        )

    async def spend(
        self, model_id: int, tokens: int, most: int | None = None
    ) -> int | None:
        """Count tokens of a hosted model; negative ones correct an estimate.

        Returns:
            The sum of the day; None: it would be more than `most`, and they were not
            counted.
        """
        spent = await self._value(
            "spend", {"model_id": model_id, "tokens": tokens, "most": most}
        )
        return None if spent is None else int(spent)

    async def stored_model(self, model_id: int) -> StoredModel | None:
        """Read a static model that is in the database; None: it is not there."""
        async with self.link.use() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(QUERIES["stored_model"], {"model_id": model_id})
            row = await cursor.fetchone()
        if row is None:
            return None
        encoder_id, tokenizer_id = row.pop("encoder_id"), row.pop("tokenizer_id")
        tokens: list[tuple[str, int]] = await self._rows(
            "stored_tokens", tuple, {"tokenizer_id": tokenizer_id}
        )
        vectors: list[tuple[int, bool, bytes]] = []
        while page := await self._rows(
            "stored_vectors",
            tuple,
            {
                "encoder_id": encoder_id,
                "after": vectors[-1][0] if vectors else -1,
                "n": STORED_VECTORS,
            },
        ):
            vectors += page
        return StoredModel(**row, vocabulary=dict(tokens), vectors=vectors)

    async def heartbeat(
        self,
        worker_id: UUID,
        *,
        hostname: str,
        pid: int,
        version: str,
        models: Mapping[str, ModelStanding],
        work: Mapping[int, Work],
        problems: Sequence[str],
    ) -> None:
        """Say that this service is alive.

        Args:
            worker_id: Of this service.
            hostname: Its machine.
            pid: Its process.
            version: Of pgembed.
            models: How each model stands, by name.
            work: What is in hand, by embedding.
            problems: What keeps it from its duties.
        """
        await self._execute(
            "heartbeat",
            {
                "worker_id": worker_id,
                "hostname": hostname,
                "pid": pid,
                "version": version,
                "models": Jsonb({k: v._asdict() for k, v in models.items()}),
                "work": Jsonb({str(k): v._asdict() for k, v in work.items()}),
                # PostgreSQL has no NUL in text; an error may quote one.
                "problems": [problem.replace("\0", "\\0") for problem in problems],
                "keeps_session": not self.link.pooled,
            },
        )

    async def goodbye(self, worker_id: UUID) -> None:
        """Say that this service stops."""
        await self._execute("goodbye", {"worker_id": worker_id})

    async def texts(self) -> list[int]:
        """Captured texts, by id."""
        return [row[0] for row in await self._rows("texts", tuple, {})]

    async def reconcile_text(self, text_id: int, *, seconds: float) -> None:
        """Find what has changed of one table behind pgembed's back."""
        await self._rows("reconcile_text", tuple, {"text_id": text_id}, seconds=seconds)

    async def reconcile(self) -> None:
        """Find what else has changed behind pgembed's back."""
        await self._execute("reconcile", {})

    async def measures(self) -> list[Measure]:
        """Rows of each embedding by what they are."""
        return await self._rows("measures", Measure, {}, seconds=LOOK_SECONDS)

    async def findings(self, worker_id: UUID) -> list[Finding]:
        """What the doctor finds; nothing where another service looks."""
        values = {"worker_id": worker_id}
        return await self._rows("findings", Finding, values, seconds=LOOK_SECONDS)

    async def query_encoders_due(self, skip: Sequence[int]) -> list[DueQueryEncoder]:
        """Which query encoders are to be trained, embeddings in `skip` left out."""
        return await self._rows(
            "query_encoders_due",
            DueQueryEncoder,
            {"skip": list(skip)},
            seconds=LOOK_SECONDS,
        )

    async def projections_due(self) -> list[DueProjection]:
        """Which projections are to be learnt."""
        return await self._rows("projections_due", DueProjection, {})

    async def projection_sample(self, embedding_id: int, most: int) -> Vector:
        """Read about so many vectors that a projection is to be learnt from."""
        return await self._matrix(
            "projection_sample",
            {"embedding_id": embedding_id, "most": most},
            seconds=SAMPLE_SECONDS,
        )

    async def projection_learnt(
        self, embedding_id: int, axes: Vector, vectors: int
    ) -> bool:
        """Store a projection; whether it was still wanted.

        Args:
            embedding_id: Whose.
            axes: Its rows: dimensions x those of the model.
            vectors: How many it was learnt from.
        """
        values = {
            "embedding_id": embedding_id,
            "axes": [np.ascontiguousarray(axis) for axis in axes],
            "vectors": vectors,
        }
        return bool(await self._value("projection_learnt", values))

    async def projection(self, projection_id: UUID) -> Vector:
        """Read a projection: its rows, as long as the model's vectors."""
        return await self._matrix("projection", {"projection_id": projection_id})

    async def _matrix(
        self, name: str, values: dict[str, Any], *, seconds: float | None = None
    ) -> Vector:
        async with self.link.use(seconds) as connection:
            cursor = connection.cursor(binary=True)
            await cursor.execute(QUERIES[name], values)
            rows = [row[0].to_numpy() for row in await cursor.fetchall()]
        return np.asarray(rows, dtype=np.float32)

    async def claim_queries(
        self,
        n: int,
        lease: float,
        busy: Sequence[int] = (),
        served: Sequence[str] | None = None,
    ) -> list[Query]:
        """Lease queries.

        Args:
            n: How many at most.
            lease: For how many seconds.
            busy: None of these models, by id.
            served: Only of these models, by name; None: of all.
        """
        values = {"n": n, "lease": lease, "busy": list(busy), "served": served}
        return await self._rows("query_claim", Query, values)

    async def extend_queries(self, queries: Sequence[Query], lease: float) -> None:
        """Renew the leases of queries for `lease` seconds."""
        await self._execute(
            "query_extend",
            {
                "model_ids": [query.model_id for query in queries],
                "roles": [query.role for query in queries],
                "hashes": [query.query_hash for query in queries],
                "lease": lease,
            },
        )

    async def answer_queries(
        self, answers: Iterable[tuple[Query, Vector | None, str | None]]
    ) -> None:
        """Answer queries, each with its vector or with an error, in one transaction."""
        async with self.link.use() as connection, connection.pipeline():
            for query, embedding, error in answers:
                await connection.execute(
                    QUERIES["query_answer"],
                    {
                        "model_id": query.model_id,
                        "role": query.role,
                        "query_hash": query.query_hash,
                        "embedding": embedding,
                        # PostgreSQL has no NUL in text; an error may quote one.
                        "error": error and error.replace("\0", "\\0"),
                    },
                )

    async def next_index(
        self, worker_id: UUID, most_memory: int | None
    ) -> tuple[int, list[str]] | None:
        """Give the next index that a service is to build, with its statements.

        Args:
            worker_id: Who builds.
            most_memory: Bytes that a graph may take while it is built; None: as much
                as the server's shared_buffers.
        """
        async with self.link.use() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                QUERIES["index_next"],
                {"worker_id": worker_id, "most_memory": most_memory},
            )
            row = await cursor.fetchone()
        if row is None or row["embedding_id"] is None:
            return None
        return row["embedding_id"], row["ddl"]

    async def bm25_due(self, erase_seconds: float) -> list[tuple[int, str]]:
        """Tell which BM25 indexes have work to do, by id and name.

        Args:
            erase_seconds: How old the words of a deleted row may become.
        """
        async with self.link.use() as connection:
            cursor = await connection.execute(
                QUERIES["bm25_due"], {"erase_seconds": erase_seconds}
            )
            return [(row[0], row[1]) for row in await cursor.fetchall()]

    async def bm25_maintain(self, bm25_id: int, erase_seconds: float) -> str | None:
        """Do what is due for a BM25 index; tells what it was, if anything."""
        done: str | None = await self._value(
            "bm25_maintain", {"bm25_id": bm25_id, "erase_seconds": erase_seconds}
        )
        return done

    async def run_ddl(self, statement: str) -> list[str]:
        """Run a statement that `next_index` gave; returns what the server remarks."""
        remarks: list[str] = []

        def note(remark: Diagnostic) -> None:
            remarks.append(remark.message_primary or "")

        async with self.link.use(alone=True) as connection:
            connection.add_notice_handler(note)
            try:
                await connection.execute(statement.encode())
            finally:
                connection.remove_notice_handler(note)
        return remarks

    async def index_done(
        self, worker_id: UUID, embedding_id: int, error: str | None
    ) -> None:
        """End what `next_index` began."""
        await self._execute(
            "index_done",
            {"embedding_id": embedding_id, "error": error, "worker_id": worker_id},
        )

    async def _execute(self, name: str, parameters: dict[str, Any]) -> None:
        async with self.link.use() as connection:
            await connection.execute(QUERIES[name], parameters)

    async def _value(self, name: str, parameters: dict[str, Any]) -> Any:
        async with self.link.use() as connection:
            cursor = await connection.execute(QUERIES[name], parameters)
            row = await cursor.fetchone()
        assert row is not None
        return row[0]

    async def _rows(
        self,
        name: str,
        kind: type[T],
        parameters: dict[str, Any],
        *,
        seconds: float | None = None,
    ) -> list[T]:
        async with self.link.use(seconds) as connection:
            if kind is tuple:
                plain = await connection.execute(QUERIES[name], parameters)
                return await plain.fetchall()  # type: ignore[return-value] # kind is tuple
            cursor = connection.cursor(row_factory=args_row(kind))
            await cursor.execute(QUERIES[name], parameters)
            return await cursor.fetchall()


async def _embeddings(connection: Connection) -> list[Embedding]:
    cursor = connection.cursor(row_factory=class_row(Embedding))
    await cursor.execute(QUERIES["embeddings"])
    return await cursor.fetchall()
