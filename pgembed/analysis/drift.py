"""Whether, and where, the rows of one time differ from those of another.

Two answers, each with a test:

- The energy distance of the two sets of vectors, 2 E|X - Y| - E|X - X'| - E|Y - Y'|
  (Szekely and Rizzo, 2013), is zero only if they are drawn alike. Divided by
  2 E|X - Y| it is between 0 and 1. Its p-value is of a permutation test: how often is
  it as large when rows change sides by chance?
- Both sets are clustered together. The share of each cluster, before and after, is
  compared by Pearson's chi-square test with Yates's correction, by Fisher's exact test
  where fewer than five rows are expected; p-values are Holm's (1979), for there are as
  many tests as clusters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from pgembed.analysis.clusters import check_seed, kmeans
from pgembed.analysis.vectors import silent
from pgembed.analysis.words import telling_words
from pgembed.errors import (
    AnalysisError,
    InvalidParameter,
    MissingExtra,
    ModelMismatch,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgembed.analysis.source import Source
    from pgembed.analysis.vectors import Progress, Vectors
    from pgembed.evaluation.target import Connection

Verdict: TypeAlias = Literal["appeared", "grew", "same", "shrank", "went"]

#: Rows of each side, at least.
LEAST: Final = 5
#: A cluster whose share was less than this part of what it is now has appeared; one
#: whose share is less than this part of what it was went.
_HARDLY: Final = 0.1
_FEW: Final = 5  # expected rows, below which chi-square is not used
_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """How to compare.

    Attributes:
        k: Clusters, at most.
        sample: Rows of each side that the energy distance is of, at most.
        permutations: How many times rows change sides; the p-value is no less than
            1 / (permutations + 1).
        significance: p-values below it count as a difference.
        seed: Of samples, permutations and first centres.
    """

    k: int = 10
    sample: int = 1000
    permutations: int = 999
    significance: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DriftCluster:
    """Rows of both sides that are near each other.

    Attributes:
        number: From 0, the largest first.
        before: Rows of the first side.
        after: Rows of the second.
        share_before: Of all rows of the first side, 0 to 1.
        share_after: Of all rows of the second.
        p: How probable a difference of the shares as large is by chance; by Holm.
        verdict: `appeared`, `grew`, `same`, `shrank` or `went`.
        words: What sets its texts apart.
        examples: Keys of the rows nearest to its centre, of the side where it has the
            larger share.
    """

    number: int
    before: int
    after: int
    share_before: float
    share_after: float
    p: float
    verdict: Verdict
    words: list[str]
    examples: list[Any]


@dataclass(frozen=True, slots=True)
class Drift:
    """How two sets of rows differ.

    Attributes:
        embedding: Whose vectors.
        options: How they were compared.
        before: Rows of the first side.
        after: Rows of the second.
        left_out: Rows of both that have no vector.
        distance: Energy distance as a share of the distance between the sides: 0 they
            are alike, 1 they have nothing in common.
        p: How probable one as large is by chance.
        clusters: The largest change first.
    """

    embedding: str
    options: DriftOptions
    before: int
    after: int
    left_out: int
    distance: float
    p: float
    clusters: list[DriftCluster]

    @property
    def has_drifted(self) -> bool:
        """Whether the sides differ by more than chance."""
        return self.p < self.options.significance

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold."""
        return asdict(self) | {"has_drifted": self.has_drifted}


def find_drift(
    conn: Connection,
    before: Vectors,
    after: Vectors,
    options: DriftOptions | None = None,
    *,
    progress: Progress = silent,
) -> Drift:
    """Compare two sets of rows by their vectors; the same seed gives the same result.

    Args:
        conn: As who reads the texts that name clusters.
        before: The first side.
        after: The second: of the same model.
        options: How.
        progress: Told what is being done.

    Raises:
        ModelMismatch: The sides are of different models.
        AnalysisError: A side has too few rows, or they have rows in common.
        InvalidParameter: An option is out of range.
        MissingExtra: The extra `analysis` is not installed.
    """
    wanted = options or DriftOptions()
    _check(wanted, before, after)
    progress("comparing", 0)
    distance, p = energy_test(before.matrix, after.matrix, wanted)
    progress("clustering", 0.3)
    both = np.concatenate([before.matrix, after.matrix])
    numbers = kmeans(both, min(wanted.k, len(both)), wanted.seed)
    sides = (numbers[: len(before)], numbers[len(before) :])
    progress("naming", 0.8)
    words = telling_words(conn, [(before, sides[0]), (after, sides[1])])
    clusters = _compared(before, after, sides, words, wanted)
    progress("naming", 1)
    return Drift(
        embedding=after.source.embedding,
        options=wanted,
        before=len(before),
        after=len(after),
        left_out=before.left_out + after.left_out,
        distance=distance,
        p=p,
        clusters=clusters,
    )


def _check(options: DriftOptions, before: Vectors, after: Vectors) -> None:
    for name, least in (("k", 1), ("sample", LEAST), ("permutations", 1)):
        if getattr(options, name) < least:
            raise InvalidParameter(
                f"{name} must be at least {least}, not {getattr(options, name)}"
            )
    if not 0 < options.significance < 1:
        raise InvalidParameter(
            f"significance must be between 0 and 1, not {options.significance}"
        )
    check_seed(options.seed)
    of_first, of_second = _space(before.source), _space(after.source)
    if of_first != of_second:
        raise ModelMismatch(
            f"{before.source.embedding!r} and {after.source.embedding!r} have vectors "
            "that cannot be compared",
            detail=f"{_listed(of_first)}; {_listed(of_second)}.",
        )
    for side, vectors in (("first", before), ("second", after)):
        if len(vectors) < LEAST:
            raise AnalysisError(
                f"the {side} side has {len(vectors)} rows with a vector; at least "
                f"{LEAST} are needed",
                hint="Do rows match its conditions, and may your role see them?",
            )
    if before.source.table == after.source.table:
        common = set(before.keys) & set(after.keys)
        if common:
            raise AnalysisError(
                f"{len(common)} rows are on both sides, such as "
                f"{', '.join(min(common))}",
                hint="Give conditions that no row meets both of.",
            )


def _space(source: Source) -> dict[str, object]:
    """Give what must be the same where vectors are compared."""
    return {
        "model": source.model,
        "dimensions": source.dimensions,
        "distance": source.distance,
        "projection": source.projection,
    }


def _listed(space: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in space.items() if value)


def energy_test(
    first: NDArray[np.float32], second: NDArray[np.float32], options: DriftOptions
) -> tuple[float, float]:
    """Give the energy distance of samples, as a share, and its p-value."""
    random = np.random.default_rng(options.seed)
    left, right = (_sample(side, options.sample, random) for side in (first, second))
    points = np.concatenate([left, right]).astype(np.float64)
    squares = (points**2).sum(axis=1)
    distances = np.sqrt(
        np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
    )
    np.fill_diagonal(distances, 0)
    # A column is 1 for the first side's rows: as they are, then as chance has it.
    own = np.zeros(len(points))
    own[: len(left)] = 1
    sides = np.column_stack(
        [own, *(random.permutation(own) for _ in range(options.permutations))]
    )
    energy, between = _energy(distances, sides, len(left), len(right))
    # Equal ones differ by rounding.
    larger = int((energy[1:] >= energy[0] - 1e-9 * max(between, 1e-12)).sum())
    share = float(max(0.0, energy[0]) / (2 * between)) if between > 0 else 0.0
    return share, (larger + 1) / (options.permutations + 1)


def _energy(
    distances: NDArray[np.float64], sides: NDArray[np.float64], many: int, others: int
) -> tuple[NDArray[np.float64], float]:
    """Give the energy distance of each division, and the first's mean between."""
    products = distances @ sides
    within = (sides * products).sum(axis=0)
    across = ((1 - sides) * products).sum(axis=0)
    rest = distances.sum() - within - 2 * across
    between = across / (many * others)
    energy = 2 * between - within / many**2 - rest / others**2
    return energy, float(between[0])


def _sample(
    side: NDArray[np.float32], most: int, random: np.random.Generator
) -> NDArray[np.float32]:
    if len(side) <= most:
        return side
    return side[np.sort(random.choice(len(side), most, replace=False))]


def _compared(
    before: Vectors,
    after: Vectors,
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    words: dict[int, list[str]],
    options: DriftOptions,
) -> list[DriftCluster]:
    many = int(max(side.max() for side in sides)) + 1
    counts = np.array([np.bincount(side, minlength=many) for side in sides])
    tested = _holm([_test(counts, number) for number in range(many)])
    found = []
    for number in range(many):
        shares = counts[:, number] / (len(before), len(after))
        larger = after if shares[1] >= shares[0] else before
        of_larger = sides[1] if larger is after else sides[0]
        found.append(
            DriftCluster(
                number=number,
                before=int(counts[0, number]),
                after=int(counts[1, number]),
                share_before=float(shares[0]),
                share_after=float(shares[1]),
                p=tested[number],
                verdict=_verdict(shares, tested[number], options.significance),
                words=words.get(number, []),
                examples=_nearest(larger, of_larger == number),
            )
        )
    return sorted(found, key=lambda one: -abs(one.share_after - one.share_before))


def _test(counts: NDArray[np.int64], number: int) -> float:
    """Test whether a cluster's share is the same on both sides."""
    try:
        from scipy.stats import chi2_contingency, fisher_exact
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    own = counts[:, number]
    table = np.array([own, counts.sum(axis=1) - own])
    if (table.sum(axis=1) == 0).any():  # there is one cluster only
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    if expected.min() < _FEW:
        return float(fisher_exact(table).pvalue)
    return float(chi2_contingency(table).pvalue)


def _holm(values: list[float]) -> list[float]:
    """Adjust p-values for their number."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def _verdict(shares: NDArray[np.float64], p: float, significance: float) -> Verdict:
    before, after = shares
    if p >= significance:
        return "same"
    if after > before:
        return "appeared" if before < _HARDLY * after else "grew"
    return "went" if after < _HARDLY * before else "shrank"


def _nearest(vectors: Vectors, own: NDArray[np.bool_]) -> list[Any]:
    rows = np.flatnonzero(own)
    lines = vectors.matrix[rows]
    distances = np.linalg.norm(lines - lines.mean(axis=0), axis=1)
    order = np.argsort(distances, kind="stable")[:_EXAMPLES]
    return [vectors.json_key(int(rows[place])) for place in order]
