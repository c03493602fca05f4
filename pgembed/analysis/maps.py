"""Rows as points of a plane, where rows with similar vectors are near each other.

By t-SNE (van der Maaten and Hinton, 2008), as openTSNE has it (Policar, Strazar and
Zupan, 2024; above 10,000 rows by interpolation, Linderman and others, 2019). It begins
with the first two principal components, so that the map keeps their arrangement (Kobak
and Berens, 2019). New rows are placed into a map without moving what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from psycopg import sql

from pgembed.analysis.clusters import check_seed
from pgembed.analysis.source import reading
from pgembed.analysis.vectors import silent
from pgembed.errors import AnalysisError, InvalidParameter, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgembed.analysis.results import ResultTable
    from pgembed.analysis.vectors import Progress, Vectors
    from pgembed.evaluation.target import Connection

#: Neighbours are looked for among so many principal components.
_COMPONENTS: Final = 50
_FEWEST: Final = 10  # rows; fewer are put where their principal components are
_ITERATIONS: Final = (250, 500)  # openTSNE's own: early exaggeration, and then
_EVERY: Final = 25  # iterations, after which progress is told
_OF_NEW: Final = 5  # perplexity of a row that is placed, and near how many it begins:
_NEAREST: Final = 25  # openTSNE's own
# Sums in the order of one thread: the same map on all machines.
_JOBS: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How to draw the map.

    Attributes:
        perplexity: About how many neighbours each row should be near to, 2 to 500.
        seed: Of the search for neighbours.
    """

    perplexity: float = 30
    seed: int = 0


def make_map(
    vectors: Vectors,
    options: MapOptions | None = None,
    *,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Place rows on a plane; the same rows and seed give the same map.

    Args:
        vectors: The rows.
        options: How.
        progress: Told how far it is.

    Returns:
        A line a row: x and y.

    Raises:
        MissingExtra: The extra `analysis` is not installed.
        AnalysisError: There are no rows.
        InvalidParameter: An option is out of range.
    """
    wanted = options or MapOptions()
    _check(wanted, len(vectors))
    progress("mapping", 0)
    lines = _components(vectors.matrix, wanted.seed)
    spread = float(lines[:, 0].std())
    if len(vectors) < _FEWEST or spread == 0:  # few, or all alike
        return np.asarray(lines[:, :2], np.float32)
    begin = lines[:, :2] / spread * 1e-4
    found = _tsne(wanted, len(lines), progress).fit(lines, initialization=begin)
    return np.asarray(found, np.float32)


def quick_map(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Place rows by their first two principal components: at once, and coarsely.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    if min(matrix.shape) < 2 or float(np.ptp(matrix, axis=0).max()) == 0:
        return np.zeros((len(matrix), 2), np.float32)
    pca = PCA(2, svd_solver="randomized", random_state=0)
    return np.asarray(pca.fit_transform(matrix), np.float32)


def place(
    known: Vectors,
    points: NDArray[np.float32],
    new: Vectors,
    options: MapOptions | None = None,
    *,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Place new rows into a map, among the rows that they are similar to.

    Args:
        known: The rows of the map.
        points: Where they are.
        new: Others.
        options: As the map was made.
        progress: Told what is being done.

    Returns:
        A line a new row: x and y.

    Raises:
        AnalysisError: The map has fewer than ten rows.
    """
    wanted = options or MapOptions()
    _check(wanted, len(new))
    if len(known) < _FEWEST:
        raise AnalysisError(
            f"the map has {len(known)} rows with a vector, too few to place others",
            hint="Make it again: --replace.",
        )
    try:
        from openTSNE import TSNEEmbedding
        from openTSNE.affinity import PerplexityBasedNN
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    progress("mapping", 0)
    many = len(known)
    lines = _components(np.concatenate([known.matrix, new.matrix]), wanted.seed, many)
    map_ = TSNEEmbedding(
        points.astype(np.float64),
        PerplexityBasedNN(
            lines[:many],
            _perplexity(wanted, many),
            n_jobs=_JOBS,
            random_state=wanted.seed,
        ),
        n_jobs=_JOBS,
        random_state=wanted.seed,
    )
    placed = map_.transform(
        lines[many:], perplexity=min(_OF_NEW, (many - 1) / 3), k=min(_NEAREST, many)
    )
    return np.asarray(placed, np.float32)


def read_points(
    conn: Connection, table: ResultTable
) -> dict[tuple[str, ...], tuple[float, float]]:
    """Read a map's points by the values of their keys."""
    names = [sql.Identifier(name) for name, _ in table.columns[: table.key]]
    keys = sql.SQL(", ").join(sql.SQL("concat(m.{})").format(name) for name in names)
    statement = sql.SQL("select {}, m.x, m.y from {} as m").format(
        keys, sql.Identifier(*table.name)
    )
    with reading(conn) as cursor:
        return {
            tuple(row[:-2]): (row[-2], row[-1]) for row in cursor.execute(statement)
        }


def _check(options: MapOptions, rows: int) -> None:
    if not 2 <= options.perplexity <= 500:
        raise InvalidParameter(
            f"perplexity must be between 2 and 500, not {options.perplexity:g}"
        )
    check_seed(options.seed)
    if rows == 0:
        raise AnalysisError(
            "there are no rows with a vector",
            hint="Does a row match the filter, and may your role see any?",
        )


def _components(
    matrix: NDArray[np.float32], seed: int, fitted: int | None = None
) -> NDArray[np.float64]:
    """Give the principal components of the first so many lines, two or more."""
    try:
        from sklearn.decomposition import PCA
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    first = matrix[:fitted].astype(np.float64)
    most = min(_COMPONENTS, *first.shape)
    if float(np.ptp(first, axis=0).max()) == 0:
        found = np.zeros((len(matrix), most))
    else:
        pca = PCA(most, svd_solver="covariance_eigh", random_state=seed).fit(first)
        found = pca.transform(matrix.astype(np.float64))
    return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1]))))


def _perplexity(options: MapOptions, rows: int) -> float:
    """Give what so many rows allow."""
    return min(options.perplexity, (rows - 1) / 3)


def _tsne(options: MapOptions, rows: int, progress: Progress) -> Any:
    try:
        from openTSNE import TSNE
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    done = [0]

    def step(*_: object) -> None:
        done[0] += _EVERY
        progress("mapping", done[0] / sum(_ITERATIONS))

    return TSNE(
        perplexity=_perplexity(options, rows),
        early_exaggeration_iter=_ITERATIONS[0],
        n_iter=_ITERATIONS[1],
        n_jobs=_JOBS,
        random_state=options.seed,
        callbacks=step,
        callbacks_every_iters=_EVERY,
    )
