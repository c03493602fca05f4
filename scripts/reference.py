"""Writes docs/reference: what the parts of pgembed say of themselves.

`scripts/reference.py` writes the pages, `--check` says which are not as they would be
written. Needs the extras `embedded` and `docs`. Run it with the Python of .venv.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import griffe
import psycopg
import typer.main
from psycopg.rows import dict_row
from typer.cli import get_docs_for_click

from pgembed import schema
from pgembed.cli import app
from pgembed.cli.cards import lengths
from pgembed.encoders.cards import Card, cards
from pgembed.service.metrics import Metrics, Replaced
from pgembed.service.options import ServiceSettings
from pgembed.sqlfiles import parse_queries
from pgembed.testing import throwaway_server

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_NOTE = (
    "<!-- Written by scripts/reference.py: change what it is made of instead. -->\n\n"
)

_QUERIES = parse_queries(Path(__file__).with_suffix(".sql").read_text())
_VOLATILITY = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}

Row = dict[str, Any]


def pages(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Write all pages, by the names of their files; `conn` has pgembed installed."""
    return {
        "sql.md": sql_page(conn),
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "models.md": models_page(),
    }


def sql_page(conn: psycopg.Connection[Any]) -> str:
    """Describe functions, procedures, views and tables by the catalog."""
    with conn.cursor(row_factory=dict_row) as cursor:
        functions = cursor.execute(_QUERIES["functions"]).fetchall()
        relations = cursor.execute(_QUERIES["relations"]).fetchall()
    parts = [
        "# SQL: every function\n\n",
        _NOTE,
        "All of it is in schema `pgembed`, as `\\df+ pgembed.*` shows it. What the"
        " options mean for you: [SQL, explained](../sql.md). Arguments with a default"
        " are best given by name: `k => 5`.\n",
    ]
    for topic, members in groupby(functions, itemgetter("topic")):
        parts.append(f"\n## Topic: {topic}\n")
        parts += map(_function, members)
    parts.append(
        "\n## Views\n\nBut for `search_status`, they are for pgembed's owner.\n"
    )
    parts += [_relation(one) for one in relations if one["is_view"]]
    parts.append("\n## Tables\n\nThe declarations; whoever may search may read them.\n")
    parts += [_relation(one) for one in relations if not one["is_view"]]
    return "".join(parts)


def _function(function: Row) -> str:
    arguments = function["arguments"] or []
    taken = [a for a in arguments if a["mode"] in "ib"]
    given = [a for a in arguments if a["mode"] in "to"]
    lines = [f"\n### {function['name']}\n", _text(function["comment"])]
    lines.append(f"```sql\n{function['example']}\n```")
    if taken:
        rows = [(a["name"], a["type"], _value(a["default"])) for a in taken]
        lines.append(_table(("Argument", "Type", "Default"), rows))
    if given:
        lines.append("Gives rows of:")
        lines.append(
            _table(("Column", "Type"), [(a["name"], a["type"]) for a in given])
        )
    elif function["result"] not in {None, "void"}:
        lines.append(f"Gives `{function['result']}`.")
    if not function["is_procedure"]:
        lines.append(f"`{_VOLATILITY[function['volatility']]}`.")
    return "\n\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _value(default: str | None) -> str | None:
    """Leave the type out: it stands beside."""
    return default and re.sub(r"^(NULL|'[^']*')::[\w \[\]]+$", r"\1", default)


def _relation(relation: Row) -> str:
    columns = relation["columns"]
    head: tuple[str, ...] = ("Column", "Type")
    rows = [(c["name"], c["type"]) for c in columns]
    described = ""
    if any(c["comment"] for c in columns):
        items = [
            f"- `{c['name']}`: {_text(c['comment'])}" for c in columns if c["comment"]
        ]
        described = "\n" + "\n".join(items) + "\n"
    return (
        f"\n### {relation['name']}\n\n{_text(relation['comment'])}\n\n"
        f"{_table(head, rows)}\n{described}"
    )


def cli_page() -> str:
    """Describe the commands as typer does, without the option that all of them have."""
    group = _group()
    for _, command in [("", group), *_commands(group, "", groups=True)]:
        # Else it is cut off in lists.
        command.short_help = (command.help or "").split("\n")[0]
    text = get_docs_for_click(
        obj=group, ctx=typer.Context(group), name="pgembed", title="Command line"
    )
    text = re.sub(r"^\* `--help`: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\n\n(?=\n|#)", "", text)
    text = text.replace(" <str>`", " TEXT`").replace(" <int>`", " INTEGER`")
    text = text.replace(" <float>`", " NUMBER`").replace("```console\n$ ", "```text\n")
    text = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    head, rest = text.split("\n", 1)
    note = (
        "Every command has `--help`. `pgembed --install-completion` makes the shell"
        " complete commands and options.\n"
    )
    return f"{head}\n\n{_NOTE}{note}{rest.rstrip()}\n"


def settings_page() -> str:
    """Describe the environment: what commands read, and what only it can say."""
    return (
        f"# Settings\n\n{_NOTE}"
        "Every setting is a variable of the environment; most are options of a command"
        " too, which come first. Endpoints and keys of hosted models are read from"
        " the service's environment by litellm, under the provider's own names"
        " (`OPENAI_API_KEY`, …), and cannot be set from SQL.\n\n"
        "## Options that may stand in the environment\n\n"
        + _table(("Variable", "Option", "Default", "Meaning"), _options())
        + "\n\n## In the environment alone\n\nOf `pgembed serve`;"
        " those that concern models count in every process that encodes.\n\n"
        + _table(("Variable", "Default", "Meaning"), _fields())
        + "\n\n`PGEMBED_DEBUG=1` shows the traceback of an error. Settings of the test"
        " fixtures are in [Python](../python.md#testing-your-own-application).\n"
    )


def _options() -> list[tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, command in _commands(_group(), ""):
        for option in command.params:
            if not option.envvar or option.envvar in found:
                continue
            default = (
                option.show_default if isinstance(option.show_default, str) else ""
            )
            if not default and option.default not in {None, "", False}:
                plain = getattr(option.default, "value", option.default)
                default = f"{plain:g}" if isinstance(plain, float) else str(plain)
            where = "all" if option.envvar == "PGEMBED_DSN" else name
            found[option.envvar] = (
                option.envvar,
                f"{where}: {option.opts[0]}",
                default,
                option.help,
            )
    return sorted(found.values())


def _group() -> Any:
    return typer.main.get_command(app)


def _commands(
    group: Any, before: str, *, groups: bool = False
) -> Iterator[tuple[str, Any]]:
    """Give commands with their whole names, and groups of them too if wanted."""
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        if groups or not inner:
            yield before + name, command
        if inner:
            yield from _commands(command, f"{before}{name} ", groups=groups)


def _fields() -> list[tuple[str, str, str]]:
    said: dict[str, str] = {}
    for kind in reversed(ServiceSettings.__mro__[:-1]):
        for section in griffe.Docstring(kind.__doc__ or "").parse("google"):
            if section.kind is griffe.DocstringSectionKind.attributes:
                said |= {a.name: " ".join(a.description.split()) for a in section.value}
    options = {row[0] for row in _options()}
    # Fields that the command sets from an option of another name.
    options |= {
        f"PGEMBED_{name}"
        for name in (
            *("LEASE_SECONDS", "POLL_SECONDS", "CALL_TIMEOUT_SECONDS", "READ_SECONDS"),
            *("MAX_READ_MEGABYTES", "ERASE_SECONDS", "INDEX_MEGABYTES"),
        )
    }
    return [
        (variable, _default(field), said[field.name])
        for field in fields(ServiceSettings)
        if (variable := f"PGEMBED_{field.name.upper()}") not in options
    ]


def _default(field: Field[Any]) -> str:
    default = field.default
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default in {MISSING, None, ()} else str(default).lower()


def metrics_page() -> str:
    """Describe the service's metrics as its `/metrics` does."""
    rows = []
    for one in vars(Metrics()).values():
        metric = one._gauge if isinstance(one, Replaced) else one  # noqa: SLF001
        if not hasattr(metric, "describe"):
            continue
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        # The package has no public way to ask for the labels.
        labels = ", ".join(metric._labelnames)  # noqa: SLF001
        rows.append((name, family.type, labels, family.documentation))
    return (
        f"# Metrics\n\n{_NOTE}"
        "`pgembed serve --health-port 8080` has them at `/metrics`, for Prometheus."
        " Which of them to look at, and how to add up those of several services:"
        " [Running the service](../service.md#running-it). A dashboard and alerts:"
        " [Monitor with Grafana](../how-to/grafana.md).\n\n"
        + _table(("Metric", "Type", "Labels", "Meaning"), rows)
        + "\n"
    )


def models_page() -> str:
    """List the models that are known by name, by who runs them."""
    local = [one for one in cards() if one.provider != "litellm"]
    hosted = [one for one in cards() if one.provider == "litellm"]
    columns = ("Name", "Dimensions", "Tokens", "Query prompt", "Document prompt")
    return (
        f"# Known models\n\n{_NOTE}"
        "`pgembed model list --known` prints them, with `--json` all of it. A figure"
        " that no source gives is left out; `pgembed model show NAME` names sources."
        " Which one to take: [Choose a model](../how-to/choose-a-model.md).\n\n"
        "## In the service\n\n"
        + _table(
            (*columns, "Pooling", "Languages", "License"), list(map(_local, local))
        )
        + "\n\n\\* Published with code of its own, which pgembed never runs: it loads"
        " only where transformers knows its architecture.\n\n"
        "## Hosted\n\nPrices are in US dollars a million tokens, as read on the date"
        " beside them: ask the provider before you rely on one.\n\n"
        + _table(
            ("Name", "Dimensions", "Tokens", "Languages", "Price", "Read on"),
            [
                (
                    one.name,
                    lengths(one).removesuffix(" dimensions"),
                    _number(one.max_tokens),
                    one.languages,
                    None if one.price is None else f"${one.price:.2f}",
                    None if one.price_date is None else one.price_date.isoformat(),
                )
                for one in hosted
            ],
        )
        + "\n"
    )


def _local(one: Card) -> tuple[str | None, ...]:
    return (
        f"{one.name} *" if one.own_code else one.name,
        lengths(one).removesuffix(" dimensions"),
        _number(one.max_tokens),
        one.query_prompt and repr(one.query_prompt),
        one.document_prompt and repr(one.document_prompt),
        one.pooling,
        one.languages,
        one.license,
    )


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    """Write a table; all columns but the last of a wide one are code."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    wide = head[-1] == "Meaning"
    for row in rows:
        cells = [
            _text(cell) if wide and place == len(row) - 1 else _code(cell)
            for place, cell in enumerate(row)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(text: str | None) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _text(text: str | None) -> str:
    """Let nothing in a comment be taken for Markdown or HTML."""
    return re.sub(r"([*|\[\]])", r"\\\1", text or "").replace("<", "&lt;")


def main() -> int:
    """Write the pages, or compare them."""
    with throwaway_server() as server:
        schema.install(server.dsn())
        with psycopg.connect(server.dsn()) as conn:
            made = pages(conn)
    stale = [n for n, text in made.items() if _there(FOLDER / n) != text]
    if "--check" in sys.argv[1:]:
        print(
            "".join(f"docs/reference/{name} is not current\n" for name in stale), end=""
        )
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(made[name])
    return 0


def _there(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
