"""What the owner of a table can hook code into: one entry a kind, as data.

In the SQL `{s}` is the schema that the hooks are made for, and `{owner}`, `{kit}`, …
are roles. `{s}.spy(what)` is VOLATILE and true, `{s}.spied(what, value)` says that it is
IMMUTABLE and gives the value, `{s}.spy_trigger()` changes nothing.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass, field

from tests.fixtures.hostile import SUPERUSER

BEFORE, AFTER = "before", "after"
TEXT = "title || ' ' || body"
TABLE = """
create table {s}.doc (id {key} primary key, title text, body {body} {columns})
"""
ROWS = """
insert into {s}.doc (id, title, body)
values ('1', 'one', 'first text'), ('2', 'two', 'second text'), ('3', 'three', 'third text')
"""


@dataclass(frozen=True)
class Kind:
    """One way to hook code in.

    Attributes:
        name: Of the case.
        hooks: SQL of the owner that hooks the spies in, once a schema.
        honest: SQL of the owner before the table is made.
        key: Type of the table's column `id`.
        body: Type of its column `body`.
        columns: More columns.
        table: The table itself.
        text: The text expression that is declared.
        bm25_text: The text of the BM25 index of its own, where that is another.
        bm25_options: JSON.
        admin: SQL of a superuser, before anything else, once a schema.
        by: Who runs the hooks: the owner or a superuser.
        once: The hooks concern the database: they are made once.
        moments: Of the hooks: before or after the declaration.
        since: PostgreSQL's major version.
        silent: The hooks may call nothing at all.
        refused: What the declaration may be refused with.
        breaks: Statements of pgembed may fail, with whatever error.
        leaves: A plain statement leaves the same in its session, so what comes after
            one has another.
    """

    name: str
    hooks: str
    honest: str = ""
    key: str = "int"
    body: str = "text"
    columns: str = ""
    table: str = TABLE
    text: str = TEXT
    bm25_text: str = ""
    bm25_options: str = "{}"
    admin: str = ""
    by: str = "owner"
    once: bool = False
    moments: tuple[str, ...] = (BEFORE, AFTER)
    since: int = 15
    silent: bool = False
    refused: tuple[str, ...] = ()
    breaks: bool = False
    leaves: bool = False
    trusted: frozenset[str] = field(default_factory=lambda: frozenset({"owner"}))


DOMAIN = "create domain {s}.words as text;"
DOMAIN_CHECK = """
alter domain {s}.words add constraint c check ({s}.spy('domain')) not valid
"""
ENUM = "create type {s}.mood as enum ('happy', 'sad');"
HONEST_FUNCTION = """
create function {s}.f(text) returns text immutable language plpgsql
    as $$ begin return $1; end $$;
"""
FUNCTION = """
create or replace function {s}.f(text) returns text immutable language plpgsql
    as $$ begin perform {s}.spy('function'); return $1; end $$;
"""


def left_behind(code: str) -> str:
    """Give a text function that leaves something behind in the session it runs in."""
    return (
        """
        create or replace function {s}.leave() returns void language plpgsql as $$
        declare
            r record;
            one text;
        begin
        """
        + code
        + """
        exception when others then null;
        end $$;
        create or replace function {s}.f(text) returns text immutable language plpgsql
            as $$ begin perform {s}.spy('function'); perform {s}.leave(); return $1; end $$;
        create or replace function {s}.leave_trigger() returns trigger language plpgsql
            as $$ begin perform {s}.leave(); return new; end $$;
        """
    )


LEAVING_TRIGGER = """
create trigger leave before insert or update on {s}.doc
    for each row execute function {s}.leave_trigger();
"""

# Folded whenever a statement over the table is planned.
LEAVING_PLAN = """
create index leave on {s}.doc (title) where {s}.f('x') = 'x';
"""

TEMPORARY = """
    for r in
        select n.nspname, c.oid, c.relname
        from pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
        where c.relkind operator(pg_catalog.=) any ('{r,v}')
          and (n.nspname operator(pg_catalog.=) 'pgembed'
               or c.relname operator(pg_catalog.=) any ('{pg_class, pg_attribute, pg_index,
                   pg_proc, pg_type, pg_namespace, pg_trigger, pg_extension, pg_roles,
                   pg_depend, pg_constraint, pg_inherits, pg_policy, pg_locks, pg_rewrite,
                   pg_opclass, pg_stat_activity, pg_settings, pg_ts_config,
                   doc_embedding, tab_e, col_e, doc}'))
    loop
        begin
            execute pg_catalog.format(
                'create temporary view %I as select %s from (select {s}.spy(%L) as spied '
                'offset 0) as s where s.spied', r.relname,
                (select pg_catalog.string_agg(pg_catalog.format('null::%s as %I',
                            pg_catalog.format_type(a.atttypid, a.atttypmod), a.attname), ', '
                            order by a.attnum)
                 from pg_catalog.pg_attribute as a
                 where a.attrelid operator(pg_catalog.=) r.oid
                   and a.atttypid operator(pg_catalog.<>) 'anyarray'::pg_catalog.regtype::oid
                   and a.attnum operator(pg_catalog.>) 0 and not a.attisdropped),
                'temporary view');
            execute pg_catalog.format(
                'create trigger t instead of insert or update or delete on pg_temp.%I '
                'for each row execute function {s}.spy_trigger()', r.relname);
        exception when others then null;
        end;
    end loop;
    foreach one in array '{bm25_input, bm25_slotted, bm25_impact, bm25_gone, bm25_merged,
                           changed_rows, pgembed_key}'::text[]
    loop
        begin
            execute pg_catalog.format('create temporary table %I (key text, version bigint, '
                                      'length int, lexemes tsvector)', one);
            execute pg_catalog.format(
                'create trigger t before insert or update or delete on pg_temp.%I '
                'for each row execute function {s}.spy_trigger()', one);
        exception when others then null;
        end;
    end loop;
"""
SETTINGS = """
    perform pg_catalog.set_config('search_path', 'trap, pg_catalog, public', false);
    perform pg_catalog.set_config('row_security', 'off', false);
    perform pg_catalog.set_config('standard_conforming_strings', 'off', false);
    perform pg_catalog.set_config('constraint_exclusion', 'on', false);
    perform pg_catalog.set_config('bytea_output', 'escape', false);
    perform pg_catalog.set_config('DateStyle', 'German', false);
    perform pg_catalog.set_config('check_function_bodies', 'off', false);
    perform pg_catalog.pg_advisory_lock_shared(1885824365, 1);
    execute 'listen pgembed';
"""
HELD_CURSOR = """
    execute 'declare held no scroll cursor with hold for select {s}.spy(''held cursor'')';
"""
PREPARED = """
    for r in select name, parameter_types from pg_catalog.pg_prepared_statements loop
        execute pg_catalog.format('deallocate %I', r.name);
        execute pg_catalog.format(
            'prepare %I %s as select {s}.spy(''prepared statement'')', r.name,
            case when pg_catalog.cardinality(r.parameter_types) operator(pg_catalog.>) 0
                 then pg_catalog.concat('(', pg_catalog.array_to_string(r.parameter_types, ','), ')')
            end);
    end loop;
"""
DEFERRED = """
    insert into {s}.own values (1);
"""
DEFERRED_TABLE = """
create table {s}.own (id int);
create constraint trigger t after insert on {s}.own
    deferrable initially deferred for each row execute function {s}.spy_trigger();
alter table {s}.own add exclude using btree ({s}.spied('exclusion', 'x'::text) with =)
    where (id < 0) deferrable initially deferred;
grant insert on {s}.own to public;
"""
ROLE_CHANGES = """
    foreach one in array array['set role {kit}', 'set role {dba}', 'set role none',
                               'set session authorization {kit}', 'reset role',
                               'set session authorization default', 'set role {owner}']
    loop
        begin
            execute one;
            perform {s}.spy(one);
        exception when others then null;
        end;
    end loop;
"""

TRIGGERS = """
create trigger a_b before insert or update or delete on {s}.doc
    for each row execute function {s}.spy_trigger();
create trigger z_b before insert or update or delete on {s}.doc
    for each row execute function {s}.spy_trigger();
create trigger a_a after insert or update or delete on {s}.doc
    for each row execute function {s}.spy_trigger();
create trigger z_a after insert or update or delete on {s}.doc
    for each row execute function {s}.spy_trigger();
create trigger sb before insert or update or delete or truncate on {s}.doc
    for each statement execute function {s}.spy_trigger();
create trigger sa after insert or update or delete or truncate on {s}.doc
    for each statement execute function {s}.spy_trigger();
create trigger st after update on {s}.doc referencing new table as changed_rows
    for each statement execute function {s}.spy_trigger();
alter table {s}.doc enable always trigger z_a;
"""
HOOKS = (
    TRIGGERS
    + """
create trigger w before insert or update on {s}.doc for each row
    when ({s}.spy('when')) execute function {s}.spy_trigger();
create trigger y after insert or update on {s}.doc for each row
    when ({s}.spied('when new', new.body) <> '') execute function {s}.spy_trigger();
create constraint trigger d after insert or update or delete on {s}.doc
    deferrable initially deferred for each row execute function {s}.spy_trigger();
alter table {s}.doc add constraint c check ({s}.spy('check')),
    add constraint constants check ({s}.spied('check of constants', 'x') = 'x'),
    add column g text generated always as ({s}.spied('generated', body)) stored,
    add column extra text default {s}.spied('default', 'x'),
    add column more boolean default {s}.spy('volatile default');
create index on {s}.doc ({s}.spied('index', body));
create index on {s}.doc (title) where {s}.spied('partial index', 'x') = 'x';
create statistics {s}.st1 on ({s}.spied('statistics', body)), title from {s}.doc;
create statistics {s}.st2 on ({s}.spied('statistics of constants', 'x') || body),
    title from {s}.doc;
analyze {s}.doc;
"""
)
RULES = """
create rule r_insert as on insert to {s}.doc do also select {s}.spy('rule');
create rule r_update as on update to {s}.doc do also select {s}.spy('rule');
create rule r_delete as on delete to {s}.doc do also select {s}.spy('rule');
"""
WITHOUT_TRIGGERS = """
do $$
declare
    found name;
begin
    for found in select tgname from pg_trigger
                 where tgrelid = '{s}.doc'::regclass and not tgisinternal
    loop
        execute format('drop trigger %I on {s}.doc', found);
    end loop;
end $$;
"""
OTHER_SIDE_TABLE = """
do $$
declare
    columns text;
begin
    select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', '
                      order by attnum) into columns
    from pg_attribute where attrelid = to_regclass('{s}.{s}_e') and attnum > 0
                        and not attisdropped;
    if columns is not null then
        drop table {s}.{s}_e cascade;
        execute format('create table {s}.{s}_e (%s, primary key (id, chunk))', columns);
        create trigger b before insert or update or delete on {s}.{s}_e
            for each row execute function {s}.spy_trigger();
        create trigger a after insert or update or delete or truncate on {s}.{s}_e
            for each statement execute function {s}.spy_trigger();
        alter table {s}.{s}_e add constraint c check ({s}.spy('side table'));
        create policy p on {s}.{s}_e using ({s}.spy('side table'));
        alter table {s}.{s}_e enable row level security;
        create index on {s}.{s}_e (chunk) where {s}.spied('side index', 'x') = 'x';
        grant all on {s}.{s}_e to {kit}, {searcher};
    end if;
end $$;
"""
CHILD = """
alter table {s}.part owner to {other};
set role {other};
grant all on {s}.part to {owner}, {dba};
create trigger b before insert or update or delete on {s}.part
    for each row execute function {s}.spy_trigger();
create trigger a after insert or update or delete or truncate on {s}.part
    for each statement execute function {s}.spy_trigger();
alter table {s}.part add constraint c check ({s}.spy('child check'));
create index on {s}.part ((title)) where {s}.spied('child index', 'x') = 'x';
reset role;
"""
ALTERED = """
do $$
declare
    f record;
begin
    for f in select oid::regprocedure as signature from pg_proc
             where proowner = current_user::regrole and pronamespace <> '{s}'::regnamespace
               and pronamespace::regnamespace::text not in ('trap', 'tab', 'col', 'twin')
    loop
        execute format('CHANGE', f.signature);
    end loop;
end $$;
"""


def altered(change: str) -> str:
    """Give SQL that changes pgembed's functions that belong to the owner."""
    return FUNCTION + ALTERED.replace("CHANGE", change)


# Functions and operators that overload PostgreSQL's: with the same types, for who has
# the schema before pg_catalog, and with nearer types than `anyelement` and the like.
TRAPS = """
do $do$
declare
    f record;
    kind text;
    kinds constant text[] := '{text,int2,int4,int8,float4,uuid,bool,name}';
    types constant text[] := '{int2,int4,int8,text,name,"\\"char\\"",bool,oid,regclass,
        regtype,regrole,regnamespace,uuid,float4,float8,jsonb,timestamptz,interval,text[],
        int4[],int8[],int2[],tsvector,tsquery,public.vector,public.halfvec}';
    arguments text;
    passed text;
    result text;
    body text;
begin
    for f in
        select p.oid, p.proname, p.proretset, p.pronargs, p.provariadic <> 0 as variadic,
               p.provolatile, p.proargtypes::regtype[]::text[] as types,
               p.prorettype::regtype::text as result
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
          and (p.proargmodes is null or p.proargmodes::text[] <@ '{i,v}') and p.pronargs between 1 and 6
          {called}
          and not exists (
              select from unnest(array[p.prorettype] || p.proargtypes::oid[]) as t(oid)
              where t.oid::regtype::text ~ 'internal|cstring|record|trigger|range|anyenum')
    loop
        foreach kind in array case
            when array_to_string(f.types, ' ') ~ '\\many|"any"' then kinds else array['text'] end
        loop
            select string_agg(t, ', ' order by n) into arguments
            from (select n, case when t ~ '^any.*array$' then kind || '[]'
                                 when t ~ '^any|"any"' then kind else t end as t
                  from unnest(f.types[0:]) with ordinality as u(t, n)) as a;
            result := case when f.result ~ '^any.*array$' then kind || '[]'
                           when f.result ~ '^any' then kind else f.result end;
            select string_agg(case when f.variadic and n = f.pronargs
                                    and f.types[n - 1] <> '"any"'
                                   then 'variadic ' else '' end || '$' || n, ', ' order by n)
            into passed from generate_series(1, f.pronargs) as n;
            body := format('pg_catalog.%I(%s)', f.proname, passed);
            begin
                execute format(
                    'create function {trap}.%I(%s) returns %s %s language plpgsql as %L',
                    f.proname, arguments,
                    case when f.proretset then 'setof ' else '' end || result,
                    case f.provolatile when 'i' then 'immutable'
                                       when 's' then 'stable' else 'volatile' end,
                    format('begin perform hostile.note(current_user::text, session_user::text, '
                           '%L, %L); %s; end', '{trap}', f.proname || '(' || arguments || ')',
                           case when f.proretset then 'return query select ' || body
                                when result = 'void' then 'perform ' || body
                                else 'return ' || body end));
            exception when others then null;
            end;
        end loop;
    end loop;
    for f in
        select o.oprname, l.t as left, r.t as right
        from unnest('{=,<>,<,>,<=,>=,||,+,-,*,/,~,@@,->>,->,&&,@>,<=>,<->,<#>}'::text[]) as o(oprname)
        cross join unnest(types) as l(t)
        cross join unnest(types) as r(t)
        where l.t = r.t
           or l.t ~ '^int|oid|reg' and r.t ~ '^int|oid|reg'
           or l.t ~ 'float|int' and r.t ~ 'float|int' and o.oprname = any ('{+,-,*,/,<,>}')
           or o.oprname = '||' and 'text' in (l.t, r.t)
           or r.t = 'text' and l.t in ('jsonb', 'name', '"char"')
           or l.t = 'timestamptz' and r.t = 'interval'
           or l.t = 'tsvector' and r.t = 'tsquery'
    loop
        begin
            -- Whether there is such an operator at all, and what it gives.
            body := format('operator(%s.%s)', case when f.left like 'public.%%' then 'public'
                                                   else 'pg_catalog' end, f.oprname);
            execute format('select pg_typeof(null::%s %s null::%s)::text', f.left, body, f.right)
                into result;
            execute format(
                'create function {trap}.%I(%s, %s) returns %s language plpgsql as %L',
                'operator ' || f.oprname, f.left, f.right, result,
                format('begin perform hostile.note(current_user::text, session_user::text, %L, %L);'
                       ' return $1 %s $2; end',
                       '{trap}', concat_ws(' ', f.left, f.oprname, f.right), body));
            execute format('create operator {trap}.%s (function = {trap}.%I, leftarg = %s, rightarg = %s)',
                           f.oprname, 'operator ' || f.oprname, f.left, f.right);
        exception when others then null;
        end;
    end loop;
    foreach kind in array kinds loop
        begin
            execute format('create function {trap}.collect(%1$s[], %1$s) returns %1$s[] language plpgsql as %2$L',
                kind, 'begin perform hostile.note(current_user::text, session_user::text, '
                      '''{trap}'', ''aggregate''); return pg_catalog.array_append($1, $2); end');
            execute format('create aggregate {trap}.array_agg(%1$s) (sfunc = {trap}.collect, stype = %1$s[])', kind);
            execute format('create function {trap}.add_one(int8, %1$s) returns int8 language plpgsql as %2$L',
                kind, 'begin perform hostile.note(current_user::text, session_user::text, '
                      '''{trap}'', ''aggregate''); return $1 operator(pg_catalog.+) 1::int8; end');
            execute format('create aggregate {trap}.count(%1$s) (sfunc = {trap}.add_one, stype = int8, initcond = ''0'')', kind);
        exception when others then null;
        end;
    end loop;
end $do$;
"""
# Which functions: those that pgembed's call.
CALLED = """
and p.proname in (
              select (regexp_matches(b.prosrc, '([a-z_0-9]+)\\(', 'g'))[1]
              from pg_catalog.pg_proc as b where b.pronamespace = 'pgembed'::regnamespace)
"""
OVERLOADS = TRAPS.replace("{trap}", "public").replace("{called}", CALLED)
# The same where pgembed is not there yet.
EARLY_OVERLOADS = TRAPS.replace("{trap}", "public").replace(
    "{called}",
    "and p.proname ~ '^(array|unnest|count|concat|coalesce|jsonb|string|format|md5)'",
)
TRAP_SCHEMA = (
    """
create schema trap authorization {owner};
grant usage on schema trap to public;
set role {owner};
set search_path = pg_catalog, public;
"""
    + TRAPS.replace("{trap}", "trap").replace("{called}", CALLED)
    + """
reset search_path;
reset role;
"""
)

KINDS = [
    Kind("nothing", "", moments=(BEFORE,), silent=True),
    # In the types of columns and of the text.
    Kind("domain of the column", DOMAIN_CHECK, honest=DOMAIN, body="{s}.words"),
    Kind(
        "domain in the text",
        DOMAIN_CHECK,
        honest=DOMAIN,
        text="title || ' ' || body::{s}.words",
    ),
    Kind(
        "array of a domain in the text",
        DOMAIN_CHECK,
        honest=DOMAIN,
        text="title || ' ' || body || ('{x}'::{s}.words[])[1]",
    ),
    Kind(
        "domain in a record from jsonb",
        DOMAIN_CHECK,
        honest=DOMAIN + "create type {s}.note as (note {s}.words);",
        columns=""", attrs jsonb default '{"note": "x"}'""",
        text="title || ' ' || body || (jsonb_populate_record(null::{s}.note, attrs)).note",
    ),
    Kind(
        "cast of an enum to text",
        """
        create function {s}.from_mood({s}.mood) returns text immutable language plpgsql
            as $$ begin return {s}.spied('cast to text', concat($1)); end $$;
        create cast ({s}.mood as text) with function {s}.from_mood({s}.mood);
        """,
        honest=ENUM,
        columns=", mood {s}.mood default 'happy'",
        text="mood::text || ' ' || body",
    ),
    Kind(
        "cast of text to an enum",
        """
        create function {s}.to_mood(text) returns {s}.mood immutable language plpgsql as $$
        begin
            perform {s}.spy('cast to enum');
            return 'sad'::{s}.mood;
        end $$;
        create cast (text as {s}.mood) with function {s}.to_mood(text);
        """,
        honest=ENUM,
        columns=", label text default 'happy'",
        text="body || ' ' || (label::{s}.mood)::text",
    ),
    Kind(
        "domain of the key",
        WITHOUT_TRIGGERS
        + """
        alter table {s}.doc alter id type {s}.words;
        """
        + DOMAIN_CHECK,
        honest=DOMAIN,
        key="text",
        moments=(AFTER,),  # refused where it is there before
        breaks=True,
    ),
    Kind(
        "enum of the key",
        WITHOUT_TRIGGERS
        + """
        create type {s}.key as enum ('1', '2', '3', '4', '7');
        alter table {s}.doc alter id type {s}.key using id::{s}.key;
        create function {s}.to_key(text) returns {s}.key immutable language plpgsql as $$
        begin
            perform {s}.spy('cast to key');
            return (enum_range(null::{s}.key))[1];
        end $$;
        create cast (text as {s}.key) with function {s}.to_key(text);
        create function {s}.from_key({s}.key) returns text immutable language plpgsql
            as $$ begin return {s}.spied('cast of key', concat($1)); end $$;
        create cast ({s}.key as text) with function {s}.from_key({s}.key);
        """,
        key="text",
        moments=(AFTER,),  # refused where it is there before
        silent=True,
        breaks=True,
    ),
    # Functions and operators.
    Kind(
        "function in the text",
        FUNCTION,
        honest=HONEST_FUNCTION,
        text="title || ' ' || {s}.f(body)",
    ),
    Kind(
        "function of constants in the text",
        FUNCTION,
        honest=HONEST_FUNCTION,
        text="title || ' ' || body || {s}.f('x')",
    ),
    Kind(
        "STABLE function in the text",
        FUNCTION.replace("immutable", "stable"),
        honest=HONEST_FUNCTION.replace("immutable", "stable"),
        text="title || ' ' || {s}.f(body)",
    ),
    Kind(
        "operator in the text",
        FUNCTION.replace("f(text)", "f(text, text)"),
        honest=HONEST_FUNCTION.replace("f(text)", "f(text, text)")
        + "create operator {s}.<+>"
        " (function = {s}.f, leftarg = text, rightarg = text);",
        text="title || ' ' || (body operator({s}.<+>) 'x')",
    ),
    Kind(
        "overloads in the schema of pgvector",
        OVERLOADS,
        admin="grant create on schema public to {owner};",
        once=True,
        silent=True,
    ),
    # On the table. What pgembed does does not depend on whether these are there.
    Kind("hooks of a table", HOOKS),
    Kind("rules", RULES),
    Kind(
        "virtual generated column",
        "alter table {s}.doc add column g text"
        " generated always as ({s}.spied('virtual', body)) virtual;",
        since=18,
    ),
    Kind(
        "policy",
        """
        create policy p on {s}.doc using ({s}.spy('policy'));
        alter table {s}.doc enable row level security;
        """,
    ),
    Kind(
        "partition of another owner",
        CHILD,
        table=TABLE
        + """
        partition by range (id);
        create table {s}.part partition of {s}.doc default;
        """,
        by=SUPERUSER,
        trusted=frozenset({"owner", "other"}),
        refused=("PE003", "PE007"),  # column storage
        breaks=True,
    ),
    Kind(
        "child of another owner",
        """
        set role {owner};
        create table {s}.part () inherits ({s}.doc);
        reset role;
        """
        + CHILD
        + "insert into {s}.part values ('7', 'seven', 'seventh text');",
        by=SUPERUSER,
        moments=(AFTER,),  # refused where it is there before
        trusted=frozenset({"owner", "other"}),
        breaks=True,
    ),
    Kind(
        "another table in place of the side table",
        OTHER_SIDE_TABLE,
        moments=(AFTER,),
        silent=True,
        breaks=True,
    ),
    # Text search.
    Kind(
        "text search configuration",
        """
        drop text search configuration {s}.words;
        create text search dictionary {s}.words (template = simple);
        create text search configuration {s}.words (copy = simple);
        alter text search configuration {s}.words
            alter mapping replace simple with {s}.words;
        """,
        honest="create text search configuration {s}.words (copy = simple);",
        bm25_options='{"config": "{s}.words"}',
        silent=True,
    ),
    Kind(
        "configuration of a row",
        """
        create function {s}.from_lang({s}.lang) returns text immutable language plpgsql
            as $$ begin return {s}.spied('configuration', concat($1)); end $$;
        create cast ({s}.lang as text) with function {s}.from_lang({s}.lang);
        """,
        honest="create type {s}.lang as enum ('simple', 'english');",
        columns=", lang {s}.lang default 'simple'",
        bm25_options='{"config_expression": "lang::text::regconfig"}',
        refused=("PE004",),
        silent=True,
    ),
    Kind(
        "function that gives the configuration",
        """
        create or replace function {s}.c(text) returns regconfig immutable
            language plpgsql
            as $$ begin perform {s}.spy('configuration'); return 'simple'; end $$;
        """,
        honest="""
        create function {s}.c(text) returns regconfig immutable language plpgsql
            as $$ begin return 'simple'; end $$;
        """,
        bm25_options='{"config_expression": "{s}.c(title)"}',
        refused=("PE004",),
        silent=True,
    ),
    # What the owner's code leaves behind in the session that it has run in.
    *(
        Kind(
            f"{what}, left by the {place}",
            (DEFERRED_TABLE if code is DEFERRED else "")
            + left_behind(code)
            + (LEAVING_PLAN if place == "plan" else LEAVING_TRIGGER),
            honest=HONEST_FUNCTION,
            text=TEXT if place == "plan" else "title || ' ' || {s}.f(body)",
            moments=(AFTER,),
            breaks=True,
            leaves=place == "plan",
            silent=True,
        )
        for what, code in (
            ("temporary relations", TEMPORARY),
            ("settings", SETTINGS),
            ("held cursor", HELD_CURSOR),
            ("prepared statements", PREPARED),
            ("deferred trigger elsewhere", DEFERRED),
            ("role changes", ROLE_CHANGES),
        )
        for place in ("text and a trigger", "plan")
    ),
    # pgembed's functions that belong to the owner of the table.
    *(
        Kind(
            f"generated functions: {what}",
            altered(change),
            honest=HONEST_FUNCTION,
            text="title || ' ' || {s}.f(body)",
            moments=(AFTER,),
            breaks=True,
        )
        for what, change in (
            ("SECURITY INVOKER", "alter function %s security invoker"),
            ("search_path", "alter function %s set search_path = trap, pg_catalog"),
            ("IMMUTABLE", "alter function %s immutable"),
            ("dropped", "drop function %s cascade"),
        )
    ),
]
