-- hybrid_search: both arms, each with the filter, fused into one ranking.

create or replace function pgembed._check_fusion(
    p_fusion text, p_vector_weight float8, p_bm25_weight float8, p_rrf_k bigint, p_candidates bigint, p_wanted int, p_missing text
) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_fusion is null or p_fusion not in ('rrf', 'minmax', 'distribution') then
        raise exception 'unknown fusion "%"', coalesce(p_fusion, 'NULL') using errcode = 'PE007',
            hint = 'Fusions are rrf (reciprocal ranks), minmax and distribution (normalised scores).';
    end if;
    -- 'NaN' is the greatest number to PostgreSQL, so it is out of range too.
    if p_vector_weight is null or p_bm25_weight is null
       or p_vector_weight not between 0 and 1e6 or p_bm25_weight not between 0 and 1e6
       or p_vector_weight = 0 and p_bm25_weight = 0 then
        raise exception 'weights of % (vector) and % (BM25) are not possible',
            coalesce(p_vector_weight::text, 'NULL'), coalesce(p_bm25_weight::text, 'NULL') using errcode = 'PE007',
            hint = 'Weights are 0 or more, and one at least is above 0. Only their proportion matters.';
    end if;
    if p_rrf_k is null or p_rrf_k not between 1 and 10000 then
        raise exception 'rrf_k must be between 1 and 10000, not %', coalesce(p_rrf_k::text, 'NULL')
            using errcode = 'PE007', hint = 'The default is 20; smaller values favour the first ranks.';
    end if;
    if p_candidates < p_wanted or p_candidates > 20000 then
        raise exception 'candidates must be between k + offset (%) and 20000, not %', p_wanted, p_candidates
            using errcode = 'PE007', hint = 'It is how many rows each arm contributes; leave it out for the default.';
    end if;
    if p_missing is null or p_missing not in ('error', 'bm25') then
        raise exception 'unknown on_missing_query_embedding "%"', coalesce(p_missing, 'NULL') using errcode = 'PE007',
            hint = 'It is error (the default) or bm25: rank by words alone when no service encodes the query.';
    end if;
end
$$;
comment on function pgembed._check_fusion(text, float8, float8, bigint, bigint, int, text) is
    'PE007 for a parameter of a hybrid search that is out of range.';

create or replace function pgembed._fusion_depths(p_wanted int) returns int[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Up to the first that has as many rows as are wanted.
    select case when p_wanted <= 40 then array[40] when p_wanted <= 200 then array[40, 200] when p_wanted <= 1000 then array[40, 200, 1000]
                when p_wanted <= 5000 then array[40, 200, 1000, 5000] else array[40, 200, 1000, 5000, 20000] end
$$;
comment on function pgembed._fusion_depths(int) is
    'How many rows of each arm are fused: for the first page, and for those beyond.';

create or replace function pgembed._fuse(
    p_fusion text, p_vector_keys text[], p_similarities float8[], p_bm25_keys text[], p_scores float8[],
    p_vector_weight float8, p_bm25_weight float8, p_rrf_k int, p_depths int[], p_k int, p_offset int, p_min_score float8,
    p_vector_boosts float8[] default null, p_bm25_boosts float8[] default null
)
returns table (key text, score float8, vector_rank int, bm25_rank int, vector_part float8, bm25_part float8, boost float8)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with arm as (    -- its first rows, for each depth
        select d.depth, a.*
        from (select 'v' as arm, v.key, v.raw, v.rank::int as rank, coalesce(v.boost, 1) as boost
              from unnest(p_vector_keys, p_similarities, p_vector_boosts) with ordinality as v(key, raw, boost, rank)
              union all
              select 'b', b.key, b.raw, b.rank::int, coalesce(b.boost, 1)
              from unnest(p_bm25_keys, p_scores, p_bm25_boosts) with ordinality as b(key, raw, boost, rank)) as a
        join unnest(p_depths) as d(depth) on a.rank <= d.depth),
    scale as (    -- what becomes 0 and what becomes 1
        select depth, arm,
               case p_fusion when 'minmax' then min(raw) else avg(raw) - 3 * coalesce(stddev_samp(raw), 0) end as low,
               case p_fusion when 'minmax' then max(raw) else avg(raw) + 3 * coalesce(stddev_samp(raw), 0) end as high
        from arm group by depth, arm),
    part as (
        select a.depth, a.key, a.arm, a.rank, a.boost,
               case a.arm when 'v' then p_vector_weight else p_bm25_weight end
               * case when p_fusion = 'rrf' then 1.0 / (p_rrf_k + a.rank)
                      when s.high > s.low then least(greatest((a.raw - s.low) / (s.high - s.low), 0), 1)
                      else 1 end as part
        from arm as a join scale as s on s.arm = a.arm and s.depth = a.depth),
    fused as (
        select p.depth, p.key, (sum(p.part) * max(p.boost))::float8 as score, max(p.boost) as boost,
               min(p.part) filter (where p.arm = 'v') as vector_part, min(p.part) filter (where p.arm = 'b') as bm25_part,
               min(p.rank) filter (where p.arm = 'v') as vector_rank, min(p.rank) filter (where p.arm = 'b') as bm25_rank
        from part as p group by p.depth, p.key),
    ranked as (select distinct on (key) * from fused order by key, depth),
    -- What is fused of more rows follows what was fused of fewer, with no higher score.
    capped as (
        select r.depth, r.key, least(r.score, d.highest) as score, r.score as own_score, r.vector_rank, r.bm25_rank,
               r.vector_part, r.bm25_part, r.boost
        from ranked as r
        join (select depth, (select min(b.score) from ranked as b where b.depth < d.depth) as highest
              from unnest(p_depths) as d(depth)) as d using (depth))
    select key, score, vector_rank, bm25_rank, vector_part::float8, bm25_part::float8, boost
    from capped
    where p_min_score is null or score >= p_min_score
    order by depth, own_score desc, least(vector_rank, bm25_rank), key
    offset p_offset limit p_k;
end
$$;
comment on function pgembed._fuse(text, text[], float8[], text[], float8[], float8, float8, int, int[], int, int, float8, float8[], float8[]) is
    'Fuses two rankings, of their first rows and then of more. rrf: sum of weight / (rrf_k + rank) (Cormack, Clarke, Buettcher, '
    'SIGIR 2009). minmax: scores scaled to 0..1 in each ranking. distribution: scaled so that mean - 3 sigma is 0 and mean + 3 sigma '
    'is 1. A row that a ranking lacks gets nothing from it. The sum is multiplied by the boost of the row.';

create or replace function pgembed._row_keys(docs anyarray, p_source regclass) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    keys text[];
begin
    -- One pass over the array, in its order.
    execute format('select array_agg(%s) from unnest($1) as s',
                   pgembed._key_text_sql(p_source, 's'))
    into keys using docs;
    return keys;
end
$$;
comment on function pgembed._row_keys(anyarray, regclass) is 'Key texts of rows of a table.';

create or replace function pgembed.hybrid_search(
    source anyelement,
    query text default null,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    query_embedding vector default null,
    query_model text default null,
    fusion text default 'rrf',
    vector_weight float8 default 1,
    bm25_weight float8 default 1,
    rrf_k bigint default 20,
    candidates bigint default null,
    syntax text default 'words',
    prefix boolean default false,
    config text default null,
    snippets boolean default false,
    ef_search bigint default null,
    on_missing_query_embedding text default 'error',
    "offset" bigint default 0,
    min_score float8 default null,
    min_similarity float8 default null,
    fuzzy boolean default false,
    explain boolean default false,
    boost text default null,
    query_encoder text default null,
    diversity float8 default 0
)
returns table (
    doc anyelement, score float8, vector_rank int, similarity float8, bm25_rank int, bm25 float8,
    chunk int, content text, snippet text, read_as jsonb, explanation jsonb, encoded_by text
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    where_path constant pg_catalog.text := case when where_sql is not null then path end;
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    b pgembed.bm25;
    encoded pg_catalog.record;
    q query_embedding%type;
    words pgembed._bm25_words;
    condition pg_catalog.text;
    wanted int;
    depths int[];    -- how many rows of each arm are fused
    vector_hits pg_catalog.record;
    vector_keys pg_catalog.text[];
    similarities pg_catalog.float8[];
    bm25_hits pg_catalog.record;
    bm25_keys pg_catalog.text[];
    scores pg_catalog.float8[];
    weights pgembed._bm25_weights;
    vector_boosts pg_catalog.float8[];
    bm25_boosts pg_catalog.float8[];
    best pg_catalog.record;
    at_vector int;
    at_bm25 int;
    diverse pg_catalog.int4[];    -- places in the fused ranking, where it is put in another order
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    wanted := pgembed._check_page(k, "offset");
    perform pgembed._check_min_score(min_score), pgembed._check_min_similarity(min_similarity, e.distance);
    perform pgembed._check_fusion(fusion, vector_weight, bm25_weight, rrf_k, candidates, wanted, on_missing_query_embedding);
    perform pgembed._check_ef_search(ef_search, e.index_kind), pgembed._check_diversity(diversity, k, "offset");
    -- Its own index, else the table's default one.
    select x.* into b from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    b := pgembed._bm25_target(source, b.name);
    depths := case when candidates is null then pgembed._fusion_depths(case when diversity > 0 then pgembed._most_diverse() else wanted end)
                   else array[candidates] end;
    condition := pgembed._search_condition(e.source, filter, where_sql, path);
    perform pgembed._check_boost(e.source, boost, path);
    words := pgembed._bm25_parse(b, query, syntax, prefix, config, path);
    if fuzzy then
        words := pgembed._bm25_read_as(b, words);
        read_as := words.read_as;
    end if;
    if vector_weight > 0 or query_embedding is not null then    -- what is given is checked, used or not
        begin
            encoded := pgembed._query_vector(e, query, query_embedding, query_model, query_encoder);
            q := encoded.q;
            encoded_by := encoded.made_by;
        exception when sqlstate 'PE010' or sqlstate 'PE014' then
            if on_missing_query_embedding = 'error' then
                raise;
            end if;
        end;
    end if;

    if q is not null and vector_weight > 0 then
        select array_agg(h.doc) as rows, array_agg(h.similarity) as similarities,
               array_agg(h.chunk) as chunks, array_agg(h.content) as contents
        into vector_hits
        from pgembed._search(source, array[source], e, q, depths[cardinality(depths)], 0, min_similarity, condition, null, ef_search::int, false, where_path) as h;
        vector_keys := pgembed._row_keys(vector_hits.rows, e.source);
        similarities := vector_hits.similarities;
        if boost is not null then
            vector_boosts := pgembed._boosts(vector_hits.rows, e.source, boost, path);
        end if;
    end if;
    if bm25_weight > 0 then
        select * into bm25_hits from pgembed._bm25_hits(source, array[source], b, words, depths[cardinality(depths)], 0, null, condition, where_path);
        bm25_keys := pgembed._row_keys(bm25_hits.rows, e.source);
        scores := bm25_hits.scores;
        if explain then
            weights := pgembed._bm25_weights(b, words);
        end if;
        if boost is not null then
            bm25_boosts := pgembed._boosts(bm25_hits.rows, e.source, boost, path);
        end if;
    end if;

    if diversity > 0 then
        diverse := (select pgembed._diverse_order(
                        pgembed._found_vectors(e, array_agg(coalesce(vector_keys[f.vector_rank], bm25_keys[f.bm25_rank]) order by f.ordinality)),
                        array_agg(f.score / f.best order by f.ordinality), e.distance, diversity, wanted)
                    from (select f.*, max(nullif(f.score, 0)) over () as best from pgembed._fuse(
                              fusion, vector_keys, similarities, bm25_keys, scores, vector_weight, bm25_weight, rrf_k::int, depths, pgembed._most_diverse(),
                              0, min_score, vector_boosts, bm25_boosts) with ordinality as f) as f);
    end if;

    for best in
        select f.* from pgembed._fuse(
            fusion, vector_keys, similarities, bm25_keys, scores, vector_weight, bm25_weight, rrf_k::int, depths,
            case when diversity > 0 then pgembed._most_diverse() else k::int end, case when diversity > 0 then 0 else "offset"::int end, min_score,
            vector_boosts, bm25_boosts) with ordinality as f
        where diversity = 0 or f.ordinality = any (diverse["offset" + 1:])
        order by case when diversity = 0 then f.ordinality else array_position(diverse, f.ordinality::int) end
    loop
        at_vector := best.vector_rank;
        at_bm25 := best.bm25_rank;
        score := best.score;
        vector_rank := at_vector;
        bm25_rank := at_bm25;
        similarity := null; chunk := null; content := null; bm25 := null; snippet := null; explanation := null;
        if at_vector is not null then
            doc := vector_hits.rows[at_vector];
            similarity := similarities[at_vector];
            chunk := vector_hits.chunks[at_vector];
            content := vector_hits.contents[at_vector];
        else
            doc := bm25_hits.rows[at_bm25];
        end if;
        if at_bm25 is not null then
            bm25 := scores[at_bm25];
        end if;
        if snippets then
            snippet := (pgembed._snippets(array[doc], b, words))[1];
        end if;
        if explain then
            explanation := jsonb_strip_nulls(jsonb_build_object(
                'fusion', fusion, 'boost', case when boost is not null then best.boost end,
                'vector', case when at_vector is not null then jsonb_build_object(
                    'rank', at_vector, 'similarity', similarity, 'score', best.vector_part) end,
                'bm25', case when at_bm25 is not null then (pgembed._bm25_explanations(array[doc], b, weights))[1] || jsonb_build_object(
                    'rank', at_bm25, 'bm25', bm25, 'score', best.bm25_part) end));
        end if;
        return next;
    end loop;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.hybrid_search(anyelement, text, bigint, jsonb, text, text, vector, text, text, float8, float8, bigint, bigint, text, boolean, text, boolean, bigint, text, bigint, float8, float8, boolean, boolean, text, text, float8) is
    'The k best rows by words (BM25) and by meaning (vectors) together. Each arm gives its candidates, the '
    'filter applied; fusion ranks them: rrf, minmax or distribution, with the given weights. Each hit has both '
    'ranks and both scores, NULL where an arm has not found it, and its best chunk. '
    'on_missing_query_embedding => ''bm25'' ranks by words alone when no service encodes the query. offset leaves out the '
    'first rows of the ranking, min_score those with a lower fused score, min_similarity those that vectors alone would give. '
    'fuzzy is for the words, as in bm25_search. explain tells what each score is made of; boost, SQL over the row s, multiplies it. query_encoder, encoded_by and diversity: as in vector_search. Example: '
    'SELECT (doc).title, score FROM pgembed.hybrid_search(NULL::article, ''cheap flights'', filter => ''{"price": {"$lt": 300}}'');';
