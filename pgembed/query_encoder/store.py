"""Trains a query encoder for an embedding of a database, and stores it there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from pgembed import token_vectors
from pgembed.encoders.base import truncate_vectors
from pgembed.encoders.sql_tokenizer import sql_tokenizer
from pgembed.errors import InvalidParameter, from_psycopg
from pgembed.query_encoder import vocabulary
from pgembed.query_encoder.training import Trained, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenizers import Tokenizer

    from pgembed.encoders.base import Encoder
    from pgembed.options import VectorType
    from pgembed.query_encoder.training import Floats

#: Texts that are enough: more make a larger vocabulary, and hardly a better encoder.
MOST_TEXTS = 100_000
#: With fewer there is nothing to learn from.
LEAST_TEXTS = 100
_AT_ONCE = 1000
_RANDOM_SIZE = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """The embedding that a query encoder is for."""

    embedding_id: int
    model_id: int
    model: str
    fingerprint: str | None
    dimensions: int
    distance: str
    storage: str
    side_table: str
    row_security: bool


def target(conn: psycopg.Connection, name: str) -> Target:
    """Look an embedding up.

    Raises:
        UnknownEmbedding: There is none of that name.
    """
    with _errors():
        row = conn.execute(
            "select e.embedding_id, m.model_id, m.name, m.fingerprint, e.dimensions,"
            " e.distance, e.storage, pgembed._table_sql(e.side_table), c.relrowsecurity"
            " from pgembed._embedding(%s) as e join pgembed.model as m using (model_id)"
            " join pg_catalog.pg_class as c on c.oid = e.source",
            [name],
        ).fetchone()
    assert row is not None
    return Target(*row)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        raise from_psycopg(exc) from exc


def train_query_encoder(
    conn: psycopg.Connection,
    name: str,
    *,
    encoder: Encoder | None = None,
    vector_type: VectorType = "halfvec",
    most_texts: int = MOST_TEXTS,
    over_row_security: bool = False,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> Trained:
    """Train a query encoder on the chunks and vectors that an embedding has.

    From then on PostgreSQL encodes its queries where no service answers: see
    `query_encoder` of the searches. One that was trained before is replaced.

    Args:
        conn: As pgembed's owner, in autocommit mode.
        name: The embedding.
        encoder: The embedding's model: training begins with its vectors of the pieces
            of words, and then does better. None: it begins with random numbers.
        vector_type: How token vectors are stored.
        most_texts: Train on so many chunks at most, drawn at random.
        over_row_security: Train although the table has row security. Roles that it
            restricts can then tell by the vectors which words are near each other in
            rows that they may not see.
        seed: Of all that is random.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Returns:
        The vectors, and how well they agree with the model's.

    Raises:
        UnknownEmbedding: There is no such embedding.
        InvalidParameter: The table has row security; vectors are in a column, so that
            there are no chunks; too few chunks have vectors; vectors of different
            lengths are compared by their l2 distance.
        DimensionMismatch: The encoder is another model.
    """
    of = target(conn, name)
    _check(of, name, over_row_security=over_row_security)
    progress("reading", 0)
    texts, vectors = _read(conn, of, most_texts)
    if len(texts) < LEAST_TEXTS:
        raise InvalidParameter(
            f"embedding {name!r} has {len(texts)} chunks with vectors",
            hint=f"A query encoder learns from {LEAST_TEXTS} or more.",
        )
    _check_lengths(of, name, vectors)
    progress("learning words", 0)
    tokenizer = vocabulary.learn(texts)
    tokens = [
        one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)
    ]
    known = [place for place, one in enumerate(tokens) if one]
    start = _start(of, tokenizer, encoder, seed, progress)
    trained = train(
        [tokens[place] for place in known],
        vectors[known],
        start,
        seed=seed,
        progress=lambda done: progress("training", done),
    )
    agreement = trained.agreement
    measured = bool(np.isfinite(agreement.cosine))
    with conn.transaction():
        token_vectors.store_encoder(
            conn,
            of.model_id,
            _as_stored(of, tokenizer, trained),
            vector_type=vector_type,
            trained=token_vectors.TrainedFor(
                of.embedding_id,
                len(known),
                agreement.cosine if measured else None,
                agreement.overlap if measured else None,
                over_row_security,
            ),
        )
    return trained


def _check(of: Target, name: str, *, over_row_security: bool) -> None:
    if of.row_security and not over_row_security:
        raise InvalidParameter(
            f"the table of embedding {name!r} has row-level security",
            detail="A query encoder learns from all rows, and who searches with it "
            "may not see all.",
            hint="Train it all the same with --over-row-security (over_row_security="
            "True), if what is near what may be known to all who search.",
        )
    if of.storage == "column":
        raise InvalidParameter(
            f"embedding {name!r} keeps its vectors in a column",
            hint="A query encoder learns from the chunks of a side table: "
            "storage => 'table'.",
        )


def _check_lengths(of: Target, name: str, vectors: Floats) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    if of.distance == "l2" and np.abs(lengths - 1).max() > 0.01:
        raise InvalidParameter(
            f"embedding {name!r} compares vectors of different lengths by l2 distance",
            detail="A query encoder gives a direction, of length 1.",
            hint="Use cosine distance, or a model whose vectors are normalized.",
        )


def _read(conn: psycopg.Connection, of: Target, most: int) -> tuple[list[str], Floats]:
    """Read chunks and vectors, at random where there are too many."""
    register_vector(conn)
    query = sql.SQL(
        "select content, embedding from {} where model_id = %s and"
        " random() <= %s::float8 / greatest((select count(*) from {}), 1) limit %s"
    ).format(sql.SQL(of.side_table), sql.SQL(of.side_table))
    texts: list[str] = []
    vectors: list[Floats] = []
    with conn.transaction(), conn.cursor("pgembed_chunks", binary=True) as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(query, [of.model_id, most, most])
        for content, vector in cursor:
            texts.append(content)
            vectors.append(np.asarray(vector.to_numpy(), dtype=np.float32))
    stacked = np.stack(vectors) if vectors else np.empty((0, of.dimensions))
    return texts, stacked.astype(np.float32)


def _start(
    of: Target,
    tokenizer: Tokenizer,
    encoder: Encoder | None,
    seed: int,
    progress: Callable[[str, float], None],
) -> Floats:
    """Choose the vectors that training begins with."""
    ids = tokenizer.get_vocab()
    if encoder is None:
        size = (len(ids), of.dimensions)
        generator = np.random.default_rng(seed)
        return generator.normal(0, _RANDOM_SIZE, size).astype(np.float32)
    start = np.empty((len(ids), of.dimensions), dtype=np.float32)
    pieces = sorted(ids, key=ids.__getitem__)
    words = [piece.removeprefix("##") for piece in pieces]
    for done, places in _planned(encoder, words):
        made = encoder.encode_documents([words[place] for place in places])
        start[places] = truncate_vectors(made, of.dimensions, normalized=True)
        progress("encoding words", done)
    return start


def _planned(encoder: Encoder, words: list[str]) -> Iterator[tuple[float, list[int]]]:
    done = 0
    for places in encoder.plan(words):
        done += len(places)
        yield done / len(words), places


def _as_stored(
    of: Target, tokenizer: Tokenizer, trained: Trained
) -> token_vectors.TokenVectors:
    learnt = np.flatnonzero(trained.vectors.any(axis=1)).astype(np.int32)
    return token_vectors.TokenVectors(
        tokenizer=sql_tokenizer(tokenizer.to_str()),
        token_ids=learnt,
        vectors=trained.vectors[learnt],
        normalized=True,
        max_tokens=None,
        fingerprint=of.fingerprint,
    )
