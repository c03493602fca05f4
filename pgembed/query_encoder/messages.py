"""What a service and the process that trains a query encoder for it tell each other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Of libraries that would take every core.
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"),
    "1",
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a service tells the process.

    Attributes:
        dsn: Of the database.
        embedding_id: Which embedding.
        name: Its name.
        skip: Embeddings that the service does not work for.
        model: Name of its model; None: train without the model's vectors of words.
        dimensions: Of the model.
        fingerprint: Of its weights.
    """

    dsn: str
    embedding_id: int
    name: str
    skip: list[int]
    model: str | None
    dimensions: int
    fingerprint: str

    def send(self, to: IO[bytes]) -> None:
        """Write it as a line."""
        to.write(json.dumps(asdict(self)).encode() + b"\n")
        to.flush()


def send_vectors(to: IO[bytes], vectors: NDArray[np.float32]) -> None:
    """Answer a request for the vectors of words: their length in bytes, and they."""
    sent = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    to.write(b"%d\n" % len(sent) + sent)
    to.flush()
