"""Which ways to keep and find vectors are tried."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pgembed.evaluation.scratch import LONGEST, Setup
from pgembed.options import HNSW, IVFFlat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgembed.evaluation.scratch import Stored
    from pgembed.evaluation.tuning import Tried, TuningOptions
    from pgembed.options import Reduction

DEFAULT_M: Final = 16
USUAL_EF_SEARCH: Final = 40
_FINER_M: Final = 32


def usual_lists(rows: int) -> int:
    """Give pgvector's advice for IVFFlat, which `create_embedding` follows."""
    return max(1, math.ceil(rows / 1000 if rows <= 1e6 else math.sqrt(rows)))


def on_sample(current: Setup, rows: int, chunks: int) -> Setup:
    """Give what an embedding has, for a sample: IVFFlat has fewer lists of fewer rows.

    Args:
        current: What it has.
        rows: Vectors of the sample.
        chunks: Of how many.
    """
    index = current.index
    if not isinstance(index, IVFFlat):
        return current
    scaled = usual_lists(rows)
    if index.lists is not None:
        scaled = max(1, round(index.lists * rows / max(chunks, 1)))
    return replace(current, index=replace(index, lists=scaled))


def setups(
    stored: Stored,
    current: Setup,
    lengths: Sequence[tuple[int, Reduction]],
    options: TuningOptions,
    rows: int,
) -> list[Setup]:
    """List what is tried: first what the embedding has, exactly and as it is.

    What is of one length and type follows each other: it shares a table.

    Args:
        stored: The vectors.
        current: What the embedding has, of a sample.
        lengths: Shorter ones to try, and how they are made.
        options: Kinds and indexes.
        rows: Vectors of the sample.
    """
    shorter = sorted({one for one in lengths if one[0] < stored.dimensions})
    own = (stored.dimensions, stored.reduction)
    types = sorted(LONGEST, key=lambda one: one != stored.vector_type)
    wanted = [
        setup
        for dimensions, reduction in (own, *reversed(shorter))
        for kind in types
        for setup in _of_type(
            Setup(dimensions, kind, None, reduction), stored, options, rows
        )
    ]
    return list(dict.fromkeys((replace(current, index=None), current, *wanted)))


def _of_type(
    setup: Setup, stored: Stored, options: TuningOptions, rows: int
) -> Iterator[Setup]:
    """Give the indexes of vectors of a length and type."""
    graphs = [_graph(m) for m in dict.fromkeys(options.m or (DEFAULT_M, _FINER_M))]
    graphs = graphs if "hnsw" in options.indexes else []
    is_own = setup.vector_type == stored.vector_type
    if setup.vector_type in options.kinds and "none" in options.indexes:
        yield setup
    if (
        setup.vector_type in options.kinds
        and setup.dimensions <= LONGEST[setup.vector_type]
    ):
        yield from (replace(setup, index=one) for one in graphs)
        if "ivfflat" in options.indexes and is_own:
            usual = usual_lists(rows)
            for lists in (usual, max(1, min(4 * usual, rows // 8))):
                yield replace(setup, index=IVFFlat(lists))
    # The distance of signs tells of angles, not of lengths.
    if "binary" in options.kinds and is_own and stored.distance != "l2":
        yield from (replace(setup, index=replace(one, binary=True)) for one in graphs)


def _graph(m: int) -> HNSW:
    return HNSW() if m == DEFAULT_M else HNSW(m, max(4, min(4 * m, 1000)))


def is_needless(setup: Setup, tried: Sequence[Tried], recall: float) -> bool:
    """Whether a coarser graph finds enough without looking far: finer ones cost more.

    Args:
        setup: What would be tried.
        tried: What was tried.
        recall: What is enough.
    """
    if not isinstance(setup.index, HNSW) or setup.index.m != _FINER_M:
        return False
    coarser = replace(setup, index=replace(setup.index, m=None, ef_construction=None))
    # With signs alone most of the time goes into ranking the pool.
    far = math.inf if setup.binary else USUAL_EF_SEARCH
    return any(
        point.recall >= recall and (point.effort or 0) <= far
        for one in tried
        if one.setup == coarser
        for point in one.points
    )
