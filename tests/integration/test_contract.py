"""One vocabulary: SQL, client, ORM, Alembic, command line and reference agree.

Each names its functions and arguments; here they are compared with what is installed,
so that a name which is missing or different in one place fails.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from typer.main import get_command

import pgembed
from pgembed import aclient, client, options
from pgembed._client.arguments import LOCAL
from pgembed.alembic import operations
from pgembed.cli import app
from pgembed.sqlalchemy import Embedding, EmbeddingOf

ROOT = Path(__file__).parents[2]

#: Functions of SQL that the client has none of, and why.
SQL_ONLY = {
    "analyze": "a helper of SQL's own",
    "doctor": "`pgembed doctor` looks at more than the database",
    "help": "Python has help()",
    "image_at": "a part of an expression",
    "wait": "await_embedded",
}
#: Functions of the client that are no functions of SQL, and why.
CLIENT_ONLY = {
    "await_embedded": "wait",
    "current_lsn": "PostgreSQL's pg_current_wal_insert_lsn()",
    "status": "a view",
}
#: What the client's functions are called with beside the options.
POSITIONAL = {
    "vector_search": {"source", "query"},
    "bm25_search": {"source", "query"},
    "hybrid_search": {"source", "query"},
    "similar": {"source", "key"},
    "search_count": {"source", "query"},
    "search_facets": {"source", "query", "columns"},
    "recommend": {"source", "likes", "dislikes"},
    "row_analogy": {"source", "a", "b", "c"},
    "duplicates": {"source"},
    "duplicate_groups": {"source"},
    "duplicates_of": {"source", "query"},
    "outliers": {"source"},
    "classify": {"source", "labels", "examples"},
    "create_embedding": {"source", "text_expression", "name", "if_not_exists"},
    "alter_embedding": {"name", "text_expression", "reset"},
    "register_model": {"name", "dimensions"},
}
OPTIONS = {
    "vector_search": options.VectorSearchOptions,
    "bm25_search": options.BM25SearchOptions,
    "hybrid_search": options.HybridSearchOptions,
    "similar": options.SimilarOptions,
    "search_count": options.CountOptions,
    "search_facets": options.FacetOptions,
    "recommend": options.RecommendOptions,
    "row_analogy": options.SimilarOptions,
    "duplicates": options.DuplicateOptions,
    "duplicate_groups": options.DuplicateGroupOptions,
    "duplicates_of": options.DuplicatesOfOptions,
    "outliers": options.OutlierOptions,
    "classify": options.ClassifyOptions,
    "create_embedding": options.NewEmbeddingOptions,
    "alter_embedding": options.ChangedOptions,
    "register_model": options.ModelOptions,
}
#: Arguments of SQL that the client fills in by itself.
BY_ITSELF = {"query_model"}


@pytest.fixture
def functions(conn: psycopg.Connection) -> dict[str, Any]:
    """What is meant for people in schema pgembed, by name."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        found: list[Any] = cursor.execute(
            "select p.proname as name, p.pronargs as count,"
            " p.proargnames as names, obj_description(p.oid) as comment,"
            " array(select pg_get_function_arg_default(p.oid, i)"
            "       from generate_series(1, p.pronargs) as i) as defaults"
            " from pg_proc as p where p.pronamespace = 'pgembed'::regnamespace"
            " and p.proname !~ '^(_|bm25_[0-9])' order by 1"
        ).fetchall()
    return {row.name: row for row in found}


def _arguments(function: Any) -> dict[str, str | None]:
    names = function.names[: function.count]
    return dict(zip(names, function.defaults, strict=True))


def test_every_function_for_people_has_a_comment(functions: dict[str, Any]) -> None:
    assert [name for name, f in functions.items() if not f.comment] == []


def test_the_client_has_the_functions_of_sql(functions: dict[str, Any]) -> None:
    shared = {n for n in client.__all__ if n.islower()} - CLIENT_ONLY.keys()
    assert shared == functions.keys() - SQL_ONLY.keys()
    assert set(client.__all__) == set(aclient.__all__)
    assert set(pgembed.__all__) <= set(client.__all__) | {"PgembedError"}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_are_the_arguments(functions: dict[str, Any], name: str) -> None:
    known = set(OPTIONS[name].__annotations__) - LOCAL
    assert known | POSITIONAL[name] == _arguments(functions[name]).keys() - BY_ITSELF


def test_functions_without_options_have_the_arguments_of_sql(
    functions: dict[str, Any],
) -> None:
    for name in functions.keys() - SQL_ONLY.keys() - OPTIONS.keys() - {"search"}:
        own = [
            "source" if parameter == "table" else parameter
            for parameter in inspect.signature(getattr(client, name)).parameters
            if parameter not in ("conn", "timeout")
        ]
        theirs = [n for n in _arguments(functions[name]) if n != "timeout"]
        assert own == theirs, name


def test_defaults_are_those_of_sql(functions: dict[str, Any]) -> None:
    theirs = _arguments(functions["create_embedding"])
    for name, value in options.DEFAULTS.items():
        written = "NULL" if value is None else str(value)
        written = written.lower() if isinstance(value, bool) else written
        default = re.sub(r"^'(.*)'::\w+$", r"\1", theirs[name] or "")
        default = "NULL" if default.startswith("NULL") else default
        assert default == written, name


def test_the_orm_and_alembic_take_the_same_options() -> None:
    def named(function: Any) -> set[str]:
        return set(inspect.signature(function).parameters)

    local = {"self", "k", "name", "row", "query", "timeout", "encoder", "query_model"}
    for method in ("vector_search", "bm25_search", "hybrid_search", "similar"):
        found = named(getattr(EmbeddingOf, method)) - local
        assert found <= set(OPTIONS[method].__annotations__), method
        missing = set(OPTIONS[method].__annotations__) - found - LOCAL
        # The class says which table and embedding; conditions are where()'s.
        by_itself = {"where_sql", "embedding", "k", "query_embedding", "query_image"}
        assert missing <= by_itself, method
    declared = set(options.DeclaredOptions.__annotations__) | {"index", "bm25"}
    created = set(options.NewEmbeddingOptions.__annotations__)
    assert created - declared == {"index_options", "bm25_options"}  # HNSW(), BM25()
    assert {"index", "bm25", "name", "options"} <= named(Embedding.__init__)
    for kind in vars(operations).values():
        if isinstance(kind, type) and issubclass(kind, operations.PgembedOp):
            name = getattr(kind, "function", "")
            if name and not name.endswith("_pgembed"):
                assert hasattr(client, name), name


def test_the_command_line_has_the_options() -> None:
    commands: Any = get_command(app).commands  # type: ignore[attr-defined]
    expected = {
        "create": options.NewEmbeddingOptions,
        "alter": options.ChangedOptions,
        "search": options.HybridSearchOptions,
        "similar": options.SimilarOptions,
    }
    for command, known in expected.items():
        have = {parameter.name for parameter in commands[command].params}
        # The primary is where --dsn leads, and --search-dsn to a standby.
        not_typed = {"query_embedding", "primary_dsn"}
        assert set(known.__annotations__) - have <= not_typed, command


def test_the_reference_names_each_function_and_argument(
    functions: dict[str, Any],
) -> None:
    page = (ROOT / "docs/sql.md").read_text()
    for name, function in functions.items():
        assert re.search(rf"\b{name}\b", page), name
        for argument in _arguments(function):
            assert re.search(rf'\b"?{argument}"?\b', page), f"{name}: {argument}"
