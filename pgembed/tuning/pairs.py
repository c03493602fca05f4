"""From judged queries to what the loss reads: a query, an answer, and none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pgembed.tuning.training import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgembed.evaluation import JudgedQueries
    from pgembed.tuning.mining import Found


def pairs(
    data: JudgedQueries,
    texts: Mapping[str, str],
    found: Found,
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
        found: What searches found: hard negatives, and the texts nearest to a query.
        negatives: How many each row has.
        seed: Of what is filled up.
    """
    others = sorted({texts[key] for found in data.judgements.values() for key in found})
    generator = np.random.default_rng(seed)
    rows = []
    for query, judged in data.judgements.items():
        near = found.near.get(query, {})
        mined = dict.fromkeys(found.negatives.get(query, ()), 0)
        by_score: tuple[list[str], list[str]] = ([], [])
        for key, score in {**judged, **mined}.items():
            by_score[score > 0].append(near.get(key) or texts[key])
        wrong, relevant = by_score
        # Two rows may have one text, and one row several.
        answers = {*relevant, *(texts[k] for k, score in judged.items() if score > 0)}
        wrong = [one for one in dict.fromkeys(wrong) if one not in answers]
        for number, positive in enumerate(dict.fromkeys(relevant)):
            turn = number * negatives % max(1, len(wrong))
            chosen = (wrong[turn:] + wrong[:turn])[:negatives]
            while len(chosen) < negatives:
                other = others[generator.integers(len(others))]
                if other not in answers or len(others) <= len(answers):
                    chosen.append(other)
            rows.append(Row(data.queries[query], positive, tuple(chosen)))
    return rows
