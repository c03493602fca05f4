"""Re-ranking in this process; models named by a string are loaded once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from pgembed._client.locks import ForkSafeLock
from pgembed._client.results import BM25Hit, HybridHit, VectorHit
from pgembed._client.steps import Flow, Work
from pgembed._client.values import check_int, check_text
from pgembed.errors import InvalidParameter, InvalidQuery
from pgembed.rerankers import (
    DEFAULT_RERANKER,
    Reranker,
    as_reranker,
    check_scores,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pgembed.options import RerankerLike

HitT = TypeVar("HitT", bound="VectorHit[Any] | BM25Hit[Any] | HybridHit[Any]")

_MOST = 10_000  # as many as a search may return

# A model is used by one thread at a time, and two would only compete for the same
# cores. A hosted one is waited for by as many as there are.
_lock = ForkSafeLock()
_loaded: dict[str, Reranker] = {}


@dataclass(frozen=True, slots=True)
class Rerank:
    """What is to be ranked again, and by which model."""

    count: int
    reranker: Reranker | str
    query: str

    def candidates(self, k: int) -> int:
        """How many hits the search itself has to find."""
        return max(k, self.count)


def plan(options: Mapping[str, Any], query: str | None) -> Rerank | None:
    """Check the options; None when nothing is to be ranked again.

    Raises:
        InvalidParameter: `rerank` is out of range, or `reranker` cannot score.
        InvalidQuery: There are no words to score texts against.
    """
    rerank: int | None = options.get("rerank")
    reranker: RerankerLike = options.get("reranker", DEFAULT_RERANKER)
    if rerank is None:
        return None
    count = check_int(rerank, "rerank")
    if count > _MOST:
        raise InvalidParameter(
            f"rerank must be at most {_MOST}, not {count}",
            hint="It is the number of hits that a cross-encoder reads, one by one: "
            "20 to 200 are usual.",
        )
    if query is None:
        raise InvalidQuery(
            "rerank needs the query's words, which a vector does not tell",
            hint="Give query as well as query_embedding.",
        )
    if isinstance(reranker, str):
        return Rerank(count, check_text(reranker, "reranker", InvalidParameter), query)
    return Rerank(count, as_reranker(reranker), query)


def reranked(
    hits: list[HitT], texts: Sequence[str | None], wanted: Rerank
) -> Flow[list[HitT]]:
    """Put the best hits into the cross-encoder's order; the others follow as they are.

    Args:
        hits: The search's hits, best first.
        texts: What the model reads of each.
        wanted: How many, by which model.
    """
    first = hits[: wanted.count]
    read = [text or "" for text in texts[: wanted.count]]
    scores: list[float] = yield Work(lambda: _score(wanted, read))
    # Stable: equal scores keep the search's order.
    order = sorted(range(len(first)), key=lambda i: -scores[i])
    best = [replace(first[i], rerank_score=scores[i]) for i in order]
    return best + hits[wanted.count :]


def _score(wanted: Rerank, texts: list[str]) -> list[float]:
    reranker = wanted.reranker
    if isinstance(reranker, str):
        with _lock:
            reranker = _load(reranker)
    with nullcontext() if getattr(reranker, "concurrent", False) else _lock:
        scores = reranker.score(wanted.query, texts)
    return check_scores(reranker.name, scores, len(texts))


def _load(name: str) -> Reranker:
    reranker = _loaded.get(name)
    if reranker is None:
        from pgembed.rerankers import load_reranker
        from pgembed.settings import Settings

        reranker = _loaded[name] = load_reranker(name, settings=Settings.from_env())
    return reranker
