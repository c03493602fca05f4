"""Measures of a ranking, by ir-measures (trec_eval's own code below it)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.errors import EvaluationError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

#: What is measured unless told otherwise.
DEFAULT_MEASURES: Final = ("nDCG@10", "MRR@10", "recall@100", "MAP")

_DRAWS: Final = 10_000  # of the bootstrap
_ALIASES: Final = {"mrr": "RR", "recall": "R", "map": "AP", "precision": "P"}
_NAME: Final = re.compile(r"(?P<name>[^@]+)(?P<cut>@\d+)?")


def parse_measures(names: Sequence[str]) -> dict[str, Any]:
    """Find ir-measures' measures of these names.

    Args:
        names: `nDCG@10`, `MRR@10`, `recall@100`, `MAP`, `P@5`, or any that
            ir-measures knows.

    Raises:
        MissingExtra: The extra `eval` is not installed.
        EvaluationError: There is no such measure.
    """
    try:
        import ir_measures
    except ImportError as exc:
        raise MissingExtra("eval") from exc
    found: dict[str, Any] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        text = name
        if match:
            text = _ALIASES.get(match["name"].lower(), match["name"]) + (
                match["cut"] or ""
            )
        try:
            found[name] = ir_measures.parse_measure(text)
        except (NameError, ValueError, TypeError) as exc:
            raise EvaluationError(
                f"unknown measure {name!r}",
                hint=f"For example: {', '.join(DEFAULT_MEASURES)}, P@5, nDCG@20.",
            ) from exc
    return found


def score_run(
    rankings: Mapping[str, Sequence[str]],
    judgements: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> dict[str, dict[str, float]]:
    """Measure rankings, query by query.

    Args:
        rankings: Documents by query, best first; no document twice.
        judgements: All judged queries; one that has no ranking counts as 0.
        measures: As in `parse_measures`.

    Returns:
        By measure: each query's value.

    Raises:
        MissingExtra: The extra `eval` is not installed.
        EvaluationError: There is no such measure.
    """
    parsed = parse_measures(measures)
    import ir_measures

    # Scores by rank: equal scores would be put in order by document id, which is
    # not the order that a user sees.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(ranking)}
        for query, ranking in rankings.items()
        if ranking
    }
    wanted = {query: dict(documents) for query, documents in judgements.items()}
    result: dict[str, dict[str, float]] = {
        name: dict.fromkeys(judgements, 0.0) for name in measures
    }
    if not run:
        return result
    for metric in ir_measures.iter_calc(list(parsed.values()), wanted, run):
        for name, measure in parsed.items():
            if measure == metric.measure:
                result[name][metric.query_id] = float(metric.value)
    return result


def interval(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """Give the 95 % interval of the mean difference, by bootstrap over the queries."""
    difference = np.asarray(after) - np.asarray(before)
    drawn = np.random.default_rng(0).integers(
        len(difference), size=(_DRAWS, len(difference))
    )
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
