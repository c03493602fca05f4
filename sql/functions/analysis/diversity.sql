-- Diversity of results: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998). The next row is
-- the one with the largest (1 - diversity) * relevance - diversity * likeness to the most alike row before
-- it. Of the first 200 rows of a ranking, always: so pages are slices of one order.

create or replace function pgembed._most_diverse() returns int
language sql immutable parallel safe
return 200;
comment on function pgembed._most_diverse() is 'How many of the first rows of a ranking are put in another order.';

create or replace function pgembed._check_diversity(p_diversity float8, p_k bigint, p_offset bigint) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._check_weight(p_diversity, 'diversity');
    if p_diversity > 0 and p_k + p_offset > pgembed._most_diverse() then
        raise exception 'k + offset is %, and with diversity at most %', p_k + p_offset, pgembed._most_diverse() using errcode = 'PE007',
            detail = 'The first rows of a ranking are put in another order, so that rows which are alike do not follow each other.',
            hint = 'Ask for fewer rows, or leave diversity out.';
    end if;
end
$$;
comment on function pgembed._check_diversity(float8, bigint, bigint) is 'PE007 for a diversity out of range, or of too many rows.';

create or replace function pgembed._diverse_order(p_vectors vector[], p_relevance float8[], p_distance text, p_diversity float8, p_k int) returns int[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    next constant text := format(
        'select array_agg(greatest($1[i], %s) order by i) from (select i, %s as distance from generate_subscripts($2, 1) as i) as c',
        pgembed._similarity_sql(p_distance), pgembed._distance_sql(p_distance, '$2[i]', '$3'));
    picked int[] := '{}';
    alike float8[] := array_fill(null::float8, array[cardinality(p_relevance)]);    -- to the most alike that is picked
    best int;
begin
    loop
        select i into best
        from generate_subscripts(p_relevance, 1) as i
        where i <> all (picked)
        order by nullif((1 - p_diversity) * p_relevance[i] - p_diversity * coalesce(nullif(alike[i], 'NaN'), 0), 'NaN') desc nulls last, i
        limit 1;
        exit when best is null or cardinality(picked) = p_k;
        picked := picked || best;
        execute next into alike using alike, p_vectors, p_vectors[best];
    end loop;
    return picked;
end
$$;
comment on function pgembed._diverse_order(vector[], float8[], text, float8, int) is
    'The first p_k places of a ranking by maximal marginal relevance, as positions in the arrays.';

create or replace function pgembed._search_diverse(
    source anyelement, docs anyarray, p_embedding pgembed.embedding, p_query vector, p_k int, p_offset int, p_min_similarity float8,
    p_condition text, p_skip text, p_ef_search int, p_exact boolean, p_path text, p_diversity float8
)
returns table (doc anyelement, similarity float8, distance float8, chunk int, content text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    chunks int[];
    contents text[];
    distances float8[];
    similarities float8[];
    places int[];
begin
    if p_diversity = 0 then
        return query select * from pgembed._search(source, docs, p_embedding, p_query, p_k, p_offset, p_min_similarity, p_condition,
                                                   p_skip, p_ef_search, p_exact, p_path);
        return;
    end if;
    select array_agg(h.doc), array_agg(h.similarity), array_agg(h.distance), array_agg(h.chunk), array_agg(h.content)
    into docs, similarities, distances, chunks, contents
    from pgembed._search(source, docs, p_embedding, p_query, pgembed._most_diverse(), 0, p_min_similarity, p_condition, p_skip, p_ef_search, p_exact, p_path) as h;
    if docs is null then
        return;
    end if;
    places := pgembed._diverse_order(pgembed._row_vectors(p_embedding, pgembed._row_keys(docs, p_embedding.source)),
                                     similarities, p_embedding.distance, p_diversity, p_offset + p_k);
    return query
    select docs[i], similarities[i], distances[i], chunks[i], contents[i]
    from unnest(places[p_offset + 1:]) with ordinality as p(i, place)
    order by place;
end
$$;
comment on function pgembed._search_diverse(anyelement, anyarray, pgembed.embedding, vector, int, int, float8, text, text, int, boolean, text, float8) is
    'What _search gives; with diversity in the order of maximal marginal relevance.';
