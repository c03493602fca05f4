"""`pgembed tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from psycopg import sql
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import Dsn, console
from pgembed.cli.evaluate import Key, Split

if TYPE_CHECKING:
    from pgembed.tuning.tune import Tuned


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Embeddings")(tune)


def tune(
    model: Annotated[str, typer.Argument(help="The base, by name or path.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    dsn: Dsn = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Examples: a folder in BEIR's layout, or a file (.jsonl, .csv, .tsv) "
            "with query and positive (and negative), or query and document_id.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TABLE|QUERY",
            help="Instead: a table with these columns, or a SELECT.",
            show_default=False,
        ),
    ] = None,
    judgements: Annotated[
        bool,
        typer.Option(
            "--judgements",
            help="Instead: what was judged of --table's rows (pgembed judge, the "
            "studio).",
        ),
    ] = False,
    split: Split = "train",
    table: Annotated[
        str | None,
        typer.Option(
            help="The documents' table, with an embedding: hard negatives are searched "
            "for in it, with your rights.",
            show_default=False,
        ),
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Which, where the table has several.")
    ] = None,
    key: Key = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Measure on these examples instead of the held-out part (of a folder: "
            "its test judgements).",
            show_default=False,
        ),
    ] = None,
    negatives: Annotated[int, typer.Option(help="Hard negatives of each pair.")] = 1,
    matryoshka: Annotated[
        list[int] | None,
        typer.Option(
            metavar="DIMENSIONS",
            help="Train for vectors cut to this length, too; repeat it.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Read all pairs so many times at most.")
    ] = 3,
    max_steps: Annotated[
        int | None, typer.Option(help="Batches at most.", show_default="no limit")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs in a batch.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="The highest.")] = 2e-5,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Cut texts after so many while training: faster.",
            show_default="where the model does",
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the queries that is not trained on.")
    ] = 0.1,
    patience: Annotated[
        int,
        typer.Option(
            help="Stop when the loss on the held-out part was no lower so many times."
        ),
    ] = 3,
    documents: Annotated[
        int, typer.Option(help="Rank so many documents at most to measure it.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
) -> None:
    """Train a model further, on what people look for, and measure it beside its base.

    The new model is written to the folder of your own models (PGEMBED_MODEL_FOLDER)
    and registered; its base stays as it is.
    """
    from pgembed.settings import Settings
    from pgembed.tuning.training import TrainingOptions
    from pgembed.tuning.tune import TuneOptions
    from pgembed.tuning.tune import tune as work

    options = TuneOptions(
        data=data,
        rows=rows,
        judgements=judgements,
        split=split,
        table=table,
        embedding=embedding,
        key=key,
        test=test,
        negatives=negatives,
        held_out=held_out,
        most_documents=documents,
        training=TrainingOptions(
            epochs=epochs,
            most_steps=max_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            matryoshka=matryoshka or (),
            patience=patience,
            seed=seed,
        ),
    )
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=1)
        tuned = work(
            dsn,
            model,
            name,
            options,
            settings=Settings.from_env(),
            progress=lambda what, done: bar.update(
                task, description=what, completed=done
            ),
        )
    _show(tuned, "test queries" if test else "held-out queries")


def _show(tuned: Tuned, queries: str) -> None:
    from pgembed.evaluation.measures import interval
    from pgembed.tuning.measure import MEASURE

    shown = Table(
        title=Text(
            f"{tuned.queries} {queries}, {tuned.documents:,} documents: {MEASURE}"
        ),
        title_justify="left",
    )
    shown.add_column("dimensions", justify="right")
    for column in ("base", "tuned", "difference", "95 %"):
        shown.add_column(column, justify="right")
    for length, before in tuned.before.items():
        after = tuned.after[length]
        low, high = interval(before, after)
        shown.add_row(
            str(length),
            f"{before.mean():.4f}",
            f"{after.mean():.4f}",
            f"{after.mean() - before.mean():+.4f}",
            f"{low:+.4f} to {high:+.4f}",
        )
    console.print(shown)
    first = next(iter(tuned.before))
    for note in (
        *tuned.notes,
        *(
            ()
            if tuned.after[first].mean() > tuned.before[first].mean()
            else ("It is no better than its base: there is no reason to switch.",)
        ),
    ):
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    trained = tuned.trained
    _say(
        f"Trained on {tuned.pairs:,} pairs, {trained.steps} of {trained.most_steps} "
        f"steps. Written to {tuned.folder}, and registered as {tuned.name}. Services "
        "on other machines need a copy in their PGEMBED_MODEL_FOLDER."
    )
    if tuned.embedding is not None:
        call = sql.SQL("SELECT pgembed.alter_embedding({}, model => {});").format(
            tuned.embedding, tuned.name
        )
        _say("Next, without a gap in searches:")
        _say(f"  {call.as_string()}")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
