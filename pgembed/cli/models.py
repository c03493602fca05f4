"""`pgembed model …`: models that embeddings may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row

from pgembed.cli.bench import bench
from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.options import takes_options
from pgembed.dsn import connect
from pgembed.options import ModelOptions, VectorType

if TYPE_CHECKING:
    from pgembed.encoders import Encoder


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Models that embeddings may name.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_models)
    group.command("show")(show)
    group.command("import")(import_model)
    group.command("drop")(drop)
    group.command("accept")(accept)
    group.command("export")(export)
    group.command("bench")(bench)
    app.add_typer(group, name="model", rich_help_panel="Embeddings")


@takes_options(ModelOptions)
def add(
    name: Annotated[
        str, typer.Argument(help="Hub name, path, or litellm's name, of the model.")
    ],
    *,
    dsn: Dsn = "",
    dimensions: Annotated[
        int | None,
        typer.Option(
            help="Length of its vectors.",
            show_default="as published, else the model is loaded",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Register a model; what is not said is taken from its card, or from the model.

    `pgembed model list --known` has the cards: models known by name.
    """
    given = options if dimensions is None else {"dimensions": dimensions, **options}
    with connect(dsn, autocommit=True) as conn:
        _register(conn, name, given)


def import_model(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of a StaticEmbedding or model2vec model, or a file of word "
            "vectors; or its name on the hub."
        ),
    ],
    *,
    dsn: Dsn = "",
    name: Annotated[
        str, typer.Option(help="Name of the model.", show_default="that of the folder")
    ] = "",
    vector_type: Annotated[
        VectorType, typer.Option(help="How token vectors are stored.")
    ] = "halfvec",
    dimensions: Annotated[
        int | None,
        typer.Option(help="Keep so many of its dimensions.", show_default="all"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit on the hub.", metavar="COMMIT")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be stored.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Store a static model in the database: its queries need no service then."""
    from pgembed import token_vectors
    from pgembed.encoders.static import StaticEncoder

    encoder = StaticEncoder(folder, revision=revision, dimensions=dimensions)
    encoder.name = name or folder
    stored = token_vectors.of_static(encoder)
    size = stored.stored_bytes(vector_type) / 1_000_000
    console.print(
        f"{encoder.name}: {len(stored.vectors):,} tokens of {stored.dimensions} "
        f"dimensions as {vector_type}, about {size:,.0f} MB in the database.",
        markup=False,
        soft_wrap=True,
    )
    if dry_run or not (yes or typer.confirm("Store it?")):
        return
    with connect(dsn, autocommit=True) as conn:
        token_vectors.import_model(
            conn, encoder, vector_type=vector_type, revision=revision
        )
    console.print(f"Stored {encoder.name}.", markup=False, soft_wrap=True)


def list_models(
    *,
    dsn: Dsn = "",
    known: Annotated[
        bool,
        typer.Option(
            "--known", help="Those that pgembed knows by name, of no database."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered models, or those that are known by name."""
    if known:
        _list_known(as_json=as_json)
        return
    with connect(dsn, autocommit=True) as conn:
        rows = _models(conn)
    columns = (
        *("name", "provider", "revision", "dimensions", "distance", "max_tokens"),
        *("used_by", "stored", "tokens_today", "tokens"),
    )
    if as_json:
        console.print_json(json.dumps([{k: row[k] for k in columns} for row in rows]))
        return
    for row in rows:
        # A name is there to be typed again: it has a line of its own, and is not cut.
        _say(row["name"], style="bold")
        _say(f"  {_summary(row)}")


def _list_known(*, as_json: bool) -> None:
    from pgembed.cli.cards import plain, summary
    from pgembed.encoders.cards import cards

    if as_json:
        console.print_json(json.dumps([plain(card) for card in cards()]))
        return
    for card in cards():
        _say(card.name, style="bold")
        _say(f"  {summary(card)}")


def show(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    *,
    dsn: Dsn = "",
    as_json: AsJson = False,
) -> None:
    """Show how a model is registered, and what is published of it."""
    from pgembed.cli.cards import details, plain, summary
    from pgembed.encoders.cards import find_card

    card = find_card(name)
    with connect(dsn, autocommit=True) as conn:
        row = next(iter(_models(conn, name)), None)
        if row is None and card is None:
            conn.execute("select pgembed._model(%s)", [name])  # raises, with the names
    if as_json:
        shown = {"name": name, "registered": row, "card": card and plain(card)}
        console.print_json(json.dumps(shown))
        return
    _say(name, style="bold")
    if row is None:
        _say("  not registered")
    else:
        _say(f"  registered: {_summary(row)}")
        for kind in ("query", "document"):
            prompt = row[f"{kind}_prompt"]
            _say(
                f"  {kind} prompt: {'as published' if prompt is None else repr(prompt)}"
            )
        if row["fingerprint"] is not None:
            _say(f"  fingerprint: {row['fingerprint']}")
    if card is not None:
        _say(f"  published: {summary(card)}")
        for line in details(card):
            _say(f"  {line}")


def _models(
    conn: psycopg.Connection[Any], name: str | None = None
) -> list[dict[str, Any]]:
    """Give the registered models, or that of a name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select m.name, m.provider, m.revision, m.dimensions, m.distance,"
            " m.max_tokens, m.normalized, m.query_prompt, m.document_prompt,"
            " m.fingerprint,"
            " (select count(*) from pgembed.embedding as e"
            "  where e.model_id = m.model_id) as used_by,"
            " (pgembed._stored_model(m.model_id)).encoder_id is not null as stored"
            " from pgembed.model as m"
            " where %(name)s::text is null or m.name in ("
            "  %(name)s, regexp_replace(%(name)s, '^sentence-transformers/', ''))"
            " order by m.name",
            {"name": name},
        ).fetchall()
    sent = tokens_sent(conn)
    for row in rows:
        row["tokens_today"], row["tokens"] = sent.get(row["name"], (None, None))
    return rows


def tokens_sent(conn: psycopg.Connection[Any]) -> dict[str, tuple[int, int]]:
    """Give the tokens that hosted models were sent, today and in all.

    They would tell of rows that policies hide, so they are for pgembed's owner.
    """
    allowed = conn.execute(
        "select has_table_privilege('pgembed.model_usage', 'select')"
    ).fetchone()
    if allowed is None or not allowed[0]:
        return {}
    return {
        name: (today, total)
        for name, today, total in conn.execute(
            "select m.name, coalesce(sum(u.tokens) filter"
            " (where u.day = (now() at time zone 'UTC')::date), 0)::int8,"
            " sum(u.tokens)::int8"
            " from pgembed.model_usage as u join pgembed.model as m using (model_id)"
            " group by m.name order by m.name"
        )
    }


def _summary(row: dict[str, Any]) -> str:
    about = [row["provider"], f"{row['dimensions']} dimensions", row["distance"]]
    about += [] if row["max_tokens"] is None else [f"{row['max_tokens']} tokens"]
    about += [] if row["revision"] is None else [f"revision {row['revision']}"]
    about += [f"used by {row['used_by']}"] if row["used_by"] else []
    about += ["stored in the database"] if row["stored"] else []
    if row["tokens"] is not None:
        about.append(f"{row['tokens_today']:,} tokens today, {row['tokens']:,} in all")
    return ", ".join(about)


def drop(
    name: Annotated[str, typer.Argument(help="Name of the model.")], *, dsn: Dsn = ""
) -> None:
    """Remove a model that no embedding uses, with what is stored of it."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.drop_model(conn, name)
    console.print(f"Dropped {name}.", markup=False, soft_wrap=True)


def accept(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    fingerprint: Annotated[
        str, typer.Argument(help="Of the new weights, as the service's message has it.")
    ],
    *,
    dsn: Dsn = "",
) -> None:
    """Say that a model's weights changed on purpose: its vectors are made again."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.accept_weights(conn, name, fingerprint)
    console.print(f"All vectors of {name} will be made again.", markup=False)


def export(
    name: Annotated[
        str, typer.Argument(help="Hub name, or path, of the model to export.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write.",
            show_default="the model's own folder, or the folder of exports",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit of its repository on the hub.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise the weights to 8 bits: another model, named NAME-int8.",
        ),
    ] = False,
) -> None:
    """Write a model for onnxruntime, and compare it with its weights.

    Needs torch and the extra `export`, once; what loads the model afterwards needs
    the extra `onnx` alone. The model keeps its name, fingerprint and vectors.
    """
    from pgembed.encoders.onnx_export import export as write
    from pgembed.settings import Settings

    done = write(name, out, revision=revision, int8=int8, settings=Settings.from_env())
    for line in (
        f"Exported {name} to {done.folder}",
        f"  {done.megabytes:.0f} MiB; over {done.texts} texts the cosine to the "
        f"vectors of its weights is {done.cosine:.6f} or more",
        f"  name: {done.name}",
        f"  fingerprint: {done.fingerprint}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def register_if_unknown(conn: psycopg.Connection, model: str) -> None:
    """Register a model that the database does not know."""
    if not _models(conn, model):
        _register(conn, model, {})


def say_estimate(
    conn: psycopg.Connection,
    table: str,
    text_expression: str,
    model: str,
    options: dict[str, Any],
) -> None:
    """Say what the first fill of an embedding would take; nothing is changed."""
    from pgembed.cli.estimate import estimates, load, read_sample
    from pgembed.encoders.cards import find_card

    card = find_card(model)
    row = next(iter(_models(conn, model)), None)
    known = row or ({"provider": card.provider} if card is not None else {})
    sample = read_sample(conn, table, text_expression)
    encoder = load(model, known.get("provider", "sentence-transformers"), row)
    _say(f"{table} with {model}:")
    for line in estimates(sample, model, options, encoder, card):
        _say(f"  {line}")


def _register(conn: psycopg.Connection, name: str, given: dict[str, Any]) -> None:
    """Register a model; what is not given is its card's, or the model is asked."""
    from pgembed import client
    from pgembed.cli.cards import take_from_card, told, warnings
    from pgembed.encoders.cards import find_card

    card = find_card(name)
    taken = take_from_card(card, given)
    options = taken | given
    if "dimensions" not in options:
        provider = options.get("provider", "sentence-transformers")
        encoder = _load(name, provider, options.get("revision"))
        options = {
            "dimensions": encoder.dimensions,
            "normalized": encoder.normalized,
            "max_tokens": encoder.max_tokens,
        } | options
    client.register_model(conn, name, **options)
    _say(f"Registered {name}: {options['dimensions']} dimensions.")
    if card is not None and taken:
        _say(f"  As published: {told(taken)}.")
        for warning in warnings(card, options["dimensions"]):
            _say(f"  {warning}")


def _say(line: str, style: str | None = None) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _load(name: str, provider: str, revision: str | None = None) -> Encoder:
    from pgembed.encoders import load_encoder
    from pgembed.settings import Settings

    return load_encoder(name, provider, revision=revision, settings=Settings.from_env())
