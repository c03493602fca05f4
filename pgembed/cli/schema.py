"""`pgembed install | upgrade | uninstall | sql | version`."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from pgembed.cli.common import Dsn, console


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (install, upgrade, uninstall, sql, version):
        app.command(rich_help_panel="Schema")(command)


def install(
    dsn: Dsn = "",
    upgrade_older: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="Bring an older schema to this version, instead of refusing: one "
            "command for every deployment.",
        ),
    ] = False,
) -> None:
    """Make pgembed's schema in a database; does nothing where it is there."""
    from pgembed import schema

    before = schema.version(dsn)
    if upgrade_older and before and not (before.is_current or before.is_newer):
        upgrade(dsn)
        return
    after = schema.install(dsn)
    console.print(
        f"pgembed {after.library} is installed (revision {after.revision})."
        if before is None
        else f"pgembed {after.library} was installed already; nothing to do."
    )


def upgrade(dsn: Dsn = "") -> None:
    """Bring pgembed's schema to this version; also repairs its functions."""
    from pgembed import schema

    before = schema.version(dsn)
    after = schema.upgrade(dsn)
    if before is not None and before.revision != after.revision:
        console.print(f"Upgraded from revision {before.revision} to {after.revision}.")
    else:
        console.print(
            f"Revision {after.revision} already; made the functions of "
            f"{after.library} anew."
        )


def uninstall(
    dsn: Dsn = "",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Drop all embeddings first, with their side tables."
        ),
    ] = False,
) -> None:
    """Remove pgembed's schema; refuses while embeddings exist."""
    from pgembed import schema

    for name in schema.uninstall(dsn, force=force):
        console.print(f"Dropped embedding {name}.", markup=False)
    console.print("pgembed is removed from the database; pgvector stays.")


def sql(
    from_revision: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="REVISION",
            help="Print the upgrade of a database that has this revision.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the installation as one SQL script, for psql or any other client."""
    from pgembed import schema

    # Not through the console: it would wrap and colour.
    typer.echo(schema.script(from_revision), nl=False)


def version(dsn: Dsn = "") -> None:
    """Show the version of this library and, with a connection, of the schema."""
    console.print(f"pgembed {metadata.version('pgembed-kit')}")
    if not dsn:
        return
    from pgembed import schema

    found = schema.version(dsn)
    if found is None:
        console.print("The database has no pgembed. Run: pgembed install")
        return
    console.print(
        f"The database has revision {found.revision} by pgembed "
        f"{found.library or '(unknown)'}; this library's is {found.head}."
    )
    if found.is_newer:
        console.print("The database is newer: pip install --upgrade pgembed-kit")
    elif not found.is_current:
        console.print("Run: pgembed upgrade")
