"""Which vector index suits an embedding, measured on its own vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, get_args

from psycopg import sql

from pgembed.encoders.cards import find_card
from pgembed.errors import (
    EvaluationError,
    InvalidParameter,
    InvalidSource,
    UnknownEmbedding,
)
from pgembed.evaluation import advice, grid
from pgembed.evaluation.latency import Latency, percentiles
from pgembed.evaluation.measures import score_run
from pgembed.evaluation.scratch import Scratch, Setup, Stored, disk_bytes
from pgembed.evaluation.stored import stored_judgements
from pgembed.evaluation.target import (
    Connection,
    Target,
    encode_queries,
    fetch,
    find_target,
)
from pgembed.options import IVFFlat, Reduction, index_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pgembed.encoders.base import Encoder
    from pgembed.evaluation.files import JudgedQueries

REDUCTIONS: Final = get_args(Reduction)
KINDS: Final = ("vector", "halfvec", "binary")
INDEXES: Final = ("hnsw", "ivfflat", "none")

_EF_SEARCH: Final = (20, 40, 80, 160, 320, 640)
_PROBES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_SAME: Final = 1e-6  # distances that differ by less are the same
_LOSS: Final = 0.005  # recall that an index may lose against an exact search
_COUNTED: Final = 200_000  # above that the planner's estimate will do

_EMBEDDING = sql.SQL(
    "select e.source::text, pgembed._qualified_name(e.source, e.name), n.vectors,"
    " n.vector, n.chunk_keys, e.dimensions, e.vector_type, e.distance, m.normalized,"
    " pgembed._vector_schema()::text, e.index_kind, e.index_options,"
    " e.generation, e.model_id, e.reduction, e.reduction = 'pca' or"
    " e.storage = 'table' and e.dimensions = m.dimensions and not c.relrowsecurity"
    " from pgembed._embedding(%(name)s) as e"
    " left join pg_catalog.pg_class as c on c.oid = e.source"
    " join pgembed.model as m using (model_id)"
    " cross join lateral pgembed._search_names(e) as n"
)
_SOURCE = sql.SQL("select e.source::text from pgembed._embedding(%(name)s) as e")
_ROWS = sql.SQL("select pgembed._estimated_size({}::pg_catalog.regclass)::bigint")
_CACHED = sql.SQL(
    "select q.embedding::text from pgembed.query_embedding as q"
    " where q.model_id = %(model)s and q.embedding is not null"
    " order by q.answered_at desc limit %(many)s"
)
_FITTED = sql.SQL(
    "select pgembed._fitted(e, m, pgembed._vector(q.v))::text"
    " from pgembed._embedding(%(name)s) as e join pgembed.model as m using (model_id)"
    " cross join unnest(%(vectors)s::text[]) with ordinality as q(v, place)"
    " order by q.place"
)
_DOCUMENTS = sql.SQL(
    "select s.{key}::text, s.{primary}::text from {table} as s"
    " where s.{key}::text = any (%(keys)s)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """What is tried, on how much, and what is good enough.

    Attributes:
        rows: Vectors that are searched, at most: a sample of them.
        recall: Share of the true nearest that is to be found, above 0 and at most 1.
        k: Nearest that count.
        sample: How many stored vectors serve as queries; they are not among the rows.
        dimensions: Shorter lengths to try; None: those that the model is published for,
            else half the length.
        reductions: Of `truncate` and `pca`: what makes vectors shorter. Of a model that
            is published for none they are cut only where `dimensions` says so.
        kinds: Of `vector`, `halfvec` and `binary`.
        indexes: Of `hnsw`, `ivfflat` and `none`.
        m: Of HNSW, with four times as much `ef_construction`; None: 16, and 32 where
            that needs more than the usual `ef_search`.
        queries: Texts by id to search for, instead of stored vectors.
        cached: Search for what was searched before by this role: the vectors of queries
            that are still in the cache.
        judged: Judged queries: nDCG@k is measured too. Of the judged documents all that
            the table has are among the rows.
        stored: Take judgements that are stored in the database too: see
            `stored_judgements`.
        key: Column with the documents' ids; the primary key.
        encoder: As in `EvaluationOptions`, for `queries` and `judged`.
        seed: Another one takes another sample.
        timeout: Longest wait for the encoder service, in seconds.
    """

    rows: int = 10_000
    recall: float = 0.95
    k: int = 10
    sample: int = 100
    dimensions: Sequence[int] | None = None
    reductions: Sequence[str] = REDUCTIONS
    kinds: Sequence[str] = KINDS
    indexes: Sequence[str] = INDEXES
    m: Sequence[int] | None = None
    queries: Mapping[str, str] | None = None
    cached: bool = False
    judged: JudgedQueries | None = None
    stored: bool = False
    key: str | None = None
    encoder: Encoder | str | None = None
    seed: int = 0
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class TuningPoint:
    """What one effort gives.

    Attributes:
        effort: `ef_search` or `probes`; None: an exact search.
        recall: Mean share of the true nearest, by the vectors as they are stored now,
            that was found.
        ndcg: nDCG@k, where there are judgements.
        latency: Of the searches; client's clock.
    """

    effort: int | None
    recall: float
    ndcg: float | None
    latency: Latency


@dataclass(frozen=True, slots=True)
class Tried:
    """A way to keep and find vectors, and what it gave.

    Attributes:
        setup: Which.
        is_current: Whether the embedding has it now.
        build_seconds: What building its index took, without parallel workers.
        vector_bytes: Of the table of vectors.
        index_bytes: Of the index.
        points: By effort, least first, up to the first that is good enough.
    """

    setup: Setup
    is_current: bool
    build_seconds: float
    vector_bytes: int
    index_bytes: int
    points: list[TuningPoint]

    def best(self, recall: float) -> TuningPoint:
        """Give the least effort with such a recall, else what finds most."""
        enough = [point for point in self.points if point.recall >= recall]
        return enough[0] if enough else max(self.points, key=lambda one: one.recall)


@dataclass(frozen=True, slots=True)
class TuningReport:
    """Ways to keep and find the vectors of an embedding, side by side.

    Attributes:
        embedding: Which.
        model: Its model.
        chunks: Vectors that it has; an estimate where they are many.
        rows: Vectors that were searched.
        queries: How many were searched for.
        k: Nearest that count.
        recall: What was asked for.
        disk_bytes: Most that was taken at once.
        tried: In the order in which they were tried.
        recommended: Which of them is fastest with such a recall; None: none has it.
        change: Statement that has the embedding be like that; None: it is.
        effort: What searches should say then; None: nothing.
        warnings: What the reader should know.
    """

    embedding: str
    model: str
    chunks: int
    rows: int
    queries: int
    k: int
    recall: float
    disk_bytes: int
    tried: list[Tried]
    recommended: int | None
    change: str | None
    effort: int | None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold."""
        found = asdict(self)
        for one, written in zip(self.tried, found["tried"], strict=True):
            kind, options = index_arguments(one.setup.index)
            written["setup"] |= {"index": kind, "index_options": options}
        return found


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """What will be tried.

    Attributes:
        embedding: On which embedding.
        setups: What is tried.
        current: Which of them the embedding has.
        rows: On how many vectors, at most.
        chunks: Of how many.
        disk_bytes: Disk that this takes while it lasts, at most.
    """

    embedding: str
    setups: list[Setup]
    current: Setup
    rows: int
    chunks: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class _Embedding:
    table: str
    name: str
    stored: Stored
    current: Setup
    model_id: int
    target: Target


def plan_tuning(
    conn: Connection, embedding: str, options: TuningOptions | None = None
) -> TuningPlan:
    """Say what `tune_index` will try, and what disk that takes; nothing is done.

    Raises:
        UnknownEmbedding: There is no embedding of this name.
        InvalidParameter: An option is out of range.
    """
    wanted = _with_stored(conn, embedding, options or TuningOptions())
    _check(wanted)
    found = _embedding(conn, embedding, wanted)
    return _plan(found, wanted)


def tune_index(
    conn: Connection,
    embedding: str,
    options: TuningOptions | None = None,
    *,
    progress: Callable[[Setup, int, int], None] | None = None,
) -> TuningReport:
    """Try ways to keep and find an embedding's vectors, on a sample of them.

    Everything happens in temporary tables of the session, which are dropped at the
    end; no other session waits for them.

    Args:
        conn: Connection with autocommit, whose role may read the table.
        embedding: Its name; the schema of the table may stand before it.
        options: What is tried, and on how much.
        progress: Is told what comes next, how many were tried, and of how many.

    Raises:
        UnknownEmbedding: There is no embedding of this name.
        InvalidParameter: An option is out of range, or the connection in a transaction.
        EvaluationError: There are too few vectors, or queries; or the judged documents
            are not in the table.
    """
    wanted = _with_stored(conn, embedding, options or TuningOptions())
    _check(wanted)
    found = _embedding(conn, embedding, wanted)
    plan = _plan(found, wanted)
    scratch = Scratch(conn, found.stored)
    scratch.require_idle()
    asked, names = _asked(conn, found, wanted)
    wanted_keys, documents = _judged_rows(conn, found, wanted)
    with scratch.opened(plan.disk_bytes):
        queries = 0 if asked else wanted.sample
        scratch.draw(plan.rows, queries, wanted_keys, wanted.seed)
        if asked:
            scratch.ask(asked)
        judged = _Judged(wanted.judged, names, documents, scratch.documents)
        trial = _Trial(scratch, wanted, judged)
        tried: list[Tried] = []
        for position, setup in enumerate(plan.setups):
            is_current = setup == plan.current
            if wanted.m is None and not is_current and trial.is_needless(setup, tried):
                continue
            if progress is not None:
                progress(setup, position, len(plan.setups))
            tried.append(trial.of(setup, is_current=is_current))
    return _report(found, plan, scratch, wanted, tried)


def _with_stored(
    conn: Connection, embedding: str, options: TuningOptions
) -> TuningOptions:
    """Read the judgements that are stored, where they are wanted."""
    if not options.stored:
        return options
    table = str(fetch(conn, _SOURCE, name=embedding).rows[0][0])
    judged = stored_judgements(
        conn, table, embedding=embedding, key=options.key, beside=options.judged
    )
    return replace(options, judged=judged, stored=False)


def _check(options: TuningOptions) -> None:
    for name, value, least, most in (
        ("rows", options.rows, 1000, 10_000_000),
        ("k", options.k, 1, 100),
        ("sample", options.sample, 1, 10_000),
        *(("m", one, 2, 100) for one in options.m or ()),
        *(("dimensions", one, 1, 16_000) for one in options.dimensions or ()),
    ):
        if not least <= value <= most:
            raise InvalidParameter(
                f"{name} must be between {least:,} and {most:,}, not {value}"
            )
    if not 0 < options.recall <= 1:
        raise InvalidParameter(
            f"recall must be above 0 and at most 1, not {options.recall}",
            hint="0.95 is nineteen of twenty.",
        )
    for given, known in (
        (options.kinds, KINDS),
        (options.indexes, INDEXES),
        (options.reductions, REDUCTIONS),
    ):
        unknown = [one for one in given if one not in known]
        if unknown or not given:
            raise InvalidParameter(
                f"{list(given)} is nothing to try", hint=f"Known: {', '.join(known)}."
            )


def _embedding(conn: Connection, embedding: str, options: TuningOptions) -> _Embedding:
    row = fetch(conn, _EMBEDDING, name=embedding).rows[0]
    source, name, vectors, column, keys, dimensions, kind, distance, *more = row
    normalized, schema, index, index_options, generation, model_id, *of = more
    reduction, projectable = of
    if generation != "current":
        raise UnknownEmbedding(
            f"{name!r} is the {generation} generation of an embedding",
            hint="Name the embedding itself.",
        )
    if source.isdigit():
        raise InvalidSource(
            f"the table of embedding {name!r} has been dropped",
            hint=f"SELECT pgembed.drop_embedding('{name}') removes what is left.",
        )
    chunks = int(fetch(conn, _ROWS.format(vectors)).rows[0][0])
    if chunks <= _COUNTED:
        count = sql.SQL("select pg_catalog.count({}) from {}").format(
            sql.SQL(column), sql.SQL(vectors)
        )
        chunks = int(fetch(conn, count).rows[0][0])
    return _Embedding(
        table=source,
        name=name,
        stored=Stored(
            table=vectors,
            column=column,
            keys=keys,
            chunks=chunks,
            dimensions=dimensions,
            vector_type=kind,
            distance=distance,
            normalized=normalized,
            schema=schema,
            reduction=reduction,
            projectable=projectable,
        ),
        current=Setup(
            dimensions, kind, advice.plain_index(index, index_options), reduction
        ),
        model_id=model_id,
        target=find_target(
            conn,
            source,
            name=name,
            key=options.key,
            composite_key=options.judged is None,
        ),
    )


def _plan(found: _Embedding, options: TuningOptions) -> TuningPlan:
    stored = found.stored
    rows = min(options.rows, stored.chunks)
    current = grid.on_sample(found.current, rows, stored.chunks)
    lengths = options.dimensions
    if lengths is None:
        card = find_card(found.target.model.name) if found.target.model else None
        lengths = card.steps if card is not None else ()
    elif longer := [one for one in lengths if one > stored.dimensions]:
        raise InvalidParameter(
            f"the vectors have {stored.dimensions} dimensions, so {longer[0]} cannot "
            "be tried",
            hint="Give fewer.",
        )
    ways = _reductions(stored, options)
    shorter = [(one, way) for one in lengths for way in ways]
    if not shorter and "pca" in ways and stored.dimensions > 1:  # of any model
        shorter = [(stored.dimensions // 2, "pca")]
    setups = grid.setups(stored, current, shorter, options, rows)
    return TuningPlan(
        embedding=found.name,
        setups=setups,
        current=current,
        rows=rows,
        chunks=stored.chunks,
        disk_bytes=disk_bytes(rows + options.sample, setups, stored),
    )


def _reductions(stored: Stored, options: TuningOptions) -> list[Reduction]:
    """Give what can make the vectors shorter than they are."""
    possible: list[Reduction] = ["truncate"] if stored.reduction == "truncate" else []
    if stored.projectable:
        possible.append("pca")
    return [one for one in possible if one in options.reductions]


def _asked(
    conn: Connection, found: _Embedding, options: TuningOptions
) -> tuple[list[str], list[str]]:
    """Give vectors to search for, and the ids of those queries; none: of the sample."""
    if options.judged is None and options.queries is None and not options.cached:
        return [], []
    if options.cached:
        rows = fetch(conn, _CACHED, model=found.model_id, many=options.sample).rows
        if not rows:
            raise EvaluationError(
                "no query of this role is in the cache",
                hint="Search by text with this role first, or leave it out: stored "
                "vectors serve as queries then.",
            )
        vectors = {str(i): str(row[0]) for i, row in enumerate(rows)}
    else:
        texts = options.judged.queries if options.judged else options.queries or {}
        vectors = dict(
            encode_queries(
                conn,
                found.target,
                texts,
                encoder=options.encoder,
                timeout=options.timeout,
            ).vectors
        )
    # As a search does it with the vectors of queries.
    fitted = fetch(conn, _FITTED, name=found.name, vectors=list(vectors.values())).rows
    return [str(row[0]) for row in fitted], list(vectors)


def _judged_rows(
    conn: Connection, found: _Embedding, options: TuningOptions
) -> tuple[list[str], dict[str, str]]:
    """Give the keys of the judged rows, and the documents' ids by these."""
    if options.judged is None:
        return [], {}
    ids = {one for rows in options.judged.judgements.values() for one in rows}
    primary = find_target(conn, found.table, name=found.name).key
    rows = fetch(
        conn,
        _DOCUMENTS.format(
            key=sql.Identifier(found.target.key),
            primary=sql.Identifier(primary),
            table=sql.SQL(found.table),
        ),
        keys=sorted(ids),
    ).rows
    if not rows:
        raise EvaluationError(
            f"table {found.table!r} has none of the {len(ids):,} judged documents",
            hint=f"Does column {found.target.key!r} hold their ids? See key (--key).",
        )
    return [str(row[1]) for row in rows], {str(row[1]): str(row[0]) for row in rows}


class _Judged:
    """Measures rankings of chunks by judgements of their documents."""

    def __init__(
        self,
        data: JudgedQueries | None,
        queries: Sequence[str],
        documents: Mapping[str, str],
        chunks: Mapping[int, str],
    ) -> None:
        self._data = data
        self._queries = queries
        self._documents = documents
        self._chunks = chunks

    def ndcg(
        self, found: Sequence[Sequence[tuple[int, float]]], k: int
    ) -> float | None:
        """Give the mean nDCG@k; None without judgements."""
        if self._data is None:
            return None
        rankings = {
            query: list(
                dict.fromkeys(
                    self._documents.get(self._chunks[one], f"chunk {one}")
                    for one, _ in hits
                )
            )
            for query, hits in zip(self._queries, found, strict=True)
        }
        measure = f"nDCG@{k}"
        scores = score_run(rankings, self._data.judgements, [measure])[measure]
        return sum(scores.values()) / len(scores)


@dataclass(frozen=True, slots=True)
class _Truth:
    """The true nearest of a query: a row that is as near as the last one counts too."""

    rows: frozenset[int]
    count: int


def _truths(scratch: Scratch, setup: Setup, k: int) -> list[_Truth]:
    found, _ = scratch.search(setup, None, 5 * k)
    truths = []
    for hits in found:
        farthest = hits[min(k, len(hits)) - 1][1]
        farthest += _SAME * max(1.0, abs(farthest))
        near = frozenset(one for one, distance in hits if distance <= farthest)
        truths.append(_Truth(near, min(k, len(hits))))
    return truths


class _Trial:
    """Tries one way after the other; the first is the truth for all.

    Attributes:
        scratch: Where.
        options: What is measured.
        judged: Judgements, where there are some.
    """

    def __init__(
        self, scratch: Scratch, options: TuningOptions, judged: _Judged
    ) -> None:
        self._scratch = scratch
        self._options = options
        self._judged = judged
        self._truth: list[_Truth] = []
        self._kept: Setup | None = None
        self._exactly: TuningPoint
        self._bytes = 0

    def of(self, setup: Setup, *, is_current: bool) -> Tried:
        """Keep, build, search and measure."""
        kept = replace(setup, index=None)
        if kept != self._kept:
            self._bytes = self._scratch.keep(setup)
            self._scratch.build(kept)
            self._truth = self._truth or _truths(self._scratch, kept, self._options.k)
            (self._exactly,) = self._points(kept)
            self._kept = kept
        seconds, index_bytes = self._scratch.build(setup)
        return Tried(
            setup=setup,
            is_current=is_current,
            build_seconds=seconds,
            vector_bytes=self._bytes,
            index_bytes=index_bytes,
            points=[self._exactly] if setup == kept else list(self._points(setup)),
        )

    def is_needless(self, setup: Setup, tried: Sequence[Tried]) -> bool:
        """Whether a coarser graph finds all that there is without looking far."""
        if replace(setup, index=None) != self._kept:
            return False
        return grid.is_needless(setup, tried, self._enough)

    @property
    def _enough(self) -> float:
        """What an index is to find; of cut vectors an exact search has not all."""
        most = self._exactly.recall
        return self._options.recall if most >= self._options.recall else most - _LOSS

    def _points(self, setup: Setup) -> Iterator[TuningPoint]:
        k = self._options.k
        for effort in _efforts(setup, k):
            found, times = self._scratch.search(setup, effort, k)
            shares = [
                min(1.0, sum(row in true.rows for row, _ in hits) / true.count)
                for hits, true in zip(found, self._truth, strict=True)
            ]
            recall = sum(shares) / len(shares)
            ndcg = self._judged.ndcg(found, k)
            yield TuningPoint(effort, recall, ndcg, percentiles(times))
            if setup.index is None or recall >= self._enough:
                return


def _efforts(setup: Setup, k: int) -> list[int | None]:
    if setup.index is None:
        return [None]
    if isinstance(setup.index, IVFFlat):
        lists = setup.index.lists or 1
        return [*(one for one in _PROBES if one < lists), lists]
    return [one for one in _EF_SEARCH if one >= k]


def _report(
    found: _Embedding,
    plan: TuningPlan,
    scratch: Scratch,
    options: TuningOptions,
    tried: list[Tried],
) -> TuningReport:
    ratio = max(1.0, plan.chunks / scratch.rows)
    position = advice.recommended(tried, options.recall, ratio)
    change, effort = None, None
    if position is not None:
        chosen = tried[position]
        if not chosen.is_current:
            given = advice.changes(found.current, chosen.setup, plan.chunks, ratio)
            change = advice.statement(found.name, given)
        least = chosen.best(options.recall).effort
        effort = advice.effort(chosen.setup, least, ratio)
    return TuningReport(
        embedding=found.name,
        model=found.target.model.name if found.target.model else "",
        chunks=plan.chunks,
        rows=scratch.rows,
        queries=len(scratch.queries),
        k=options.k,
        recall=options.recall,
        disk_bytes=scratch.most_bytes,
        tried=tried,
        recommended=position,
        change=change,
        effort=effort,
        warnings=list(_warnings(found, tried, options, ratio)),
    )


def _warnings(
    found: _Embedding, tried: Sequence[Tried], options: TuningOptions, ratio: float
) -> Iterator[str]:
    if ratio > 1.5:
        yield (
            f"These are {100 / ratio:.0f} % of the vectors: of all, an index finds "
            "somewhat less and takes longer. Look again afterwards: pgembed recall "
            f"{found.table}."
        )
    shorter = any(one.setup.dimensions < found.stored.dimensions for one in tried)
    if shorter and options.judged is None:
        yield (
            "Shorter vectors have other neighbours; whether these are worse only "
            "judgements tell (--judgements)."
        )
