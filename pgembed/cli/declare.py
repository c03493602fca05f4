"""Declaration: `pgembed create | alter | drop | pause | resume | …`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer

from pgembed.cli.common import AsJson, Dsn, console, errors
from pgembed.cli.models import register_if_unknown, say_estimate
from pgembed.cli.options import takes_options
from pgembed.dsn import connect
from pgembed.options import DEFAULT_MODEL, ChangedOptions, NewEmbeddingOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_PANEL = "Embeddings"

Name = Annotated[str, typer.Argument(help="Name of the embedding, or SCHEMA.NAME.")]
NameOfAny = Annotated[
    str, typer.Argument(help="Name of an embedding or BM25 index, or SCHEMA.NAME.")
]
IfNotExists = Annotated[
    bool,
    typer.Option("--if-not-exists", help="Where there is one, change nothing."),
]
Role = Annotated[str, typer.Argument(help="Role that the application connects as.")]
Bm25Config = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Text-search configuration, such as english; the database's by default.",
    ),
]
Text = Annotated[str | None, typer.Option("--text", help="SQL for a row's text.")]
Reset = Annotated[
    list[str] | None,
    typer.Option(metavar="OPTION", help="Put an option back to its default; repeat."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (create, alter, compare, switch, drop, pause, resume):
        app.command(rich_help_panel=_PANEL)(command)
    for command in (reembed, repair, retry, erase):
        app.command(rich_help_panel=_PANEL)(command)
    for privilege in (grant, revoke):
        app.command(rich_help_panel="Schema")(privilege)


@takes_options(NewEmbeddingOptions)
def create(
    table: Annotated[
        str, typer.Argument(help="Table, as in SQL: article, shop.article.")
    ],
    text_expression: Annotated[
        str, typer.Argument(help="SQL for a row's text: \"title || ' ' || body\".")
    ],
    *,
    dsn: Dsn = "",
    name: Annotated[
        str | None, typer.Option(help="Name of the embedding; TABLE_embedding.")
    ] = None,
    bm25_config: Bm25Config = None,
    if_not_exists: IfNotExists = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what the first fill takes: tokens, price, time.",
        ),
    ] = False,
    **options: Any,
) -> None:
    """Declare that an expression over a table's rows has an embedding."""
    from pgembed import client

    model = options.get("model", DEFAULT_MODEL)
    with connect(dsn, autocommit=True) as conn, told(conn) as notices:
        if dry_run:
            say_estimate(conn, table, text_expression, model, options)
            return
        register_if_unknown(conn, model)
        created = client.create_embedding(
            conn,
            table,
            text_expression,
            name=name,
            if_not_exists=if_not_exists,
            **_with_config(options, bm25_config),
        )
    if not any("already, skipping" in notice for notice in notices):
        console.print(f"Created embedding {created}.", markup=False)


@takes_options(ChangedOptions)
def alter(
    name: Name,
    *,
    dsn: Dsn = "",
    text_expression: Text = None,
    bm25_config: Bm25Config = None,
    reset: Reset = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost; change nothing.")
    ] = False,
    **options: Any,
) -> None:
    """Change an embedding; what is not given stays. Also repairs a broken one.

    Vectors of another model, dimensions, type or distance are made beside those that
    searches use: see --switch, `pgembed status` and `pgembed switch`.
    """
    from pgembed import client

    changes = _with_config(options, bm25_config)
    with connect(dsn, autocommit=True) as conn, told(conn):
        if dry_run and "model" in options:
            say_estimate(conn, *_text_of(conn, name), options["model"], options)
        with conn.transaction(force_rollback=dry_run):
            if "model" in options:
                register_if_unknown(conn, options["model"])
            client.alter_embedding(
                conn, name, text_expression=text_expression, reset=reset, **changes
            )
            cost = _cost_of_next(conn, name)
    done = f"Changed embedding {name}." if cost is None else cost
    console.print(f"Not done: {done}" if dry_run else done, markup=False)


def _text_of(conn: psycopg.Connection[Any], name: str) -> tuple[str, str]:
    """Give an embedding's table and text, both as SQL."""
    row = conn.execute(
        "select e.source::text, t.text_expression from pgembed._embedding(%s) as e"
        " join pgembed.captured_text as t using (text_id)",
        [name],
    ).fetchone()
    assert row is not None  # else the function raises
    return row[0], row[1]


def _cost_of_next(conn: psycopg.Connection[Any], name: str) -> str | None:
    """Say what filling the next generation of an embedding takes; None: there is none.

    Sizes are those of what is there, with vectors of the new length.
    """
    row = conn.execute(
        "select n.name, m.name, n.dimensions, n.model_id = e.model_id, n.switch,"
        " pgembed._row_count(e.side_table), pg_size_pretty(coalesce("
        " pgembed._relation_bytes(e.side_table, true)"
        " + pgembed._row_count(e.side_table)"
        " * 2 * (pgembed._vector_bytes(n) - pgembed._vector_bytes(e)), 0))"
        " from pgembed._embedding(%s) as e"
        " join pgembed.embedding as n on n.current_id = e.embedding_id"
        " join pgembed.model as m on m.model_id = n.model_id"
        " where n.generation = 'next'",
        [name],
    ).fetchone()
    if row is None:
        return None
    its_name, model, dimensions, same_model, switch, chunks, size = row
    work = "are taken over where that is possible" if same_model else "are encoded"
    when = "as soon as all are there" if switch == "auto" else "at `pgembed switch`"
    return (
        f"{its_name} is the next generation of {name}: {model}, {dimensions} "
        f"dimensions.\n{chunks:,} chunks {work}, with about {size} of disk for vectors "
        f"and index, beside those that searches use; they take their place {when}."
    )


def switch(
    name: Name,
    *,
    dsn: Dsn = "",
    back: Annotated[
        bool, typer.Option("--back", help="To the previous generation.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Though it lacks rows or its index.")
    ] = False,
) -> None:
    """Have an embedding's next generation take its place, or the previous one."""
    from pgembed import client

    generation = "previous" if back else "next"
    with connect(dsn, autocommit=True) as conn:
        client.switch_embedding(conn, name, generation=generation, force=force)
    console.print(
        f"Switched {name} to its {generation} generation; what it was before is "
        f"{name}_previous.",
        markup=False,
    )


def compare(
    name: Name,
    other: Annotated[
        str | None,
        typer.Argument(help="Another of the table; its next or previous generation."),
    ] = None,
    *,
    dsn: Dsn = "",
    k: Annotated[int, typer.Option("-k", "--k", help="How many rows each finds.")] = 10,
    sample: Annotated[
        int, typer.Option(help="For how many rows, taken by chance.")
    ] = 100,
    judgements: Annotated[
        bool,
        typer.Option(
            "--judgements",
            help="nDCG@10 of both, too, by judgements that are stored (pgembed judge, "
            "the studio).",
        ),
    ] = False,
    encode_here: Annotated[
        bool,
        typer.Option(
            "--encode-here",
            help="Encode judged queries in this process, not by the encoder service.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two embeddings of a table by which rows they find alike."""
    from pgembed import client

    judged = None
    with connect(dsn, autocommit=True) as conn:
        found = client.compare_embeddings(conn, name, other, k=k, sample=sample)
        if judgements:
            from pgembed.evaluation import compare_judged

            encoder = "here" if encode_here else None
            judged = compare_judged(conn, name, other, encoder=encoder)
    if as_json:
        more = {} if judged is None else {"judged": asdict(judged)}
        console.print_json(data={**asdict(found), **more})
        return
    if found.overlap is None:
        console.print("No row has a vector of both.")
    else:
        console.print(
            f"{found.overlap:.0%} of the {k} rows most like a row are found by both.\n"
            f"  mean of {found.compared:,} rows; {found.lowest:.0%} for the one that "
            "changes most"
        )
    if judged is not None:
        before, after = judged.ndcg
        console.print(
            f"nDCG@10 of {judged.queries:,} judged queries: {before:.4f} with "
            f"{judged.names[0]}, {after:.4f} with {judged.names[1]}.\n"
            f"  difference {after - before:+.4f}; 95 % interval {judged.low:+.4f} to "
            f"{judged.high:+.4f}",
            markup=False,
            highlight=False,
        )


def drop(
    name: Name,
    *,
    dsn: Dsn = "",
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="No error when there is none.")
    ] = False,
) -> None:
    """Remove an embedding with its vectors; the table stays as it is."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.drop_embedding(conn, name, if_exists=if_exists)
    console.print(f"Dropped embedding {name}.", markup=False)


def pause(
    name: Name,
    *,
    dsn: Dsn = "",
    no_capture: Annotated[
        bool,
        typer.Option(
            "--no-capture",
            help="Remove the triggers too, so that columns can change their type.",
        ),
    ] = False,
) -> None:
    """Stop encoding for an embedding; changes are still queued."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.pause_embedding(conn, name, capture=not no_capture)
    console.print(f"Paused embedding {name}.", markup=False)


def resume(name: Name, *, dsn: Dsn = "") -> None:
    """Continue a paused embedding."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.resume_embedding(conn, name)
    console.print(f"Resumed embedding {name}.", markup=False)


def reembed(name: Name, *, dsn: Dsn = "") -> None:
    """Encode every row again; searches use the old vectors until then."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.reembed(conn, name)
    console.print(f"All rows of {name} will be encoded again.", markup=False)


def repair(name: NameOfAny, *, dsn: Dsn = "") -> None:
    """Make again whatever was dropped of an embedding or BM25 index."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.repair(conn, name)
    console.print(f"Repaired {name}.", markup=False)


def retry(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of an embedding or BM25 index; all by default."),
    ] = None,
    *,
    dsn: Dsn = "",
) -> None:
    """Have failed rows tried again; see the view pgembed.failed for their errors."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        count = client.retry(conn, name)
    console.print(f"Queued {count} failed row{'' if count == 1 else 's'} again.")


def erase(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of an embedding or BM25 index; all by default."),
    ] = None,
    *,
    dsn: Dsn = "",
) -> None:
    """Remove at once what is still held of deleted rows and earlier texts."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.erase(conn, name)
    console.print("Erased what was held of deleted rows; VACUUM frees the space.")


def grant(role: Role, *, dsn: Dsn = "") -> None:
    """Let a role search; it still needs SELECT on the tables."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.grant_usage(conn, role)
    console.print(f"Role {role} may search the tables that it may read.", markup=False)


def revoke(role: Role, *, dsn: Dsn = "") -> None:
    """Take from a role what `grant` gave it."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn, told(conn):
        client.revoke_usage(conn, role)
    console.print(f"Role {role} may not search any more.", markup=False)


@contextmanager
def told(conn: psycopg.Connection[Any]) -> Iterator[list[str]]:
    """Show what the server remarks about a command; gives the remarks."""
    heard: list[str] = []

    def hear(remark: psycopg.errors.Diagnostic) -> None:
        heard.append(remark.message_primary or "")
        text = "\n".join(filter(None, [remark.message_primary, remark.message_hint]))
        errors.print("NOTE:", style="yellow", end=" ", highlight=False)
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    conn.add_notice_handler(hear)
    try:
        yield heard
    finally:
        conn.remove_notice_handler(hear)


def bm25_options(**given: object) -> dict[str, object] | None:
    """Put BM25's options together; None when there are none."""
    return {name: value for name, value in given.items() if value is not None} or None


def _with_config(options: dict[str, Any], config: str | None) -> dict[str, Any]:
    if config is None:
        return options
    return {
        **options,
        "bm25_options": {**(options.get("bm25_options") or {}), "config": config},
    }
