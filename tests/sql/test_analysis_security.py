"""What others have put on the caller's path is not taken by what compares rows."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.test_duplicates import DIMENSIONS, MANY, make_rows

Connection = psycopg.Connection[Any]

#: Operators and functions as PostgreSQL's, for the same types, and types of its names:
#: whatever of them is called, or cast to, says so.
TRAPS = """
create schema trap;
do $$
declare
    o record;
begin
    for o in
        select p.oprname, format_type(oprleft, null) as l,
               format_type(oprright, null) as r
        from pg_operator as p
        where oprnamespace = 'pg_catalog'::regnamespace and oprkind = 'b'
          and oprleft in ('int4'::regtype, 'int8'::regtype, 'float8'::regtype,
                          'text'::regtype, 'jsonb'::regtype, 'bool'::regtype,
                          'timestamptz'::regtype, 'bytea'::regtype)
          and oprcode::text !~ '^(array|range)'
    loop
        begin
            execute format(
                'create function trap.f%s(%s, %s) returns boolean language plpgsql'
                ' as ''begin raise ''''trap''''; end''',
                md5(o::text), o.l, o.r);
            execute format(
                'create operator trap.%s (function = trap.f%s, leftarg = %s,'
                ' rightarg = %s)',
                o.oprname, md5(o::text), o.l, o.r);
        exception when others then
            null;    -- a name that nobody may give
        end;
    end loop;
end $$;
create function trap.springs(anyelement) returns boolean language plpgsql
    as $$ begin raise 'trap'; end $$;
create domain trap.int4 as pg_catalog.int4 check (trap.springs(value));
create domain trap.int8 as pg_catalog.int8 check (trap.springs(value));
create domain trap.float8 as pg_catalog.float8 check (trap.springs(value));
create domain trap.text as pg_catalog.text check (trap.springs(value));
create domain trap.jsonb as pg_catalog.jsonb check (trap.springs(value));
create domain trap.timestamptz as pg_catalog.timestamptz check (trap.springs(value));
create function trap.count(anyelement) returns bigint language plpgsql
    as $$ begin raise 'trap'; end $$;
create function trap.unnest(anyarray) returns setof anyelement language plpgsql
    as $$ begin raise 'trap'; end $$;
create function trap.to_jsonb(anyelement) returns pg_catalog.jsonb language plpgsql
    as $$ begin raise 'trap'; end $$;
"""
VECTOR = "[" + ", ".join(["1"] * DIMENSIONS) + "]"
CALLS = [
    "duplicates(null::doc, 0.2{})",
    "duplicates(null::doc, 0.2, since => '2000-01-01'{})",
    "duplicate_groups(null::doc, 0.2{})",
    f"duplicates_of(null::doc, query_embedding => '{VECTOR}', min_similarity => 0{{}})",
    'classify(null::doc, examples => \'{{"a": [1], "b": [2, 3]}}\'{})',
    f"classify(null::doc, labels => '{{{{\"a\": {VECTOR}}}}}'{{}})",
    "recommend(null::doc, '[1, 2]', '[3]'{})",
    "recommend(null::doc, '[1, 2]', diversity => 0.5{})",
    f"vector_search(null::doc, query_embedding => '{VECTOR}', diversity => 0.5{{}})",
    "row_analogy(null::doc, 1, 2, 3{})",
    "outliers(null::doc{})",
    "outliers(null::doc, 'lof'{})",
    "outliers(null::doc, 'centroid'{})",
]
CONDITIONS = (
    "",
    ", where_sql => 'true'",
    """, filter => '{"price": {"$gt": 0}}'""",
)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (40, {}),
        (MANY, {}),
        (MANY, {"index_options": '{"binary": true}'}),
        (40, {"chunking": "sentences", "distance": "l2"}),
    ],
    ids=["few", "many", "binary", "chunks"],
)
def test_nothing_on_the_path_is_taken(
    conn: Connection, rows: int, options: dict[str, str]
) -> None:
    make_rows(conn, rows, **options)
    conn.execute(TRAPS)
    wanted = {}
    for call in CALLS:
        for condition in CONDITIONS:
            asked = f"select count(*) from pgembed.{call.format(condition)}"
            wanted[asked] = conn.execute(asked).fetchall()
    assert all(value != [(0,)] for asked, value in wanted.items()), wanted
    conn.execute("set search_path = trap, pg_catalog, public")
    with pytest.raises(psycopg.Error, match="trap"):
        conn.execute("select 1 + 1")
    for asked, value in wanted.items():
        found = conn.execute(asked.replace("count(*)", "pg_catalog.count(*)"))
        assert found.fetchall() == value, asked
