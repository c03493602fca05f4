-- The other engine: pg_textsearch, a BM25 index in C for PostgreSQL 17 and 18,
-- where the server has it. Declared and searched through the same functions; the
-- index is an ordinary one, so there are no triggers and nothing to maintain. Its
-- scores differ a little from Lucene's: it keeps document lengths rounded.

create or replace function pgembed._textsearch_schema() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select quote_ident(n.nspname)
    from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace
    where e.extname = 'pg_textsearch'
$$;
comment on function pgembed._textsearch_schema() is
    'Schema of the extension pg_textsearch, quoted; NULL when the database does not have it.';

create or replace function pgembed._bm25_engine(b pgembed.bm25) returns text
language plpgsql stable
as $$
declare
    -- It ranks partitions each by its own statistics, has one configuration an index,
    -- and indexes expressions from version 1.1 on.
    fits constant boolean := b.config_expression is null and not pgembed._captures_by_row(b.source)
        and (b.canonical_expression = quote_ident(b.source_columns[1])
             or (select (regexp_match(extversion, '^(\d+)\.(\d+)'))::int[] >= '{1,1}'
                 from pg_catalog.pg_extension where extname = 'pg_textsearch'));
begin
    if b.engine = 'auto' then
        return case when pgembed._textsearch_schema() is not null and fits then 'pg_textsearch' else 'sql' end;
    end if;
    if b.engine = 'pg_textsearch' then
        if pgembed._textsearch_schema() is null then
            raise exception 'the extension pg_textsearch is not installed in this database' using errcode = 'PE012',
                hint = 'CREATE EXTENSION pg_textsearch, or use the engine sql, which needs none.';
        elsif not fits then
            raise exception 'the engine pg_textsearch cannot serve table % with these options', b.source
                using errcode = 'PE007',
                hint = 'It knows no config_expression, compares no scores across partitions, and before version 1.1 '
                       'indexes columns only: use the engine sql.';
        end if;
    end if;
    return b.engine;
end
$$;
comment on function pgembed._bm25_engine(pgembed.bm25) is
    'The engine that serves an index: the one asked for, checked; auto takes pg_textsearch where it can.';

create or replace function pgembed._bm25_index_sql(b pgembed.bm25) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%I.%I', n.nspname, format('pgembed_bm25_%s', b.bm25_id))
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.oid = b.source
$$;
comment on function pgembed._bm25_index_sql(pgembed.bm25) is 'Name of the index of pg_textsearch, quoted.';

create or replace function pgembed._bm25_extension_ddl(b pgembed.bm25) returns text
language sql stable
as $$
    select format('create index %I on %s using bm25 ((%s)) with (text_config = %L, k1 = %s, b = %s)',
                  format('pgembed_bm25_%s', b.bm25_id), pgembed._table_sql(b.source), b.canonical_expression,
                  b.config, b.k1, b.b)
$$;
comment on function pgembed._bm25_extension_ddl(pgembed.bm25) is
    'Statement that makes the index of pg_textsearch.';

create or replace function pgembed._bm25_create_extension_index(b pgembed.bm25) returns void
language plpgsql
as $$
begin
    execute pgembed._bm25_extension_ddl(b);
    update pgembed.bm25 set state = 'ready', state_reason = null where bm25_id = b.bm25_id;
exception when invalid_object_definition or feature_not_supported then    -- for instance, it is only STABLE
    raise exception 'pg_textsearch cannot index this expression: %', sqlerrm using errcode = 'PE004',
        detail = format('Expression: %s', b.text_expression), hint = 'Use the engine sql: {"engine": "sql"}.';
end
$$;
comment on function pgembed._bm25_create_extension_index(pgembed.bm25) is
    'Makes the index of pg_textsearch for a BM25 index.';

create or replace function pgembed._bm25_drop_extension_index(b pgembed.bm25) returns void
language plpgsql
as $$
begin
    if to_regclass(pgembed._bm25_index_sql(b)) is not null then
        execute format('drop index %s', pgembed._bm25_index_sql(b));
    end if;
end
$$;
comment on function pgembed._bm25_drop_extension_index(pgembed.bm25) is
    'Drops the index of pg_textsearch of a BM25 index.';

create or replace function pgembed._bm25_extension_sql(
    b pgembed.bm25, p_row_type regtype, p_condition text, p_k int
) returns text
language sql stable
as $$
    -- The operator gives minus the score, so that an ascending scan of the index
    -- has the best first; the condition is applied on the way.
    select format(
        'select array_agg(doc order by score desc), array_agg(score order by score desc) '
        'from (select (s.*)::%1$s as doc, -(%2$s) as score from %3$s as s where (%4$s) order by %2$s limit %5$s) as hit '
        'where score > 0',
        p_row_type,
        format('(%s)::text operator(%s.<@>) %s.to_bm25query($1, %L)', b.canonical_expression,
               pgembed._textsearch_schema(), pgembed._textsearch_schema(), pgembed._bm25_index_sql(b)),
        pgembed._table_sql(b.source), p_condition, p_k)
$$;
comment on function pgembed._bm25_extension_sql(pgembed.bm25, regtype, text, int) is
    'Statement that ranks rows with pg_textsearch; $1 is the query.';
