"""Charts of what was found, as PNG, SVG or PDF."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from pgembed.evaluation.chart import draw_bars, save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pgembed.analysis.drift import Drift
    from pgembed.analysis.models import ModelReport

_COLOURS: Final = 9  # values of a column that are told apart; the rest is grey
_KEY: Final = 30  # size of a point in the legend, whatever those of the map have
_MOST_DRAWN: Final = 20_000  # points as shapes, above which they become an image


def save_models_chart(reports: Sequence[ModelReport], path: str | Path) -> Path:
    """Draw models side by side, a group of bars a measure.

    Raises:
        MissingExtra: The extra `analysis` is not installed.
        EvaluationError: The file cannot be written, or its ending is no chart's.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = [f"{one.task}\n{one.measure}" for one in reports[0].figures]
        series = {
            report.model: [figure.value for figure in report.figures]
            for report in reports
        }
        draw_bars(axes, names, series, "{:.3f}")
        low = min(0.0, *(value for values in series.values() for value in values))
        axes.set_ylim(low, 1.1)
        axes.axhline(0, color="grey", linewidth=0.8)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)

    return save_figure(path, draw, extra="analysis")


def save_drift_chart(drift: Drift, path: str | Path) -> Path:
    """Draw the share of each cluster, before and after.

    Raises:
        MissingExtra: The extra `analysis` is not installed.
        EvaluationError: The file cannot be written, or its ending is no chart's.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = ["\n".join(one.words[:3]) or str(one.number) for one in drift.clusters]
        series = {
            f"before: {drift.before:,} rows": [
                one.share_before for one in drift.clusters
            ],
            f"after: {drift.after:,} rows": [one.share_after for one in drift.clusters],
        }
        draw_bars(axes, names, series, "{:.2f}")
        axes.set_ylabel("share of the rows")
        axes.set_title(
            f"{drift.embedding}: energy distance {drift.distance:.4f}, "
            f"p = {drift.p:.3f}"
        )
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    return save_figure(path, draw, extra="analysis")


def save_map_chart(
    points: NDArray[np.float32],
    path: str | Path,
    *,
    title: str,
    values: Sequence[str | None] | None = None,
) -> Path:
    """Draw points, coloured by a column: its most frequent values, the rest in grey.

    Raises:
        MissingExtra: The extra `analysis` is not installed.
        EvaluationError: The file cannot be written, or its ending is no chart's.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        size = max(1.0, min(20.0, 40_000 / len(points)))
        groups: dict[str, NDArray[np.int64]] = {}
        rest = np.arange(len(points))
        if values is not None:
            found = np.array([str(value) for value in values])
            for value, _ in Counter(found.tolist()).most_common(_COLOURS):
                groups[value] = np.flatnonzero(found == value)
            rest = np.flatnonzero(~np.isin(found, list(groups)))
        for number, (label, rows) in enumerate([("other", rest), *groups.items()]):
            if len(rows):
                axes.scatter(
                    points[rows, 0],
                    points[rows, 1],
                    s=size,
                    linewidths=0,
                    color=f"C{number - 1}" if number else "#888888",
                    label=label[:40],
                    rasterized=len(points) > _MOST_DRAWN,
                )
        axes.set_aspect("equal", "datalim")
        axes.set_axis_off()
        axes.set_title(title)
        if groups:
            legend = figure.legend(loc="outside right upper", frameon=False)
            for handle in legend.legend_handles:
                handle.set_sizes([_KEY])  # type: ignore[union-attr]

    return save_figure(path, draw, size=(10, 8), extra="analysis")
