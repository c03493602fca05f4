-- What a write appends. Row triggers for all: making the tsvector costs far more
-- than the trigger, and they work for partitions too.

create or replace function pgembed._bm25_config_sql(p_config text, p_expression text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- The configuration of a row is looked up by name: a name that is none must
    -- not fail the write, so it means the default.
    select case when p_expression is null then format('%L::regconfig', p_config) else format(
        'coalesce((select c.oid::regconfig from pg_catalog.pg_ts_config as c '
        'join pg_catalog.pg_namespace as n on n.oid = c.cfgnamespace '
        'where (%1$s)::text in (c.cfgname, n.nspname || ''.'' || c.cfgname) '
        'order by n.nspname <> ''pg_catalog'' limit 1), %2$L::regconfig)', p_expression, p_config) end
$$;
comment on function pgembed._bm25_config_sql(text, text) is
    'Expression for the text search configuration of a row.';

create or replace function pgembed._bm25_lexemes(p_config regconfig, p_text text) returns tsvector
language plpgsql stable
as $$
begin
    return pg_catalog.to_tsvector(p_config, p_text);
exception when program_limit_exceeded then    -- a tsvector holds 1 MB
    return pgembed._bm25_lexemes(p_config, pg_catalog.left(p_text, least(200000, pg_catalog.length(p_text) / 2)));
end
$$;
comment on function pgembed._bm25_lexemes(regconfig, text) is
    'Lexemes of a text; of one that is too long for a tsvector, those of its first 200,000 characters, or as many as fit.';

create or replace function pgembed._bm25_settings_sql() returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Texts of dates, floats and the like depend on settings of the session. A key
    -- or a document must read the same whoever writes, deletes or packs it.
    select 'set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' set timezone = ''UTC'' '
           'set extra_float_digits = 1 set bytea_output = ''hex'''
$$;
comment on function pgembed._bm25_settings_sql() is
    'Settings under which keys and texts of documents are written.';

create or replace function pgembed._bm25_key_body(p_source regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('begin return %s; end', pgembed._row_columns(p_source, pgembed._key_text_sql(p_source, 'r'), 'r'))
$$;
comment on function pgembed._bm25_key_body(regclass) is
    'Body of the function that gives a row''s key text; NULL without a primary key.';

create or replace function pgembed._bm25_key_text_sql(b pgembed.bm25, p_alias text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when pgembed._key_text_varies(b.source)
        then format('pgembed.bm25_%s_key(%s)', b.bm25_id, p_alias)
        else pgembed._key_text_sql(b.source, p_alias) end
$$;
comment on function pgembed._bm25_key_text_sql(pgembed.bm25, text) is
    'Expression for the key text of a source row as a BM25 index has it, whatever the settings of the session.';

create or replace function pgembed._bm25_install_capture_functions(p_index pgembed.bm25) returns void
language plpgsql
as $create$
begin
    -- Called with old, with new, and for the rows of the table: anyelement, because
    -- a parameter of the row type would forbid DROP TABLE.
    perform pgembed._bm25_function(p_index.bm25_id, 'document',
        'r anyelement, out key text, out length int, out lexemes tsvector', 'record', 'volatile',
        format($body$
declare
    content text;
begin
    begin
        key := %1$s;
        if not (%4$s) then    -- not what was checked any more; nothing of it is called
            perform pgembed.bm25_N_mark('R');
            return;
        end if;
        content := nullif((%2$s)::text, '');
        if content is null then
            return;
        end if;
        lexemes := pgembed._bm25_lexemes(%3$s, content);
    exception
        when syntax_error_or_access_rule_violation then    -- columns renamed or dropped
            perform pgembed.bm25_N_mark('R');
            return;
        when others then    -- of this row only; the encoder service reports it
            return;
    end;
    if lexemes = '' then
        lexemes := null;
        return;
    end if;
    length := (select sum(cardinality(u.positions)) from unnest(lexemes) as u);
end
$body$, pgembed._row_columns(p_index.source, pgembed._key_text_sql(p_index.source, 'r'), 'r'),
        pgembed._row_expression(p_index.source, p_index.canonical_expression, 'r'),
        pgembed._bm25_config_sql(p_index.config, case when p_index.config_expression is not null
            then pgembed._row_expression(p_index.source, p_index.config_expression, 'r') end),
        pgembed._row_types(p_index.source, p_index.source_columns, 'r')));

    perform pgembed._bm25_function(p_index.bm25_id, 'mark', 'mark "char"', 'void', 'volatile', $body$
begin
    -- One a transaction. That of another would not do: it may be acted upon, and
    -- be gone, before the rows of this one are there to be read.
    insert into pgembed.bm25_N_dead (op, key)
    select mark, pg_catalog.pg_current_xact_id()::text
    where mark = 'T' or not exists (select from pgembed.bm25_N_dead
                                    where op = mark and key = pg_catalog.pg_current_xact_id()::text);
end
$body$);

    perform pgembed._bm25_function(p_index.bm25_id, 'key', 'r anyelement', 'text',
        'stable ' || pgembed._bm25_settings_sql(),
        pgembed._bm25_key_body(p_index.source));

    perform pgembed._bm25_function(p_index.bm25_id, 'capture', '', 'trigger',
        'volatile security definer set search_path = index_path ' || pgembed._bm25_settings_sql(), $body$
declare
    was record;
    now record;
begin
    if tg_op <> 'INSERT' then
        was := bm25_N_document(old);
    end if;
    if tg_op <> 'DELETE' then
        now := bm25_N_document(new);
    end if;
    if tg_op = 'UPDATE' then
        if was is not distinct from now then
            return null;
        end if;
    end if;
    if tg_op <> 'INSERT' then
        insert into bm25_N_dead (key, length, lexemes)
        select was.key, was.length, was.lexemes where was.lexemes is not null;
    end if;
    if tg_op <> 'DELETE' then
        insert into bm25_N_recent (key, length, lexemes)
        select now.key, now.length, now.lexemes where now.lexemes is not null;
    end if;
    return null;
end
$body$);

    perform pgembed._bm25_function(p_index.bm25_id, 'capture_truncate', '', 'trigger', 'volatile security definer set search_path = index_path', $body$
begin
    -- One partition of many: which documents went with it is found by reading again.
    perform bm25_N_mark(case when tg_argv[0] = 'partition' then 'R'::"char" else 'T' end);
    return null;
end
$body$);
end
$create$;
comment on function pgembed._bm25_install_capture_functions(pgembed.bm25) is
    'Makes, or makes again, the trigger functions of a BM25 index; takes no lock on the source.';

create or replace function pgembed._bm25_update_guard_sql(p_index pgembed.bm25) returns text
language plpgsql stable
as $$
declare
    e pgembed.embedding;
begin
    e.source := p_index.source;
    e.canonical_expression := concat_ws(' ', p_index.canonical_expression, p_index.config_expression);
    e.source_columns := p_index.source_columns;
    return pgembed._update_guard_sql(e);
end
$$;
comment on function pgembed._bm25_update_guard_sql(pgembed.bm25) is
    'WHEN condition of the update trigger of a BM25 index.';

create or replace function pgembed._bm25_trigger_name(p_id int, p_event text) returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Triggers fire by name. These come before a user's, which may change the row
    -- again: the first version must be recorded before the second.
    select format('_pgembed_bm25_%s_%s', p_id, p_event)::name
$$;
comment on function pgembed._bm25_trigger_name(int, text) is 'Name of a trigger of a BM25 index.';

create or replace function pgembed._bm25_install_partition_capture(p_index pgembed.bm25, p_partition regclass) returns void
language plpgsql
as $$
begin
    execute format('create or replace trigger %I after truncate on %s for each statement '
                   'execute function %s_truncate(''partition'')',
        pgembed._bm25_trigger_name(p_index.bm25_id, 'truncate'), pgembed._table_sql(p_partition),
        pgembed._bm25_table(p_index.bm25_id, 'capture'));
end
$$;
comment on function pgembed._bm25_install_partition_capture(pgembed.bm25, regclass) is
    'Gives a partition the one trigger that it does not inherit.';

create or replace function pgembed._bm25_install_capture(p_index pgembed.bm25) returns void
language plpgsql
as $$
declare
    source constant text := pgembed._table_sql(p_index.source);
    capture constant text := pgembed._bm25_table(p_index.bm25_id, 'capture');
    part regclass;
    event text;
begin
    perform pgembed._bm25_install_capture_functions(p_index);
    foreach event in array array['insert', 'update', 'delete'] loop
        execute format('create or replace trigger %I after %s on %s for each row %s execute function %s()',
            pgembed._bm25_trigger_name(p_index.bm25_id, event), event, source,
            case event when 'update' then format('when (%s)', pgembed._bm25_update_guard_sql(p_index)) end, capture);
    end loop;
    execute format('create or replace trigger %I after truncate on %s for each statement execute function %s_truncate()',
        pgembed._bm25_trigger_name(p_index.bm25_id, 'truncate'), source, capture);
    for part in select relid from pg_catalog.pg_partition_tree(p_index.source) where level > 0 loop
        perform pgembed._bm25_install_partition_capture(p_index, part);
    end loop;
end
$$;
comment on function pgembed._bm25_install_capture(pgembed.bm25) is
    'Makes, or makes again, the triggers of a BM25 index. Waits for open writers of the source.';
