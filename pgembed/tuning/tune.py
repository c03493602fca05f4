"""Fine-tunes a model, measures it beside its base, and makes it known."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from pgembed import client
from pgembed._client.names import table_identifier, table_text
from pgembed.dsn import connect
from pgembed.encoders.cards import find_card
from pgembed.encoders.exports import own_folder
from pgembed.encoders.packaged import packaged_model
from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
from pgembed.encoders.weights import is_model_folder
from pgembed.errors import InvalidParameter, from_psycopg
from pgembed.evaluation.measures import parse_measures
from pgembed.evaluation.stored import stored_judgements
from pgembed.evaluation.target import find_target
from pgembed.tuning import training
from pgembed.tuning.examples import (
    Examples,
    examples_of,
    read_examples,
    split_queries,
)
from pgembed.tuning.measure import MEASURE, measure
from pgembed.tuning.mining import Found, mine
from pgembed.tuning.pairs import pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from pgembed.encoders import Encoder
    from pgembed.evaluation.target import Target
    from pgembed.settings import Settings

_TRAINABLE: Final = "sentence-transformers"
_REGISTERED: Final = (
    "select provider, revision, query_prompt, document_prompt"
    " from pgembed.model where name = %(name)s"
)
_QUALIFIED: Final = (
    "select pgembed._qualified_name(e.source, e.name), t.kind"
    " from pgembed.embedding as e join pgembed.captured_text as t using (text_id)"
    " where e.source = to_regclass(%(table)s) and e.name = %(name)s"
)
_QUERY_WORDS: Final = ("select", "with", "table", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What to learn from, and how.

    Attributes:
        data: Folder or file of examples; see `read_examples`.
        rows: Instead: a table, or a query, of examples; see `examples_of`.
        judgements: Instead: what was judged of the table's rows; see
            `stored_judgements`.
        split: Which judgements of a folder.
        table: Table that has the documents, with an embedding: hard negatives are
            searched for in it.
        embedding: Which, where the table has several.
        key: Column that documents' ids are of; the primary key.
        test: Folder or file of examples to measure on, instead of the held-out part.
        negatives: Hard negatives of each pair.
        held_out: Share of the queries that is not trained on.
        most_documents: How many documents are ranked at most when it is measured.
        training: How to train.
    """

    data: Path | None = None
    rows: str | None = None
    judgements: bool = False
    split: str = "train"
    table: str | None = None
    embedding: str | None = None
    key: str | None = None
    test: Path | None = None
    negatives: int = 1
    held_out: float = 0.1
    most_documents: int = 2000
    training: training.TrainingOptions = field(default_factory=training.TrainingOptions)


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned model, and what it is worth.

    Attributes:
        name: Under which it is registered.
        folder: Where it is.
        fingerprint: Of its weights.
        embedding: The embedding that it was tuned for; None: no table was given.
        pairs: What it was trained on.
        queries: On which it was measured.
        documents: Which were ranked.
        before: The base's nDCG@10 of each query, by length of the vectors.
        after: The tuned model's.
        trained: What training did.
        notes: What the reader should know.
    """

    name: str
    folder: Path
    fingerprint: str
    embedding: str | None
    pairs: int
    queries: int
    documents: int
    before: dict[int, NDArray[np.float64]]
    after: dict[int, NDArray[np.float64]]
    trained: training.Trained
    notes: list[str]


def tune(
    dsn: str,
    model: str,
    name: str,
    options: TuneOptions,
    *,
    settings: Settings,
    progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> Tuned:
    """Fine-tune a model, and register what comes out under a name of its own.

    No connection is open while it is trained. Nothing is written and nothing
    registered unless all has gone well.

    Args:
        dsn: Of the database, as pgembed's owner.
        model: The base, by name or path.
        name: Of the new model, which is written to the folder of one's own models.
        options: What to learn from, and how.
        settings: That folder, device, threads.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Raises:
        EvaluationError: The examples are bad; names the row or line.
        InvalidParameter: An option is out of range, the name is taken, the base cannot
            be tuned, or there are too few queries.
        PgembedError: The model cannot be loaded, or the table not be searched.
    """
    _check(options)
    folder = _free_folder(name, settings)
    lengths = options.training.matryoshka
    with _connected(dsn) as conn:
        base = _load_base(conn, model, name, settings)
        training.check_trainable(base, lengths)
        source = None if options.table is None else _Source.of(conn, options, base)
        learnt = _Known.of(conn, _examples(conn, options), source, progress)
        tested = None
        if options.test is not None:
            examples = read_examples(options.test, "test")
            tested = _Known.of(conn, examples, source, progress)
    train, held = split_queries(
        learnt.examples.data,
        options.held_out,
        options.training.seed,
        () if tested is None else tested.examples.data.queries.values(),
    )
    measured = learnt.only(held) if tested is None else tested
    documents = _documents(measured, learnt, options)
    rows = learnt.pairs(train, options)
    with _beside(folder) as made:
        before = measure(
            base,
            measured.examples.data,
            documents,
            lengths,
            lambda done: progress("measuring the base", done),
        )
        trained = training.train(
            base, rows, learnt.pairs(held, options), options.training, progress
        )
        training.save(base, made)
        # As it is loaded from now on.
        tuned = SentenceTransformersEncoder(str(made), settings=settings)
        after = measure(
            tuned,
            measured.examples.data,
            documents,
            lengths,
            lambda done: progress("measuring", done),
        )
        with _connected(dsn) as conn:
            _register(conn, name, tuned, lambda: made.rename(folder))
    return Tuned(
        name=name,
        folder=folder,
        fingerprint=tuned.fingerprint,
        embedding=None if source is None else source.embedding,
        pairs=len(rows),
        queries=len(measured.examples.data.queries),
        documents=len(documents),
        before=before,
        after=after,
        trained=trained,
        notes=[*learnt.notes(), *([] if tested is None else tested.notes())],
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """The table that the documents are in.

    Attributes:
        target: What is searched.
        embedding: The embedding, as it can be named from anywhere.
        encoder: What encodes queries for it; None: the database, or its service.
    """

    target: Target
    embedding: str
    encoder: Encoder | str | None

    @classmethod
    def of(
        cls, conn: psycopg.Connection[Any], options: TuneOptions, base: Encoder
    ) -> _Source:
        """Find the table's embedding."""
        assert options.table is not None
        target = find_target(
            conn, options.table, name=options.embedding, key=options.key
        )
        if target.embedding is None or target.model is None:
            raise InvalidParameter(
                f"table {options.table!r} has no embedding to search",
                hint="Declare one: pgembed create.",
            )
        model = target.model
        encoder: Encoder | str | None = "here"
        if model.provider in {"static", "litellm"}:
            encoder = None  # may be nowhere but there, or have no key here
        elif (model.name, model.dimensions) == (base.name, base.dimensions):
            encoder = base
        cursor = conn.cursor(row_factory=tuple_row)
        row = cursor.execute(
            _QUALIFIED,
            {"table": table_text(options.table), "name": target.embedding},
        ).fetchone()
        assert row is not None
        if row[1] != "text":
            raise InvalidParameter(
                f"embedding {row[0]} is of images, which have no texts to learn from",
                hint="Name one of texts: --embedding.",
            )
        return cls(target, row[0], encoder)


@dataclass(frozen=True, slots=True)
class _Known:
    """Examples with the texts of their documents, and what searches found for them."""

    examples: Examples
    found: Found

    @classmethod
    def of(
        cls,
        conn: psycopg.Connection[Any],
        examples: Examples,
        source: _Source | None,
        progress: Callable[[str, float], None],
    ) -> _Known:
        """Search for all queries, if there is a table to search in."""
        if source is not None:
            found = mine(
                conn,
                source.target,
                examples,
                encoder=source.encoder,
                progress=progress,
            )
        elif examples.texts:
            found = Found()
        else:
            raise InvalidParameter(
                "the examples name documents by id, and have no texts of them",
                hint="Say of which table the ids are: --table.",
            )
        return cls(examples.with_texts(found.texts), found)

    def only(self, queries: Iterable[str]) -> _Known:
        """Give some of the queries."""
        return replace(
            self, examples=replace(self.examples, data=self.examples.only(queries))
        )

    def pairs(self, queries: Iterable[str], options: TuneOptions) -> list[training.Row]:
        """Make what some of the queries are trained on."""
        return pairs(
            self.examples.only(queries),
            self.examples.texts,
            self.found,
            negatives=options.negatives,
            seed=options.training.seed,
        )

    def notes(self) -> list[str]:
        """Say what was left out."""
        return [
            f"{len(ids)} judged documents {what}: {', '.join(sorted(ids)[:3])}."
            for ids, what in (
                (self.found.missing, "are not in the table, or hidden from this role"),
                (self.found.without_text, "have no text, or no vector yet"),
            )
            if ids
        ]


def _check(options: TuneOptions) -> None:
    parse_measures([MEASURE])  # ir-measures is there
    given = (options.data is not None, options.rows is not None, options.judgements)
    if sum(given) != 1:
        raise InvalidParameter(
            "examples are given twice"
            if any(given)
            else "there is nothing to learn from",
            hint="Give a folder or file (--data), a table or query (--from), or "
            "--judgements.",
        )
    for name, value, least in (
        ("negatives", options.negatives, 0),
        ("most_documents", options.most_documents, 100),
    ):
        if value < least:
            raise InvalidParameter(f"{name} is {value}", hint=f"Give {least} or more.")
    if options.table is None and (options.embedding or options.key):
        raise InvalidParameter(
            "an embedding or key is given, and no table", hint="Give --table as well."
        )


def _free_folder(name: str, settings: Settings) -> Path:
    """Choose where the model is written to; nothing else may be found by its name."""
    folder = own_folder(name, settings)
    if folder is None:
        raise InvalidParameter(
            f"{name!r} is no name for a model",
            hint="Letters, digits, - _ and . will do; one / may be in it.",
        )
    if find_card(name) or packaged_model(name) or is_model_folder(Path(name)):
        raise InvalidParameter(
            f"{name!r} is the name of another model", hint="Choose another: --name."
        )
    if folder.exists():
        raise InvalidParameter(
            f"there is a model {name!r} already, in {folder}",
            hint="Choose another --name, or remove the folder.",
        )
    return folder


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Give a place to write to, which goes unless it is renamed to the folder.

    Raises:
        InvalidParameter: The folder's own folder cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tune-")
    except OSError as exc:
        raise InvalidParameter(
            f"{folder} cannot be written: {exc.strerror}",
            hint="Give another place for models of your own: PGEMBED_MODEL_FOLDER.",
        ) from exc
    with scratch as made:
        yield Path(made) / "model"


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with connect(dsn, autocommit=True) as conn:
            yield conn
    except psycopg.Error as exc:
        raise from_psycopg(exc) from exc


def _load_base(
    conn: psycopg.Connection[Any], model: str, name: str, settings: Settings
) -> SentenceTransformersEncoder:
    """Load the base, as it is registered; its weights in 32 bits."""
    with conn.transaction(force_rollback=True):  # whether this role may
        _register_new(conn, name, 1)
    row = _registered(conn, model)
    card = find_card(model)
    provider = row[0] if row else card.provider if card else _TRAINABLE
    if provider != _TRAINABLE:
        raise InvalidParameter(
            f"model {model!r} cannot be fine-tuned: its provider is {provider}",
            hint="Only transformers that run here can be: provider "
            f"{_TRAINABLE}. A static model is distilled again from one that was tuned.",
        )
    _, revision, query, document = row or (None, None, None, None)
    return SentenceTransformersEncoder(
        model,
        revision=revision,
        query_prompt=query,
        document_prompt=document,
        settings=replace(settings, half_precision=False),
    )


def _registered(conn: psycopg.Connection[Any], name: str) -> tuple[Any, ...] | None:
    cursor = conn.cursor(row_factory=tuple_row)
    return cursor.execute(_REGISTERED, {"name": name}).fetchone()


def _register_new(
    conn: psycopg.Connection[Any], name: str, dimensions: int, **options: Any
) -> None:
    """Register a model under a name that is free."""
    if _registered(conn, name) is not None:
        raise InvalidParameter(
            f"a model {name!r} is registered already", hint="Choose another: --name."
        )
    client.register_model(conn, name, dimensions, **options)


def _examples(conn: psycopg.Connection[Any], options: TuneOptions) -> Examples:
    if options.data is not None:
        return read_examples(options.data, options.split)
    if options.judgements:
        if options.table is None:
            raise InvalidParameter(
                "judgements are of rows, and no table is given", hint="Give --table."
            )
        stored = stored_judgements(
            conn, options.table, embedding=options.embedding, key=options.key
        )
        return Examples(stored, {})
    assert options.rows is not None
    return examples_of(_rows(conn, options.rows))


def _rows(
    conn: psycopg.Connection[Any], text: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the rows of a table, or of a query, which may only read."""
    query: sql.SQL | sql.Composed
    words = text.split(maxsplit=1)
    if words and words[0].lower() in _QUERY_WORDS:
        query = sql.SQL(text)
    else:
        query = sql.SQL("select * from {}").format(table_identifier(text))
    with conn.transaction():
        conn.execute("set transaction read only")
        cursor = conn.cursor(row_factory=dict_row).execute(query)
        if cursor.description is None:
            raise InvalidParameter(
                "the query of the examples gives no rows", hint="Give a SELECT."
            )
        found = cursor.fetchall()
    for number, row in enumerate(found, 1):
        yield f"row {number} of the examples", row


def _documents(
    measured: _Known, learnt: _Known, options: TuneOptions
) -> dict[str, str]:
    """Choose what is ranked: what is judged, what searches find, and others."""
    data, texts = measured.examples.data, measured.examples.texts
    chosen = [key for found in data.judgements.values() for key in found]
    hits = [key for query in data.queries for key in measured.found.hits.get(query, ())]
    others = {**learnt.examples.texts, **texts}
    drawn = np.random.default_rng(options.training.seed).permutation(sorted(others))
    wanted = dict.fromkeys(chosen)
    for key in [*hits, *map(str, drawn)]:
        if len(wanted) >= options.most_documents:
            break
        wanted[key] = None
    return {key: others[key] for key in wanted if key in others}


def _register(
    conn: psycopg.Connection[Any],
    name: str,
    encoder: SentenceTransformersEncoder,
    put: Callable[[], Path],
) -> None:
    """Make a model known and put it in its place, both or neither."""
    placed = None
    try:
        with conn.transaction():
            _register_new(
                conn,
                name,
                encoder.dimensions,
                normalized=encoder.normalized,
                max_tokens=encoder.max_tokens,
            )
            placed = put()
    except BaseException:
        if placed is not None:
            shutil.rmtree(placed)
        raise
