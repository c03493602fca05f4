-- Search. Everything here runs with the caller's rights, so row-level security
-- of the source holds; the functions are STABLE, so that all their statements
-- see one snapshot.
--
-- The nearest chunks come from one table, in index order and without joins
-- (joins in that scan made it two hundred times slower); then the rows they
-- belong to are looked up and filtered. When too few pass, the scan goes deeper;
-- when the filter lets few rows through, or the index gives no more, the rows
-- that pass are ranked exactly. So k rows come back whenever k rows match.

create or replace function pgembed._search_target(source anyelement, p_name text) returns pgembed.embedding
language plpgsql stable
as $$
#variable_conflict use_column
declare
    row_type regtype := pg_typeof(source);
    source_oid oid := (select typrelid from pg_catalog.pg_type where oid = row_type);
    e pgembed.embedding;
    names text;
    many int;
begin
    if coalesce(source_oid, 0) = 0 then
        raise exception 'the first argument says which table is searched, but % is not the row type of one', row_type
            using errcode = 'PE003', hint = 'Write NULL::article to search the table article.';
    end if;
    if p_name is not null then
        e := pgembed._embedding(p_name);
        if e.source <> source_oid then
            raise exception 'embedding "%" is declared on %, not on %', p_name, e.source, source_oid::regclass
                using errcode = 'PE001', hint = format('Write NULL::%s.', e.source);
        end if;
    else
        select count(*), string_agg(name, ', ' order by name) into many, names
        from pgembed.embedding where source = source_oid;
        if many <> 1 then
            raise exception 'table % has % embeddings', source_oid::regclass, many
                using errcode = 'PE001', detail = coalesce('Its embeddings: ' || names || '.', ''),
                hint = case many when 0 then 'Declare one with pgembed.create_embedding.'
                                 else 'Say which: embedding => ''...''.' end;
        end if;
        select * into e from pgembed.embedding where source = source_oid;
    end if;
    return e;
end
$$;
comment on function pgembed._search_target(anyelement, text) is
    'The embedding that a search is about, or PE001.';

create or replace function pgembed._query_vector(
    p_embedding pgembed.embedding, p_query text, p_query_embedding vector, p_query_model text
) returns vector
language plpgsql stable
as $$
declare
    m pgembed.model;
    q vector := p_query_embedding;
begin
    select * into m from pgembed.model where model_id = p_embedding.model_id;
    if q is null then
        perform pgembed._check_query(p_query);
        q := pgembed.embed(p_query, m.name);
    elsif p_query_model is not null
          and (regexp_replace(split_part(p_query_model, '@', 1), '^sentence-transformers/', '') <> m.name
               or split_part(p_query_model, '@', 2) not in ('', coalesce(m.fingerprint, split_part(p_query_model, '@', 2)))) then
        raise exception 'the query was encoded with model "%", the embedding "%" with "%"',
            p_query_model, p_embedding.name, m.name using errcode = 'PE011',
            detail = format('Fingerprint of the stored vectors: %s.', coalesce(m.fingerprint, 'not known yet')),
            hint = 'Vectors of different models cannot be compared: encode the query with the '
                   'embedding''s model.';
    end if;
    -- A Matryoshka embedding keeps the first dimensions, at unit length again.
    if pg_catalog.array_length(q::real[], 1) = m.dimensions and p_embedding.dimensions < m.dimensions then
        execute format('select %1$s.l2_normalize(%1$s.subvector($1, 1, $2))', pgembed._vector_schema())
            into q using q, p_embedding.dimensions;
    end if;
    if pg_catalog.array_length(q::real[], 1) <> p_embedding.dimensions then
        raise exception 'the query vector has % dimensions, the embedding "%" has %',
            pg_catalog.array_length(q::real[], 1), p_embedding.name, p_embedding.dimensions
            using errcode = 'PE006', hint = format('Encode the query with model "%s".', m.name);
    end if;
    return q;
end
$$;
comment on function pgembed._query_vector(pgembed.embedding, text, vector, text) is
    'The vector to search with: the given one, checked, or that of the query.';

create or replace function pgembed._estimated_rows(p_query text) returns float8
language plpgsql volatile    -- EXPLAIN is not allowed in a STABLE function
as $$
declare
    plan json;
begin
    execute 'explain (format json) ' || p_query into plan;
    return plan -> 0 -> 'Plan' ->> 'Plan Rows';
end
$$;
comment on function pgembed._estimated_rows(text) is 'Rows that the planner expects of a query.';

create or replace function pgembed._setting(p_name text, p_value text) returns text
language plpgsql
as $$
declare
    old text := current_setting(p_name, true);
begin
    if old is distinct from p_value then
        perform set_config(p_name, p_value, true);
    end if;
    return old;
end
$$;
comment on function pgembed._setting(text, text) is
    'Sets a configuration parameter for the transaction and returns what it was.';

create or replace function pgembed._search_condition(p_embedding pgembed.embedding, p_filter jsonb, p_where_sql text)
returns text
language plpgsql stable
as $$
declare
    condition text := pgembed._filter_sql(p_embedding.source, p_filter, 's');
begin
    if p_where_sql is not null then
        begin
            execute format(E'select from %s as s where (\n%s\n) limit 0', pgembed._table_sql(p_embedding.source), p_where_sql);
        exception
            when syntax_error or undefined_column or undefined_function or datatype_mismatch
                 or undefined_table or ambiguous_column or undefined_object then
            raise exception 'where_sql is not a condition over table %: %', p_embedding.source, sqlerrm
                using errcode = 'PE008', detail = 'where_sql: ' || p_where_sql,
                hint = 'Write a condition over its columns, as after WHERE; the row is called s.';
        end;
        condition := format(E'%s and (\n%s\n)', condition, p_where_sql);
    end if;
    return regexp_replace(condition, '^true and ', '');
end
$$;
comment on function pgembed._search_condition(pgembed.embedding, jsonb, text) is
    'Filter and where_sql as one condition over the source (alias s), or PE008.';

create or replace function pgembed._check_k(p_k int) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_k is null or p_k not between 1 and 10000 then
        raise exception 'k must be between 1 and 10000, not %', coalesce(p_k::text, 'NULL')
            using errcode = 'PE007', hint = 'k is the number of rows wanted; the default is 10.';
    end if;
end
$$;
comment on function pgembed._check_k(int) is 'PE007 for a k out of range.';

create or replace function pgembed._search_names(
    e pgembed.embedding,
    out source text,
    out vectors text,
    out vector text,
    out distance text,
    out row_key text,
    out chunk_columns text,
    out chunk_values text,
    out chunk_of_row text,
    out binary_distance text,
    out index_valid boolean
)
language plpgsql stable    -- whose plan is kept, where a SQL function's is made at every call
as $$
#variable_conflict use_column
begin
    -- One look into the catalog: a search should cost little more
    -- than the statement it makes.
    with key_column as materialized (
        select k.position, a.attname as name, s.attname as side_name
        from pg_catalog.pg_index as i
        cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
        join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        left join pg_catalog.pg_attribute as s on s.attrelid = e.side_table and s.attnum = k.position
        where i.indrelid = e.source and i.indisprimary and k.position <= i.indnkeyatts
    ), of_key as (
        select string_agg(format('s.%I::text', name), ', ' order by position) as row_texts,
               string_agg(format('%I', case e.storage when 'table' then side_name else name end), ', '
                          order by position) as chunk_columns,
               string_agg(format('s.%I = c.%I', name,
                                 case e.storage when 'table' then side_name else name end), ' and ') as chunk_of_row,
               count(*) as columns
        from key_column
    ), names as (
        select format('%I.%I', sn.nspname, sc.relname) as source, format('%I.%I', cn.nspname, cc.relname) as side,
               quote_ident(xn.nspname) as vector_schema,
               quote_ident(coalesce(e.column_name, 'embedding')) as vector_column
        from pg_catalog.pg_class as sc
        join pg_catalog.pg_namespace as sn on sn.oid = sc.relnamespace
        cross join pg_catalog.pg_class as cc
        join pg_catalog.pg_namespace as cn on cn.oid = cc.relnamespace
        cross join pg_catalog.pg_extension as x
        join pg_catalog.pg_namespace as xn on xn.oid = x.extnamespace
        where sc.oid = e.source and cc.oid = e.side_table and x.extname = 'vector'
    ), operands as (
        select format('$1::%s.%I(%s)', vector_schema, e.vector_type, e.dimensions) as query,
               case e.distance when 'cosine' then '<=>' when 'inner_product' then '<#>' else '<->' end as operator
        from names
    )
    select n.source, case e.storage when 'table' then n.side else n.source end, n.vector_column,
           format('c.%s operator(%s.%s) %s', n.vector_column, n.vector_schema, o.operator, o.query),
           case k.columns when 1 then k.row_texts else format('array[%s]::text', k.row_texts) end,
           k.chunk_columns, case e.storage when 'table' then 'c.chunk, c.content' else '0 as chunk' end,
           k.chunk_of_row,
           case when pgembed._index_is_binary(e) then format(
               '%1$s.binary_quantize(c.%2$s)::bit(%3$s) operator(%1$s.<~>) %1$s.binary_quantize(%4$s)::bit(%3$s)',
               n.vector_schema, n.vector_column, e.dimensions, o.query) end,
           coalesce((select x.indisvalid from pg_catalog.pg_class as i
                     join pg_catalog.pg_index as x on x.indexrelid = i.oid
                     where i.relname = pgembed._index_name(e)
                       and x.indrelid = case e.storage when 'table' then e.side_table else e.source end), false)
    into source, vectors, vector, distance, row_key, chunk_columns, chunk_values, chunk_of_row,
         binary_distance, index_valid
    from names as n, operands as o, of_key as k;
end
$$;
comment on function pgembed._search_names(pgembed.embedding) is
    'Names and conditions that the statement of a search is made of: rows are s, chunks are c, the '
    'query vector is $1.';

create or replace function pgembed._search(
    source anyelement, docs anyarray, p_embedding pgembed.embedding, p_query vector, p_k int,
    p_condition text, p_ef_search int, p_exact boolean, p_skip_key text
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    e alias for p_embedding;
    names record;
    in_table constant boolean := p_embedding.storage = 'table';
    condition text := p_condition;
    candidate_sql text;
    result_sql text;
    exact boolean;
    share float8;               -- of the rows that meet the condition, as the planner sees it
    candidates bigint := p_k;
    seen bigint;
    chunks int[];
    contents text[];
    distances float8[];
    old_scan text;
    old_ef text;
    ef_name constant text := case p_embedding.index_kind when 'ivfflat' then 'ivfflat.probes' else 'hnsw.ef_search' end;
begin
    select * into names from pgembed._search_names(e);
    if p_skip_key is not null then
        condition := format('%s and %s <> %L', condition, names.row_key, p_skip_key);
    end if;

    -- From candidates (chunks c, with their distance) to the k best rows, each by
    -- its nearest chunk. The rows are in a subquery of their own, so that column
    -- names in the condition mean the source's.
    result_sql := format(
        'select (select count(*) from c), array_agg(doc order by distance, row_key), '
        'array_agg(chunk order by distance, row_key), array_agg(content order by distance, row_key), '
        'array_agg(distance order by distance, row_key) '
        'from (select * from (select distinct on (s.row_key) s.row_key, s.doc, c.chunk, %s as content, c.distance '
        'from c cross join lateral (select %s as row_key, (s.*)::%s as doc%s from %s as s where %s and (%s)) as s '
        'order by s.row_key, c.distance, c.chunk) as r order by distance, row_key limit %s) as best',
        case when in_table then 'c.content' else 's.content' end, names.row_key, names.source,
        case when in_table then '' else format(', (%s) as content', e.canonical_expression) end,
        names.source, names.chunk_of_row, condition, p_k);

    -- Where few rows meet the condition, ranking those exactly is faster than
    -- walking the index for them, and misses none.
    exact := p_exact or not names.index_valid;
    if not exact and condition <> 'true' then
        share := least(1, pgembed._estimated_rows(format('select from %s as s where %s', names.source, condition))
            / greatest(1, (select reltuples from pg_catalog.pg_class where oid = e.source)::float8));
        exact := share < 0.02;
        candidates := ceil(p_k / greatest(share, 0.02) * 1.3);
    end if;

    if not exact then
        -- An iterative scan goes on past ef_search when more candidates are wanted.
        old_scan := pgembed._setting(e.index_kind || '.iterative_scan',
                                     case e.index_kind when 'hnsw' then 'strict_order' else 'relaxed_order' end);
        if p_ef_search is not null then
            old_ef := pgembed._setting(ef_name, p_ef_search::text);
        end if;
        loop
            candidate_sql := case when names.binary_distance is null
                then format('select %s, %s, %s as distance from %s as c order by distance limit %s',
                            names.chunk_columns, names.chunk_values, names.distance, names.vectors, candidates)
                else format(    -- signs find the candidates, whole vectors rank them
                            'select %s, %s, %s as distance from (select * from %s as c order by %s limit %s) as c',
                            names.chunk_columns, names.chunk_values, names.distance, names.vectors,
                            names.binary_distance, greatest(candidates * 4, 40)) end;
            execute format('with c as materialized (%s) %s', candidate_sql, result_sql)
            into seen, docs, chunks, contents, distances using p_query;
            exit when cardinality(chunks) = p_k;
            -- Rows that do not match, or several chunks of one row, took the places: go
            -- deeper, and without the index where that gives no more
            -- (hnsw.max_scan_tuples) or would have to give very many.
            exact := seen < candidates or candidates > 10000;
            exit when exact;
            candidates := candidates * 4;
        end loop;
        perform pgembed._setting(e.index_kind || '.iterative_scan', coalesce(old_scan, 'off'));
        if p_ef_search is not null then
            perform pgembed._setting(ef_name, coalesce(old_ef, case e.index_kind when 'ivfflat' then '1' else '40' end));
        end if;
    end if;

    if exact then
        -- Adding zero keeps the planner from the approximate index. The subquery is
        -- no barrier: the planner joins rows and chunks as it sees fit.
        candidate_sql := format('select %s, %s, (%s) + 0 as distance from %s as c where c.%s is not null',
                                names.chunk_columns, names.chunk_values, names.distance, names.vectors, names.vector);
        execute format('with c as not materialized (%s) %s', candidate_sql,
                       replace(result_sql, 'select (select count(*) from c),', 'select 0,'))
        into seen, docs, chunks, contents, distances using p_query;
    end if;

    return query
    select docs[i],
           case e.distance when 'cosine' then 1 - distances[i] when 'inner_product' then -distances[i]
                           else 1 / (1 + distances[i]) end,
           distances[i], chunks[i], contents[i]
    from generate_series(1, cardinality(chunks)) as i;
end
$$;
comment on function pgembed._search(anyelement, anyarray, pgembed.embedding, vector, int, text, int, boolean, text) is
    'The k rows nearest to a vector that meet a condition over the source (alias s), nearest first, '
    'each with its best chunk. docs only lends its type to a variable: pass array[source].';

create or replace function pgembed.vector_search(
    source anyelement,
    query text default null,
    k int default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    query_embedding vector default null,
    query_model text default null,
    ef_search int default null,
    exact boolean default false
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    e pgembed.embedding := pgembed._search_target(source, embedding);
    q vector;
begin
    perform pgembed._check_k(k);
    if ef_search < 1 or ef_search > (case e.index_kind when 'hnsw' then 1000 else 32768 end) then
        raise exception 'ef_search is out of range: %', ef_search using errcode = 'PE007',
            hint = 'It is 1 to 1000 for hnsw (hnsw.ef_search), 1 to 32768 for ivfflat (ivfflat.probes).';
    end if;
    q := pgembed._query_vector(e, query, query_embedding, query_model);
    return query
    select * from pgembed._search(source, array[source], e, q, k, pgembed._search_condition(e, filter, where_sql),
                                  ef_search, coalesce(exact, false), null);
end
$$;
comment on function pgembed.vector_search(anyelement, text, int, jsonb, text, text, vector, text, int, boolean) is
    'The k rows of a table that are nearest to a query (its text, or its vector) in the embedding''s '
    'distance. source names the table: NULL::article. filter is data and safe to build from user '
    'input; where_sql is SQL and is not. Each hit has the row, its similarity, and the best chunk '
    'with its text.';

create or replace function pgembed.similar(
    source anyelement,
    key anycompatible,
    k int default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    e pgembed.embedding := pgembed._search_target(source, embedding);
    key_text text := key::text;
    q vector;
begin
    perform pgembed._check_k(k);
    -- The direction of the row: the mean of its chunks' vectors.
    begin
        execute format('select %1$s.avg(c.%2$I::%1$s.vector) from %3$s as c cross join (select $1) as pgembed_key(key) where %4$s',
            pgembed._vector_schema(), coalesce(e.column_name, 'embedding'),
            pgembed._table_sql(case e.storage when 'table' then e.side_table else e.source end),
            pgembed._key_sql(e.source, e.side_table,
                             case e.storage when 'table' then 'c.%3$I = %5$s::%4$s' else 'c.%2$I = %5$s::%4$s' end, ' and '))
        into q using key_text;
    exception when data_exception or array_subscript_error then
        raise exception '"%" is not a key of table %', key_text, e.source using errcode = 'PE009',
            detail = sqlerrm, hint = 'Give the value of the primary key; for a composite key an array: array[''1'', ''a''].';
    end;
    if q is null then
        raise exception 'there is no vector for key "%" of table %', key_text, e.source using errcode = 'PE009',
            hint = 'The row does not exist, has no text, or has not been encoded yet.';
    end if;
    return query
    select * from pgembed._search(source, array[source], e, q, k, pgembed._search_condition(e, filter, where_sql), null, false, key_text);
end
$$;
comment on function pgembed.similar(anyelement, anycompatible, int, jsonb, text, text) is
    'The k rows most like a given row, which is left out; key is its primary key, an array of text '
    'for a composite one.';
