"""What is done with a window of claimed jobs, as plain data: no database, no model.

A window is what one claim gave for one embedding. Its jobs are grouped by key
(several changes of a row are one piece of work), its rows are cut into chunks, and
equal texts among all chunks are one text to encode.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pgembed.errors import PgembedError
from pgembed.service.faults import StatementFailed
from pgembed.service.records import Job, Row, Vector, WriteBatch

SUSPECT_ATTEMPTS = 3
"""From this attempt on a job is processed alone: it may be what crashes the service."""

PLAN_CHARACTERS = 50_000
"""Characters in a slice of a window: some batches, counted in well under 50 ms."""

IMAGES = 8
"""Images in a batch, which Pace cuts where it takes long."""

FIRST_DELAY_SECONDS = 2.0
FIRST_PATIENT_DELAY_SECONDS = 60.0
LAST_DELAY_SECONDS = 600.0


def retry_delay(attempts: int, *, patient: bool = False) -> float:
    """Seconds until a failed job is tried again: doubles with each attempt.

    Args:
        attempts: How often it has failed.
        patient: Whether the failure may pass by itself.
    """
    first = FIRST_PATIENT_DELAY_SECONDS if patient else FIRST_DELAY_SECONDS
    return min(first * 2.0 ** (attempts - 1), LAST_DELAY_SECONDS)


def is_control(job: Job) -> bool:
    """Whether a job concerns the whole table (truncated, to be scanned again)."""
    return job.op in ("T", "R")


def by_key(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Group the jobs of rows by key, in the order of the jobs."""
    grouped: dict[str, list[Job]] = {}
    for job in jobs:
        if job.key is not None and not is_control(job):
            grouped.setdefault(job.key, []).append(job)
    return grouped


def split_suspects(
    jobs: Sequence[Job], max_attempts: int
) -> tuple[list[Job], list[Job], list[Job]]:
    """Part a claim into ordinary jobs, suspects, and those claimed too often.

    Returns:
        (ordinary, suspects, exhausted). An exhausted job has been claimed more
        often than it may fail: each time the service died over it, or its lease
        ran out.
    """
    ordinary: list[Job] = []
    suspects: list[Job] = []
    exhausted: list[Job] = []
    for job in jobs:
        if job.attempts > max_attempts:
            exhausted.append(job)
        elif job.attempts >= SUSPECT_ATTEMPTS:
            suspects.append(job)
        else:
            ordinary.append(job)
    return ordinary, suspects, exhausted


class Fault(NamedTuple):
    """An error of one row.

    Attributes:
        message: For the dead letter; may quote the text, like PostgreSQL's messages.
        kind: For the log, which must not.
        patient: Whether it may pass by itself: then it is tried again later.
    """

    message: str
    kind: str
    patient: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """Describe an exception."""
        name = type(error).__name__
        if isinstance(error, StatementFailed):
            return cls(str(error), f"SQLSTATE {error.code}", error.may_pass)
        if isinstance(error, PgembedError):
            return cls(str(error), name)
        return cls(f"{name}: {error}", name)


def slices_by_length(texts: Sequence[str]) -> list[list[str]]:
    """Part texts into slices that are quickly counted, similar lengths together.

    Counting the tokens of a whole window can take longer than a query should wait.
    """
    slices: list[list[str]] = []
    characters = PLAN_CHARACTERS
    for text in sorted(texts, key=len, reverse=True):
        if characters + len(text) > PLAN_CHARACTERS:
            slices.append([])
            characters = 0
        slices[-1].append(text)
        characters += len(text)
    return slices


def slices_of_images(images: Sequence[str]) -> list[list[str]]:
    """Part images into batches: each is as much work as any other."""
    return [list(images[at : at + IMAGES]) for at in range(0, len(images), IMAGES)]


@dataclass(slots=True)
class Document:
    """A row with its new chunks."""

    row: Row
    jobs: list[Job]
    chunks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """Chunks of a window's documents, and what is still to be encoded for them.

    Attributes:
        documents: Rows to write, those without text included.
        vectors: Vector by chunk text, filled while the encoder works.
        errors: Error by chunk text, of texts that cannot be encoded.
        axes: What the vectors are projected on; None: they are not.
    """

    documents: list[Document]
    vectors: dict[str, Vector] = field(default_factory=dict)
    errors: dict[str, Fault] = field(default_factory=dict)
    axes: Vector | None = None

    def reuse(self, existing: Iterable[tuple[str, Vector]]) -> None:
        """Take the vectors that are stored for equal texts."""
        self.vectors.update(existing)

    def partly_known(self, *, first_fill: bool) -> list[str]:
        """Keys of rows some of whose chunks may be stored already.

        A row of one chunk is not among them: had it the same text, it would be
        up to date. But where an embedding's next generation is filled, the current
        one may have it.
        """
        least = 1 if first_fill else 2
        return [d.row.key for d in self.documents if len(d.chunks) >= least]

    def to_encode(self) -> list[str]:
        """Texts without a vector or an error, each once."""
        texts = dict.fromkeys(
            chunk for document in self.documents for chunk in document.chunks
        )
        known = self.vectors.keys() | self.errors.keys()
        return [text for text in texts if text not in known]

    def take_large(self, chunks: int) -> list[Document]:
        """Take out the documents of more than so many chunks."""
        large = [d for d in self.documents if len(d.chunks) > chunks]
        self._take(large)
        return large

    def take_failed(self) -> list[tuple[Document, Fault]]:
        """Take out the documents with a chunk that cannot be encoded, and its error."""
        failed = [
            (document, errors[0])
            for document in self.documents
            if (errors := [self.errors[c] for c in document.chunks if c in self.errors])
        ]
        self._take([document for document, _ in failed])
        return failed

    def take_done(self) -> list[Document]:
        """Take out the documents all of whose chunks have a vector."""
        done = [
            document
            for document in self.documents
            if all(chunk in self.vectors for chunk in document.chunks)
        ]
        self._take(done)
        return done

    def _take(self, documents: list[Document]) -> None:
        taken = {document.row.key for document in documents}
        self.documents = [d for d in self.documents if d.row.key not in taken]

    def encoded(self, held: Container[int]) -> float:
        """Rows that are in hand still and have their vectors; a part counts as such.

        Args:
            held: Jobs that are in hand still.
        """
        return sum(
            sum(chunk in self.vectors for chunk in d.chunks) / max(1, len(d.chunks))
            for d in self.documents
            if d.jobs and d.jobs[0].seq in held
        )


def write_batch(
    documents: Sequence[Document],
    vectors: Mapping[str, Vector],
    finished: Sequence[Job] = (),
    *,
    images: bool = False,
) -> WriteBatch:
    """Make the arguments of one write.

    Args:
        documents: Rows whose chunks all have a vector.
        vectors: Vector by chunk text.
        finished: Jobs that need no write, only their removal.
        images: Whether the chunks are images, which are not stored again.
    """
    batch = WriteBatch(list(finished), [], [], [], [], [], [])
    for position, document in enumerate(documents, start=1):
        batch.jobs += document.jobs
        batch.keys.append(document.row.key)
        batch.hashes.append(document.row.hash if document.row.found else None)
        for number, chunk in enumerate(document.chunks):
            batch.chunk_rows.append(position)
            batch.chunks.append(number)
            batch.contents.append(None if images else chunk)
            batch.embeddings.append(vectors[chunk])
    return batch
