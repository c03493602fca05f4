"""`pgembed studio`: searches in the browser, and as an HTTP API."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pgembed.cli.common import Dsn, SearchDsn, console
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter, MissingExtra

if TYPE_CHECKING:
    import socket

    from starlette.applications import Starlette

    from pgembed.studio import StudioSettings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Running")(studio)


def studio(
    *,
    dsn: Dsn = "",
    search_dsn: SearchDsn = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")
    ] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PGEMBED_STUDIO_TOKEN",
            help="What opens it: 16 characters or more.",
            show_default="made at each start",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that browsers may ask for it by, besides addresses and "
            "localhost; repeat it.",
            show_default="none",
        ),
    ] = None,
    connections: Annotated[
        int, typer.Option(min=1, max=100, help="Most connections to the database.")
    ] = 4,
) -> None:
    """Open the studio: search in the browser, by words, by meaning, by both.

    Prints an address with a token, to be opened once; the browser then keeps a cookie.
    The same token opens the HTTP API, /v1/search, /v1/embeddings and /v1/status. Rows
    are those that the role of the connection may read, and nothing is written but what
    queries leave in pgembed's cache.
    """
    check_extra()
    from pgembed.studio import StudioSettings, create_app
    from pgembed.studio.settings import new_token

    # What is wrong with the connection is said now, not on the first page.
    with connect(dsn, autocommit=True) as conn:
        conn.execute("select from pgembed.search_status limit 0")
    settings = StudioSettings(
        host=host,
        port=port,
        token=new_token() if token is None else token,
        allowed_hosts=tuple(allow_host or ()),
        search_dsn=search_dsn,
        connections=connections,
    )
    with _listening(settings) as listener, suppress(KeyboardInterrupt):
        settings = replace(settings, port=listener.getsockname()[1])
        app = create_app(dsn, settings)
        _say(settings)
        # psycopg does not work with the Proactor loop, the default on Windows.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(_serve(app, listener))


def check_extra() -> None:
    """See that the studio can be opened.

    Raises:
        MissingExtra: The extra `studio` is not installed.
    """
    try:
        import uvicorn  # noqa: F401

        from pgembed.studio import app  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("studio") from exc


def _listening(settings: StudioSettings) -> socket.socket:
    import socket

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as exc:
        raise InvalidParameter(
            f"cannot listen on {settings.host}, port {settings.port}: {exc.strerror}",
            hint="Give another one with --port.",
        ) from exc


def _say(settings: StudioSettings) -> None:
    # From here, an address that stands for all of them is this machine.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{settings.port}/login?token={settings.token}"
    console.print("Open this in the browser; Ctrl-C ends the studio.", soft_wrap=True)
    console.print(url, markup=False, highlight=False, soft_wrap=True)


async def _serve(app: Starlette, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # the first address has the token in it
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    await uvicorn.Server(config).serve(sockets=[listener])
