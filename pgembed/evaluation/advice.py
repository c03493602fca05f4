"""What to make of measured indexes: which is best, and how an embedding gets it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from pgembed.evaluation.grid import DEFAULT_M, USUAL_EF_SEARCH, usual_lists
from pgembed.options import HNSW, IVFFlat, index_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.evaluation.scratch import Setup
    from pgembed.evaluation.tuning import Tried
    from pgembed.options import VectorIndex

_DEFAULT_EF_CONSTRUCTION: Final = 64
_CLOSE: Final = 1.1  # times that differ by less are the same: the smaller one then
_MOST_LISTS: Final = 32768
_LONGEST_VECTOR: Final = 2000  # longer ones are of type halfvec by default


def plain_index(kind: str, options: Mapping[str, Any]) -> VectorIndex:
    """Give a declared index, without the options that are pgvector's defaults."""
    if kind == "ivfflat":
        return IVFFlat(**options)
    if kind == "none":
        return None
    defaults = {"m": DEFAULT_M, "ef_construction": _DEFAULT_EF_CONSTRUCTION}
    return HNSW(**{k: v for k, v in options.items() if v != defaults.get(k)})


def recommended(tried: Sequence[Tried], recall: float, ratio: float) -> int | None:
    """Find the fastest with such a recall; of about the same time the smallest.

    Args:
        tried: What was measured, on a sample.
        recall: What is good enough.
        ratio: How many times more vectors there are.
    """
    times = {
        position: _expected(one.setup, one.best(recall).latency.p50, ratio)
        for position, one in enumerate(tried)
        if one.best(recall).recall >= recall
    }
    if not times:
        return None
    limit = _CLOSE * min(times.values())
    close = [position for position, time in times.items() if time <= limit]

    def size(position: int) -> tuple[int, bool]:
        one = tried[position]
        return one.vector_bytes + one.index_bytes, not one.is_current

    return min(close, key=size)


def _expected(setup: Setup, milliseconds: float, ratio: float) -> float:
    """Say what a time on the sample becomes on so many times more vectors.

    An exact search takes as many times longer, one of IVFFlat about the root of that
    (with as many more lists), one of HNSW hardly longer.
    """
    if setup.index is None:
        return milliseconds * ratio
    return milliseconds * (1 if isinstance(setup.index, HNSW) else math.sqrt(ratio))


def changes(
    current: Setup, setup: Setup, chunks: int, ratio: float
) -> dict[str, object]:
    """Give the options of `alter_embedding` that have an embedding be like that."""
    found: dict[str, object] = {}
    usual = current.vector_type
    if setup.dimensions != current.dimensions:
        found["dimensions"] = setup.dimensions
        usual = "vector" if setup.dimensions <= _LONGEST_VECTOR else "halfvec"
    if setup.reduction != current.reduction:
        found["reduction"] = setup.reduction
    if setup.vector_type != usual:
        found["vector_type"] = setup.vector_type
    before, was = index_arguments(current.index)
    kind, options = index_arguments(setup.index)
    if isinstance(setup.index, IVFFlat) and setup.index.lists is not None:
        # As many as there are rows for are what the service chooses by itself.
        more = min(math.ceil(setup.index.lists * ratio), _MOST_LISTS)
        del options["lists"]
        options |= {"lists": more} if more > 2 * usual_lists(chunks) else {}
    if kind != before:
        found["index"] = kind
        was = {}
    if options != was:
        usual_graph = {"m": DEFAULT_M, "ef_construction": _DEFAULT_EF_CONSTRUCTION}
        found["index_options"] = options or usual_graph
    return found


def statement(name: str, options: Mapping[str, object]) -> str | None:
    """Write the call of `alter_embedding`; None: there is nothing to change."""
    if not options:
        return None
    given = ", ".join(f"{name} => {_literal(value)}" for name, value in options.items())
    return f"SELECT pgembed.alter_embedding({_literal(name)}, {given});"


def _literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    quoted = text.replace("'", "''")
    return f"'{quoted}'"


def effort(setup: Setup, effort: int | None, ratio: float) -> int | None:
    """Give the effort that searches should ask for; None: the usual one.

    Args:
        setup: With which index.
        effort: What it took on the sample.
        ratio: How many times more vectors there are.
    """
    if effort is None:
        return None
    if isinstance(setup.index, HNSW):
        return None if effort == USUAL_EF_SEARCH else effort
    return math.ceil(effort * math.sqrt(ratio))
