"""Charts of what was measured, as PNG, SVG or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pgembed.errors import EvaluationError, MissingExtra
from pgembed.evaluation.compare import Report
from pgembed.evaluation.recall import RecallReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pgembed.evaluation.tuning import TuningReport

_FORMATS: Final = (".png", ".svg", ".pdf")
COLOURS: Final = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")
_DPI: Final = 150


def save_chart(report: Report | RecallReport | TuningReport, path: str | Path) -> Path:
    """Draw a report and write it to a file.

    Args:
        report: What `evaluate`, `measure_recall` or `tune_index` found.
        path: File, whose ending says the format: .png, .svg or .pdf.

    Returns:
        The file.

    Raises:
        MissingExtra: The extra `eval` is not installed.
        EvaluationError: Another ending, or the file cannot be written.
    """

    def draw(figure: Figure) -> None:
        if isinstance(report, Report):
            _draw_modes(figure, report)
        elif isinstance(report, RecallReport):
            _draw_recall(figure, report)
        else:
            _draw_tuning(figure, report)

    return save_figure(path, draw)


def save_figure(
    path: str | Path,
    draw: Callable[[Figure], None],
    *,
    size: tuple[float, float] = (10, 4),
    extra: str = "eval",
) -> Path:
    """Let something be drawn, and write it to a file.

    Args:
        path: As in `save_chart`.
        draw: Draws on an empty figure.
        size: Inches.
        extra: What brings matplotlib.

    Raises:
        MissingExtra: It is not installed.
        EvaluationError: As in `save_chart`.
    """
    file = check_chart_file(path)
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtra(extra) from exc
    # Text as text: the file stays small and its words can be found.
    with rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        try:
            figure.savefig(file, dpi=_DPI)
        except OSError as exc:
            raise EvaluationError(
                f"the chart cannot be written to {file}: {exc.strerror or exc}"
            ) from exc
    return file


def check_chart_file(path: str | Path) -> Path:
    """Refuse a file that no chart can be written to, before any work is done.

    Raises:
        EvaluationError: Its ending is no known format, or its folder is not there.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in _FORMATS:
        raise EvaluationError(
            f"{file} is no chart's name", hint=f"End it with {', '.join(_FORMATS)}."
        )
    if not file.parent.is_dir():
        raise EvaluationError(f"there is no folder {file.parent} to write a chart to")
    return file


def _draw_modes(figure: Figure, report: Report) -> None:
    quality, speed = figure.subplots(1, 2, width_ratios=(2, 1))
    figure.suptitle(
        f"{report.embedding}: {report.queries} queries"
        + (f", {report.model}" if report.model else "")
    )
    series = {
        mode.mode: list(mode.measures.values())
        for mode in report.modes
        if mode.measures
    }
    names = list(report.modes[0].measures) if report.modes else []
    draw_bars(quality, names, series, "{:.3f}")
    quality.set_ylim(0, 1)
    quality.set_ylabel("value")
    times = {mode.mode: [mode.latency.p50, mode.latency.p95] for mode in report.modes}
    draw_bars(speed, ["p50", "p95"], times, "{:.1f}")
    speed.set_ylabel(f"ms a search of {report.depth} rows")
    quality.legend(loc="upper center", ncols=len(series), frameon=False)
    top = max((max(values) for values in series.values() if values), default=1)
    quality.set_ylim(0, min(1.15, top * 1.25 + 0.05))


def draw_bars(
    axes: Axes, names: list[str], series: dict[Any, list[float]], form: str
) -> None:
    """Draw groups of bars, each with its value on top."""
    width = 0.8 / max(1, len(series))
    for position, (label, values) in enumerate(series.items()):
        left = [
            group + width * (position - (len(series) - 1) / 2)
            for group in range(len(names))
        ]
        bars = axes.bar(
            left,
            values,
            width * 0.95,
            label=str(label),
            color=COLOURS[position % len(COLOURS)],
        )
        # .678 for 0.678: four bars side by side leave little room.
        labels = [form.format(value).removeprefix("0") for value in values]
        axes.bar_label(bars, labels, fontsize=7, padding=1)
    axes.set_xticks(range(len(names)), names)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_recall(figure: Figure, report: RecallReport) -> None:
    axes = figure.subplots()
    figure.suptitle(
        f"{report.embedding} ({report.index}): recall@{report.k}, "
        f"{report.queries} queries"
    )
    values = [point.value for point in report.points]
    axes.plot(
        values,
        [point.recall for point in report.points],
        marker="o",
        color=COLOURS[0],
        label="mean recall",
    )
    axes.plot(
        values,
        [point.worst for point in report.points],
        marker=".",
        linestyle=":",
        color=COLOURS[0],
        label="recall, 5th percentile",
    )
    axes.axhline(report.target, color="grey", linewidth=0.8, linestyle="--")
    axes.set_ylim(top=1.02)
    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set_xlabel(report.setting)
    axes.set_ylabel(f"recall@{report.k}")
    beside = axes.twinx()
    beside.plot(
        values,
        [point.latency.p50 for point in report.points],
        marker="s",
        color=COLOURS[1],
        label="p50",
    )
    beside.set_ylabel("ms a search, p50")
    beside.set_ylim(bottom=0)
    if report.suggestion is not None:
        axes.axvline(report.suggestion, color=COLOURS[2], linewidth=1)
    lines, labels = axes.get_legend_handles_labels()
    more, more_labels = beside.get_legend_handles_labels()
    axes.legend(lines + more, labels + more_labels, loc="lower right", frameon=False)


def _draw_tuning(figure: Figure, report: TuningReport) -> None:
    """Draw recall against time: a line an index, a mark an effort of its searches."""
    axes = figure.subplots()
    figure.suptitle(
        f"{report.embedding}: {report.rows:,} vectors, {report.queries} queries"
    )
    for position, one in enumerate(report.tried):
        axes.plot(
            [point.latency.p50 for point in one.points],
            [point.recall for point in one.points],
            marker="o" if one.is_current else ".",
            linewidth=2.5 if position == report.recommended else 1,
            label=one.setup.label + (", as it is" if one.is_current else ""),
        )
    if report.recommended is not None:
        best = report.tried[report.recommended].best(report.recall)
        axes.plot(
            *(best.latency.p50, best.recall),
            marker="o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor=COLOURS[2],
        )
    axes.axhline(report.recall, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("ms a search, p50")
    axes.set_ylabel(f"recall@{report.k}")
    figure.legend(loc="outside right upper", frameon=False)
