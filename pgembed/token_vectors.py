"""Encoders that run in PostgreSQL: tokenizer and token vectors in pgembed's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from pgvector import HalfVector, Vector

from pgembed import client
from pgembed.encoders.sql_tokenizer import SqlTokenizer, sql_tokenizer
from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import psycopg
    from numpy.typing import NDArray

    from pgembed.encoders.static import StaticEncoder
    from pgembed.options import VectorType

_LARGEST_HALF: Final = 65_504.0
# Of a row beside its vector, with its entry in the index: measured on 18.
_TOKEN_BYTES: Final = 100
_VECTOR_BYTES: Final = 70


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """An encoder as PostgreSQL has it: all that a text's vector depends on.

    Attributes:
        tokenizer: How a text is cut.
        token_ids: Tokens that count in the mean.
        vectors: Of these, in their order, weights multiplied in.
        normalized: Whether the mean is scaled to unit length.
        max_tokens: How many tokens of a text count; None: all.
        fingerprint: Of the weights.
    """

    tokenizer: SqlTokenizer
    token_ids: NDArray[np.int32]
    vectors: NDArray[np.float32]
    normalized: bool
    max_tokens: int | None
    fingerprint: str | None

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return int(self.vectors.shape[1])

    def stored_bytes(self, vector_type: VectorType) -> int:
        """Estimate what it takes in the database, indexes included."""
        number = 2 if vector_type == "halfvec" else 4
        tokens = len(self.tokenizer.vocabulary) * _TOKEN_BYTES
        return tokens + len(self.vectors) * (number * self.dimensions + _VECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class TrainedFor:
    """What a query encoder was trained for, and how well it does.

    Attributes:
        embedding_id: The embedding; None: none, it is a model.
        texts: How many texts it was trained on.
        agreement: Mean cosine of its vectors and the model's, on other texts.
        overlap: Mean share of the 10 nearest of these that both find.
        learnt_from: The text expression, as the server prints it.
        unit_length: Whether the vectors that it was trained on have length 1.
        over_row_security: Whether roles may use it that row security restricts.
        read_at: When the texts were read.
    """

    embedding_id: int | None = None
    texts: int | None = None
    agreement: float | None = None
    overlap: float | None = None
    learnt_from: str | None = None
    unit_length: bool = True
    over_row_security: bool = False
    read_at: datetime | None = None


def of_static(encoder: StaticEncoder) -> TokenVectors:
    """Take a static model apart.

    Raises:
        InvalidParameter: Its tokenizer cannot run in PostgreSQL.
    """
    tokenizer = sql_tokenizer(encoder.tokenizer_json() or "{}")
    ids = sorted(set(tokenizer.vocabulary.values()) - {encoder.model.left_out})
    return TokenVectors(
        tokenizer,
        np.array(ids, dtype=np.int32),
        encoder.model.vectors[ids, : encoder.dimensions],
        encoder.normalized,
        encoder.max_tokens,
        encoder.fingerprint,
    )


def import_model(
    conn: psycopg.Connection,
    encoder: StaticEncoder,
    *,
    vector_type: VectorType = "halfvec",
    revision: str | None = None,
) -> None:
    """Register a static model and store it, so that `embed()` needs no service for it.

    What was stored of this model before is replaced, in one transaction.

    Args:
        conn: As pgembed's owner.
        encoder: The model, under the name that it shall have.
        vector_type: Of the token vectors: halfvec takes half the room, and vectors
            differ by less than 0.001.
        revision: The commit on the hub that it was loaded from.

    Raises:
        InvalidParameter: Its tokenizer cannot run in PostgreSQL, or a number in its
            vectors is too large for halfvec.
        ModelMismatch: Vectors of other weights of this model are stored.
    """
    stored = of_static(encoder)
    with conn.transaction():
        client.register_model(
            conn,
            encoder.name,
            encoder.dimensions,
            provider="static",
            normalized=encoder.normalized,
            query_prompt=encoder.query_prompt,
            document_prompt=encoder.document_prompt,
            max_tokens=encoder.max_tokens,
            revision=revision,
        )
        found = conn.execute(
            "select model_id, pgembed._model_seen_v1("
            " model_id, %s, %s, %s, %s) from pgembed._model(%s)",
            [
                *(encoder.dimensions, encoder.max_tokens, encoder.normalized),
                *(encoder.fingerprint, encoder.name),
            ],
        ).fetchone()
        assert found is not None
        store_encoder(conn, found[0], stored, vector_type=vector_type)


def store_encoder(
    conn: psycopg.Connection,
    model_id: int,
    stored: TokenVectors,
    *,
    vector_type: VectorType = "halfvec",
    trained: TrainedFor | None = None,
) -> int:
    """Store an encoder of a model's space, in the transaction that there is.

    Args:
        conn: As pgembed's owner.
        model_id: The model.
        stored: The encoder; it replaces the one that was stored before.
        vector_type: Of the token vectors.
        trained: For a query encoder of one embedding; None: it is the model itself.

    Returns:
        The number of the encoder.
    """
    found = conn.execute("show server_encoding").fetchone()
    if found != ("UTF8",):
        raise InvalidParameter(
            f"a database with encoding {found and found[0]} cannot tokenize",
            hint="Static models run in databases with encoding UTF8 only.",
        )
    of = trained or TrainedFor()
    conn.execute(
        "delete from pgembed.token_encoder where embedding_id = %s"
        " or model_id = %s and embedding_id is null and %s::int is null",
        [of.embedding_id, model_id, of.embedding_id],
    )
    tokenizer_id = store_tokenizer(conn, stored.tokenizer)
    row = conn.execute(
        "insert into pgembed.token_encoder"
        " (model_id, tokenizer_id, dimensions, normalized, max_tokens, fingerprint,"
        " embedding_id, trained_on, agreement, overlap, learnt_from, unit_length,"
        " over_row_security, read_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " returning encoder_id",
        [
            *(model_id, tokenizer_id, stored.dimensions, stored.normalized),
            *(stored.max_tokens, stored.fingerprint),
            *(of.embedding_id, of.texts, of.agreement, of.overlap),
            *(of.learnt_from, of.unit_length, of.over_row_security, of.read_at),
        ],
    ).fetchone()
    assert row is not None
    encoder_id: int = row[0]
    column, kind = (
        ("half", HalfVector) if vector_type == "halfvec" else ("full", Vector)
    )
    with (
        conn.cursor() as cursor,
        cursor.copy(
            f'copy pgembed.token_vector (encoder_id, token_id, "{column}")'
            " from stdin with (format binary)"
        ) as copy,
    ):
        # As pgvector reads it: its types may be in a schema that is not looked into.
        copy.set_types(["int4", "int4", "bytea"])
        for token_id, vector in _in_range(stored, vector_type):
            copy.write_row((encoder_id, token_id, kind(vector).to_binary()))
    conn.execute("analyze pgembed.token, pgembed.token_vector")
    return encoder_id


def _in_range(
    stored: TokenVectors, vector_type: VectorType
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give tokens and vectors, in numbers that 16 bits have many of."""
    vectors = stored.vectors
    largest = float(np.abs(vectors).max(initial=0))
    scale = 1.0
    if vector_type == "halfvec" and stored.normalized and largest > 0:
        # By a power of two, which changes no direction and rounds nothing.
        scale = 2.0 ** (14 - np.ceil(np.log2(largest)))
    elif vector_type == "halfvec" and largest > _LARGEST_HALF:
        raise InvalidParameter(
            f"a token vector has a number of {largest:g}, and halfvec goes to "
            f"{_LARGEST_HALF:g}",
            hint="Store them as vector: --vector-type vector.",
        )
    for token_id, vector in zip(stored.token_ids.tolist(), vectors, strict=True):
        yield token_id, vector * np.float32(scale)


def store_tokenizer(conn: psycopg.Connection, tokenizer: SqlTokenizer) -> int:
    """Store a tokenizer, unless it is there, and give its number."""
    row = conn.execute(
        "insert into pgembed.tokenizer (digest, kind, clean_text, split_ideographs,"
        " strip_accents, lowercase, special_pattern, unknown_id, continuing_prefix,"
        " longest_word, longest_token)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict (digest) do nothing returning tokenizer_id",
        [
            *(tokenizer.digest, tokenizer.kind, tokenizer.clean_text),
            *(tokenizer.split_ideographs, tokenizer.strip_accents, tokenizer.lowercase),
            *(tokenizer.special_pattern, tokenizer.unknown_id),
            *(tokenizer.continuing_prefix, tokenizer.longest_word),
            tokenizer.longest_token,
        ],
    ).fetchone()
    if row is None:  # another model has the same
        row = conn.execute(
            "select tokenizer_id from pgembed.tokenizer where digest = %s",
            [tokenizer.digest],
        ).fetchone()
        assert row is not None
        return int(row[0])
    tokenizer_id: int = row[0]
    with (
        conn.cursor() as cursor,
        cursor.copy(
            "copy pgembed.token (tokenizer_id, token, token_id) from stdin"
        ) as copy,
    ):
        for token, token_id in tokenizer.vocabulary.items():
            copy.write_row((tokenizer_id, token, token_id))
    return tokenizer_id
