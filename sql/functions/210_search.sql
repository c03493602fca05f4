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

create or replace function pgembed._distance_sql(p_embedding pgembed.embedding, p_vector text, p_query text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s operator(%s.%s) %s', p_vector, pgembed._vector_schema(),
                  case p_embedding.distance when 'cosine' then '<=>'
                                            when 'inner_product' then '<#>' else '<->' end, p_query)
$$;
comment on function pgembed._distance_sql(pgembed.embedding, text, text) is
    'Distance between two vectors in pgvector''s terms (inner product: negated).';

create or replace function pgembed._similarity_sql(p_embedding pgembed.embedding, p_distance text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format(case p_embedding.distance when 'cosine' then '1 - %1$s'
                                            when 'inner_product' then '-(%1$s)'
                                            else '1 / (1 + %1$s)' end, p_distance)
$$;
comment on function pgembed._similarity_sql(pgembed.embedding, text) is
    'Similarity, larger is nearer: cosine similarity, inner product, or 1 / (1 + distance) for l2.';

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

create or replace function pgembed._nearest(
    p_embedding pgembed.embedding,
    p_query vector,
    p_k int,
    p_condition text,
    p_exact boolean,
    p_skip_key text,
    out keys text[],
    out chunks int[],
    out distances float8[]
)
language plpgsql stable
as $$
declare
    e alias for p_embedding;
    in_table constant boolean := e.storage = 'table';
    side constant text := pgembed._table_sql(e.side_table);
    source constant text := pgembed._table_sql(e.source);
    vector_column constant text := case when in_table then 'embedding' else quote_ident(e.column_name) end;
    query_sql constant text := format('$1::%s', pgembed._vector_column_type(e));
    same_row constant text := case when in_table
        then pgembed._key_sql(e.source, e.side_table, 's.%2$I = c.%3$I', ' and ')
        else pgembed._key_sql(e.source, e.side_table, 's.%2$I = c.%2$I', ' and ') end;
    key_columns constant text := case when in_table
        then pgembed._key_sql(e.source, e.side_table, '%3$I', ', ')
        else pgembed._key_sql(e.source, e.side_table, '%2$I', ', ') end;
    filtered constant text := coalesce(nullif(p_condition, 'true'), 'true')
        || case when p_skip_key is null then ''
                else format(' and %s <> %L', pgembed._key_text_sql(e.source, 's'), p_skip_key) end;
    -- A subquery of its own: in the condition, column names mean the source's.
    row_columns constant text := pgembed._key_sql(e.source, e.side_table, 's.%2$I', ', ');
    matching constant text := format('select %s as row_key, %s from %s as s where %s and (%s)',
        pgembed._key_text_sql(e.source, 's'), row_columns, source, same_row, filtered);
    best constant text := format(
        'select array_agg(key order by distance, key), array_agg(chunk order by distance, key), '
        'array_agg(distance order by distance, key) from (select * from (%%s) as b '
        'order by distance, key limit %s) as best', p_k);
    has_index boolean := coalesce((select indisvalid from pg_catalog.pg_index where indexrelid = pgembed._index_oid(e)), false);
    exact boolean := p_exact or not has_index;
    candidates bigint := p_k;
    candidate_sql text;
    share float8 := 1;    -- of rows that pass the condition, as the planner sees it
    seen bigint;
begin
    -- A condition that few rows pass: ranking those exactly is faster than
    -- walking the index for them, and misses none.
    if not exact and filtered <> 'true' then
        share := least(1, pgembed._estimated_rows(format('select from %s as s where %s', source, filtered))
            / greatest(1, (select reltuples from pg_catalog.pg_class where oid = e.source)::float8));
        exact := share < 0.02;
        candidates := ceil(p_k / greatest(share, 0.02) * 1.3);
    end if;

    while not exact loop
        candidate_sql := case when pgembed._index_is_binary(e) then format(
            -- Signs find the candidates, whole vectors rank them.
            'select %1$s, %2$s, %3$s as distance from (select * from %4$s order by '
            '%5$s.binary_quantize(%6$s)::bit(%7$s) operator(%5$s.<~>) %5$s.binary_quantize(%8$s)::bit(%7$s) limit %9$s) as n',
            key_columns, case when in_table then 'chunk' else '0 as chunk' end,
            pgembed._distance_sql(e, vector_column, query_sql), case when in_table then side else source end,
            pgembed._vector_schema(), vector_column, e.dimensions, query_sql, greatest(candidates * 4, 40))
        else format(
            'select %1$s, %2$s, %3$s as distance from %4$s order by %3$s limit %5$s',
            key_columns, case when in_table then 'chunk' else '0 as chunk' end,
            pgembed._distance_sql(e, vector_column, query_sql), case when in_table then side else source end,
            candidates) end;
        execute format('with c as materialized (%s) select (select count(*) from c where distance is not null), r.* from (%s) as r',
            candidate_sql,
            format(best, format(
                'select distinct on (%1$s) row_key as key, c.chunk, c.distance from c cross join lateral (%2$s) as s '
                'where c.distance is not null order by %1$s, c.distance', row_columns, matching)))
        into seen, keys, chunks, distances using p_query;
        if cardinality(keys) = p_k then
            return;
        end if;
        -- The index may stop early (hnsw.max_scan_tuples), and chunks of one row
        -- crowd out others: go on deeper, in the end without the index.
        exact := seen < candidates or candidates > 10000;
        candidates := candidates * 4;
    end loop;

    -- Adding zero keeps the planner from the approximate index.
    execute format(best, case when in_table then format(
        'select distinct on (%1$s) row_key as key, c.chunk, (%2$s) + 0 as distance from %3$s as c '
        'cross join lateral (%4$s) as s order by %1$s, 3',
        row_columns, pgembed._distance_sql(e, 'c.embedding', query_sql), side, matching)
    else format(
        'select %1$s as key, 0 as chunk, (%2$s) + 0 as distance from %3$s as s where s.%4$s is not null and (%5$s)',
        pgembed._key_text_sql(e.source, 's'), pgembed._distance_sql(e, 's.' || vector_column, query_sql),
        source, vector_column, filtered) end)
    into keys, chunks, distances using p_query;
end
$$;
comment on function pgembed._nearest(pgembed.embedding, vector, int, text, boolean, text) is
    'Keys of the k nearest rows that meet a condition over the source (alias s), nearest first, each '
    'with its best chunk.';

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

create or replace function pgembed._search(
    source anyelement, p_embedding pgembed.embedding, p_query vector, p_k int, p_condition text,
    p_ef_search int, p_exact boolean, p_skip_key text
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
as $$
declare
    e alias for p_embedding;
    old_scan text;
    old_ef text;
    nearest record;
begin
    -- An iterative scan goes on until enough rows have passed the filter.
    old_scan := pgembed._setting(e.index_kind || '.iterative_scan',
                                 case e.index_kind when 'hnsw' then 'strict_order' else 'relaxed_order' end);
    if p_ef_search is not null then
        old_ef := pgembed._setting(case e.index_kind when 'ivfflat' then 'ivfflat.probes' else 'hnsw.ef_search' end,
                                   p_ef_search::text);
    end if;
    select * into nearest from pgembed._nearest(e, p_query, p_k, p_condition, p_exact, p_skip_key);
    perform pgembed._setting(e.index_kind || '.iterative_scan', coalesce(old_scan, 'off'));
    if p_ef_search is not null and old_ef is not null then
        perform pgembed._setting(case e.index_kind when 'ivfflat' then 'ivfflat.probes' else 'hnsw.ef_search' end, old_ef);
    end if;

    return query execute format(
        'select pgembed_source, (%1$s)::float8, n.distance, n.chunk, %2$s '
        'from unnest($1, $2, $3) with ordinality as n(key, chunk, distance, position) '
        'cross join lateral (select n.key) as pgembed_key '
        'join %3$s as pgembed_source on %4$s %5$s order by n.position',
        pgembed._similarity_sql(e, 'n.distance'),
        case e.storage when 'table' then 'c.content'
             else format('(select r.content from (%s) as r)',
                         pgembed._source_rows_sql(e.source, e.canonical_expression)) end,
        pgembed._table_sql(e.source),
        pgembed._key_sql(e.source, e.side_table, 'pgembed_source.%2$I = %5$s::%4$s', ' and '),
        case e.storage when 'table' then format('join %s as c on %s and c.chunk = n.chunk',
            pgembed._table_sql(e.side_table),
            pgembed._key_sql(e.source, e.side_table, 'c.%3$I = %5$s::%4$s', ' and ')) else '' end)
    using nearest.keys, nearest.chunks, nearest.distances;
end
$$;
comment on function pgembed._search(anyelement, pgembed.embedding, vector, int, text, int, boolean, text) is
    'The k nearest rows with their best chunk.';

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
    select * from pgembed._search(source, e, q, k, pgembed._search_condition(e, filter, where_sql),
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
    select * from pgembed._search(source, e, q, k, pgembed._search_condition(e, filter, where_sql), null, false, key_text);
end
$$;
comment on function pgembed.similar(anyelement, anycompatible, int, jsonb, text, text) is
    'The k rows most like a given row, which is left out; key is its primary key, an array of text '
    'for a composite one.';
