"""From judged queries to what the loss reads: a query, an answer, and none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pgembed.tuning.training import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.evaluation import JudgedQueries


def pairs(
    data: JudgedQueries,
    texts: Mapping[str, str],
    mined: Mapping[str, Sequence[str]],
    *,
    negatives: int,
    seed: int,
) -> list[Row]:
    """Make a row of each relevant document, each with as many negatives.

    Those that were judged so come first, then those that were mined. A query that has
    too few gets documents of other queries, as a batch does anyway.

    Args:
        data: The queries to make rows of, with the texts of all their documents.
        texts: Of documents, by id.
        mined: By query, ids of documents that are near and not judged.
        negatives: How many each row has.
        seed: Of what is filled up.
    """
    others = sorted({texts[key] for found in data.judgements.values() for key in found})
    generator = np.random.default_rng(seed)
    rows = []
    for query, judged in data.judgements.items():
        relevant = [texts[key] for key, score in judged.items() if score > 0]
        wrong = [texts[key] for key, score in judged.items() if score <= 0]
        wrong += [texts[key] for key in mined.get(query, ())]
        # Two rows may have one text: it is no answer where it is one under another id.
        wrong = [one for one in dict.fromkeys(wrong) if one not in relevant]
        for number, positive in enumerate(dict.fromkeys(relevant)):
            turn = number * negatives % max(1, len(wrong))
            chosen = (wrong[turn:] + wrong[:turn])[:negatives]
            while len(chosen) < negatives:
                other = others[generator.integers(len(others))]
                if other not in relevant or len(others) <= len(relevant):
                    chosen.append(other)
            rows.append(Row(data.queries[query], positive, tuple(chosen)))
    return rows
