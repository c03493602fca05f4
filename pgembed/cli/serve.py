"""`pgembed serve`: the encoder service as a process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgembed.cli.common import Dsn, errors
from pgembed.settings import Backend, let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pgembed.service import EncoderService

EXIT_ROWS_FAILED = 3
EXIT_MODEL_UNAVAILABLE = 4

_OPTIONS = ("PGEMBED_HEALTH_PORT",)  # may be 0 here


class LogFormat(StrEnum):
    """How the log is written."""

    CONSOLE = "console"
    JSON = "json"


class Provider(StrEnum):
    """Providers of models that are off unless allowed."""

    LITELLM = "litellm"


LogFormatOption = Annotated[
    LogFormat, typer.Option(envvar="PGEMBED_LOG_FORMAT", help="Log format.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", envvar="PGEMBED_VERBOSE", help="Log each batch as well."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Service")(serve)


def service_settings(
    models: Annotated[
        str | None,
        typer.Option(
            envvar="PGEMBED_MODELS",
            help="Serve only these models (names separated by commas).",
            show_default="all",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            envvar="PGEMBED_BATCH_SIZE",
            min=1,
            max=10_000,
            help="Most rows claimed at once.",
        ),
    ] = 512,
    lease: Annotated[
        float,
        typer.Option(
            envvar="PGEMBED_LEASE",
            min=1.0,
            help="Seconds after which the rows of a dead service are taken over.",
        ),
    ] = 60.0,
    poll: Annotated[
        float,
        typer.Option(
            envvar="PGEMBED_POLL",
            min=0.05,
            help="Longest sleep in seconds: what a lost notification costs.",
        ),
    ] = 5.0,
    call_timeout: Annotated[
        float,
        typer.Option(
            envvar="PGEMBED_CALL_TIMEOUT",
            min=1.0,
            help="Seconds after which a call of a model that has not returned is "
            "given up.",
        ),
    ] = 120.0,
    read_timeout: Annotated[
        float,
        typer.Option(
            envvar="PGEMBED_READ_TIMEOUT",
            min=0.1,
            help="Seconds that reading one row may take: a function in the text may "
            "be slow.",
        ),
    ] = 10.0,
    max_text: Annotated[
        int,
        typer.Option(
            envvar="PGEMBED_MAX_TEXT",
            min=1,
            help="Most text read at once, in MiB; a row with more fails.",
        ),
    ] = 32,
    image_root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Read images below this folder or address whose rows say where they "
            "are (pgembed.image_at); repeat it. Also PGEMBED_IMAGE_ROOTS.",
            show_default="none",
        ),
    ] = None,
    erase_after: Annotated[
        float,
        typer.Option(
            envvar="PGEMBED_ERASE_AFTER",
            min=1.0,
            help="Seconds after which nothing of a deleted row is left in any table.",
        ),
    ] = 3600.0,
    index_memory: Annotated[
        int | None,
        typer.Option(
            envvar="PGEMBED_INDEX_MEMORY",
            min=1,
            help="Most memory of the server that the build of a vector index may take "
            "(MiB), where maintenance_work_mem is less.",
            show_default="the server's shared_buffers",
        ),
    ] = None,
    train_query_encoders: Annotated[
        bool,
        typer.Option(
            "--train-query-encoders/--no-train-query-encoders",
            envvar="PGEMBED_TRAIN_QUERY_ENCODERS",
            help="Train query encoders, which PostgreSQL encodes queries with by "
            "itself, when nothing else is to be done.",
        ),
    ] = True,
    backend: Annotated[
        Backend,
        typer.Option(
            envvar="PGEMBED_BACKEND",
            help="What computes the vectors of local models; auto takes onnx where an "
            "export agrees with the model, or torch is not installed.",
        ),
    ] = Backend.AUTO,
    device: Annotated[
        str | None,
        typer.Option(
            envvar="PGEMBED_DEVICE",
            help="cuda, cuda:1, mps or cpu.",
            show_default="the best there is",
        ),
    ] = None,
    allow_provider: Annotated[
        list[Provider] | None,
        typer.Option(
            envvar="PGEMBED_ALLOW_PROVIDER",
            help="Allow texts to be sent to hosted models through this provider.",
            show_default="none",
        ),
    ] = None,
    max_tokens_per_day: Annotated[
        int | None,
        typer.Option(
            envvar="PGEMBED_MAX_TOKENS_PER_DAY",
            min=1,
            help="Most tokens that each hosted model is sent in a day (UTC), by all "
            "services together; then rows and queries wait.",
            show_default="no limit",
        ),
    ] = None,
) -> Any:
    """Read `ServiceSettings` from options, and from variables what has no option."""
    from pgembed.service import ServiceSettings

    settings = replace(
        # Options have read their variables themselves.
        ServiceSettings.from_env(
            environ={k: v for k, v in os.environ.items() if k not in _OPTIONS}
        ),
        models=models,
        batch_size=batch_size,
        lease_seconds=lease,
        poll_seconds=poll,
        call_timeout_seconds=call_timeout,
        read_seconds=read_timeout,
        max_read_megabytes=max_text,
        erase_seconds=erase_after,
        index_megabytes=index_memory,
        train_query_encoders=train_query_encoders,
        max_tokens_per_day=max_tokens_per_day,
        backend=backend,
        device=device,
    )
    if image_root:
        settings = replace(settings, image_roots=tuple(image_root))
    if allow_provider:
        settings = replace(settings, hosted_models=True)
    return settings


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a service; it gets them as `settings`."""
    own = inspect.signature(command, eval_str=True)
    theirs = inspect.signature(service_settings, eval_str=True)
    names = list(theirs.parameters)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        settings = service_settings(**{name: values.pop(name) for name in names})
        command(**values, settings=settings)

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in (*own.parameters.values(), *theirs.parameters.values())
        if one.name != "settings"
    ]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


@takes_settings
def serve(
    *,
    settings: Any,
    dsn: Dsn = "",
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            envvar="PGEMBED_ONCE",
            help="Work off what can be claimed now, backfills included, build due "
            "indexes, and end. Exit code 3: rows failed; 4: a model is out of order.",
        ),
    ] = False,
    health_port: Annotated[
        int | None,
        typer.Option(
            envvar="PGEMBED_HEALTH_PORT",
            min=0,
            max=65535,
            help="Serve /healthz, /readyz and /metrics on this port (0: a free one).",
            show_default="off",
        ),
    ] = None,
    health_host: Annotated[
        str,
        typer.Option(
            envvar="PGEMBED_HEALTH_HOST",
            help="Address for that; 0.0.0.0 lets other machines ask.",
        ),
    ] = "127.0.0.1",
    log_format: LogFormatOption = LogFormat.CONSOLE,
    verbose: Verbose = False,
) -> None:
    """Run the encoder service: it embeds what changes, and answers queries.

    Stops on SIGTERM or Ctrl-C: work in hand is finished or given back, within a few
    seconds. A second signal ends it at once; nothing is lost then either, leases run
    out by themselves. Several services may run side by side.

    With --once, rows that wait for a retry are left in the queue and reported; so
    are rows that another service has leased.
    """
    from pgembed.cli.logs import configure_logging
    from pgembed.service import EncoderService

    let_threads_sleep()
    configure_logging(log_format.value, "debug" if verbose else "info", dsn=dsn)
    settings = replace(settings, health_port=health_port, health_host=health_host)
    if once:
        code = _run(lambda: _once(EncoderService(dsn, settings)))
    else:
        code = _run(lambda: _serve(EncoderService(dsn, settings)))
    if any(thread.name == "pgembed-encode" for thread in threading.enumerate()):
        # Ending the interpreter under a model that still runs crashes in its
        # library. All is given back and said: leave.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


async def _serve(service: EncoderService) -> int:
    _stop_on_signals(service)
    await service.run()
    return 0


async def _once(service: EncoderService) -> int:
    _stop_on_signals(service)
    waits = await service.drain()
    outcome = service.outcome
    errors.print(
        f"{outcome.written} rows embedded, {outcome.retried} to be tried again, "
        f"{outcome.dead} given up.",
        highlight=False,
    )
    if service.problems:
        for name, reason in service.problems.items():
            errors.print(
                f"Model {name} is out of order: {reason}", markup=False, highlight=False
            )
        return EXIT_MODEL_UNAVAILABLE
    if outcome.dead or outcome.retried:
        errors.print(
            "Some rows failed: SELECT * FROM pgembed.failed; then pgembed retry."
        )
        return EXIT_ROWS_FAILED
    if waits is not None:
        errors.print(
            f"The queue is not empty: the next row may be claimed in {waits:.0f} s.",
            highlight=False,
        )
    return 0


def _stop_on_signals(service: EncoderService) -> None:
    """Stop cleanly on the first SIGTERM or SIGINT, at once on the second."""
    loop = asyncio.get_running_loop()
    received = 0

    def handle(number: int) -> None:
        nonlocal received
        received += 1
        if received > 1:
            os._exit(128 + number)
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, handle, number)
        except NotImplementedError:  # Windows
            signal.signal(
                number, lambda n, _: loop.call_soon_threadsafe(handle, int(n))
            )


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    # psycopg does not work with the Proactor loop, which is the default on Windows;
    # elsewhere this is the default anyway.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())
