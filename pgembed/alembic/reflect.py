"""The embeddings that a database has, as declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pgembed.sqlalchemy.options import Declaration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

_EMBEDDINGS = """
select e.name, sn.nspname as schema, s.relname as "table", e.source::oid as source,
       dn.nspname as side_schema, d.relname as side_table, e.generation,
       t.text_expression, t.canonical_expression, t.source_columns, t.kind,
       pgembed._bm25_by_default(t) as bm25_by_default, m.name as model,
       m.dimensions as model_dimensions, m.distance as model_distance,
       (declared).dimensions, (declared).reduction, (declared).partitions,
       (declared).distance,
       e.storage, e.column_name,
       (declared).vector_type, (declared).chunking, (declared).chunk_size,
       (declared).chunk_overlap, (declared).index_kind, (declared).index_options,
       (declared).wake, (declared).max_attempts, (declared).query_encoder, e.state,
       pgembed._index_name(e) as index_name, {bm25} as bm25, e.is_default,
       (select d.name from pgembed.embedding as d
        where d.source = e.source and d.is_default) as default_name,
       exists (select from pgembed.embedding as d
               where d.source = e.source and d.generation = 'current'
                   and d.embedding_id <> e.embedding_id) as has_others,
       array(select a.attname::text from pg_catalog.pg_index as i
             join pg_catalog.pg_attribute as a
                 on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
             where i.indrelid = e.source and i.indisprimary) as key_columns
from pgembed.embedding as e
-- What was asked for last is what is declared: the next generation, where there is one.
cross join lateral (
    select x as declared from pgembed.embedding as x
    where x.embedding_id = e.embedding_id
        or e.generation = 'current' and x.current_id = e.embedding_id
           and x.generation = 'next'
    order by x.generation = 'next' desc limit 1) as latest
join pgembed.captured_text as t on t.text_id = (declared).text_id
join pgembed.model as m on m.model_id = (declared).model_id
left join pg_catalog.pg_class as s on s.oid = e.source
left join pg_catalog.pg_namespace as sn on sn.oid = s.relnamespace
left join pg_catalog.pg_class as d on d.oid = e.side_table
left join pg_catalog.pg_namespace as dn on dn.oid = d.relnamespace
order by e.name, sn.nspname
"""
_OF_INDEX = """
    to_jsonb(i) || jsonb_build_object('default_config', (
        select format('%I.%I', n.nspname, c.cfgname) from pg_catalog.pg_ts_config as c
        join pg_catalog.pg_namespace as n on n.oid = c.cfgnamespace
        where c.oid = get_current_ts_config()), 'fields', pgembed._bm25_fields(i))
"""
_BM25 = f"""(
    select {_OF_INDEX}
    from pgembed.bm25 as i where i.embedding_id = e.embedding_id)"""  # noqa: S608

_INDEXES = f"""
select i.name, sn.nspname as schema, s.relname as "table", i.source::oid as source,
       t.text_expression, t.canonical_expression, t.source_columns,
       {_OF_INDEX} as bm25, i.is_default,
       (select d.name from pgembed.bm25 as d
        where d.source = i.source and d.is_default) as default_name,
       exists (select from pgembed.bm25 as d
               where d.source = i.source and d.bm25_id <> i.bm25_id) as has_others,
       array(select a.attname::text from pg_catalog.pg_index as k
             join pg_catalog.pg_attribute as a
                 on a.attrelid = k.indrelid and a.attnum = any (k.indkey::int2[])
             where k.indrelid = i.source and k.indisprimary) as key_columns
from pgembed.bm25 as i
join pgembed.captured_text as t using (text_id)
left join pg_catalog.pg_class as s on s.oid = i.source
left join pg_catalog.pg_namespace as sn on sn.oid = s.relnamespace
where i.embedding_id is null
order by i.name, sn.nspname
"""  # noqa: S608

BM25_DEFAULTS = {"k1": 1.2, "b": 0.75}


@dataclass(frozen=True, kw_only=True)
class Existing:
    """An embedding, or a BM25 index of its own, in the database.

    Attributes:
        name: Unique in the schema.
        schema: Of its table; None: the connection's default schema, or the table has
            been dropped.
        table: None: it has been dropped.
        declaration: As a model would declare it; what equals a default is not named.
        canonical: Its text as the server writes it.
        effective: Options as they are, defaults filled in.
        columns: Columns that its triggers name.
        bm25_possible: Whether its text can be searched for words.
        default_config: Text search configuration of a new word index.
        generation: `current`, or what is made or kept beside it: `next`, `previous`.
        is_default: Whether searches use it that name only the table.
        default_name: Of the one that they use, of the same kind.
    """

    name: str
    schema: str | None
    table: str | None
    source: int
    declaration: Declaration
    canonical: str
    effective: Mapping[str, Any]
    columns: frozenset[str]
    bm25_possible: bool
    default_config: str | None
    generation: str = "current"
    is_default: bool = False
    default_name: str | None = None
    side_schema: str | None = None
    side_table: str | None = None
    model_dimensions: int = 0
    model_distance: str = ""
    index_name: str = ""


def existing_embeddings(connection: Connection) -> list[Existing]:
    """Read the embeddings of a database that has pgembed."""
    has_bm25 = connection.execute(
        text("select to_regclass('pgembed.bm25') is not null")
    ).scalar_one()
    statement = _EMBEDDINGS.format(bm25=_BM25 if has_bm25 else "null::jsonb")
    default_schema = connection.dialect.default_schema_name
    found = [
        _existing(dict(row), default_schema, has_bm25=has_bm25)
        for row in connection.execute(text(statement)).mappings()
    ]
    if has_bm25:
        indexes = connection.execute(text(_INDEXES)).mappings()
        found += [_existing_index(dict(row), default_schema) for row in indexes]
    return found


def _existing_index(row: dict[str, Any], default_schema: str | None) -> Existing:
    bm25: dict[str, Any] = row["bm25"]
    return Existing(
        name=row["name"],
        schema=unless(row["schema"], default_schema),
        table=row["table"],
        source=row["source"],
        declaration=Declaration(
            row["name"],
            row["text_expression"],
            {**_bm25_options(bm25), "is_default": _said_to_be_default(row)},
            kind="bm25",
        ),
        canonical=row["canonical_expression"],
        effective={"bm25": True},
        columns=frozenset(row["source_columns"]) | frozenset(row["key_columns"]),
        bm25_possible=True,
        default_config=bm25["default_config"],
        is_default=row["is_default"],
        default_name=row["default_name"],
    )


def _said_to_be_default(row: Mapping[str, Any]) -> bool:
    """Whether it takes an option to make it so; the only one is the default anyway."""
    return bool(row["is_default"] and row["has_others"])


def _existing(
    row: dict[str, Any], default_schema: str | None, *, has_bm25: bool
) -> Existing:
    bm25: dict[str, Any] | None = row["bm25"]
    whole = row["storage"] == "column" or row["kind"] != "text"
    default_chunking = "none" if whole else "sentences"
    default_type = "vector" if row["dimensions"] <= 2000 else "halfvec"
    options: dict[str, Any] = {
        "model": row["model"],
        "dimensions": unless(row["dimensions"], row["model_dimensions"]),
        "reduction": row["reduction"],
        "partitions": row["partitions"],
        "distance": unless(row["distance"], row["model_distance"]),
        "storage": row["storage"],
        "column_name": unless(row["column_name"], "embedding"),
        "chunking": unless(row["chunking"], default_chunking),
        "chunk_size": row["chunk_size"],
        "chunk_overlap": row["chunk_overlap"],
        "vector_type": unless(row["vector_type"], default_type),
        "index": row["index_kind"],
        "index_options": row["index_options"],
        "wake": row["wake"],
        "max_attempts": row["max_attempts"],
        "query_encoder": row["query_encoder"],
        "is_default": _said_to_be_default(row),
        # A schema from before BM25 has none, and wants none.
        "bm25": unless(bm25 is not None, row["bm25_by_default"]) if has_bm25 else None,
        "bm25_options": {} if bm25 is None else _bm25_options(bm25),
    }
    effective = {
        name: row[name]
        for name in ("dimensions", "distance", "vector_type", "chunking")
    }
    return Existing(
        name=row["name"],
        schema=unless(row["schema"], default_schema),
        table=row["table"],
        source=row["source"],
        side_schema=unless(row["side_schema"], default_schema),
        side_table=row["side_table"],
        generation=row["generation"],
        is_default=row["is_default"],
        default_name=row["default_name"],
        declaration=Declaration(row["name"], row["text_expression"], given=options),
        canonical=row["canonical_expression"],
        effective={**options, **effective, "bm25": bm25 is not None},
        model_dimensions=row["model_dimensions"],
        model_distance=row["model_distance"],
        columns=frozenset(row["source_columns"]) | frozenset(row["key_columns"]),
        bm25_possible=row["bm25_by_default"],
        default_config=None if bm25 is None else bm25["default_config"],
        index_name=row["index_name"],
    )


def _bm25_options(bm25: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if bm25["config"] != bm25["default_config"]:
        found["config"] = bm25["config"].removeprefix("pg_catalog.")
    if bm25["config_expression"] is not None:
        found["config_expression"] = bm25["config_expression"]
    if analyzer := normalized_analyzer(bm25["analyzer"]):
        found["analyzer"] = analyzer
    if bm25["fields"] is not None:
        found["fields"] = bm25["fields"]
    for name, default in BM25_DEFAULTS.items():
        if bm25[name] != default:
            found[name] = bm25[name]
    return found


def normalized_analyzer(analyzer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give the steps of the analyzer that are not as they are by default."""
    return {name: on for name, on in (analyzer or {}).items() if on not in (True, None)}


def unless(value: Any, default: Any) -> Any:
    """Give a value, or None where it is the default."""
    return None if value == default else value


def config_of_language(connection: Connection, code: str) -> str | None:
    """Name the configuration that the code of a language means; None: it is no code."""
    found: str | None = connection.execute(
        text(
            "select pgembed._config_of_language(:code)::text"
            " where not exists (select from pg_catalog.pg_ts_config"
            " where cfgname = :code)"
        ),
        {"code": code},
    ).scalar()
    return found


def canonical_form(
    connection: Connection, existing: Existing, expression: str
) -> str | None:
    """Have the server write an expression its own way; None: it does not fit."""
    savepoint = connection.begin_nested()
    try:
        found: str = connection.execute(
            text(
                "select a.canonical_expression from pgembed.captured_text as t,"
                " pgembed._analyze_expression(t.text_id, t.source, :expression,"
                " current_setting('search_path')) as a"
                " where t.source = :source order by t.text_id limit 1"
            ),
            {"source": existing.source, "expression": expression},
        ).scalar_one()
    except DBAPIError:
        return None
    else:
        return found
    finally:
        savepoint.rollback()
