"""`pgembed create … --dry-run`: what a first fill takes, before it starts."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from pgembed.encoders.base import image_encoder
from pgembed.errors import PgembedError, TextError
from pgembed.hosted.tokens import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from pgembed.encoders import Encoder
    from pgembed.encoders.cards import Card

_SAMPLE: Final = 300  # rows whose texts are read
_IMAGES: Final = 16  # rows whose images are
_COUNTED: Final = 200_000  # above that the planner's estimate will do
_ENCODE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts of a table, read as whoever asks may read them.

    Attributes:
        rows: Rows of the table; above 200,000 the planner's estimate.
        estimated: Whether it is that.
        read: Number of rows that were read.
        texts: What they have of text; those without any are left out.
        images: The same of an expression that gives images; fewer rows are read.
    """

    rows: int
    estimated: bool
    read: int
    texts: list[str]
    images: list[bytes]


def read_sample(
    conn: psycopg.Connection[Any], table: str, text_expression: str
) -> Sample:
    """Read the texts of some rows, drawn from all over the table."""
    with conn.transaction():
        conn.execute("set transaction read only")
        return _read_sample(conn, table, text_expression)


def _read_sample(
    conn: psycopg.Connection[Any], table: str, text_expression: str
) -> Sample:
    name, rows = _one(
        conn,
        sql.SQL(
            "select c.oid::pg_catalog.regclass::text, ("
            "select pg_catalog.sum(greatest(p.reltuples, 0))::pg_catalog.int8"
            " from pg_catalog.pg_class as p where p.oid in (select c.oid union"
            " select relid from pg_catalog.pg_partition_tree(c.oid)))"
            " from pg_catalog.pg_class as c where c.oid = {}::pg_catalog.regclass"
        ).format(table),
    )
    # As the server writes and quotes it. The expression is SQL, of somebody who runs
    # SQL with these very rights.
    source = sql.SQL(name)
    text = sql.SQL(text_expression)
    large = rows > _COUNTED
    if not large:
        count = sql.SQL("select pg_catalog.count(*) from {}").format(source)
        (rows,) = _one(conn, count)
    whole = sql.SQL("select ({}) from {} ").format(text, source)
    images = _type_of(conn, whole) == "bytea"
    if not images:
        whole = sql.SQL("select ({})::text from {} ").format(text, source)
    most = _IMAGES if images else _SAMPLE
    part = min(100, 100 * 10 * most / max(rows, 1))
    drawn = sql.SQL(
        "tablesample system ({}) order by pg_catalog.random() limit {}"
    ).format(part, most)
    found = conn.execute(whole + drawn).fetchall()
    if not found:  # few and large pages
        first = sql.SQL("limit {}").format(most)
        found = conn.execute(whole + first).fetchall()
    there: list[Any] = [one for (one,) in found if one]
    return Sample(
        *(rows, large, len(found)),
        texts=[] if images else there,
        images=there if images else [],
    )


def _type_of(conn: psycopg.Connection[Any], query: sql.Composed) -> str:
    columns = conn.execute(query + sql.SQL("limit 0")).description or []
    known = conn.adapters.types.get(columns[0].type_code)
    return "" if known is None else known.name


def estimates(
    sample: Sample,
    model: str,
    options: dict[str, Any],
    encoder: Encoder | None,
    card: Card | None,
) -> Iterator[str]:
    """Say what a fill takes: rows, tokens, price, time.

    Args:
        sample: Texts of the table.
        model: The model's name.
        options: Of the embedding.
        encoder: The model, where it can be loaded here and costs nothing.
        card: What is published of it.
    """
    about = "about " if sample.estimated else ""
    yield f"{about}{sample.rows:,} rows, of which {sample.read:,} were read"
    if sample.images:
        yield from _estimates_of_images(sample, encoder)
        return
    if not sample.texts:
        yield "none of these has a text: nothing to encode"
        return
    times = sample.rows / sample.read
    if encoder is None:
        tokens = sum(map(estimate, sample.texts))
        yield (
            f"about {tokens * times:,.0f} tokens, by their letters: the model's "
            "tokenizer is not here"
        )
    else:
        chunks = _chunks(sample.texts, options, encoder)
        tokens = sum(encoder.count_tokens(chunks))
        yield (
            f"about {tokens * times:,.0f} tokens in {len(chunks) * times:,.0f} chunks"
        )
        rate = _tokens_a_second(chunks, encoder)
        yield (
            f"about {_duration(tokens * times / rate)} on this machine, "
            f"{rate:,.0f} tokens a second, if nothing else runs on it"
        )
    if card is not None and card.price is not None:
        yield (
            f"about ${tokens * times * card.price / 1e6:,.2f}, at ${card.price:g} a "
            f"million tokens ({card.price_date})"
        )
    elif encoder is None:
        yield f"the price of {model} is not known"


def _estimates_of_images(sample: Sample, encoder: Encoder | None) -> Iterator[str]:
    images = sample.rows * len(sample.images) / sample.read
    size = sum(map(len, sample.images)) / len(sample.images)
    yield f"about {images:,.0f} images of {size / 1000:,.0f} kB, one vector each"
    if encoder is None:
        return
    able = image_encoder(encoder)
    done, began = 0, time.perf_counter()
    for number, image in enumerate(sample.images):
        with suppress(TextError):  # put aside, when it comes to it
            able.encode_images([image])
        if number == 0 and len(sample.images) > 1:  # some things are only done once
            began = time.perf_counter()
            continue
        done += 1
        if time.perf_counter() - began > _ENCODE_SECONDS:
            break
    rate = done / max(time.perf_counter() - began, 1e-6)
    yield (
        f"about {_duration(images / rate)} on this machine, {rate:,.1f} images a "
        "second, if nothing else runs on it"
    )


def load(model: str, provider: str, row: dict[str, Any] | None) -> Encoder | None:
    """Load a model that costs nothing, where that can be done here."""
    from pgembed.encoders import load_encoder
    from pgembed.settings import Settings

    if provider == "litellm":
        return None  # nothing is sent to anybody before it is said what it costs
    known = row or {}
    try:
        return load_encoder(
            model,
            provider,
            revision=known.get("revision"),
            dimensions=known.get("dimensions"),
            query_prompt=known.get("query_prompt"),
            document_prompt=known.get("document_prompt"),
            settings=Settings.from_env(),
        )
    except PgembedError:
        return None


def _one(conn: psycopg.Connection[Any], statement: sql.Composed) -> tuple[Any, ...]:
    row = conn.execute(statement).fetchone()
    assert row is not None
    return tuple(row)


def _chunks(
    texts: Sequence[str], options: dict[str, Any], encoder: Encoder
) -> list[str]:
    from pgembed.chunking import Chunker

    chunker = Chunker.for_encoder(
        encoder,
        options.get("chunking") or "sentences",
        options.get("chunk_size"),
        options.get("chunk_overlap"),
    )
    return [chunk for text in texts for chunk in chunker.chunk(text)]


def _tokens_a_second(chunks: Sequence[str], encoder: Encoder) -> float:
    """Encode for a few seconds, in batches as a service makes them."""
    encoder.encode_documents(chunks[:1])  # what is only done once
    done, began = 0, time.perf_counter()
    for batch in encoder.plan(chunks):
        texts = [chunks[i] for i in batch]
        encoder.encode_documents(texts)
        done += sum(encoder.count_tokens(texts))
        if time.perf_counter() - began > _ENCODE_SECONDS:
            break
    return max(done, 1) / max(time.perf_counter() - began, 1e-6)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"
