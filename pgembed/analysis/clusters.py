"""Groups of rows whose vectors are near each other: k-means, or by density."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from pgembed.analysis.vectors import silent
from pgembed.errors import AnalysisError, InvalidParameter, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgembed.analysis.vectors import Progress, Vectors

Method: TypeAlias = Literal["kmeans", "hdbscan"]

#: Number of rows that are in no cluster.
NONE: Final = -1
#: Density means little in hundreds of dimensions, where all points are about equally
#: far apart: HDBSCAN looks at so many principal components.
_DENSITY_DIMENSIONS: Final = 20
_EXAMPLES: Final = 3
_SILHOUETTE_ROWS: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """How to find clusters.

    Attributes:
        method: `kmeans`: k clusters, each row in one. `hdbscan`: as many as there are
            places where rows are dense; rows elsewhere are in none.
        k: Clusters of `kmeans`.
        min_size: Rows of the smallest cluster of `hdbscan`.
        seed: Another one begins elsewhere.
    """

    method: Method = "kmeans"
    k: int = 10
    min_size: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that are near each other.

    Attributes:
        number: From 0, the largest first; -1: rows that are in none.
        rows: How many.
        share: Of all rows, 0 to 1.
        similarity: Mean cosine of its rows to their centre.
        examples: Keys of the rows nearest to the centre.
        words: What sets its texts apart from the others', the most telling first.
    """

    number: int
    rows: int
    share: float
    similarity: float
    examples: list[Any]
    words: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name it by its first words."""
        return ", ".join(self.words[:3])


@dataclass(frozen=True, slots=True)
class Clustering:
    """The clusters of a table's rows.

    Attributes:
        embedding: Whose vectors.
        options: How they were found.
        rows: How many rows there are.
        left_out: How many more have no vector.
        clusters: The largest first; then rows in none.
        silhouette: Of a sample of the rows in clusters, -1 to 1: how much nearer a row
            is to its own cluster than to the next one (Rousseeuw, 1987). None: there
            is only one.
        numbers: Each row's cluster.
    """

    embedding: str
    options: ClusterOptions
    rows: int
    left_out: int
    clusters: list[Cluster]
    silhouette: float | None
    numbers: NDArray[np.int64]

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold, without each row's cluster."""
        return {
            "embedding": self.embedding,
            "options": asdict(self.options),
            "rows": self.rows,
            "left_out": self.left_out,
            "silhouette": self.silhouette,
            "clusters": [asdict(one) | {"label": one.label} for one in self.clusters],
        }


def find_clusters(
    vectors: Vectors,
    options: ClusterOptions | None = None,
    *,
    progress: Progress = silent,
) -> Clustering:
    """Group rows by their vectors; the same seed gives the same groups.

    Args:
        vectors: The rows.
        options: How.
        progress: Told what is being done.

    Raises:
        MissingExtra: scikit-learn is not installed.
        InvalidParameter: An option is out of range.
        AnalysisError: There are too few rows, or too few that differ.
    """
    wanted = options or ClusterOptions()
    _check(wanted, len(vectors))
    progress("clustering", 0)
    if wanted.method == "kmeans":
        numbers = kmeans(vectors.matrix, wanted.k, wanted.seed)
        if (different := int(numbers.max()) + 1) < wanted.k:
            raise AnalysisError(
                f"the rows have {different} different vectors, which are too few for "
                f"{wanted.k} clusters",
                hint="Ask for fewer: k=... (-k).",
            )
    else:
        numbers = _hdbscan(vectors.matrix, wanted)
    progress("clustering", 1)
    return Clustering(
        embedding=vectors.source.embedding,
        options=wanted,
        rows=len(vectors),
        left_out=vectors.left_out,
        clusters=[
            _described(vectors, numbers, number)
            for number in sorted(set(numbers.tolist()), key=lambda n: (n < 0, n))
        ],
        silhouette=_silhouette(vectors.matrix, numbers, wanted.seed),
        numbers=numbers,
    )


def check_seed(seed: int) -> None:
    """Refuse what scikit-learn takes no seed for."""
    if not 0 <= seed < 2**32:
        raise InvalidParameter(f"seed must be between 0 and {2**32 - 1}, not {seed}")


def _check(options: ClusterOptions, rows: int) -> None:
    if options.method not in ("kmeans", "hdbscan"):
        raise InvalidParameter(f"{options.method!r} is neither kmeans nor hdbscan")
    if options.k < 1:
        raise InvalidParameter(f"k must be at least 1, not {options.k}")
    if options.min_size < 2:
        raise InvalidParameter(f"min_size must be at least 2, not {options.min_size}")
    check_seed(options.seed)
    if rows == 0:
        raise AnalysisError(
            "there are no rows with a vector",
            hint="Does a row match the filter, may your role see any, and has the "
            "encoder service filled the embedding? See `pgembed status`.",
        )
    least = options.k if options.method == "kmeans" else options.min_size
    if rows < least:
        raise AnalysisError(
            f"{rows} rows with a vector are too few for "
            + (
                f"{options.k} clusters"
                if options.method == "kmeans"
                else f"clusters of {options.min_size}"
            ),
            hint="Ask for fewer clusters: k=... (-k)."
            if options.method == "kmeans"
            else "Allow smaller ones: min_size=... (--min-size).",
        )


def kmeans(matrix: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Number each line's cluster, the largest first; fewer than k if lines are equal.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    with warnings.catch_warnings():
        # Of lines that are equal.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _largest_first(KMeans(k, random_state=seed).fit_predict(matrix))


def _hdbscan(matrix: NDArray[np.float32], options: ClusterOptions) -> NDArray[np.int64]:
    try:
        from sklearn.cluster import HDBSCAN
        from sklearn.decomposition import PCA
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    most = min(_DENSITY_DIMENSIONS, *matrix.shape)
    if most < matrix.shape[1] and matrix.std() > 0:
        pca = PCA(most, svd_solver="covariance_eigh", random_state=options.seed)
        matrix = pca.fit_transform(matrix)
    model = HDBSCAN(options.min_size, copy=False, algorithm="auto")
    return _largest_first(model.fit_predict(matrix))


def _largest_first(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters by size; of equal ones by their first row."""
    numbers, first, counts = np.unique(found, return_index=True, return_counts=True)
    order = [numbers[i] for i in np.lexsort((first, -counts)) if numbers[i] != NONE]
    renamed = {old: new for new, old in enumerate(order)} | {NONE: NONE}
    return np.array([renamed[number] for number in found.tolist()], np.int64)


def _described(vectors: Vectors, numbers: NDArray[np.int64], number: int) -> Cluster:
    rows = np.flatnonzero(numbers == number)
    lines = vectors.matrix[rows]
    similarities = _cosines(lines, lines.mean(axis=0))
    nearest = np.argsort(-similarities, kind="stable")[:_EXAMPLES]
    return Cluster(
        number=number,
        rows=len(rows),
        share=len(rows) / len(vectors),
        similarity=float(similarities.mean()),
        examples=[vectors.json_key(int(rows[i])) for i in nearest],
    )


def _cosines(
    lines: NDArray[np.float32], centre: NDArray[np.float32]
) -> NDArray[np.float32]:
    lengths = np.linalg.norm(lines, axis=1) * np.linalg.norm(centre)
    lengths[lengths == 0] = 1  # of a vector that is zero; its products are, too
    return np.asarray(lines @ centre / lengths, np.float32)


def _silhouette(
    matrix: NDArray[np.float32], numbers: NDArray[np.int64], seed: int
) -> float | None:
    from sklearn.metrics import silhouette_score

    rows = np.flatnonzero(numbers != NONE)
    if len(rows) > _SILHOUETTE_ROWS:
        chosen = np.random.default_rng(seed).choice(
            len(rows), _SILHOUETTE_ROWS, replace=False
        )
        rows = rows[np.sort(chosen)]
    if not 1 < len(np.unique(numbers[rows])) < len(rows):
        return None
    return float(silhouette_score(matrix[rows], numbers[rows]))
