"""Trains a query encoder for an embedding of a database, and stores it there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgembed import token_vectors
from pgembed.encoders.base import project_vectors, truncate_vectors
from pgembed.encoders.sql_tokenizer import sql_tokenizer
from pgembed.errors import (
    DimensionMismatch,
    InvalidParameter,
    ModelMismatch,
    from_psycopg,
)
from pgembed.options import VectorType
from pgembed.query_encoder import vocabulary
from pgembed.query_encoder.training import Trained, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from tokenizers import Tokenizer

    from pgembed.query_encoder.training import Floats

#: Texts that are enough: more make a larger vocabulary, and hardly a better encoder.
MOST_TEXTS = 100_000
#: With fewer there is nothing to learn from.
LEAST_TEXTS = 100
_AT_ONCE = 1000
_HEADER_BYTES = 4  # the number of dimensions, and an unused number
#: Of memory, for the vectors of the texts, and as much for those of the pieces.
_MOST_BYTES = 400 << 20
_RANDOM_SIZE = 0.05


class _WordEncoder(Protocol):
    """What is asked of a model: `pgembed.encoders.Encoder` has more."""

    @property
    def name(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def plan(self, texts: Sequence[str]) -> list[list[int]]: ...
    def encode_documents(self, texts: Sequence[str]) -> Floats: ...


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
    learnt_from: str
    encoding: str
    looked_at: datetime
    vector_schema: str
    vector_type: str
    images: bool
    projection_id: UUID | None


def target(conn: psycopg.Connection, name: str) -> Target:
    """Look an embedding up.

    Args:
        conn: Any connection.
        name: The embedding.

    Raises:
        UnknownEmbedding: There is none of that name.
    """
    row = (
        conn.cursor(row_factory=tuple_row)
        .execute(
            "select e.embedding_id, m.model_id, m.name, m.fingerprint, e.dimensions,"
            " e.distance, e.storage, pgembed._table_sql(e.side_table),"
            " c.relrowsecurity, t.canonical_expression,"
            " current_setting('server_encoding'), clock_timestamp(),"
            " pgembed._vector_schema(), e.vector_type, t.kind <> 'text',"
            " e.projection_id"
            " from pgembed._embedding(%s) as e"
            " join pgembed.model as m using (model_id)"
            " join pgembed.captured_text as t using (text_id)"
            " join pg_catalog.pg_class as c on c.oid = e.source",
            [name],
        )
        .fetchone()
    )
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
    encoder: _WordEncoder | None = None,
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
        seed: Of the training. Which chunks are drawn, of a large table, is not decided
            by it.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Returns:
        The vectors, and how well they agree with the model's.

    Raises:
        UnknownEmbedding: There is no such embedding.
        InvalidParameter: The table has row security; vectors are in a column, so that
            there are no chunks; it is of images; too few chunks have vectors; vectors
            of different lengths are compared by another distance than cosine; the
            database's encoding is not UTF8.
        DimensionMismatch: The encoder has too few dimensions.
        ModelMismatch: The encoder is not the one that made the vectors.
    """
    _check_options(most_texts, seed, vector_type)
    with _errors():
        return _train(
            conn,
            name,
            encoder,
            _Choices(vector_type, most_texts, over_row_security, seed),
            progress,
        )


@dataclass(frozen=True, slots=True)
class _Choices:
    vector_type: VectorType
    most_texts: int
    over_row_security: bool
    seed: int


def most_texts(dimensions: int) -> int:
    """Give how many texts fit into the memory that a service lets it have."""
    copies = 2  # as they are stored, and at unit length
    fitting = _MOST_BYTES // (copies * 4 * dimensions)
    return int(np.clip(fitting, LEAST_TEXTS, MOST_TEXTS))


def _most_pieces(dimensions: int) -> int:
    copies = 4  # where they begin, where they are, and Adam's two moments
    return min(vocabulary.VOCABULARY_SIZE, _MOST_BYTES // (copies * 4 * dimensions))


def _train(
    conn: psycopg.Connection,
    name: str,
    encoder: _WordEncoder | None,
    choices: _Choices,
    progress: Callable[[str, float], None],
) -> Trained:
    of = target(conn, name)
    _check_encoder(of, encoder)
    progress("reading", 0)
    texts, vectors = read_chunks(
        conn,
        name,
        of,
        most_texts=choices.most_texts,
        over_row_security=choices.over_row_security,
    )
    unit_length = _has_unit_length(vectors)
    if of.distance != "cosine" and not unit_length:
        raise InvalidParameter(
            f"embedding {name!r} compares vectors of different lengths by "
            f"{of.distance}",
            detail="A query encoder gives a direction, of length 1.",
            hint="Use cosine distance, or a model whose vectors are normalized.",
        )
    progress("learning words", 0)
    tokenizer = vocabulary.learn(texts, _most_pieces(of.dimensions))
    tokens = vocabulary.tokens(tokenizer, texts)
    del texts
    known = [n for n, one in enumerate(tokens) if len(one) and vectors[n].any()]
    if len(known) < LEAST_TEXTS:
        raise InvalidParameter(
            f"{len(known)} of the chunks of embedding {name!r} have known words",
            hint=f"A query encoder learns from {LEAST_TEXTS} or more.",
        )
    start = _start(
        of, tokenizer, encoder, choices.seed, progress, axes=read_axes(conn, of)
    )
    trained = train(
        [tokens[n] for n in known],
        vectors[known] if len(known) < len(vectors) else vectors,
        start,
        seed=choices.seed,
        progress=lambda done: progress("training", done),
    )
    agreement = trained.agreement
    measured = bool(np.isfinite(agreement.cosine))
    with conn.transaction():
        token_vectors.store_encoder(
            conn,
            of.model_id,
            _as_stored(of, tokenizer, trained),
            vector_type=choices.vector_type,
            trained=token_vectors.TrainedFor(
                of.embedding_id,
                len(known),
                agreement.cosine if measured else None,
                agreement.overlap if measured else None,
                of.learnt_from,
                unit_length,
                choices.over_row_security,
                of.looked_at,
            ),
        )
    return trained


def read_chunks(
    conn: psycopg.Connection,
    name: str,
    of: Target,
    *,
    most_texts: int = MOST_TEXTS,
    over_row_security: bool = False,
) -> tuple[list[str], Floats]:
    """Read what there is to learn from: chunks, and their vectors.

    Raises:
        InvalidParameter: As `train_query_encoder`.
    """
    _check(of, name, over_row_security=over_row_security)
    texts, vectors = _read(conn, of, most_texts)
    if len(texts) < LEAST_TEXTS:
        raise InvalidParameter(
            f"embedding {name!r} has {len(texts)} chunks with vectors",
            hint=f"There is something to learn from {LEAST_TEXTS} or more.",
        )
    return texts, vectors


def _check(of: Target, name: str, *, over_row_security: bool) -> None:
    if of.row_security and not over_row_security:
        raise InvalidParameter(
            f"the table of embedding {name!r} has row-level security",
            detail="A query encoder learns from all rows, and who searches with it "
            "may not see all.",
            hint="Train it all the same with --over-row-security (over_row_security="
            "True), if what is near what may be known to all who search.",
        )
    if of.encoding != "UTF8":
        raise InvalidParameter(
            f"a database with encoding {of.encoding} cannot tokenize",
            hint="Query encoders run in databases with encoding UTF8 only.",
        )
    if of.storage == "column":
        raise InvalidParameter(
            f"embedding {name!r} keeps its vectors in a column",
            hint="A query encoder learns from the chunks of a side table: "
            "storage => 'table'.",
        )
    if of.images:
        raise InvalidParameter(
            f"embedding {name!r} is of images",
            hint="A query encoder learns from texts: there are none.",
        )


def _has_unit_length(vectors: Floats) -> bool:
    return bool(np.abs(np.linalg.norm(vectors, axis=1) - 1).max() <= 0.01)


def _check_options(most_texts: int, seed: int, vector_type: str) -> None:
    if vector_type not in get_args(VectorType):
        raise InvalidParameter(
            f"vector_type is {vector_type!r}", hint="Give halfvec or vector."
        )
    if most_texts < LEAST_TEXTS:
        raise InvalidParameter(
            f"most_texts is {most_texts}", hint=f"Give {LEAST_TEXTS} or more."
        )
    if seed < 0:
        raise InvalidParameter(f"seed is {seed}", hint="Give 0 or more.")


def _check_encoder(of: Target, encoder: _WordEncoder | None) -> None:
    if encoder is None:
        return
    if encoder.dimensions < of.dimensions:
        raise DimensionMismatch(
            f"model {encoder.name!r} has {encoder.dimensions} dimensions, the vectors "
            f"{of.dimensions}",
            hint=f"Give the embedding's model, {of.model}.",
        )
    if of.fingerprint not in (None, encoder.fingerprint):
        raise ModelMismatch(
            f"model {encoder.name!r} has other weights than those that made the stored "
            "vectors",
            detail=f"Stored fingerprint {of.fingerprint}, given {encoder.fingerprint}.",
            hint=f"Give the embedding's model, {of.model}.",
        )


def _read(conn: psycopg.Connection, of: Target, most: int) -> tuple[list[str], Floats]:
    """Read chunks and vectors, at random where there are too many."""
    # As pgvector sends it: its types may be in a schema that is not looked into.
    query = sql.SQL(
        "select content, {}(embedding) from {} where model_id = %s and"
        " random() <= %s::float8 / greatest((select count(*) from {}), 1) limit %s"
    ).format(
        sql.SQL(f"{of.vector_schema}.{of.vector_type}_send"),
        sql.SQL(of.side_table),
        sql.SQL(of.side_table),
    )
    numbers = np.dtype(">f4" if of.vector_type == "vector" else ">f2")
    size = sql.SQL("select count(*) from {}").format(sql.SQL(of.side_table))
    with conn.transaction(), _chunks(conn) as cursor:
        (found,) = conn.cursor(row_factory=tuple_row).execute(size).fetchone() or (0,)
        room = min(found, most)
        texts: list[str] = []
        vectors = np.empty((room, of.dimensions), dtype=np.float32)
        cursor.itersize = _AT_ONCE
        cursor.execute(query, [of.model_id, most, room], binary=True)
        for content, vector in cursor:
            vectors[len(texts)] = np.frombuffer(vector, numbers, offset=_HEADER_BYTES)
            texts.append(content)
    return texts, vectors[: len(texts)]


def read_axes(conn: psycopg.Connection, of: Target) -> Floats | None:
    """Read what the vectors of an embedding are projected on; None: they are not."""
    if of.projection_id is None:
        return None
    query = sql.SQL(
        "select {}(axis) from pgembed._projection_v1(%s) as p(axis) limit %s"
    ).format(sql.SQL(f"{of.vector_schema}.vector_send"))
    rows = conn.cursor(row_factory=tuple_row, binary=True)
    rows.execute(query, [of.projection_id, of.dimensions])
    numbers = np.dtype(">f4")
    return np.array(
        [np.frombuffer(row[0], numbers, offset=_HEADER_BYTES) for row in rows],
        dtype=np.float32,
    )


def _chunks(conn: psycopg.Connection) -> psycopg.ServerCursor[Any]:
    return psycopg.ServerCursor(conn, "pgembed_chunks", row_factory=tuple_row)


def _start(
    of: Target,
    tokenizer: Tokenizer,
    encoder: _WordEncoder | None,
    seed: int,
    progress: Callable[[str, float], None],
    *,
    axes: Floats | None,
) -> Floats:
    """Choose the vectors that training begins with."""
    if encoder is None:
        size = (tokenizer.get_vocab_size(), of.dimensions)
        generator = np.random.default_rng(seed)
        return generator.normal(0, _RANDOM_SIZE, size).astype(np.float32)
    start = word_vectors(tokenizer, encoder, progress)
    if axes is not None:
        return project_vectors(start, axes, normalized=True)
    return truncate_vectors(start, of.dimensions, normalized=True)


def word_vectors(
    tokenizer: Tokenizer,
    encoder: _WordEncoder,
    progress: Callable[[str, float], None],
) -> Floats:
    """Have a model encode each piece of a vocabulary by itself.

    Args:
        tokenizer: Of WordPiece.
        encoder: The model.
        progress: Told what is being done, and the share of it that is done.

    Returns:
        A row a piece: vocabulary x the model's dimensions.
    """
    ids = tokenizer.get_vocab()
    start = np.empty((len(ids), encoder.dimensions), dtype=np.float32)
    pieces = sorted(ids, key=ids.__getitem__)
    words = [piece.removeprefix("##") for piece in pieces]
    for done, places in _planned(encoder, words):
        start[places] = encoder.encode_documents([words[place] for place in places])
        progress("encoding words", done)
    return start


def _planned(
    encoder: _WordEncoder, words: list[str]
) -> Iterator[tuple[float, list[int]]]:
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
