"""`pgembed fleet`: as many encoder services as the queue asks for, on Ray."""

from __future__ import annotations

import functools
import signal
from typing import Annotated, Any

import typer

from pgembed.cli.common import Dsn
from pgembed.cli.serve import LogFormat, LogFormatOption, Verbose, takes_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Service")(fleet)


@takes_settings
def fleet(
    *,
    settings: Any,
    dsn: Dsn = "",
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="The Ray cluster: auto, or ray://host:10001.",
            show_default="one of its own, on this machine",
        ),
    ] = None,
    min_services: Annotated[
        int, typer.Option("--min", min=0, help="Fewest services.")
    ] = 0,
    max_services: Annotated[
        int, typer.Option("--max", min=1, help="Most services.")
    ] = 4,
    num_cpus: Annotated[
        float, typer.Option(min=0.0, help="CPUs that Ray keeps for each service.")
    ] = 1.0,
    num_gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs, or a part of one, for each service.")
    ] = 0.0,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows that wait, for each service.")
    ] = 1000,
    age: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Seconds that a row may wait before there is one service more.",
        ),
    ] = 30.0,
    idle: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Seconds for which fewer services would do before some are stopped.",
        ),
    ] = 60.0,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    verbose: Verbose = False,
) -> None:
    """Run encoder services on a Ray cluster, as many as the queue asks for.

    The options of `pgembed serve` are those of each of them. Ray places them and starts
    them again when a node is lost; a service that is no longer needed finishes what it
    has in hand. On SIGTERM or Ctrl-C all do.
    """
    from pgembed.cli.logs import configure_logging
    from pgembed.fleet import Fleet, Scaling

    prepare = functools.partial(
        configure_logging, log_format.value, "debug" if verbose else "info", dsn=dsn
    )
    prepare()
    services = Fleet(
        dsn,
        Scaling(
            min=min_services,
            max=max_services,
            rows=rows,
            age_seconds=age,
            idle_seconds=idle,
        ),
        address=address,
        settings=settings,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        prepare=prepare,
    )

    def stop_on_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: services.stop())

    services.run(stop_on_signals)
