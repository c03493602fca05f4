"""Rows of the `_x_v1` functions, as the service passes them around."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """A model as registered in the database."""

    model_id: int
    model: str
    provider: str
    dimensions: int
    query_prompt: str | None
    document_prompt: str | None
    fingerprint: str | None
    # Of the model's repository on the hub; a schema that is older has no such column.
    model_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """An active embedding, as of its `revision`."""

    embedding_id: int
    name: str
    source: str
    state: str
    model_id: int
    model: str
    provider: str
    model_dimensions: int
    dimensions: int
    normalized: bool
    query_prompt: str | None
    document_prompt: str | None
    max_tokens: int | None
    fingerprint: str | None
    chunking: str
    chunk_size: int | None
    chunk_overlap: int | None
    storage: str
    max_attempts: int
    backfill_state: str
    revision: int
    model_revision: str | None = None
    switch: str | None = None
    images: bool = False
    located: bool = False
    projection_id: UUID | None = None

    def its_model(self) -> Model:
        """The model's part of this row."""
        return Model(
            self.model_id,
            self.model,
            self.provider,
            self.model_dimensions,
            self.query_prompt,
            self.document_prompt,
            self.fingerprint,
            self.model_revision,
        )


class Job(NamedTuple):
    """A claimed job. (seq, attempts) is its fence: a later claim has more attempts."""

    embedding_id: int
    seq: int
    key: str | None
    op: str
    attempts: int
    priority: int


class Row(NamedTuple):
    """What `_read_v1` says of one key; a text that is too long has a hash only."""

    key: str
    found: bool
    deferred: bool
    current: bool
    content: str | None
    hash: bytes | None

    @property
    def too_long(self) -> bool:
        """Whether there is a text, and more of it than may be read."""
        unread = self.content is None and self.hash is not None
        return unread and not (self.current or self.deferred)


class Query(NamedTuple):
    """A claimed query. `attempts` counts this claim and those without an answer.

    Of an image the query is what its file holds, in base64.
    """

    model_id: int
    role: str
    query_hash: bytes
    query: str
    attempts: int
    is_image: bool


class Measure(NamedTuple):
    """Rows of an embedding by what they are; None: not known, the table is gone."""

    embedding: str
    rows: int | None
    embedded: int | None
    waiting: int
    encoding: int
    failed: int
    oldest_seconds: float | None


class Finding(NamedTuple):
    """How often the doctor finds one kind of thing."""

    severity: str
    code: str
    embedding: str | None
    findings: int


class ModelStanding(NamedTuple):
    """How a model stands in this process, and since how many seconds."""

    state: Literal["ready", "loading", "unavailable"]
    seconds: float
    reason: str | None = None


class Work(NamedTuple):
    """Rows of an embedding in hand, and how many a second are worked off."""

    encoding: int
    rate: float


class Readiness(NamedTuple):
    """Whether anything can be claimed now, else in how many seconds (None: never)."""

    ready: bool
    wait_seconds: float | None


class DueQueryEncoder(NamedTuple):
    """An embedding whose query encoder is to be trained.

    `why` is `none` (it has none) or `stale`.
    """

    embedding_id: int
    name: str
    model_id: int
    why: str


class DueProjection(NamedTuple):
    """An embedding whose projection is to be learnt from whole vectors."""

    embedding_id: int
    name: str
    dimensions: int
    model_dimensions: int


@dataclass(slots=True)
class WriteBatch:
    """Arguments of `_write_v1`: keys with their new chunks, and jobs to remove.

    `chunk_rows` are 1-based positions in `keys`; a key without chunks loses the
    ones it has. `hashes` are those of the texts that were encoded. Images are not kept
    as contents.
    """

    jobs: list[Job]
    keys: list[str]
    hashes: list[bytes | None]
    chunk_rows: list[int]
    chunks: list[int]
    contents: list[str | None]
    embeddings: list[Vector]


def fences(jobs: Iterable[Job]) -> dict[str, list[int]]:
    """Parameters that name jobs: `seqs` and `attempts`."""
    listed = list(jobs)
    return {
        "seqs": [job.seq for job in listed],
        "attempts": [job.attempts for job in listed],
    }
