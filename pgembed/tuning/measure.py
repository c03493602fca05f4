"""nDCG@10 of a model: each judged query against the same documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pgembed.encoders.base import truncate_vectors, unit_length
from pgembed.evaluation import score_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pgembed.encoders.base import Encoder
    from pgembed.evaluation import JudgedQueries

MEASURE: Final = "nDCG@10"
_HITS: Final = 10


def measure(
    encoder: Encoder,
    data: JudgedQueries,
    texts: Mapping[str, str],
    lengths: Sequence[int] = (),
    progress: Callable[[float], None] = lambda _done: None,
) -> dict[int, NDArray[np.float64]]:
    """Rank documents by cosine for each query.

    Args:
        encoder: Whose vectors are ranked.
        data: Queries and judgements.
        texts: The documents that are ranked, by id.
        lengths: Also rank vectors cut to these.
        progress: Told the share that is done, 0 to 1.

    Returns:
        By length, the model's own first: each query's value, in the order of `data`.
    """
    keys = list(texts)
    stored = np.empty((len(keys), encoder.dimensions), dtype=np.float32)
    documents, done = [texts[key] for key in keys], 0
    for places in encoder.plan(documents):
        stored[places] = encoder.encode_documents([documents[n] for n in places])
        done += len(places)
        progress(done / len(keys))
    asked = encoder.encode_queries(list(data.queries.values()))
    found = {}
    for length in dict.fromkeys([encoder.dimensions, *lengths]):
        cut = [
            unit_length(truncate_vectors(some, length, normalized=True))
            for some in (asked, stored)
        ]
        best = np.argsort(-(cut[0] @ cut[1].T), axis=1, kind="stable")[:, :_HITS]
        rankings = {
            query: [keys[place] for place in places]
            for query, places in zip(data.queries, best, strict=True)
        }
        values = score_run(rankings, data.judgements, [MEASURE])[MEASURE]
        found[length] = np.array([values[query] for query in data.queries])
    return found
