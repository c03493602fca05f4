"""Two embeddings of a table, or two generations of one, by what was judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg import sql

from pgembed.errors import UnknownEmbedding
from pgembed.evaluation.compare import EvaluationOptions, evaluate
from pgembed.evaluation.measures import interval
from pgembed.evaluation.stored import stored_judgements
from pgembed.evaluation.target import Connection, fetch

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder

MEASURE: Final = "nDCG@10"
_NAMES = sql.SQL(
    "select e.source::pg_catalog.text, pgembed._qualified_name(e.source, e.name),"
    " case when o.name is not null"
    "  then pgembed._qualified_name(o.source, o.name) end"
    " from pgembed._embedding(%(name)s) as e left join lateral ("
    "  select x.source, x.name from pgembed.embedding as x"
    "  where case when %(other)s::pg_catalog.text is null"
    "   then x.current_id operator(pg_catalog.=) e.embedding_id"
    "   else x.embedding_id operator(pg_catalog.=)"
    "        (pgembed._embedding(%(other)s)).embedding_id end"
    "  order by x.generation operator(pg_catalog.=) 'next' desc limit 1) as o on true"
)


@dataclass(frozen=True, slots=True)
class JudgedComparison:
    """How well two embeddings find what was judged relevant.

    Attributes:
        names: Which.
        queries: Judged queries.
        ndcg: nDCG@10 of each.
        low: Lower bound of the 95 % interval of their difference, by bootstrap.
        high: Upper bound.
    """

    names: tuple[str, str]
    queries: int
    ndcg: tuple[float, float]
    low: float
    high: float


def compare_judged(
    conn: Connection,
    name: str,
    other: str | None = None,
    *,
    encoder: Encoder | str | None = None,
) -> JudgedComparison:
    """Search by two embeddings for what was judged: see `stored_judgements`.

    Args:
        conn: Connection whose role may search the table.
        name: An embedding.
        other: Another one of the table; its next generation, or its previous one.
        encoder: As in `EvaluationOptions`: any name for the models of each.

    Raises:
        UnknownEmbedding: There is no such embedding, or no other generation.
        EvaluationError: Nothing is judged.
    """
    table, first, second = fetch(conn, _NAMES, name=name, other=other).rows[0]
    if second is None:
        raise UnknownEmbedding(
            f"embedding {name!r} has no other generation",
            hint="Name the embedding that it is compared with.",
        )
    data = stored_judgements(conn, table, embedding=first)
    found = [
        evaluate(
            conn,
            table,
            data,
            EvaluationOptions(
                modes=["vector"],
                measures=[MEASURE],
                embedding=one,
                encoder=encoder,
                depth=10,
            ),
        ).modes[0]
        for one in (first, second)
    ]
    scores = [list(one.per_query[MEASURE].values()) for one in found]
    low, high = interval(*scores)
    return JudgedComparison(
        names=(first, second),
        queries=len(data.queries),
        ndcg=(found[0].measures[MEASURE], found[1].measures[MEASURE]),
        low=low,
        high=high,
    )
