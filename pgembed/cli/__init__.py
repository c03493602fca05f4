"""The `pgembed` command: where the parts are put together.

Each module of this package adds its commands to the app in `register`, and imports
what a command needs only when that command runs.
"""

from __future__ import annotations

import typer

from pgembed.cli import (
    bm25,
    cluster,
    declare,
    demo,
    distil,
    doctor,
    drift,
    eval_model,
    evaluate,
    export,
    fleet,
    judge,
    maps,
    models,
    query_encoder,
    rows,
    schema,
    search,
    serve,
    status,
    studio,
    tune,
    tune_index,
)
from pgembed.cli.common import CleanErrors

app = typer.Typer(
    cls=CleanErrors,
    name="pgembed",
    help="Text embeddings that stay fresh, and semantic search, inside PostgreSQL.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (
    schema,
    declare,
    models,
    query_encoder,
    distil,
    tune,
    bm25,
    search,
    judge,
    evaluate,
    tune_index,
    rows,
    cluster,
    maps,
    drift,
    export,
    eval_model,
    serve,
    fleet,
    status,
    doctor,
    studio,
    demo,
):
    _module.register(app)


def main() -> None:
    """Run the command line."""
    app()
