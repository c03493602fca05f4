-- How a BM25 index is made: as a copy of index 0.
--
-- The tables of index 0 (tables/030_bm25.sql) stay empty, and its functions (stages/, packer/)
-- are ordinary ones, to be read with \sf, checked and explained. Index 7 has copies of both, so
-- that the plans of its functions are kept: in a copy _bm25_7_ stands for _bm25_0_, and
-- bm25_id = 7 for bm25_id = 0. Only how a row's key reads differs from table to table.

create or replace function pgembed._bm25_part(p_id int, p_part text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('pgembed._bm25_%s_%s', p_id, p_part)
$$;
comment on function pgembed._bm25_part(int, text) is 'Name of a table or function of a BM25 index.';

create or replace function pgembed._bm25_relations() returns table (part text, kind text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select substr(relname, length('_bm25_0_') + 1), case relkind when 'S' then 'sequence' else 'table' end
    from pg_class
    where relnamespace = 'pgembed'::regnamespace and starts_with(relname, '_bm25_0_') and relkind in ('r', 'S')
$$;
comment on function pgembed._bm25_relations() is 'What a BM25 index has: tables, and the sequence of versions.';

create or replace function pgembed._bm25_functions() returns table (part text, prototype oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select substr(proname, length('_bm25_0_') + 1), oid
    from pg_proc
    where pronamespace = 'pgembed'::regnamespace and starts_with(proname, '_bm25_0_')
    union all
    select 'key', null
$$;
comment on function pgembed._bm25_functions() is
    'Functions of a BM25 index, with that of index 0; key has none, as it is about the columns of a table.';

create or replace function pgembed._bm25_renamed(p_id int, p_definition text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(p_definition, '_bm25_0_', format('_bm25_%s_', p_id)), 'bm25_id = 0', format('bm25_id = %s', p_id))
$$;
comment on function pgembed._bm25_renamed(int, text) is 'A definition of index 0 as that of another.';

create or replace function pgembed._bm25_copy_tables(p_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    copied record;
begin
    execute format('create sequence %s', pgembed._bm25_part(p_id, 'version'));
    for copied in
        select c.oid, pgembed._bm25_part(p_id, r.part) as name, case when c.reloptions is not null then format('with (%s)', array_to_string(c.reloptions, ', ')) end as options, c.relreplident = 'f' as identity_full,
               obj_description(c.oid, 'pg_class') as comment
        from pgembed._bm25_relations() as r
        join pg_class as c on c.oid = pgembed._bm25_part(0, r.part)::regclass
        where r.kind = 'table'
    loop
        execute format('create table %s (like %s including all) %s', copied.name, copied.oid::regclass, copied.options);
        execute format('comment on table %s is %L', copied.name, copied.comment);
        if copied.identity_full then
            execute format('alter table %s replica identity full', copied.name);
        end if;
    end loop;
    for copied in
        select pgembed._bm25_renamed(p_id, a.adrelid::regclass::text) as name, c.attname as column, pg_get_expr(a.adbin, a.adrelid) as value
        from pgembed._bm25_relations() as r
        join pg_attrdef as a on a.adrelid = pgembed._bm25_part(0, r.part)::regclass
        join pg_attribute as c on c.attrelid = a.adrelid and c.attnum = a.adnum
        where starts_with(pg_get_expr(a.adbin, a.adrelid), 'nextval(')
    loop
        execute format('alter table %s alter %I set default %s', copied.name, copied.column, pgembed._bm25_renamed(p_id, copied.value));
    end loop;
    perform pgembed._give_to_owner(r.kind, pgembed._bm25_part(p_id, r.part)), pgembed._close(r.kind, pgembed._bm25_part(p_id, r.part))
    from pgembed._bm25_relations() as r;
end
$$;
comment on function pgembed._bm25_copy_tables(int) is 'Makes the tables of a BM25 index.';

create or replace function pgembed._bm25_copy_functions(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    key_value constant text := pgembed._row_columns(b.source, pgembed._key_text_sql(b.source, 'r'), 'r');
    definitions constant text[] := array(
        select pgembed._bm25_renamed(b.bm25_id, pg_get_functiondef(prototype)) from pgembed._bm25_functions() where prototype is not null
        union all
        select format('create or replace function %s(r anyelement) returns text language plpgsql stable %s as %L',
                      pgembed._bm25_part(b.bm25_id, 'key'), pgembed._key_settings_sql(), format('begin return %s; end', key_value)));
    signature text;
    comment text;
begin
    perform set_config('search_path', 'pg_catalog, pgembed, pg_temp', true);    -- as stages are written for
    for i in 1 .. cardinality(definitions) loop
        execute definitions[i];
    end loop;
    perform set_config('search_path', 'pg_catalog, pg_temp', true);
    for signature, comment in
        select coalesce(pgembed._bm25_renamed(b.bm25_id, prototype::regprocedure::text), pgembed._bm25_part(b.bm25_id, 'key(anyelement)')),
               coalesce(obj_description(prototype, 'pg_proc'), 'Key text of a row; NULL without a primary key.')
        from pgembed._bm25_functions()
    loop
        perform pgembed._give_to_owner('function', signature);
        execute format('revoke all on function %s from public', signature);
        execute format('comment on function %s is %L', signature, comment);
    end loop;
end
$$;
comment on function pgembed._bm25_copy_functions(pgembed.bm25) is 'Makes, or makes again, the functions of a BM25 index.';

create or replace function pgembed._bm25_key_text_sql(b pgembed.bm25, p_alias text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when pgembed._key_text_varies(b.source)
        then format('pgembed._bm25_%s_key(%s.*)', b.bm25_id, p_alias)
        else pgembed._key_text_sql(b.source, p_alias) end
$$;
comment on function pgembed._bm25_key_text_sql(pgembed.bm25, text) is
    'Expression for the key text of a source row as a BM25 index has it, whatever the settings of the session.';

create or replace function pgembed._bm25_mark(p_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('select %s(''R'')', pgembed._bm25_part(p_id, 'mark'));
end
$$;
comment on function pgembed._bm25_mark(int) is 'Has all rows of a BM25 index read again at the next maintenance.';

create or replace function pgembed._bm25_drop_parts(p_id int, p_kinds "char"[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parts record;
begin
    -- Of one kind all at once: policies of one table look into another.
    for parts in select kind, string_agg(name, ', ') as names
                 from (select case relkind when 'S' then 'sequence' else 'table' end, oid::regclass::text, relkind::"char"
                       from pg_class where relnamespace = 'pgembed'::regnamespace and starts_with(relname, format('_bm25_%s_', p_id))
                       union all
                       select 'function', oid::regprocedure::text, 'f'
                       from pg_proc where pronamespace = 'pgembed'::regnamespace and starts_with(proname, format('_bm25_%s_', p_id))
                      ) as part(kind, name, relkind)
                 where relkind = any (p_kinds)
                 group by kind
                 order by array_position(array['function', 'table', 'sequence'], kind)    -- a sequence after the tables whose default it is
    loop
        execute format('drop %s %s', parts.kind, parts.names);
    end loop;
end
$$;
comment on function pgembed._bm25_drop_parts(int, "char"[]) is
    'Drops what there is of a BM25 index, of the given kinds: tables (r), sequence (S), functions (f).';

create or replace function pgembed._bm25_make_parts(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from pgembed._bm25_relations() as r where to_regclass(pgembed._bm25_part(b.bm25_id, r.part)) is null) then
        perform pgembed._bm25_drop_parts(b.bm25_id, '{r,S}');
        perform pgembed._bm25_copy_tables(b.bm25_id);
        update pgembed.bm25 set state = 'pending' where bm25_id = b.bm25_id;
        delete from pgembed.bm25_pack where bm25_id = b.bm25_id;
        insert into pgembed.bm25_pack (bm25_id) values (b.bm25_id);
    end if;
    perform pgembed._bm25_copy_functions(b);
end
$$;
comment on function pgembed._bm25_make_parts(pgembed.bm25) is
    'Makes again the tables, empty, and the functions of a BM25 index that somebody has dropped.';
