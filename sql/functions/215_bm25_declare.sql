-- Declaration of BM25 indexes: those of embeddings, and those of their own.

create or replace function pgembed._bm25(p_name text) returns pgembed.bm25
language plpgsql stable
as $$
declare
    b pgembed.bm25;
begin
    select * into b from pgembed.bm25 where name = p_name;
    if not found then
        raise exception 'there is no BM25 index "%"', coalesce(p_name, 'NULL') using errcode = 'PE001',
            hint = coalesce((select 'Declared: ' || string_agg(name, ', ' order by name) || '.' from pgembed.bm25),
                            'None is declared yet: SELECT pgembed.create_bm25(...).');
    end if;
    return b;
end
$$;
comment on function pgembed._bm25(text) is 'The catalog row of a BM25 index, or PE001.';

create or replace function pgembed._text_config(p_config text) returns text
language plpgsql stable
as $$
declare
    config text;
begin
    select format('%I.%I', n.nspname, c.cfgname) into strict config    -- a number may be the oid of none
    from pg_catalog.pg_ts_config as c
    join pg_catalog.pg_namespace as n on n.oid = c.cfgnamespace
    where c.oid = p_config::regconfig;
    return config;
exception when no_data_found or undefined_object or invalid_name or syntax_error or invalid_schema_name or feature_not_supported then
    raise exception 'there is no text search configuration "%"', p_config using errcode = 'PE007',
        hint = 'There are: ' || (select string_agg(c.oid::regconfig::text, ', ' order by cfgname)
                                 from pg_catalog.pg_ts_config as c) || '.';
end
$$;
comment on function pgembed._text_config(text) is
    'Qualified name of a text search configuration, or PE007.';

create or replace function pgembed._bm25_apply_options(b pgembed.bm25, p_options jsonb) returns pgembed.bm25
language plpgsql stable
as $$
declare
    option text;
    value text;
begin
    if jsonb_typeof(p_options) <> 'object' then
        raise exception 'the options of a BM25 index are an object, not %', p_options using errcode = 'PE007',
            hint = 'For example {"config": "english", "k1": 1.2, "b": 0.75}.';
    end if;
    for option, value in select * from jsonb_each_text(p_options) loop
        if option = 'config' then
            b.config := pgembed._text_config(coalesce(value, current_setting('default_text_search_config')));
        elsif option = 'config_expression' then
            b.config_expression := value;
        elsif option = 'engine' then
            if value not in ('auto', 'sql', 'pg_textsearch') or value is null then
                raise exception 'unknown BM25 engine "%"', coalesce(value, 'NULL') using errcode = 'PE007',
                    hint = 'Engines are auto, sql and pg_textsearch.';
            end if;
            b.engine := value;
        elsif option in ('k1', 'b') then
            if jsonb_typeof(p_options -> option) <> 'number'
               or option = 'k1' and value::float8 not between 0.01 and 10
               or option = 'b' and value::float8 not between 0 and 1 then
                raise exception 'BM25 option % is out of range: %', option, coalesce(value, 'NULL')
                    using errcode = 'PE007', hint = 'k1 is 0.01 to 10 (default 1.2), b is 0 to 1 (default 0.75).';
            end if;
            if option = 'k1' then
                b.k1 := value::float8;
            else
                b.b := value::float8;
            end if;
        else
            raise exception 'unknown BM25 option "%"', option using errcode = 'PE007',
                hint = 'Options are config, config_expression, k1, b and engine.';
        end if;
    end loop;
    return b;
end
$$;
comment on function pgembed._bm25_apply_options(pgembed.bm25, jsonb) is
    'A BM25 index with options changed, checked; PE007 says what is wrong.';

create or replace function pgembed._key_immediate(p_source regclass) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce((select indimmediate from pg_index where indrelid = p_source and indisprimary), false)
$$;
comment on function pgembed._key_immediate(regclass) is
    'Whether a table has a primary key that is checked at each write, not deferrable to the commit.';

create or replace function pgembed._bm25_possible(p_source regclass) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._key_immediate(p_source) and relpersistence = 'p' from pg_class where oid = p_source
$$;
comment on function pgembed._bm25_possible(regclass) is
    'Whether a table can have a BM25 index: its key is checked at each write, and its rows are there after a crash.';

create or replace function pgembed._bm25_analyze(b pgembed.bm25) returns pgembed.bm25
language plpgsql
as $$
declare
    analyzed record;
begin
    if pgembed._table_sql(b.source) is null then
        raise exception 'the table of BM25 index "%" has been dropped', b.name using errcode = 'PE003',
            hint = format('SELECT pgembed.drop_bm25(%L) removes what is left.', b.name);
    end if;
    if not pgembed._key_immediate(b.source) then
        raise exception 'BM25 is not possible on table %: its primary key is deferrable', b.source using errcode = 'PE003',
            hint = 'Two rows may hold one key for a while, and a write would not say which of them it changes. '
                   'ALTER TABLE ... DROP CONSTRAINT, and ADD PRIMARY KEY without DEFERRABLE.';
    end if;
    if not pgembed._bm25_possible(b.source) then
        raise exception 'BM25 is not possible on table %: it is not logged', b.source using errcode = 'PE003',
            hint = 'After a crash it would be empty, and the index would not. ALTER TABLE ... SET LOGGED.';
    end if;
    b.config := pgembed._text_config(b.config);
    select * into analyzed from pgembed._analyze_expression(b.source, b.text_expression);
    b.canonical_expression := analyzed.canonical;
    b.source_columns := analyzed.source_columns;
    if analyzed.compare_in_trigger and b.config_expression is not null then
        select * into analyzed from pgembed._analyze_expression(
            b.source, format('(%s)::text', b.config_expression));
        b.config_expression := analyzed.canonical;
        b.source_columns := array(select distinct c from unnest(b.source_columns || analyzed.source_columns) as c order by c);
    end if;
    -- The triggers evaluate it, with the rights of pgembed's owner.
    if not analyzed.compare_in_trigger then
        raise exception 'BM25 is not possible over this expression' using errcode = 'PE004',
            detail = format('Expression: %s', b.text_expression),
            hint = 'It may call functions of PostgreSQL only, because triggers evaluate it with the rights of '
                   'pgembed''s owner, may not read columns of types that users define (an enum may have a '
                   'cast of theirs), and may not read a whole row: write it out, keep its value in a '
                   'generated column, or declare the embedding with bm25 => false.';
    end if;
    return b;
end
$$;
comment on function pgembed._bm25_analyze(pgembed.bm25) is
    'A BM25 index with its expressions checked against the table, or PE004.';

create or replace function pgembed._bm25_readers_amiss(b pgembed.bm25) returns table (reader text, may_read boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with source as (
        select distinct a.grantee
        from pg_class as c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as a
        where c.oid = b.source and a.privilege_type = 'SELECT'),
    index as (
        select distinct a.grantee
        from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        where p.pronamespace = 'pgembed'::regnamespace and p.proname = format('bm25_%s_top', b.bm25_id)
          and a.grantee <> p.proowner)
    select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end, source.grantee is not null
    from source full join index using (grantee)
    where source.grantee is null
       or index.grantee is null and grantee <> (select relowner from pg_class
                                                where oid = pgembed._bm25_table(b.bm25_id, 'doc')::regclass)
$$;
comment on function pgembed._bm25_readers_amiss(pgembed.bm25) is
    'Roles that may read the source and not search the BM25 index, or the reverse.';

create or replace function pgembed._bm25_sync_readers(b pgembed.bm25) returns void
language plpgsql
as $$
declare
    r record;
    way text;
    functions constant text := format('function %s(text[], int, text, int[], bigint[]), %s(bigint[]), %s(anyelement)',
        pgembed._bm25_table(b.bm25_id, 'top'), pgembed._bm25_table(b.bm25_id, 'keys'), pgembed._bm25_table(b.bm25_id, 'key'));
begin
    -- Who may read the source may ask for handles and look up their keys; the words
    -- of documents stay closed. Only what differs is changed, so this is cheap.
    for r in select * from pgembed._bm25_readers_amiss(b) loop
        way := case when r.may_read then 'grant %s on %s to %s' else 'revoke %s on %s from %s' end;
        execute format(way, 'execute', functions, r.reader);
        execute format(way, 'select (slot, key)', pgembed._bm25_table(b.bm25_id, 'doc'), r.reader);
        execute format(way, 'select (version, key)', pgembed._bm25_table(b.bm25_id, 'recent'), r.reader);
    end loop;
end
$$;
comment on function pgembed._bm25_sync_readers(pgembed.bm25) is
    'Gives a BM25 index the readers that its source has now.';

create or replace function pgembed._bm25_security_differs(b pgembed.bm25) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select s.relrowsecurity <> d.relrowsecurity
    from pg_class as s, pg_class as d
    where s.oid = b.source and d.oid = pgembed._bm25_table(b.bm25_id, 'doc')::regclass
$$;
comment on function pgembed._bm25_security_differs(pgembed.bm25) is
    'Whether row-level security of the source was switched on or off since it was taken over.';

create or replace function pgembed._bm25_sync_privileges(b pgembed.bm25) returns void
language plpgsql
as $$
declare
    part text;
    part_oid regclass;
    rule text;
    policy constant text := 'pgembed_source';
    secured constant boolean := (select relrowsecurity from pg_catalog.pg_class where oid = b.source);
begin
    if b.engine <> 'sql' then
        return;
    end if;
    perform pgembed._bm25_sync_readers(b);
    -- Nothing is done where nothing changed: it would lock out writers.
    foreach part in array array['doc', 'recent'] loop
        part_oid := pgembed._bm25_table(b.bm25_id, part)::regclass;
        rule := format('exists (select from %s as pgembed_source where %s)', pgembed._table_sql(b.source),
                       replace(pgembed._key_sql(b.source, null, 'pgembed_source.%2$I = %5$s::%4$s', ' and '),
                               'pgembed_key.key', format('bm25_%s_%s.key', b.bm25_id, part)));
        continue when secured = (select relrowsecurity from pg_catalog.pg_class where oid = part_oid)
            and (not secured or exists (select from pg_catalog.pg_policy where polrelid = part_oid and polname = policy
                                        and pg_catalog.obj_description(oid, 'pg_policy') = rule));
        execute format('drop policy if exists %I on %s', policy, part_oid);
        execute format('alter table %s %s row level security', part_oid, case when secured then 'enable' else 'disable' end);
        if secured then
            execute format('create policy %I on %s for select using (%s)', policy, part_oid, rule);
            execute format('comment on policy %I on %s is %L', policy, part_oid, rule);
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_sync_privileges(pgembed.bm25) is
    'Gives a BM25 index the readers and the row security of its source.';

create or replace function pgembed._bm25_install_functions(b pgembed.bm25) returns void
language plpgsql
as $$
begin
    if b.engine = 'sql' then
        perform pgembed._bm25_install_capture_functions(b);
        perform pgembed._bm25_install_packer(b);
        perform pgembed._bm25_install_top(b);
    end if;
end
$$;
comment on function pgembed._bm25_install_functions(pgembed.bm25) is
    'Makes, or makes again, all functions of a BM25 index.';

create or replace function pgembed._bm25_create(b pgembed.bm25) returns pgembed.bm25
language plpgsql
as $$
declare
    large boolean;
begin
    b := pgembed._bm25_analyze(b);
    b.engine := pgembed._bm25_engine(b);
    insert into pgembed.bm25 (name, embedding_id, source, text_expression, canonical_expression, source_columns,
                              config, config_expression, k1, b, engine)
    values (b.name, b.embedding_id, b.source, b.text_expression, b.canonical_expression, b.source_columns,
            b.config, b.config_expression, b.k1, b.b, b.engine)
    returning * into b;
    if b.engine = 'pg_textsearch' then
        perform pgembed._bm25_create_extension_index(b);
        return b;
    end if;
    perform pgembed._bm25_create_tables(b.bm25_id);
    perform pgembed._bm25_install_functions(b);
    perform pgembed._bm25_install_capture(b);
    perform pgembed._bm25_sync_privileges(b);
    -- A table that is read in a second or two is searchable when this commits; a
    -- larger one, or one that this transaction sees as it was before, when a
    -- service, or bm25_maintain(), has read it.
    execute format('select exists (select from %s offset 10000)', pgembed._table_sql(b.source)) into large;
    if not large and current_setting('transaction_isolation') = 'read committed' then
        perform pgembed._bm25_maintain(b, 2000);
    end if;
    return b;
end
$$;
comment on function pgembed._bm25_create(pgembed.bm25) is
    'Makes a BM25 index as described: catalog row, tables, functions and triggers.';

create or replace function pgembed.create_bm25(
    source text,
    text_expression text,
    name text default null,
    options jsonb default '{}'
) returns text
language plpgsql
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
begin
    perform pgembed._require_owner();
    b.source := pgembed._source_table(create_bm25.source);
    perform pgembed._require_source_owner(b.source);
    b.name := coalesce(create_bm25.name, (select relname || '_bm25' from pg_catalog.pg_class where oid = b.source));
    if b.name = '' or octet_length(b.name) > 63 then
        raise exception 'the name of a BM25 index has 1 to 63 bytes, not %: "%"', octet_length(b.name), b.name
            using errcode = 'PE007', hint = 'Give a shorter one: name => ''...''.';
    end if;
    if exists (select from pgembed.bm25 where name = b.name)
       or exists (select from pgembed.embedding where name = b.name) then
        raise exception 'there is an embedding or BM25 index "%" already', b.name using errcode = 'PE002',
            hint = 'Give this one another name: name => ''...''.';
    end if;
    b.text_expression := create_bm25.text_expression;
    b := pgembed._bm25_create(pgembed._bm25_defaults(b, create_bm25.options));
    perform pg_notify('pgembed', '');
    return b.name;
end
$$;
comment on function pgembed.create_bm25(text, text, text, jsonb) is
    'Declares a BM25 index over a text expression, without vectors. Options: config (text search '
    'configuration), config_expression (for tables of several languages), k1, b, engine. Returns its '
    'name. Example: SELECT pgembed.create_bm25(''article'', ''title || '''' '''' || body'').';

create or replace function pgembed._bm25_defaults(b pgembed.bm25, p_options jsonb) returns pgembed.bm25
language plpgsql stable
as $$
begin
    b.config := pgembed._text_config(current_setting('default_text_search_config'));
    b.k1 := 1.2;
    b.b := 0.75;
    b.engine := 'auto';
    return pgembed._bm25_apply_options(b, coalesce(p_options, '{}'));
end
$$;
comment on function pgembed._bm25_defaults(pgembed.bm25, jsonb) is
    'A BM25 index with the default parameters but for the given options.';

create or replace function pgembed._bm25_capture_fits(b pgembed.bm25) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A trigger follows a column that is renamed, the expression follows the
    -- name: they part when a new column takes the old one's name.
    select not exists (
        select from pg_attribute as a, pg_trigger as t
        where a.attrelid = b.source
          and (a.attname = any (b.source_columns)
               or a.attnum = any (array(select unnest(i.indkey::int2[]) from pg_index as i
                                        where i.indrelid = b.source and i.indisprimary)))
          and t.tgrelid = b.source and t.tgname = pgembed._bm25_trigger_name(b.bm25_id, 'update')
          and not exists (select from pg_depend as d
                          where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
                            and d.refclassid = 'pg_class'::regclass and d.refobjid = b.source
                            and d.refobjsubid = a.attnum))
$$;
comment on function pgembed._bm25_capture_fits(pgembed.bm25) is
    'Whether the update trigger watches the columns that the text and the key are made of.';

create or replace function pgembed._bm25_key_fits(b pgembed.bm25) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select p.prosrc = pgembed._bm25_key_body(b.source)
    from pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace and p.proname = format('bm25_%s_key', b.bm25_id)
$$;
comment on function pgembed._bm25_key_fits(pgembed.bm25) is
    'Whether documents are known by what is the primary key now; NULL when there is none.';

create or replace function pgembed._bm25_misfit(p_name text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('Columns were changed so that the triggers no longer see all changes. '
                  'SELECT pgembed.bm25_rebuild(%L) mends it.', p_name)
$$;
comment on function pgembed._bm25_misfit(text) is 'What is said when the triggers watch other columns.';

create or replace function pgembed._bm25_capture_state(b pgembed.bm25) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select p.prosrc
    from pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace and p.proname = format('bm25_%s_document', b.bm25_id)
      and 4 = (select count(*) from pg_trigger as t
               where t.tgrelid = b.source and t.tgenabled in ('O', 'A')
                 and t.tgname in (select pgembed._bm25_trigger_name(b.bm25_id, event)
                                  from unnest(array['insert', 'update', 'delete', 'truncate']) as event))
      and pgembed._bm25_capture_fits(b)
$$;
comment on function pgembed._bm25_capture_state(pgembed.bm25) is
    'What the triggers of a BM25 index capture, to be compared; NULL when they do not all work.';

create or replace function pgembed._bm25_alter(p_was pgembed.bm25, p_text_expression text, p_options jsonb) returns void
language plpgsql
as $$
declare
    b pgembed.bm25;
    captured text;
begin
    -- What another session changed while this one waited is kept.
    perform pgembed._bm25_lock(p_was.bm25_id);
    p_was := pgembed._bm25(p_was.name);
    b := p_was;
    b.text_expression := coalesce(p_text_expression, b.text_expression);
    b := pgembed._bm25_analyze(pgembed._bm25_apply_options(b, coalesce(p_options, '{}')));
    b.engine := pgembed._bm25_engine(b);
    if b.engine <> p_was.engine then
        perform pgembed._bm25_drop(p_was);
        perform pgembed._bm25_create(b);
        return;
    end if;
    update pgembed.bm25 as x
    set text_expression = b.text_expression, canonical_expression = b.canonical_expression,
        source_columns = b.source_columns, config = b.config, config_expression = b.config_expression,
        k1 = b.k1, b = b.b, state = 'pending', state_reason = null
    where bm25_id = b.bm25_id;
    if b.engine = 'pg_textsearch' then
        perform pgembed._bm25_drop_extension_index(p_was);
        perform pgembed._bm25_create_extension_index(b);
        return;
    end if;
    -- Writers are captured by the new text from here on; the rebuild reads the rest.
    -- They need not be kept out where they were captured by this text all along.
    captured := pgembed._bm25_capture_state(b);
    perform pgembed._bm25_install_functions(b);
    if captured is null or captured <> pgembed._bm25_capture_state(b) then
        perform pgembed._bm25_install_capture(b);
    end if;
    perform pgembed._bm25_sync_privileges(b);
    perform pgembed._bm25_maintain(b, 2000);
end
$$;
comment on function pgembed._bm25_alter(pgembed.bm25, text, jsonb) is
    'Changes a BM25 index, or repairs it, and builds it again.';

create or replace function pgembed.alter_bm25(
    name text, text_expression text default null, options jsonb default null
) returns void
language plpgsql
as $$
declare
    b pgembed.bm25 := pgembed._bm25(alter_bm25.name);
begin
    perform pgembed._require_owner();
    if b.embedding_id is not null and alter_bm25.text_expression is not null then
        raise exception 'the BM25 index "%" has the text of its embedding', b.name using errcode = 'PE007',
            hint = format('SELECT pgembed.alter_embedding(%L, text_expression => ...).', b.name);
    end if;
    perform pgembed._bm25_alter(b, alter_bm25.text_expression, alter_bm25.options);
end
$$;
comment on function pgembed.alter_bm25(text, text, jsonb) is
    'Changes the text or the options of a BM25 index, and builds it again before it returns. '
    'NULL, or an option that is not named, keeps what is.';

create or replace function pgembed._bm25_repair(b pgembed.bm25) returns void
language plpgsql
as $$
begin
    if b.engine <> 'sql' then
        return;
    end if;
    perform pgembed._bm25_lock(b.bm25_id);
    b := pgembed._bm25_analyze(pgembed._bm25(b.name));
    update pgembed.bm25 as x
    set canonical_expression = b.canonical_expression, source_columns = b.source_columns,
        state = case x.state when 'broken' then 'pending' else x.state end, state_reason = null
    where bm25_id = b.bm25_id;
    perform pgembed._bm25_install_functions(b);
    perform pgembed._bm25_install_capture(b);
    perform pgembed._bm25_sync_privileges(b);
    execute format('select %s(''R'')', pgembed._bm25_table(b.bm25_id, 'mark'));
end
$$;
comment on function pgembed._bm25_repair(pgembed.bm25) is
    'Makes functions, triggers and privileges of a BM25 index again, and has the service read the whole table.';

create or replace function pgembed._bm25_remove_capture(b pgembed.bm25) returns void
language plpgsql
as $$
declare
    t record;
begin
    for t in select tgname, tgrelid from pg_catalog.pg_trigger
             where tgname in (select pgembed._bm25_trigger_name(b.bm25_id, event)
                              from unnest(array['insert', 'update', 'delete', 'truncate']) as event)
               and tgparentid = 0    -- clones on partitions go with it
    loop
        execute format('drop trigger %I on %s', t.tgname, pgembed._table_sql(t.tgrelid));
    end loop;
end
$$;
comment on function pgembed._bm25_remove_capture(pgembed.bm25) is 'Removes the triggers of a BM25 index.';

create or replace function pgembed.bm25_rebuild(name text) returns void
language plpgsql
as $$
begin
    perform pgembed._require_owner();
    perform pgembed._bm25_alter(pgembed._bm25(bm25_rebuild.name), null, null);
end
$$;
comment on function pgembed.bm25_rebuild(text) is
    'Makes functions and triggers of a BM25 index again and reads the whole table anew. Searches go '
    'on with the earlier state until this commits.';

create or replace function pgembed._bm25_drop(b pgembed.bm25) returns void
language plpgsql
as $$
declare
    routine regprocedure;
    part text;
    old_level text;
begin
    perform pgembed._bm25_lock(b.bm25_id);    -- a packer that is at work finishes first
    delete from pgembed.bm25 where bm25_id = b.bm25_id;
    if b.engine = 'pg_textsearch' then
        perform pgembed._bm25_drop_extension_index(b);
        return;
    end if;
    -- The triggers go with their functions, on partitions too, which is no news.
    old_level := pgembed._setting('client_min_messages', 'warning');
    for routine in select oid from pg_catalog.pg_proc
                   where pronamespace = 'pgembed'::regnamespace
                     and proname ~ format('^bm25_%s_', b.bm25_id)
    loop
        execute format('drop function %s cascade', routine);
    end loop;
    perform pgembed._setting('client_min_messages', old_level);
    foreach part in array array['recent', 'dead', 'doc', 'term', 'posting', 'block'] loop
        execute format('drop table if exists %s', pgembed._bm25_table(b.bm25_id, part));
    end loop;
    execute format('drop sequence if exists %s', pgembed._bm25_table(b.bm25_id, 'version'));
end
$$;
comment on function pgembed._bm25_drop(pgembed.bm25) is 'Removes a BM25 index with all that was made for it.';

create or replace function pgembed.drop_bm25(name text, if_exists boolean default false) returns void
language plpgsql
as $$
#variable_conflict use_column
begin
    perform pgembed._require_owner();
    if drop_bm25.if_exists and not exists (select from pgembed.bm25 where name = drop_bm25.name) then
        raise notice 'there is no BM25 index "%", skipping', drop_bm25.name;
        return;
    end if;
    perform pgembed._bm25_drop(pgembed._bm25(drop_bm25.name));
end
$$;
comment on function pgembed.drop_bm25(text, boolean) is
    'Removes a BM25 index; an embedding of the same name stays.';

create or replace function pgembed._bm25_lock(p_id int) returns void
language sql
as $$
    select pg_advisory_xact_lock(1885824368, p_id)
$$;
comment on function pgembed._bm25_lock(int) is
    'Waits until no one else maintains a BM25 index, until the end of the transaction.';

create or replace function pgembed._bm25_maintain(b pgembed.bm25, p_min_rows int) returns text
language plpgsql
as $$
declare
    patience constant text := current_setting('lock_timeout');
    done text;
    changed boolean;
    partitioned boolean := false;
begin
    if b.engine <> 'sql' then
        return null;
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'BM25 indexes cannot be maintained in a % transaction', current_setting('transaction_isolation')
            using errcode = 'PE007', hint = 'Use READ COMMITTED: the work must see what others have committed.';
    end if;
    perform pgembed._bm25_lock(b.bm25_id);
    select * into b from pgembed.bm25 where bm25_id = b.bm25_id;    -- as it is now that the lock is here
    if not found then
        return null;
    end if;
    if pgembed._table_sql(b.source) is not null then
        -- Each of these locks out writers: a step of its own, not before hours of building.
        if pgembed._bm25_security_differs(b) then
            perform pgembed._bm25_sync_privileges(b);
            return 'took over row-level security';
        end if;
        perform pgembed._bm25_sync_readers(b);
        if not pgembed._bm25_capture_fits(b) then
            update pgembed.bm25 as x set state = 'broken', state_reason = pgembed._bm25_misfit(b.name)
            where bm25_id = b.bm25_id;
            return format('broken: %s', pgembed._bm25_misfit(b.name));
        end if;
        partitioned := pgembed._is_partitioned(b.source);
        if pgembed._bm25_key_fits(b) is not true then
            begin
                -- Where the key as it was can still be computed, nobody marks what is written
                -- with it: wait for those who do, not long, as others' writes queue behind.
                execute format('select %s(null::%s)', pgembed._bm25_table(b.bm25_id, 'key'), pgembed._table_sql(b.source));
                if pgembed._key_immediate(b.source) then
                    perform set_config('lock_timeout', '1s', true);
                    perform pgembed._bm25_install_capture(b);
                    perform set_config('lock_timeout', patience, true);
                    done := 'took over the key, will be built anew';
                end if;
            exception
                when lock_not_available then
                    return 'waits: the key has changed, and transactions that write are open';
                when undefined_column or insufficient_privilege then
                    null;    -- renamed; or a service that does not own the table
            end;
            execute format('select %s(''R'')', pgembed._bm25_table(b.bm25_id, 'mark'));
            if done is not null then
                return done;
            end if;
        elsif partitioned and pgembed._bm25_partitions_changed(b) then
            execute format('select %s(''R'')', pgembed._bm25_table(b.bm25_id, 'mark'));
        end if;
    end if;
    execute format('select exists (select from %s where op = ''R'')', pgembed._bm25_table(b.bm25_id, 'dead')) into changed;
    if changed or b.state <> 'ready' or not pgembed._key_immediate(b.source) then
        -- The table may have another shape than the functions know.
        begin
            b := pgembed._bm25_analyze(b);
        exception when sqlstate 'PE003' or sqlstate 'PE004' or sqlstate 'PE007' then
            update pgembed.bm25 set state = 'broken', state_reason = sqlerrm where bm25_id = b.bm25_id;
            return format('broken: %s', sqlerrm);
        end;
        perform pgembed._bm25_install_functions(b);
        update pgembed.bm25 set state = 'pending' where bm25_id = b.bm25_id;
    end if;
    execute format('select %s($1)', pgembed._bm25_table(b.bm25_id, 'maintain')) into done using p_min_rows;
    if changed then
        -- Rows that fail as if a column were missing, now that none is, fail by their
        -- values: to read them again would change nothing.
        execute format('delete from %s where op = ''R'' and key = pg_current_xact_id()::text',
                       pgembed._bm25_table(b.bm25_id, 'dead'));
    end if;
    if partitioned then
        perform pgembed._bm25_follow_partitions(b, false);    -- last: until the commit, writers of those wait
    end if;
    return done;
end
$$;
comment on function pgembed._bm25_maintain(pgembed.bm25, int) is
    'Does what is due for a BM25 index once p_min_rows have gathered; returns what it did.';

create or replace function pgembed.bm25_maintain(name text default null, min_rows int default 2000)
returns table (bm25 text, done text)
language plpgsql
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
begin
    perform pgembed._require_owner();
    if bm25_maintain.name is not null then
        b := pgembed._bm25(bm25_maintain.name);
    end if;
    if bm25_maintain.min_rows < 1 or bm25_maintain.min_rows is null then
        raise exception 'min_rows must be 1 or more, not %', coalesce(bm25_maintain.min_rows::text, 'NULL')
            using errcode = 'PE007', hint = 'Rows are packed when so many have gathered.';
    end if;
    for b in select * from pgembed.bm25 where bm25_maintain.name is null or name = bm25_maintain.name order by name loop
        bm25 := b.name;
        done := pgembed._bm25_maintain(b, bm25_maintain.min_rows);
        if done is not null then
            return next;
        end if;
    end loop;
end
$$;
comment on function pgembed.bm25_maintain(text, int) is
    'Builds, packs, merges and purges BM25 indexes where that is due. The encoder service does this by '
    'itself; without one, call it from pg_cron. Writers never wait for it.';
