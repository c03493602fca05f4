-- Declaration of BM25 indexes: those of embeddings, and standalone ones.

create or replace function pgembed._bm25(p_name text) returns pgembed.bm25
language plpgsql stable
as $$
declare
    b pgembed.bm25;
begin
    select * into b from pgembed.bm25 as x where x.bm25_id operator(pg_catalog.=) pgembed._named('BM25 index', p_name);
    if not found then
        raise exception 'there is no BM25 index "%"', coalesce(p_name, 'NULL') using errcode = 'PE001',
            hint = coalesce((select pg_catalog.concat('Declared: ', pg_catalog.string_agg(name, ', ' order by name), '.') from pgembed.bm25
                             having pg_catalog.count(*) operator(pg_catalog.>) 0),
                            'None is declared yet: SELECT pgembed.create_bm25(...).');
    end if;
    return b;
end
$$;
comment on function pgembed._bm25(text) is 'The catalog row of a BM25 index, or PE001.';

create or replace function pgembed._text_config(p_config text, p_path text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    config_oid oid;
    config text;
begin
    begin
        perform pgembed._at_path(p_path);
        config_oid := p_config::pg_catalog.regconfig;
        perform pgembed._back_inside();
    exception when undefined_object or invalid_name or syntax_error or invalid_schema_name or feature_not_supported then
        perform pgembed._back_inside();
        config_oid := pgembed._config_of_language(p_config);
    end;
    config := (select format('%I.%I', n.nspname, c.cfgname)    -- a number may be the oid of none
               from pg_ts_config as c
               join pg_namespace as n on n.oid = c.cfgnamespace
               where c.oid = config_oid);
    if config is null then
        perform pgembed._no_config(p_config);
    end if;
    return config;
end
$$;
comment on function pgembed._text_config(text, text) is
    'Qualified name of a text search configuration, named under a search_path or by the code of its language; or PE007.';

create or replace function pgembed._bm25_options() returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select '{config,config_expression,analyzer,fields,k1,b}'::text[]
$$;
comment on function pgembed._bm25_options() is 'The options that a BM25 index has.';

create or replace function pgembed._bm25_reset(b pgembed.bm25, p_options text[], p_path text) returns pgembed.bm25
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if 'config' = any (p_options) then
        b.config := pgembed._text_config(current_setting('default_text_search_config'), p_path);
    end if;
    if 'config_expression' = any (p_options) then
        b.config_expression := null;
        b.config_columns := '{}';
        b.config_foreign := false;
    end if;
    if 'analyzer' = any (p_options) then
        b.analyzer := pgembed._analyzer_options('{}');
    end if;
    if 'fields' = any (p_options) then
        b := pgembed._bm25_apply_fields(b, null);
    end if;
    if 'k1' = any (p_options) then
        b.k1 := 1.2;
    end if;
    if 'b' = any (p_options) then
        b.b := 0.75;
    end if;
    return b;
end
$$;
comment on function pgembed._bm25_reset(pgembed.bm25, text[], text) is 'A BM25 index with the defaults of some options.';

create or replace function pgembed._bm25_apply_options(b pgembed.bm25, p_options jsonb, p_path text) returns pgembed.bm25
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    option text;
    value text;
    analyzed pgembed.captured_text;
begin
    if jsonb_typeof(p_options) <> 'object' then
        raise exception 'the options of a BM25 index are an object, not %', p_options using errcode = 'PE007',
            hint = 'For example {"config": "english", "k1": 1.2, "b": 0.75}.';
    end if;
    for option, value in select * from jsonb_each_text(p_options) loop
        if not option = any (pgembed._bm25_options()) then
            raise exception 'unknown BM25 option "%"', option using errcode = 'PE007',
                hint = format('Options are %s.', array_to_string(pgembed._bm25_options(), ', '));
        elsif value is null then
            raise exception 'BM25 option % is null', option using errcode = 'PE007',
                hint = format('Leave it out; what was given before goes back to the default with reset => ''{%s}''.',
                              case when b.embedding_id is null then option else 'bm25_options.' || option end);
        elsif option = 'config' then
            b.config := pgembed._text_config(value, p_path);
        elsif option = 'config_expression' then
            analyzed := pgembed._analyze_expression(b.text_id, b.source, format(E'(\n%s\n)::text', value), p_path);
            perform pgembed._check_words(analyzed, value);
            b.config_expression := analyzed.canonical_expression;
            b.config_columns := analyzed.source_columns;
            b.config_foreign := analyzed.foreign_code;
        elsif option = 'fields' then
            b := pgembed._bm25_apply_fields(b, p_options -> option);
        elsif option = 'analyzer' then
            b.analyzer := pgembed._analyzer_options(p_options -> option);
        elsif option in ('k1', 'b') then
            if jsonb_typeof(p_options -> option) <> 'number'
               or option = 'k1' and value::float8 not between 0.01 and 10
               or option = 'b' and value::float8 not between 0 and 1 then
                raise exception 'BM25 option % is out of range: %', option, value
                    using errcode = 'PE007', hint = 'k1 is 0.01 to 10 (default 1.2), b is 0 to 1 (default 0.75).';
            end if;
            if option = 'k1' then
                b.k1 := value::float8;
            else
                b.b := value::float8;
            end if;
        end if;
    end loop;
    return b;
end
$$;
comment on function pgembed._bm25_apply_options(pgembed.bm25, jsonb, text) is
    'A BM25 index with options changed, checked; PE007 or PE004 say what is wrong.';

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

create or replace function pgembed._check_words(t pgembed.captured_text, p_expression text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if t.kind <> 'text' then
        raise exception 'BM25 is not possible over images' using errcode = 'PE004',
            detail = format('Expression: %s.', p_expression),
            hint = 'Images have no words: declare the embedding without BM25, and a BM25 index (pgembed.create_bm25) over '
                   'the columns that describe them.';
    end if;
    if t.volatility <> 'immutable' or t.canonical_expression ~ '\.\*' then
        raise exception 'BM25 is not possible over this expression' using errcode = 'PE004',
            detail = format('Expression: %s', p_expression),
            hint = case t.volatility
                when 'time' then 'It depends on the time or the session, so the words of a row would change by themselves.'
                when 'stable' then 'It calls a STABLE function of yours, so the words of a row may change without the row. Where the '
                                   'function depends on its arguments alone, declare it IMMUTABLE.'
                else 'It reads a whole row, so it would change with every column: write it out.' end
                || ' Or keep its value in a column, or declare the embedding with bm25 => false.';
    end if;
end
$$;
comment on function pgembed._check_words(pgembed.captured_text, text) is
    'PE004 for an expression that does not depend on the columns it names alone: words before and after a change '
    'could not be told.';

create or replace function pgembed._bm25_check(b pgembed.bm25) returns pgembed.bm25
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t constant pgembed.captured_text := pgembed._text(b.text_id);
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
    b.config := pgembed._text_config(b.config, 'pg_catalog, pg_temp');
    perform pgembed._check_words(t, t.text_expression);
    perform pgembed._bm25_check_fields(b, t);
    return b;
end
$$;
comment on function pgembed._bm25_check(pgembed.bm25) is
    'A BM25 index that its table, text and configuration allow; PE003, PE004 or PE007 where they do not.';

create or replace function pgembed._bm25_build_small(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A table that is read in a second or two is searchable when this commits; a
    -- larger one, or one that this transaction sees as it was before, when a
    -- service, or bm25_maintain(), has read it.
    if current_setting('transaction_isolation') = 'read committed'
       and cardinality(pgembed._keys_as_owner(b.text_id, format('select 1::int8, null::text from %s offset 10000 limit 1',
                                                                pgembed._table_sql(b.source)))) = 0 then
        perform pgembed._bm25_maintain(b, 2000);
    end if;
end
$$;
comment on function pgembed._bm25_build_small(pgembed.bm25) is
    'Builds a BM25 index within the transaction that declares it, which locks the table, if that is soon done.';

create or replace function pgembed._bm25_create(b pgembed.bm25) returns pgembed.bm25
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text;
begin
    b := pgembed._bm25_check(b);
    b.config_digest := pgembed._bm25_config_digest(b);
    insert into pgembed.bm25 (name, embedding_id, text_id, source, config, config_expression, config_columns, config_foreign,
                              config_digest, analyzer, field_columns, field_weights, k1, b)
    values (b.name, b.embedding_id, b.text_id, b.source, b.config, b.config_expression, b.config_columns, b.config_foreign,
            b.config_digest, b.analyzer, b.field_columns, b.field_weights, b.k1, b.b)
    returning * into b;
    perform pgembed._keep_default(b.source);
    t := pgembed._text(b.text_id);
    perform pgembed._bm25_make_parts(b);
    perform pgembed._install_capture(t);
    perform pgembed._sync_privileges(t);
    perform pgembed._bm25_build_small(b);
    return b;
end
$$;
comment on function pgembed._bm25_create(pgembed.bm25) is
    'Makes a BM25 index as described: catalog row, tables, functions and triggers.';

create or replace function pgembed.create_bm25(
    source text,
    text_expression text default null,
    name text default null,
    options jsonb default '{}',
    is_default boolean default false,
    if_not_exists boolean default false
) returns text
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b pgembed.bm25;
begin
    perform pgembed._back_inside();
    perform pgembed._require_owner();
    b.source := pgembed._source_table(create_bm25.source, path);
    perform pgembed._require_source_owner(b.source);
    perform pgembed._lock_declarations();
    b.name := coalesce(create_bm25.name, (select relname || '_bm25' from pg_class where oid = b.source));
    if not pgembed._check_new_name('a BM25 index', b.source, b.name, coalesce(create_bm25.if_not_exists, false)) then
        perform set_config('search_path', path, true);
        return b.name;
    end if;
    if create_bm25.text_expression is null then
        create_bm25.text_expression := pgembed._fields_text((pgembed._bm25_apply_fields(b, create_bm25.options -> 'fields')));
    end if;
    b.text_id := (pgembed._declare_text(b.source, create_bm25.text_expression, true, path)).text_id;
    b := pgembed._bm25_create(pgembed._bm25_defaults(b, create_bm25.options, path));
    if create_bm25.is_default then
        perform pgembed._make_default(b);
    end if;
    perform pgembed._wake('');
    perform set_config('search_path', path, true);
    return b.name;
end
$$;
comment on function pgembed.create_bm25(text, text, text, jsonb, boolean, boolean) is
    'Declares a BM25 index over a text expression, without vectors. Options: config (text search '
    'configuration or language), config_expression (for tables of several languages), analyzer, fields (columns of the text and how many times '
    'their words count, which may take the place of the text expression: {"title": 3, "body": 1}), k1, b. Searches by words '
    'that name only the table use its first index, or the one that was last declared with is_default => true. Returns its '
    'name, which is unique in the schema of the table. Example: '
    'SELECT pgembed.create_bm25(''article'', ''title || '''' '''' || body'');';

create or replace function pgembed._bm25_defaults(b pgembed.bm25, p_options jsonb, p_path text) returns pgembed.bm25
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return pgembed._bm25_apply_options(pgembed._bm25_reset(b, pgembed._bm25_options(), p_path), coalesce(p_options, '{}'), p_path);
end
$$;
comment on function pgembed._bm25_defaults(pgembed.bm25, jsonb, text) is
    'A BM25 index with the default parameters but for the given options.';

create or replace function pgembed._bm25_alter(p_was pgembed.bm25, p_text_id int, p_options jsonb, p_reset text[], p_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
begin
    -- What another session changed while this one waited is kept.
    perform pgembed._bm25_lock(p_was.bm25_id);
    select * into p_was from pgembed.bm25 where bm25_id = p_was.bm25_id;
    b := p_was;
    b.text_id := coalesce(p_text_id, b.text_id);
    perform pgembed._require_fit(pgembed._text(b.text_id));
    b := pgembed._bm25_apply_options(pgembed._bm25_reset(b, p_reset, p_path), coalesce(p_options, '{}'), p_path);
    b := pgembed._bm25_check(b);
    b.config_digest := pgembed._bm25_config_digest(b);
    update pgembed.bm25 as x
    set text_id = b.text_id, config = b.config, config_expression = b.config_expression, config_columns = b.config_columns,
        config_foreign = b.config_foreign, config_digest = b.config_digest, analyzer = b.analyzer, field_columns = b.field_columns,
        field_weights = b.field_weights, k1 = b.k1, b = b.b, state = 'pending', state_reason = null
    where x.bm25_id = b.bm25_id
    returning x.* into b;
    -- Writers are captured by the new text from here on; the rebuild reads the rest. They
    -- need not be kept out where they were captured by this text all along.
    perform pgembed._bm25_make_parts(b);
    perform pgembed._install_functions(pgembed._text(b.text_id));
    perform pgembed._follow(pgembed._text(b.text_id), pgembed._triggers_off(pgembed._text(b.text_id)) is not null);
    if b.text_id <> p_was.text_id then
        perform pgembed._drop_text_unless_used(p_was.text_id);    -- locks the table, to drop triggers
        perform pgembed._bm25_build_small(b);
    else
        perform pgembed._bm25_maintain(b, 2000);
    end if;
end
$$;
comment on function pgembed._bm25_alter(pgembed.bm25, int, jsonb, text[], text) is
    'Changes a BM25 index, or repairs it, and builds it again.';

create or replace function pgembed.alter_bm25(
    name text, text_expression text default null, options jsonb default null, reset text[] default null, is_default boolean default null
) returns void
language plpgsql
as $$
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b pgembed.bm25;
    t pgembed.captured_text;
begin
    perform pgembed._require_owner();
    b := pgembed._bm25(alter_bm25.name);
    perform pgembed._back_inside();
    if b.embedding_id is not null and alter_bm25.text_expression is not null then
        raise exception 'the BM25 index "%" has the text of its embedding', b.name using errcode = 'PE007',
            hint = format('SELECT pgembed.alter_embedding(%L, text_expression => ...).', b.name);
    end if;
    perform pgembed._require_source(b.source, b.name);
    perform pgembed._check_reset(alter_bm25.reset, 'options'::text || pgembed._bm25_options(),
                                 array(select 'options' where alter_bm25.options is not null
                                       union all select pgembed._object_keys(alter_bm25.options)));
    perform pgembed._check_default(alter_bm25.is_default, b.is_default, b.source, b.name);
    perform pgembed._lock_declarations();
    if alter_bm25.is_default then
        perform pgembed._make_default(b);
        if coalesce(alter_bm25.text_expression, alter_bm25.options::text, alter_bm25.reset::text) is null then    -- its words stay
            perform set_config('search_path', path, true);
            return;
        end if;
    end if;
    t := pgembed._text(b.text_id);
    if alter_bm25.text_expression is not null and alter_bm25.text_expression <> t.text_expression then
        t := pgembed._declare_text(b.source, alter_bm25.text_expression, true, path);
    end if;
    perform pgembed._bm25_alter(b, t.text_id, alter_bm25.options,
                                case when 'options' = any (alter_bm25.reset) then pgembed._bm25_options() else alter_bm25.reset end, path);
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.alter_bm25(text, text, jsonb, text[], boolean) is
    'Changes the text or the options of a BM25 index, and builds it again before it returns. '
    'NULL, or an option that is not named, keeps what is; reset names options that go back to their defaults. is_default => true, '
    'alone, builds nothing: searches by words that name only the table use it. Example: '
    'SELECT pgembed.alter_bm25(''article_bm25'', options => ''{"config": "german"}'');';

create or replace function pgembed.bm25_rebuild(name text) returns void
language plpgsql
as $$
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b pgembed.bm25;
begin
    perform pgembed._require_owner();
    b := pgembed._bm25(bm25_rebuild.name);
    perform pgembed._back_inside();
    perform pgembed._require_source(b.source, b.name);
    perform pgembed._lock_declarations();
    perform pgembed._bm25_alter(b, null, null, null, path);
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.bm25_rebuild(text) is
    'Makes functions and triggers of a BM25 index again and reads the whole table anew. Searches go '
    'on with the earlier state until this commits.';

create or replace function pgembed._bm25_drop(b pgembed.bm25, p_with_text boolean default true) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._bm25_lock(b.bm25_id);    -- a packer that is at work finishes first
    delete from pgembed.bm25 where bm25_id = b.bm25_id;
    delete from pgembed.bm25_failed where bm25_id = b.bm25_id;
    if p_with_text then
        perform pgembed._drop_text_unless_used(b.text_id);
    end if;
    perform pgembed._bm25_drop_parts(b.bm25_id, '{f,r,S}');
    perform pgembed._keep_default(b.source);
end
$$;
comment on function pgembed._bm25_drop(pgembed.bm25, boolean) is
    'Removes a BM25 index with all that was made for it; its text too, where nothing else is declared over that.';

create or replace function pgembed.drop_bm25(name text, if_exists boolean default false) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b pgembed.bm25;
begin
    perform pgembed._require_owner();
    if drop_bm25.if_exists and pgembed._named('BM25 index', drop_bm25.name, true) is null then
        raise notice 'there is no BM25 index "%", skipping', drop_bm25.name;
        return;
    end if;
    b := pgembed._bm25(drop_bm25.name);
    perform pgembed._back_inside();
    perform pgembed._lock_declarations();
    perform pgembed._bm25_drop(b);
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.drop_bm25(text, boolean) is
    'Removes a BM25 index; an embedding of the same name stays.';
