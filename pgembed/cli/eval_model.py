"""`pgembed eval-model`: models beside each other, on files of the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pgembed.cli.analysis import PANEL, Seed, progress_bar
from pgembed.cli.common import AsJson, console
from pgembed.cli.evaluate import Chart
from pgembed.errors import InvalidParameter
from pgembed.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.analysis.models import ModelReport
    from pgembed.encoders.base import Encoder


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("eval-model", rich_help_panel=PANEL)(eval_model)


def eval_model(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Names or paths; PROVIDER:NAME for one of another provider, as in "
            "static:potion-base-8M.",
        ),
    ],
    *,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Pairs of sentences or words with a score (STS, word similarity): "
            "Spearman's correlation; repeat it.",
            show_default=False,
        ),
    ] = None,
    analogies: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Four words a line: the share of fourth words that are found.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Texts and labels: accuracy of a classifier, purity of clusters.",
            show_default=False,
        ),
    ] = None,
    wording: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Texts: how often their nearest neighbour changes by a typing error, "
            "or a negation.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option(help="Of names that have none in front.")
    ] = "sentence-transformers",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many pairs, questions or texts of a file."),
    ] = None,
    seed: Seed = 0,
    chart: Chart = None,
    as_json: AsJson = False,
) -> None:
    """Measure models on similarity, analogies, labels and wording, side by side.

    Files are CSV, TSV or JSON lines, .gz too. Nothing is read from or written to a
    database. Needs the extra `analysis`.
    """
    from pgembed.analysis import tasks
    from pgembed.analysis.charts import save_models_chart
    from pgembed.analysis.models import evaluate_model
    from pgembed.evaluation.chart import check_chart_file

    if chart is not None:
        check_chart_file(chart)
    wanted: list[tasks.Task] = [
        *map(tasks.read_pairs, pairs or ()),
        *map(tasks.read_analogies, analogies or ()),
        *map(tasks.read_labelled, labels or ()),
        *map(tasks.read_wording, wording or ()),
    ]
    if not wanted:
        raise InvalidParameter(
            "there is nothing to measure on",
            hint="Give files: --pairs, --analogies, --labels, --wording.",
        )
    if limit is not None:
        wanted = [tasks.first_of(task, limit) for task in wanted]
    reports = []
    with progress_bar() as progress:
        for model in models:
            progress(f"loading {model}", 0)
            encoder = _load(model, provider)
            report = evaluate_model(encoder, wanted, seed=seed, progress=progress)
            reports.append(replace(report, model=model))
    if chart is not None:
        save_models_chart(reports, chart)
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in reports], ensure_ascii=False))
    else:
        _show(reports)


def _load(model: str, provider: str) -> Encoder:
    from pgembed.encoders import load_encoder
    from pgembed.encoders.registry import PROVIDERS

    before, colon, name = model.partition(":")
    if colon and before in PROVIDERS:
        provider, model = before, name
    return load_encoder(model, provider, settings=Settings.from_env())


def _show(reports: Sequence[ModelReport]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("of", justify="right")
    for report in reports:
        table.add_column(Text(report.model), justify="right", overflow="fold")
    for row, first in enumerate(reports[0].figures):
        values = [report.figures[row].value for report in reports]
        # Of three decimals, as they are shown.
        best = None if first.is_change else max(round(value, 3) for value in values)
        table.add_row(
            Text(f"{first.task} {first.measure}"),
            f"{first.count:,}",
            *(
                Text(
                    f"{value:.3f}",
                    "green" if len(values) > 1 and round(value, 3) == best else "",
                )
                for value in values
            ),
        )
    table.add_section()
    table.add_row("dimensions", "", *(str(report.dimensions) for report in reports))
    table.add_row("encoding", "", *(f"{report.seconds:.1f} s" for report in reports))
    console.print(table)
    if any(figure.is_change for figure in reports[0].figures):
        console.print(
            "typos, negation: share of texts whose nearest neighbour changes",
            style="dim",
        )
