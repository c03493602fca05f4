"""What schema pgembed holds, as the server describes it."""

from __future__ import annotations

import psycopg

Catalog = dict[str, list[tuple[object, ...]]]

_QUERIES = {
    "schema": """
        select nspname, nspacl::text, obj_description(oid, 'pg_namespace')
        from pg_namespace where nspname = 'pgembed'
    """,
    "relations": """
        select c.relname, c.relkind, c.relpersistence, c.reloptions::text,
               c.relrowsecurity, c.relacl::text, obj_description(c.oid, 'pg_class'),
               case when c.relkind = 'v' then pg_get_viewdef(c.oid) end
        from pg_class as c
        where c.relnamespace = 'pgembed'::regnamespace order by 1
    """,
    "columns": """
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull, a.attidentity, a.attgenerated, a.attacl::text,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
        left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = 'pgembed'::regnamespace order by 1, 2
    """,
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        from pg_constraint
        where connamespace = 'pgembed'::regnamespace order by 1, 2
    """,
    "indexes": """
        select indexname, indexdef from pg_indexes
        where schemaname = 'pgembed' order by 1
    """,
    "functions": """
        select oid::regprocedure::text, prokind, provolatile, prosecdef, proparallel,
               proconfig::text, proacl::text, obj_description(oid, 'pg_proc'),
               case when prokind in ('f', 'p') then pg_get_functiondef(oid) end
        from pg_proc where pronamespace = 'pgembed'::regnamespace order by 1
    """,
    "types": """
        select typname, typtype, typacl::text from pg_type
        where typnamespace = 'pgembed'::regnamespace order by 1
    """,
    "models": "select * from pgembed.model order by model_id",
    "revision": "select version_num from pgembed.alembic_version",
}


def catalog_of(dsn: str) -> Catalog:
    """Read the catalog of schema pgembed, a list of rows for each kind of object."""
    with psycopg.connect(dsn) as conn:
        # Types and definitions are printed with their schemas then.
        conn.execute("set search_path = pg_catalog")
        return {
            kind: conn.execute(query.encode()).fetchall()
            for kind, query in _QUERIES.items()
        }
