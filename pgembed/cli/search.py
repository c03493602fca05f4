"""`pgembed search | similar`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from pgembed.cli.common import Dsn, SearchDsn, console
from pgembed.cli.options import takes_options
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter
from pgembed.options import (
    BM25SearchOptions,
    HybridSearchOptions,
    SimilarOptions,
    VectorSearchOptions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.client import BM25Hit, HybridHit, VectorHit

    Hit: TypeAlias = VectorHit[dict[str, Any]] | BM25Hit[dict[str, Any]]
    AnyHit: TypeAlias = Hit | HybridHit[dict[str, Any]]

_PANEL = "Search"
_LINES = 2  # of a row, and of its text
_VALUE_CHARACTERS = 60

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="Table, as in SQL.")]
FilterText = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Conditions: {"category": "books", "price": {"$lt": 20}}.',
    ),
]
Embedding = Annotated[
    str | None, typer.Option(help="Which embedding, where the table has several.")
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="NAME,…", help="Show these columns of the rows; all fit in."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one hit a line.")]


class Mode(StrEnum):
    """Ways to search."""

    VECTOR = "vector"
    BM25 = "bm25"
    HYBRID = "hybrid"


_OPTIONS = {
    None: HybridSearchOptions,
    Mode.VECTOR: VectorSearchOptions,
    Mode.BM25: BM25SearchOptions,
    Mode.HYBRID: HybridSearchOptions,
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (search, similar):
        app.command(rich_help_panel=_PANEL)(command)


@takes_options(
    HybridSearchOptions, without=("query_embedding", "primary_dsn", "snippets")
)
def search(
    table: TableName,
    query: Annotated[
        str | None, typer.Argument(help="Words to search for.", show_default=False)
    ] = None,
    *,
    dsn: Dsn = "",
    search_dsn: SearchDsn = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Search with an image, by vectors of a model of texts and images.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            metavar="MODE",
            help="vector, bm25 or hybrid; by default all that the table has.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compare with every row, without index; by vectors only."
        ),
    ] = False,
    columns: Columns = None,
    snippets: Annotated[
        bool, typer.Option(help="Show the text around the words.")
    ] = True,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Find the rows of a table that answer a query best."""
    from pgembed import client

    if exact and mode not in (None, Mode.VECTOR):
        raise InvalidParameter("--exact goes with --mode vector only")
    if exact:
        mode, options["exact"] = Mode.VECTOR, True
    if image is not None and mode not in (None, Mode.VECTOR):
        raise InvalidParameter("--image goes with --mode vector only")
    if image is not None:
        mode, options["query_image"] = Mode.VECTOR, _read_image(image)
    elif query is None:
        raise InvalidParameter(
            "nothing to search for", hint="Give words, or --image FILE."
        )
    if mode is not Mode.VECTOR:
        options["snippets"] = snippets
    _check_options(mode, options)
    find: Any = client.search
    if mode is not None:
        find = getattr(client, f"{mode}_search")
    if search_dsn is not None and mode is not Mode.BM25:
        options["primary_dsn"] = dsn
    where = dsn if search_dsn is None else search_dsn
    with connect(where, autocommit=True) as conn:
        hits = find(conn, table, query, **options)
    _show(hits, options.get("offset", 0), columns, as_json=as_json)


@takes_options(SimilarOptions)
def similar(
    table: TableName,
    key: Annotated[
        list[str],
        typer.Argument(help="Primary key of a row; its parts where it is composite."),
    ],
    *,
    dsn: Dsn = "",
    columns: Columns = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Find the rows most like a row."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        found = key[0] if len(key) == 1 else tuple(key)
        hits = client.similar(conn, table, found, **options)
    _show(hits, options.get("offset", 0), columns, as_json=as_json)


def _read_image(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise InvalidParameter(f"{file} cannot be read: {exc.strerror}") from exc


def _check_options(mode: Mode | None, options: dict[str, Any]) -> None:
    known = _OPTIONS[mode].__annotations__
    for name in options:
        if name not in known:
            raise InvalidParameter(
                f"--{name.replace('_', '-')} does not go with --mode {mode}",
                hint="Without --mode, both ways to search are used.",
            )


def _show(
    hits: Sequence[AnyHit], offset: int, columns: str | None, *, as_json: bool
) -> None:
    wanted = None if columns is None else [c.strip() for c in columns.split(",")]
    if wanted and hits:
        for name in wanted:
            if name not in hits[0].doc:
                raise InvalidParameter(
                    f"there is no column {name!r}",
                    hint=f"Columns are: {', '.join(hits[0].doc)}.",
                )
        hits = [replace(h, doc={name: h.doc[name] for name in wanted}) for h in hits]
    if as_json:
        for hit in hits:
            # The row last: it may be long.
            line = asdict(replace(hit, doc={})) | {"doc": hit.doc}
            typer.echo(json.dumps(line, default=str, ensure_ascii=False))
        return
    if not hits:
        console.print("No row matches.")
        return
    for word, meant in (getattr(hits[0], "read_as", None) or {}).items():
        console.print(f"{word}: read as {meant}", markup=False)
    for rank, hit in enumerate(hits, offset + 1):
        _show_hit(rank, hit, whole=wanted is not None)


def _show_hit(rank: int, hit: AnyHit, *, whole: bool) -> None:
    console.print(Text(f"{rank}. ", style="bold").append(_scores(hit), style="cyan"))
    row = Text()
    for name, value in hit.doc.items():
        row.append(f"{name}: ", style="dim")
        row.append(f"{shortened(value, None if whole else _VALUE_CHARACTERS)}  ")
    _indented(row, None if whole else _LINES)
    snippet = getattr(hit, "snippet", None)
    content = getattr(hit, "content", None)
    if snippet or content:
        text = highlighted(snippet) if snippet else Text(shortened(content, None))
        _indented(text, _LINES)


def _indented(text: Text, most: int | None) -> None:
    lines = text.wrap(console, max(20, console.width - 3))
    cut = most is not None and len(lines) > most
    for number, line in enumerate(lines[:most], 1):
        line.rstrip()
        if cut and number == most:
            line.append("…")
        console.print(Text("  ").append(line), soft_wrap=True)


def _scores(hit: Any) -> str:
    said: list[str] = []
    if hit.rerank_score is not None:
        said.append(f"re-ranked {hit.rerank_score:.3f}")
    if hasattr(hit, "vector_rank"):
        said.append(f"score {hit.score:.4f}")
        said.append(f"vectors {ranked(hit.vector_rank, hit.similarity, '{:.3f}')}")
        said.append(f"words {ranked(hit.bm25_rank, hit.bm25, '{:.2f}')}")
    elif hasattr(hit, "similarity"):
        said.append(f"similarity {hit.similarity:.3f}")
    else:
        said.append(f"BM25 {hit.score:.2f}")
    return "  ".join(said)


def ranked(rank: int | None, score: float | None, form: str) -> str:
    """Show a rank with its score; nothing where an arm has not found the row."""
    if rank is None:
        return "–"
    return f"{rank}." + ("" if score is None else f" ({form.format(score)})")


def highlighted(snippet: str | None) -> Text:
    """Show an excerpt with its words, which are between <b> and </b>, in bold."""
    text = Text()
    bold = False
    for part in re.split(r"(</?b>)", " ".join((snippet or "").split())):
        if part in ("<b>", "</b>"):
            bold = part == "<b>"
        else:
            text.append(part, style="bold" if bold else "")
    return text


def shortened(value: object, most: int | None = _VALUE_CHARACTERS) -> str:
    """Write a value of a row in one line."""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, default=str, ensure_ascii=False)
    text = " ".join(str("" if value is None else value).split())
    if most is None or len(text) <= most:
        return text
    return text[: most - 1] + "…"
