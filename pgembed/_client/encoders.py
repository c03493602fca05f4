"""Encoding in this process; models named by a string are loaded once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from pgembed._client.locks import ForkSafeLock

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder
    from pgembed.options import Vector


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A row of `pgembed.model`: all that loading it takes."""

    name: str
    provider: str
    dimensions: int
    query_prompt: str | None
    document_prompt: str | None
    revision: str | None


MODEL_ROW = sql.SQL(
    "select m.name, m.provider, m.dimensions, m.query_prompt, m.document_prompt,"
    " m.revision"
    " from pgembed._model(%(model)s) as m"
)
# An encoder is used by one thread at a time, and two would only compete for the
# same cores. A hosted one is waited for by as many as there are.
_lock = ForkSafeLock()
_loaded: dict[ModelRow, Encoder] = {}


def load(model: ModelRow) -> Encoder:
    """Load a model, or return it when this process has it already.

    Raises:
        EncoderError: The model or what it needs is not there.
    """
    with _lock:
        encoder = _loaded.get(model)
        if encoder is None:
            # Here, not above: a client that never encodes need not load NumPy.
            from pgembed.encoders.registry import load_encoder
            from pgembed.settings import Settings

            encoder = _loaded[model] = load_encoder(
                model.name,
                model.provider,
                revision=model.revision,
                dimensions=model.dimensions,
                query_prompt=model.query_prompt,
                document_prompt=model.document_prompt,
                settings=Settings.from_env(),
            )
        return encoder


def query_vector(encoder: Encoder, query: str | bytes) -> Vector:
    """Encode a query: words, or an image by the bytes of its file.

    Raises:
        EncoderError: The text, the image or the encoder is not in order.
        InvalidParameter: The encoder encodes no images.
    """
    vector: Vector
    with nullcontext() if getattr(encoder, "concurrent", False) else _lock:
        if isinstance(query, str):
            vector = encoder.encode_queries([query])[0]
        else:
            from pgembed.encoders.base import image_encoder

            vector = image_encoder(encoder).encode_images([query])[0]
    return vector
