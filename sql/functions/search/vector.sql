-- Search. Everything here runs with the caller's rights, so row-level security
-- of the source holds; the functions are STABLE, so that all their statements
-- see one snapshot.
--
-- The nearest chunks come from one table, in index order and without joins
-- (joins in that scan made it two hundred times slower); then the rows they
-- belong to are looked up and filtered. When too few pass, the scan goes deeper;
-- when the filter lets few rows through, or the index gives no more, the rows
-- that pass are ranked exactly. So k rows come back whenever k rows match.
--
-- A page is a slice of one ranking, which depends on the query, the condition and
-- ef_search, never on k and offset: the rows in the order in which the index gives
-- their nearest chunks, as far as it gives any (or the first 20,000 chunks), and after
-- them the others, by distance. The planner may not choose between index and sort by
-- the number of rows wanted, so it is told; tables of few vectors are ranked exactly.

create or replace function pgembed._searched_table(source anyelement) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    source_oid oid := (select typrelid from pg_catalog.pg_type where oid = pg_typeof(source));
begin
    if coalesce(source_oid, 0) = 0 then
        raise exception 'the first argument says which table is searched, but % is not the row type of one', pg_typeof(source)
            using errcode = 'PE003', hint = 'Write NULL::article to search the table article.';
    end if;
    return source_oid;
end
$$;
comment on function pgembed._searched_table(anyelement) is
    'The table that the first argument of a search names by its row type, or PE003.';

create or replace function pgembed._search_target(source anyelement, p_name text) returns pgembed.embedding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    searched regclass := pgembed._searched_table(source);
    e pgembed.embedding;
    found_row pgembed.embedding;
    many int := 0;
    names text[];
begin
    for found_row in
        select x.* from pgembed.embedding as x
        where x.source = searched
          and case when p_name is null then x.is_default else pgembed._name_matches(x.source, x.name, p_name) end
    loop
        many := many + 1;
        e := found_row;
    end loop;
    if many <> 1 then
        if p_name is not null then
            e := pgembed._embedding(p_name);
            raise exception 'embedding "%" is declared on %, not on %', p_name, e.source, searched
                using errcode = 'PE001', hint = format('Write NULL::%s.', e.source);
        end if;
        names := array(select x.name from pgembed.embedding as x where x.source = searched and x.generation = 'current' order by x.name);
        perform pgembed._no_default(searched, 'embedding', names, 'Declare one with pgembed.create_embedding.');
    end if;
    if e.side_table is null or not exists (select from pg_class where oid = e.side_table) then
        perform pgembed._require_side_table(e);
    end if;
    return e;
end
$$;
comment on function pgembed._search_target(anyelement, text) is
    'The embedding that a search is about, or PE001.';

create or replace function pgembed._static_query(p_embedding pgembed.embedding, p_query text, p_query_encoder text) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    trained constant pgembed.token_encoder := pgembed._query_encoder(p_embedding);
    made pgembed.query_embedding.embedding%type;
begin
    if trained.encoder_id is not null
       and (p_query_encoder = 'static' or (pgembed._cached_query(p_query, p_embedding.model_id)).embedding is null) then
        made := pgembed._token_embedding(trained, p_query);
        if not 0 = all (made::real[]) then
            return made;
        end if;
    end if;
    if p_query_encoder = 'static' then
        raise exception 'the query encoder of "%" cannot encode this query', p_embedding.name using errcode = 'PE010',
            detail = case when trained.encoder_id is null then 'None was trained for the vectors that it has now, or not for who may not read the whole table.'
                          else 'It has none of the words of the query.' end,
            hint = case when trained.encoder_id is null then format('pgembed train-query-encoder %s trains one. ', p_embedding.name) else '' end
                || 'query_encoder => ''auto'' takes the model where there is none.';
    end if;
    return null;
end
$$;
comment on function pgembed._static_query(pgembed.embedding, text, text) is
    'Vector of a query by the query encoder of an embedding, where it is wanted and the model is not at hand; else NULL.';

create or replace function pgembed._query_vector(
    p_embedding pgembed.embedding, p_query text, p_query_embedding vector, p_query_model text, p_query_encoder text,
    p_query_image bytea default null, out q vector, out made_by text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model;
    wanted constant text := pgembed._check_query_encoder(coalesce(p_query_encoder, p_embedding.query_encoder));
begin
    q := p_query_embedding;
    select * into m from pgembed.model where model_id = p_embedding.model_id;
    if p_query_model is not null
       and (regexp_replace(split_part(p_query_model, '@', 1), '^sentence-transformers/', '') <> m.name
            or split_part(p_query_model, '@', 2) not in ('', coalesce(m.fingerprint, split_part(p_query_model, '@', 2)))) then
        raise exception 'the query was encoded with model "%", the embedding "%" with "%"',
            p_query_model, p_embedding.name, m.name using errcode = 'PE011',
            detail = format('Fingerprint of the stored vectors: %s.', coalesce(m.fingerprint, 'not known yet')),
            hint = 'Vectors of different models cannot be compared: encode the query with the '
                   'embedding''s model.';
    end if;
    if p_query_image is not null and coalesce(p_query, q::text) is not null then
        raise exception 'a search has one query: an image, words or a vector' using errcode = 'PE009',
            hint = 'Leave query and query_embedding out, or query_image.';
    elsif p_query_image is not null then
        q := pgembed.embed(model => m.name, image => p_query_image);
        made_by := 'model';
    elsif q is null then
        perform pgembed._check_query(p_query);
        if wanted <> 'model' then
            q := pgembed._static_query(p_embedding, p_query, wanted);
            made_by := case when q is not null then 'static' end;
        end if;
        if q is null then
            q := pgembed.embed(p_query, m.name);
            made_by := 'model';
        end if;
    end if;
    q := pgembed._fitted(p_embedding, m, q);
    if pg_catalog.array_length(q::real[], 1) <> p_embedding.dimensions then
        raise exception 'the query vector has % dimensions, the embedding "%" has %',
            pg_catalog.array_length(q::real[], 1), p_embedding.name, p_embedding.dimensions
            using errcode = 'PE006', hint = format('Encode the query with model "%s".', m.name);
    end if;
    if p_embedding.distance = 'cosine' and 0 = all (q::real[]) then
        raise exception 'the query vector is zero, which has no direction to compare' using errcode = 'PE009',
            hint = 'Cosine distance needs a vector that is not zero: does the query have words that the '
                   'model knows?';
    end if;
end
$$;
comment on function pgembed._query_vector(pgembed.embedding, text, vector, text, text, bytea) is
    'The vector to search with: the given one, checked, or that of the query, words or image.';

create or replace function pgembed._estimated_rows(p_query text) returns float8
language plpgsql volatile    -- EXPLAIN is not allowed in a STABLE function
as $$
declare
    plan pg_catalog.json;
begin
    execute pg_catalog.concat('explain (format json) ', p_query) into plan;
    return plan operator(pg_catalog.->) 0 operator(pg_catalog.->) 'Plan' operator(pg_catalog.->>) 'Plan Rows';
end
$$;
comment on function pgembed._estimated_rows(text) is 'Rows that the planner expects of a query.';

create or replace function pgembed._at_path(p_path text) returns void
language plpgsql
as $$
begin
    if p_path is not null then
        perform pg_catalog.set_config('search_path', p_path, true);
    end if;
end
$$;
comment on function pgembed._at_path(text) is 'Sets the search_path, unless it is NULL.';

create or replace function pgembed._estimated_share(p_source regclass, p_condition text, p_path text) returns float8
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- -1: not analyzed yet, as most partitioned tables.
    everything float8 := (select reltuples from pg_catalog.pg_class where oid = p_source);
    matching float8;
begin
    if everything <= 0 then
        everything := pgembed._estimated_rows(format('select from %s', pgembed._table_sql(p_source)));
    end if;
    perform pgembed._at_path(p_path);
    matching := pgembed._estimated_rows(pg_catalog.format('select from %s as s where %s', pgembed._table_sql(p_source), p_condition));
    perform pgembed._at_path('pg_catalog, pg_temp');
    return least(1, matching / greatest(1, everything));
end
$$;
comment on function pgembed._estimated_share(regclass, text, text) is
    'Share of the rows of a table (alias s) that meet a condition, as the planner sees it.';

create or replace function pgembed._setting(p_name text, p_value text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
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

-- Written by PostgreSQL itself: text that a setting changes would not be read as the same value. By a value's output function,
-- which its type's input function reads; casts to text are users' own. A type is named without a length or a precision.
create or replace function pgembed._literal(p_value anyelement) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set extra_float_digits = 1
as $$
begin
    return format('%L::%s', p_value, pgembed._type_sql(pg_typeof(p_value)));
end
$$;
comment on function pgembed._literal(anyelement) is
    'A value as SQL for where_sql: it is read as the same value of the same type.';

create or replace function pgembed._search_condition(p_source regclass, p_filter jsonb, p_where_sql text, p_path text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    condition text := pgembed._filter_sql(p_source, pgembed._filter_given(p_filter), 's');
begin
    if p_where_sql is not null then
        perform pgembed._check_row_sql(
            p_source, 'where_sql', p_where_sql, E'select from %2$s as s where (\n%1$s\n) limit 0',
            'Write a condition over its columns, as after WHERE; the row is called s.', p_path);
        condition := format(E'%s and (\n%s\n)', condition, p_where_sql);
    end if;
    return regexp_replace(condition, '^true and ', '');
end
$$;
comment on function pgembed._search_condition(regclass, jsonb, text, text) is
    'Filter and where_sql as one condition over the source (alias s), or PE008.';

create or replace function pgembed._search_names(
    e pgembed.embedding,
    out vectors text,
    out vector text,
    out distance text,
    out keys text,
    out chunk_keys text,
    out chunk_values text,
    out chunk_of_row text,
    out binary_distance text,
    out index_valid boolean,
    out lists int
)
language plpgsql stable    -- whose plans are kept, where a SQL function's are made at every call
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    in_table constant boolean := e.storage = 'table';
    vector_table constant regclass := case when in_table then e.side_table else e.source end;
    vector_schema text;
    query text;
begin
    -- A search should cost little more than the statement it makes, so this looks
    -- into the catalog by its indexes only.
    select quote_ident(n.nspname) into vector_schema
    from pg_catalog.pg_extension as x
    join pg_catalog.pg_namespace as n on n.oid = x.extnamespace
    where x.extname = 'vector';

    -- Chunks carry their keys as k1, k2 ...: no name of the table can be in the way.
    select string_agg('k' || k.position, ', ' order by k.position),
           string_agg(format('c.%I as k%s', case when in_table then c.attname else r.attname end, k.position), ', '
                      order by k.position),
           string_agg(format('s.%I operator(%I.%s) c.k%s', r.attname, n.nspname, o.oprname, k.position), ' and ')
    into keys, chunk_keys, chunk_of_row
    from pg_catalog.pg_index as i
    cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
    join pg_catalog.pg_attribute as r on r.attrelid = i.indrelid and r.attnum = k.attnum
    join pg_catalog.pg_attribute as c on c.attrelid = e.side_table and c.attnum = k.position
    join pg_catalog.pg_opclass as x on x.oid = i.indclass[k.position - 1]
    join pg_catalog.pg_amop as m on m.amopfamily = x.opcfamily and m.amoplefttype = x.opcintype
                                and m.amoprighttype = x.opcintype and m.amopstrategy = 3
    join pg_catalog.pg_operator as o on o.oid = m.amopopr
    join pg_catalog.pg_namespace as n on n.oid = o.oprnamespace
    where i.indrelid = e.source and i.indisprimary and k.position <= i.indnkeyatts;
    chunk_values := case when in_table then 'c.chunk, c.content' else '0 as chunk' end;

    vectors := pgembed._held_name(vector_table);
    vector := quote_ident(coalesce(e.column_name, 'embedding'));
    query := format('$1::%s.%I(%s)', vector_schema, e.vector_type, e.dimensions);
    distance := format('c.%s operator(%s.%s) %s', vector, vector_schema,
        case e.distance when 'cosine' then '<=>' when 'inner_product' then '<#>' else '<->' end, query);
    if pgembed._index_is_binary(e) then
        binary_distance := format(
            '%1$s.binary_quantize(c.%2$s)::bit(%3$s) operator(%1$s.<~>) %1$s.binary_quantize(%4$s)::bit(%3$s)',
            vector_schema, vector, e.dimensions, query);
    end if;
    if e.partitions > 1 then
        select coalesce(bool_and(x.valid), false), max(x.lists) into index_valid, lists from pgembed._vector_indexes(e) as x;
        return;
    end if;
    select x.indisvalid,
           case when e.index_kind = 'ivfflat' then substring(i.reloptions::text from 'lists=([0-9]+)')::int end
    into index_valid, lists
    from pg_catalog.pg_index as x
    join pg_catalog.pg_class as i on i.oid = x.indexrelid
    where x.indrelid = vector_table and i.relname = pgembed._index_name(e);
    index_valid := coalesce(index_valid, false);
end
$$;
comment on function pgembed._search_names(pgembed.embedding) is
    'Names and conditions that the statement of a search is made of: rows are s, chunks are c, the '
    'query vector is $1.';

create or replace function pgembed._rows_now(p_table oid, p_pages int, p_rows float4) returns float8
language sql stable
as $$
    -- By the size of now and the density at the last VACUUM or ANALYZE, as the planner does.
    select pg_catalog.pg_relation_size(p_table) operator(pg_catalog./) 8192
           operator(pg_catalog.*) case when p_pages operator(pg_catalog.>) 0 then p_rows operator(pg_catalog./) p_pages::pg_catalog.float8 else 10 end
$$;
comment on function pgembed._rows_now(oid, int, float4) is 'About how many rows a table has, by its pages and rows when they were counted last.';

create or replace function pgembed._few_rows(p_table regclass) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when relkind = 'p' then current_setting('enable_seqscan')::boolean and 1000 >= (
                    select sum(pgembed._rows_now(p.oid, p.relpages, p.reltuples))
                    from pg_inherits as h join pg_class as p on p.oid = h.inhrelid where h.inhparent = c.oid)
                else relkind = 'r' and current_setting('enable_seqscan')::boolean and pgembed._rows_now(oid, relpages, reltuples) <= 1000 end
    from pg_class as c where oid = p_table
$$;
comment on function pgembed._few_rows(regclass) is 'Whether a table, with its partitions, has about a thousand rows or fewer, and may be scanned as a whole.';

create or replace function pgembed._effort_each(p_effort int, p_partitions int) returns int
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select ceil(p_effort / sqrt(p_partitions))::int
$$;
comment on function pgembed._effort_each(int, int) is
    'How far the HNSW index of each partition looks for an ef_search: together they see more than one index would, each less.';

create or replace function pgembed._similarity_sql(p_distance text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_distance when 'cosine' then '(1::pg_catalog.float8 operator(pg_catalog.-) c.distance)'
                           when 'inner_product' then '(operator(pg_catalog.-) c.distance)'
                           else '(1::pg_catalog.float8 operator(pg_catalog./) (1::pg_catalog.float8 operator(pg_catalog.+) c.distance))' end
$$;
comment on function pgembed._similarity_sql(text) is 'Expression for the similarity of a chunk c, from its distance of a kind.';

create or replace function pgembed._pools(p_share float8, p_most int) returns bigint[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array[least(ceil(400 / p_share), p_most), least(ceil(2000 / p_share), p_most), p_most]
$$;
comment on function pgembed._pools(float8, int) is
    'After how many candidates by signs a pool of them ends, which whole vectors rank, where a share of them meets the condition.';

create or replace function pgembed._pool_of(p_candidates bigint, p_share float8, p_most int) returns bigint
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select min(p) from unnest(pgembed._pools(p_share, p_most)) as p where p >= least(p_candidates, p_most)
$$;
comment on function pgembed._pool_of(bigint, float8, int) is 'Where the pool ends that so many candidates by signs are in.';

create or replace function pgembed._search(
    source anyelement, docs anyarray, p_embedding pgembed.embedding, p_query vector, p_k int, p_offset int, p_min_similarity float8,
    p_condition text, p_skip text, p_ef_search int, p_exact boolean, p_path text
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e alias for p_embedding;
    names record;
    in_table constant boolean := p_embedding.storage = 'table';
    wanted constant int := p_k + p_offset;
    most constant int := 20000;    -- chunks that are taken from an index: as many as the last page may need
    similarity_sql constant text := pgembed._similarity_sql(p_embedding.distance);
    best_sql text;
    meets_sql text;
    rows_sql text;
    candidate_sql text;
    result_sql text;
    exact boolean;
    share float8 := 1;          -- of the rows that meet the condition, as the planner sees it
    candidates bigint := wanted + case when p_skip is null then 0 else 1 end;
    seen bigint;
    too_far boolean;            -- whether the index has come to chunks that are not similar enough
    first_keys text[];          -- of the rows that the index gave, where it gave too few
    keys text[];
    chunks int[];
    contents text[];
    distances float8[];
    similarities float8[];
    iterating boolean;
    old_scan text;
    old_effort text;
    old_sort text;
    effort_name constant text := case p_embedding.index_kind when 'ivfflat' then 'ivfflat.probes' else 'hnsw.ef_search' end;
    effort int := p_ef_search;
begin
    -- Pinned by who calls; what the caller has written is read under the caller's path.
    select * into names from pgembed._search_names(e);

    -- Whether the row of a chunk c meets the condition: in a subquery of its own, so that
    -- column names in the condition mean the source's. Only rows of the page are read whole:
    -- their large values are fetched then. The aggregates keep the order of their input.
    meets_sql := format('cross join lateral (select from %s as s where %s and (%s) and %s) as s',
        e.source, names.chunk_of_row, p_condition, coalesce(p_skip, 'true'));
    rows_sql := format('cross join lateral (select (s.*)::%s as doc%s from %s as s where %s) as s',
        pg_typeof(source), case when in_table then '' else format(', %s as content', pgembed._pinned_sql(p_path, 'text', pgembed._compose_sql(e.text_id, 's.*'))) end,
        e.source, names.chunk_of_row);
    best_sql := format('pg_catalog.array_agg(c.doc), pg_catalog.array_agg(c.chunk), pg_catalog.array_agg(c.content), '
                       'pg_catalog.array_agg(c.distance), pg_catalog.array_agg(%s)', similarity_sql);

    -- Where few rows meet the condition, ranking those exactly is faster than
    -- walking the index for them, and misses none.
    exact := p_exact or not names.index_valid or pgembed._few_rows(names.vectors);
    if not exact and (p_condition <> 'true' or row_security_active(e.source)) then
        share := pgembed._estimated_share(e.source, p_condition, p_path);
        exact := share < 0.02;
        share := greatest(share, 0.02) / 1.3;
        candidates := ceil(candidates / share);
    end if;

    if not exact then
        -- One list of many, pgvector's default, would miss most neighbours.
        if effort is null and e.index_kind = 'ivfflat' then
            effort := greatest(ceil(sqrt(names.lists)), current_setting(effort_name, true)::int);
        end if;
        if names.binary_distance is not null then
            candidates := pgembed._pool_of(candidates, share, most);
            -- One scan for the whole pool is faster than an iterative one.
            effort := coalesce(effort, greatest(current_setting(effort_name, true)::int, least(candidates, 1000)));
        end if;
        if e.index_kind = 'hnsw' and e.partitions > 1 then
            effort := pgembed._effort_each(coalesce(effort, current_setting(effort_name, true)::int, 40), e.partitions);
        end if;
        if effort is not null then
            old_effort := pgembed._setting(effort_name, effort::text);
        end if;
        -- For many rows the planner could sort all, and so rank others first.
        old_sort := pgembed._setting('enable_sort', 'off');
        -- An iterative scan goes on past ef_search when more candidates are wanted; it
        -- costs a little more from the start.
        iterating := e.index_kind = 'ivfflat' or candidates > coalesce(current_setting(effort_name, true)::int, 40);
        loop
            candidates := least(candidates, most);
            if iterating and old_scan is null then
                old_scan := coalesce(pgembed._setting(
                    e.index_kind || '.iterative_scan',
                    case e.index_kind when 'hnsw' then 'strict_order' else 'relaxed_order' end), 'off');
            end if;
            if names.binary_distance is null then
                candidate_sql := format(
                    'select *, pg_catalog.row_number() over () as place from (select %s, %s, %s as distance from %s as c order by distance limit %s) as c',
                    names.chunk_keys, names.chunk_values, names.distance, names.vectors, candidates);
            else
                -- Signs find the candidates, whole vectors rank them. In pools, four times a
                -- usual k: a pool that grew with the page would put others first.
                candidates := pgembed._pool_of(candidates, share, most);
                candidate_sql := format(
                    'select *, pg_catalog.row_number() over (order by pg_catalog.width_bucket(c.nth, %L::pg_catalog.int8[]), c.distance) as place '
                    'from (select %s, %s, %s as distance, c.nth from (select *, pg_catalog.row_number() over () as nth '
                    'from (select * from %s as c order by %s limit %s) as c) as c) as c',
                    pgembed._pools(share, most), names.chunk_keys, names.chunk_values, names.distance, names.vectors, names.binary_distance, candidates);
            end if;
            -- Rows in the order of their first places, up to the first chunk that is too far.
            result_sql := format(
                'with pgembed_chunk as materialized (%1$s), '
                'pgembed_end as materialized (select pg_catalog.min(c.place) as place from pgembed_chunk as c where %2$s operator(pg_catalog.<) $2) '
                'select (select pg_catalog.count(*) from pgembed_chunk), (select place is not null from pgembed_end), %3$s '
                'from (select s.doc, c.chunk, %4$s as content, c.distance from (select c.* from (select distinct on (%5$s) * from pgembed_chunk as c '
                'where (select e.place is null or c.place operator(pg_catalog.<) e.place from pgembed_end as e) order by %5$s, c.place) as c '
                '%6$s order by c.place offset $3 limit $4) as c %7$s order by c.place) as c',
                candidate_sql, similarity_sql, best_sql, case when in_table then 'c.content' else 's.content' end, names.keys, meets_sql, rows_sql);
            perform pgembed._at_path(p_path);
            execute result_sql into seen, too_far, docs, chunks, contents, distances, similarities
            using p_query, p_min_similarity, p_offset, p_k;
            perform pgembed._at_path(case when p_path is not null then 'pg_catalog, pg_temp' end);
            exit when cardinality(chunks) = p_k or too_far;
            -- Rows that do not match, or several chunks of one row, took the places: go
            -- deeper, and on without the index where that gives no more
            -- (hnsw.max_scan_tuples) or would have to give very many.
            exact := iterating and seen < candidates or candidates >= most;
            if exact then
                if p_offset > 0 then
                    perform pgembed._at_path(p_path);
                    execute result_sql into seen, too_far, docs, chunks, contents, distances, similarities
                    using p_query, p_min_similarity, 0, wanted;
                    perform pgembed._at_path(case when p_path is not null then 'pg_catalog, pg_temp' end);
                end if;
                first_keys := coalesce(pgembed._row_keys(docs, e.source), '{}');
                exit;
            end if;
            iterating := true;
            candidates := candidates * 4;
        end loop;
        perform pgembed._setting('enable_sort', old_sort);
        if old_scan is not null then
            perform pgembed._setting(e.index_kind || '.iterative_scan', old_scan);
        end if;
        if effort is not null then
            perform pgembed._setting(effort_name, coalesce(old_effort, case e.index_kind when 'ivfflat' then '1' else '40' end));
        end if;
        return query
        select docs[i], similarities[i], distances[i], chunks[i], contents[i]
        from generate_series(case when exact then p_offset + 1 else 1 end, cardinality(chunks)) as i;
    end if;

    if exact then
        -- Adding zero keeps the planner from the approximate index. The subquery is
        -- no barrier: the planner joins rows and chunks as it sees fit.
        result_sql := format(
            'with pgembed_chunk as not materialized (select %1$s, %2$s, (%3$s) operator(pg_catalog.+) 0::pg_catalog.float8 as distance '
            'from %4$s as c where c.%5$s is not null) '
            'select %6$s from (select s.doc, c.chunk, %8$s as content, c.distance from (select * from (select distinct on (%7$s) c.* '
            'from pgembed_chunk as c %9$s where $2 is null or %10$s operator(pg_catalog.>=) $2 and %10$s operator(pg_catalog.<>) ''NaN''::pg_catalog.float8 '
            'order by %7$s, c.distance, c.chunk) as r order by distance, %7$s offset $3 limit $4) as c %11$s order by c.distance, %7$s) as c',
            names.chunk_keys, names.chunk_values, names.distance, names.vectors, names.vector,
            best_sql, names.keys, case when in_table then 'c.content' else 's.content' end, meets_sql, similarity_sql, rows_sql);
        perform pgembed._at_path(p_path);
        execute result_sql into docs, chunks, contents, distances, similarities
        using p_query, p_min_similarity, case when first_keys is null then p_offset else 0 end,
              case when first_keys is null then p_k else wanted end;
        perform pgembed._at_path('pg_catalog, pg_temp');
        if first_keys is not null then    -- those come first
            keys := pgembed._row_keys(docs, e.source);
        end if;
        return query
        select docs[i], similarities[i], distances[i], chunks[i], contents[i]
        from generate_subscripts(chunks, 1) as i
        left join unnest(first_keys) as f(key) on f.key = keys[i]
        where f.key is null
        order by i
        offset greatest(p_offset - cardinality(first_keys), 0)
        limit least(p_k, wanted - cardinality(first_keys));
    end if;
end
$$;
comment on function pgembed._search(anyelement, anyarray, pgembed.embedding, vector, int, int, float8, text, text, int, boolean, text) is
    'k rows of those that meet a condition over the source (alias s), nearest to a vector first, after the first p_offset of them; '
    'each with its best chunk. Rows that are less similar than p_min_similarity, or for which the condition p_skip fails, are left '
    'out. docs only lends its type to a variable: pass array[source]. p_path is the search_path that the condition is meant under; '
    'NULL: it needs none.';

create or replace function pgembed._check_ef_search(p_ef_search bigint, p_index_kind text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_ef_search not between 1 and (case p_index_kind when 'hnsw' then 1000 else 32768 end) then
        raise exception 'ef_search is out of range: %', p_ef_search using errcode = 'PE007',
            hint = 'It is 1 to 1000 for hnsw (hnsw.ef_search), 1 to 32768 for ivfflat (ivfflat.probes).';
    end if;
end
$$;
comment on function pgembed._check_ef_search(bigint, text) is 'PE007 for an ef_search that is out of range.';

create or replace function pgembed.vector_search(
    source anyelement,
    query text default null,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    query_embedding vector default null,
    query_model text default null,
    ef_search bigint default null,
    exact boolean default false,
    "offset" bigint default 0,
    min_similarity float8 default null,
    query_encoder text default null,
    query_image bytea default null,
    diversity float8 default 0
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text, encoded_by text)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e pgembed.embedding := pgembed._search_target(source, embedding);
    q pg_catalog.record;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_similarity(min_similarity, e.distance);
    perform pgembed._check_ef_search(ef_search, e.index_kind), pgembed._check_diversity(diversity, k, "offset");
    q := pgembed._query_vector(e, query, query_embedding, query_model, query_encoder, query_image);
    return query
    select h.*, q.made_by from pgembed._search_diverse(source, array[source], e, q.q, k::int, "offset"::int, min_similarity,
                                  pgembed._search_condition(e.source, filter, where_sql, path),
                                  null, ef_search::int, coalesce(exact, false), case when where_sql is not null then path end, diversity) as h;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.vector_search(anyelement, text, bigint, jsonb, text, text, vector, text, bigint, boolean, bigint, float8, text, bytea, float8) is
    'The k rows of a table that are nearest to a query (its text, an image by the bytes of its file, or its vector) in the embedding''s '
    'distance. source names the table: NULL::article. filter is data and safe to build from user '
    'input; where_sql is SQL and is not. Each hit has the row, its similarity, and the best chunk '
    'with its text. offset leaves out the first rows of the ranking, min_similarity those that are less similar. '
    'query_encoder: model, static or auto; encoded_by says which it was. diversity: 0 to 1, how much rows that are like one before are '
    'put off (maximal marginal relevance). Example: '
    'SELECT (doc).title, similarity FROM pgembed.vector_search(NULL::article, ''cheap flights'', k => 5);';

create or replace function pgembed.similar(
    source anyelement,
    key anycompatible,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    "offset" bigint default 0,
    min_similarity float8 default null
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text, encoded_by text)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e pgembed.embedding := pgembed._search_target(source, embedding);
    key_text pg_catalog.text;
    q pgembed.query_embedding.embedding%type;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_similarity(min_similarity, e.distance);
    key_text := pgembed._key_given(key);
    q := pgembed._check_direction(e, (pgembed._row_vectors(e, array[key_text]))[1]);
    return query
    select h.*, null::text from pgembed._search(
        source, array[source], e, q, k::int, "offset"::int, min_similarity, pgembed._search_condition(e.source, filter, where_sql, path),
        pgembed._not_key_sql(e.source, array[key_text]), null, false, case when where_sql is not null then path end) as h;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.similar(anyelement, anycompatible, bigint, jsonb, text, text, bigint, float8) is
    'The k rows most like a given row, which is left out; key is its primary key: a value of any type, an array '
    'for a composite one, or JSON, as search gives it. offset and min_similarity: as in vector_search. Example: '
    'SELECT (doc).title, similarity FROM pgembed.similar(NULL::article, 42, k => 5);';
