-- The k best documents by BM25, exactly. In stages, each of which drops only what
-- can be shown not to be among the k best:
--
--   live      statistics of now: N, df, idf, avgdl; documents not packed yet are scored here
--   sparse    documents of the terms that few have: sums of their postings
--   threshold the k-th best of those, completed: a score that the k-th best surely reaches
--   dense     documents above it, found by adding whole blocks of vectors
--   rescore   the survivors' exact scores, from tf and the statistics of now
--
-- Stored impacts carry the avgdl, and blocks the idf, of the time of packing. The
-- score of now lies within known factors of the stored one; margin is the quotient
-- of the two bounds, and every comparison of stored scores keeps it.

create or replace aggregate pgembed.bm25_sum(vector) (sfunc = vector_add, stype = vector, parallel = safe);
comment on aggregate pgembed.bm25_sum(vector) is
    'Sum of vectors of one length, by pgvector''s addition.';

create or replace function pgembed._bm25_lexeme_query(p_lexeme text) returns tsquery
language sql immutable
as $$
    select pg_catalog.concat('''', pg_catalog.replace(pg_catalog.replace(p_lexeme, '\', '\\'), '''', ''''''), '''')::pg_catalog.tsquery
$$;
comment on function pgembed._bm25_lexeme_query(text) is 'A tsquery that one lexeme matches.';

create or replace function pgembed._bm25_tf_bounds() returns real[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- With all weights 1, ts_rank of one lexeme is the sum of 1 / j^2 up to tf, over
    -- pi^2 / 6. Bounds between those sums turn it back into tf, by width_bucket:
    -- many times faster than unnesting the tsvector.
    select array_agg(((total - 0.25 / (j * j)) / 1.64493406685)::real order by j)
    from (select j, sum(1.0 / (j * j)) over (order by j) as total from generate_series(1, 256) as j) as sums
$$;
comment on function pgembed._bm25_tf_bounds() is
    'Where a lexeme''s ts_rank passes from one term frequency to the next.';

create or replace function pgembed._bm25_install_top(p_index pgembed.bm25) returns void
language plpgsql
as $create$
begin
    perform pgembed._bm25_function(p_index.bm25_id, 'live', 'terms text[]', 'pgembed._bm25_query', 'stable', $body$
#variable_conflict use_column
declare
    q _bm25_query;
    index pgembed.bm25;
    query_terms alias for terms;
    rows bigint;
    total bigint;
    has_dead boolean;
    has_recent boolean;
    truncated bigint;
    dead_terms text[];
    dead_rows bigint := 0;
    dead_length bigint := 0;
    recent_rows bigint := 0;
    recent_length bigint := 0;
    hit_version bigint[];
    hit_length int[];
    hit_term text[];
    hit_tf int[];
    any_term tsquery;
    drift float8;
    low float8;
    high float8;
begin
    select * into index from pgembed.bm25 where bm25_id = index_N;
    rows := index.packed_rows;
    total := index.packed_length;
    q.k1 := index.k1;
    q.b := index.b;
    select exists (select from bm25_N_dead), exists (select from bm25_N_recent) into has_dead, has_recent;
    if has_dead then
        truncated := (select max(version) from bm25_N_dead where op = 'T');
        if truncated is not null then    -- what is packed was written before
            rows := 0;
            total := 0;
        end if;
    end if;
    if has_dead or has_recent then
        any_term := (select string_agg(_bm25_lexeme_query(term)::text, '|')::tsquery from unnest(query_terms) as term);
    end if;

    -- Tombstones of packed documents: the packer has given them their slot, or the
    -- slot is that of the last version before.
    if rows > 0 and has_dead then
        with gone as materialized (
            select slot, length, case when lexemes @@ any_term then lexemes end as lexemes
            from bm25_N_dead where slot is not null
            union all
            (select distinct on (p.slot) p.slot, d.length, case when d.lexemes @@ any_term then d.lexemes end
             from bm25_N_dead as d
             cross join lateral (select p.slot from bm25_N_doc as p
                                 where p.key = d.key and p.version < d.version
                                 order by p.version desc limit 1) as p
             where d.slot is null and d.op = 'D'
               and p.slot not in (select slot from bm25_N_dead where slot is not null)
             order by p.slot, d.version))
        select count(*), coalesce(sum(length), 0), array_agg(slot),
               (select array_agg(t.term) from (select lexemes from gone where lexemes is not null offset 0) as g
                join (select term, _bm25_lexeme_query(term) as query from unnest(query_terms) as term offset 0) as t
                  on g.lexemes @@ t.query)
        into dead_rows, dead_length, q.dead, dead_terms
        from gone;
    end if;

    -- Documents not packed yet, the caller's own uncommitted ones included.
    if has_recent then
        with alive as materialized (
            select r.version, r.length, case when r.lexemes @@ any_term then r.lexemes end as lexemes
            from bm25_N_recent as r
            where r.version > coalesce(truncated, 0)
              and not exists (select from bm25_N_dead as d
                              where d.key = r.key and d.version > r.version and d.op = 'D')),
        hit as (
            select array_agg(a.version) as version, array_agg(a.length) as length, array_agg(t.term) as term,
                   array_agg(width_bucket(ts_rank('{1,1,1,1}', a.lexemes, t.query), (select _bm25_tf_bounds()))) as tf
            from (select * from alive where lexemes is not null offset 0) as a
            join (select term, _bm25_lexeme_query(term) as query from unnest(query_terms) as term offset 0) as t
              on a.lexemes @@ t.query)
        select (select count(*) from alive), (select coalesce(sum(length), 0) from alive), h.version, h.length, h.term, h.tf
        into recent_rows, recent_length, hit_version, hit_length, hit_term, hit_tf
        from hit as h;
    end if;

    rows := rows - dead_rows + recent_rows;
    if rows = 0 then
        return q;
    end if;
    q.avgdl := (total - dead_length + recent_length)::float8 / rows;
    q.frozen_avgdl := coalesce(index.frozen_avgdl, q.avgdl);
    select array_agg(t.term), array_agg(t.idf), array_agg(t.frozen_idf),
           array_agg(t.term) filter (where t.dense_df > 0),
           coalesce(sum(t.frozen_idf * t.max_impact) filter (where t.dense_df > 0), 0) * 1.00001,
           bool_or(t.packed_df > t.dense_df),
           least(min(t.idf / t.frozen_idf), 1), greatest(max(t.idf / t.frozen_idf), 1)
    into q.terms, q.idf, q.frozen_idf, q.dense, q.dense_bound, q.has_sparse, low, high
    from (
        select term, packed_df, dense_df, max_impact, frozen_idf,
               ln(1 + (rows - df + 0.5) / (df + 0.5)) as idf
        from (
            select w.term, p.max_impact, p.frozen_idf, coalesce(p.dense_df, 0) as dense_df,
                   coalesce(p.df, 0) as packed_df,
                   greatest(coalesce(p.df, 0) + coalesce(r.df, 0) - coalesce(d.df, 0), 0) as df
            from unnest(query_terms) as w(term)
            left join (select * from bm25_N_term where term = any (query_terms) and truncated is null) as p
                   on p.term = w.term collate "C"
            left join (select term, count(*) as df from unnest(hit_term) as term group by term) as r on r.term = w.term
            left join (select term, count(*) as df from unnest(dead_terms) as term group by term) as d on d.term = w.term) as counted
        where df > 0 and df <= rows) as t;

    drift := greatest(q.avgdl / q.frozen_avgdl, q.frozen_avgdl / q.avgdl);
    q.margin := coalesce(low / high, 1) / (drift * drift);
    q.drifted := q.margin < 0.999999;
    q.margin := q.margin * 0.99999;    -- floats are rounded
    if hit_version is not null and q.terms is not null then
        select array_agg(version), array_agg(score) into q.recent, q.recent_scores
        from (select h.version,
                     sum(t.idf * h.tf * (q.k1 + 1) / (h.tf + q.k1 * (1 - q.b + q.b * h.length / q.avgdl))) as score
              from unnest(hit_version, hit_length, hit_term, hit_tf) as h(version, length, term, tf)
              join unnest(q.terms, q.idf) as t(term, idf) on t.term = h.term
              group by h.version) as scored;
    end if;
    return q;
end
$body$);

    -- The terms that begin with a prefix, those of most documents first.
    perform pgembed._bm25_function(p_index.bm25_id, 'expand', 'prefix text, n int', 'text[]', 'stable', $body$
#variable_conflict use_column
declare
    after constant text :=    -- the greatest character ends the range in the index
        case when getdatabaseencoding() = 'UTF8' then prefix || chr(1114111)
             else (select max(term) || 'z' from bm25_N_term) end;
begin
    return array(
        select term
        from (select term, df from bm25_N_term
              where term >= prefix collate "C" and term < after collate "C" and starts_with(term, prefix)
              union all
              select u.lexeme, count(*)
              from bm25_N_recent as r
              cross join lateral (select lexeme from unnest(r.lexemes) offset 0) as u
              where r.lexemes @@ (_bm25_lexeme_query(prefix)::text || ':*')::tsquery
                and starts_with(u.lexeme, prefix)
              group by u.lexeme) as found
        group by term order by sum(df) desc, term limit n);
end
$body$);

    -- Documents of sparse postings that can still be among the k best once the dense
    -- terms are added; best first, by what they have so far.
    perform pgembed._bm25_function(p_index.bm25_id, 'sparse',
        'q pgembed._bm25_query, k int, out slots int[], out scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
begin
    with candidate as materialized (
        select slot, sum(score) as score
        from (select unnest(p.slots) as slot,
                     unnest(p.impacts) * (q).idf[array_position((q).terms, p.term collate "C")] as score
              from bm25_N_posting as p where p.term = any ((q).terms)) as posting
        group by slot
        having (q).dead is null or slot not in (select unnest((q).dead)))
    select array_agg(slot order by score desc), array_agg(score order by score desc)
    into slots, scores
    from candidate
    where score >= coalesce((select score from candidate order by score desc offset k - 1 limit 1), 0) * (q).margin
                   - (q).dense_bound;
end
$body$);

    -- Adds what the dense terms give to documents that are already known.
    perform pgembed._bm25_function(p_index.bm25_id, 'complete',
        'q pgembed._bm25_query, inout slots int[], inout scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
declare
    one constant vectors.vector := '[1]';
    known_slots constant int[] := slots;
    known_scores constant float8[] := scores;
    blocks constant int[] := array(select distinct slot / 2000 from unnest(known_slots) as slot);
begin
    with summed as materialized (
        select block, bm25_sum(impacts::vectors.vector) as impacts
        from bm25_N_block where term = any ((q).dense) and block = any (blocks) group by block)
    select array_agg(c.slot), array_agg(c.score + coalesce(vectors.inner_product(vectors.subvector(s.impacts, c.slot % 2000 + 1, 1), one), 0))
    into slots, scores
    from unnest(known_slots, known_scores) as c(slot, score)
    left join summed as s on s.block = c.slot / 2000;
end
$body$);

    -- All documents whose stored score reaches a threshold: those that the blocks
    -- alone lift above it, and the sparse candidates, completed. Adding a whole
    -- block is one call in C; binary_quantize then says which of its 2,000 sums are
    -- above the threshold, so no other is looked at.
    perform pgembed._bm25_function(p_index.bm25_id, 'dense',
        'q pgembed._bm25_query, threshold float8, inout slots int[], inout scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
declare
    one constant vectors.vector := '[1]';
    limits constant vectors.vector := array_fill((threshold * 0.99999)::real, array[2000])::vectors.vector;
    known_slots constant int[] := slots;
    known_scores constant float8[] := scores;
begin
    with summed as materialized (
        select block, bm25_sum(impacts::vectors.vector) as impacts
        from bm25_N_block where term = any ((q).dense) group by block),
    marked as (
        select block, impacts, vectors.binary_quantize(vectors.vector_sub(impacts, limits)) as above from summed),
    hit as (
        select m.block * 2000 + place - 1 as slot, vectors.inner_product(vectors.subvector(m.impacts, place, 1), one) as score
        from (select * from marked where bit_count(above) > 0 offset 0) as m
        cross join lateral (
            -- The pieces between the ones of a bit string: their lengths add up to places.
            select (sum(length(piece) + 1) over (order by n))::int as place, n, count(*) over () as pieces
            from string_to_table(m.above::text, '1') with ordinality as p(piece, n)) as p
        where n < pieces),
    known as (
        select c.slot, c.score + coalesce(vectors.inner_product(vectors.subvector(s.impacts, c.slot % 2000 + 1, 1), one), 0) as score
        from unnest(known_slots, known_scores) as c(slot, score)
        left join summed as s on s.block = c.slot / 2000
        where c.score + (q).dense_bound >= threshold)
    select array_agg(slot), array_agg(score) into slots, scores
    from (select slot, max(score) as score    -- one that is both has its whole score as known
          from (select * from hit union all select * from known) as both_kinds
          group by slot
          having (q).dead is null or slot not in (select unnest((q).dead))) as found
    where score >= threshold * 0.99999;
end
$body$);

    -- A threshold to begin with where no sparse term gives one: from two blocks, the
    -- score that some more documents than needed would reach if all were like them.
    perform pgembed._bm25_function(p_index.bm25_id, 'guess', 'q pgembed._bm25_query, k int, slots int', 'float8', 'stable', $body$
#variable_conflict use_column
declare
    expected constant float8 := k * 4000.0 / slots;
    sample constant int[] := array[slots / 6000, slots / 3000];
begin
    return (
        select score
        from (select unnest(impacts::real[]) as score
              from (select bm25_sum(impacts::vectors.vector) as impacts
                    from bm25_N_block
                    where term = any ((q).dense) and block = any (sample)
                    group by block) as s) as scores
        order by score desc offset (expected + 3 * sqrt(expected) + 1)::int limit 1);
end
$body$);

    -- Exact scores: tf comes back from the stored impact, and is scored with the
    -- statistics of now.
    perform pgembed._bm25_function(p_index.bm25_id, 'rescore',
        'q pgembed._bm25_query, inout slots int[], out scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
declare
    one constant vectors.vector := '[1]';
    known_slots constant int[] := slots;
begin
    with candidate as materialized (
        select d.slot, d.length, t.term, t.idf, t.frozen_idf
        from bm25_N_doc as d
        cross join unnest((q).terms, (q).idf, (q).frozen_idf) as t(term, idf, frozen_idf)
        where d.slot = any (known_slots)),
    stored as (
        select c.slot, c.length, c.idf, coalesce(
            (select nullif(vectors.inner_product(vectors.subvector(b.impacts::vectors.vector, c.slot % 2000 + 1, 1), one), 0) / c.frozen_idf
             from bm25_N_block as b
             where c.frozen_idf is not null and b.term = c.term collate "C" and b.block = c.slot / 2000),
            (select case when p.slots[i.place] = c.slot then p.impacts[i.place] end
             from (select * from bm25_N_posting as p
                   where p.term = c.term collate "C" and p.first_slot <= c.slot
                   order by p.first_slot desc limit 1) as p
             cross join lateral (select width_bucket(c.slot, p.slots) as place offset 0) as i
             where i.place > 0)) as impact
        from candidate as c)
    select array_agg(slot), array_agg(score) into slots, scores
    from (select s.slot,
                 sum(s.idf * f.tf * ((q).k1 + 1) / (f.tf + (q).k1 * (1 - (q).b + (q).b * s.length / (q).avgdl))) as score
          from stored as s
          cross join lateral (
              select round(s.impact * (q).k1 * (1 - (q).b + (q).b * s.length / (q).frozen_avgdl)
                           / greatest((q).k1 + 1 - s.impact, 1e-9)) as tf offset 0) as f
          where s.impact > 1e-6
          group by s.slot) as rescored;
end
$body$);

    -- Stored scores of given documents only (a selective filter).
    perform pgembed._bm25_function(p_index.bm25_id, 'among',
        'q pgembed._bm25_query, among int[], out slots int[], out scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
begin
    with wanted as materialized (
        select slot from unnest(among) as slot
        where (q).dead is null or slot not in (select unnest((q).dead))),
    sparse as (
        select slot, sum(score) as score
        from (select unnest(p.slots) as slot,
                     unnest(p.impacts) * (q).idf[array_position((q).terms, p.term collate "C")] as score
              from bm25_N_posting as p where p.term = any ((q).terms)) as posting
        where slot in (select slot from wanted)
        group by slot)
    select array_agg(w.slot), array_agg(coalesce(s.score, 0)) into slots, scores
    from wanted as w left join sparse as s on s.slot = w.slot;
    if (q).dense is not null and slots is not null then
        select c.slots, c.scores into slots, scores from bm25_N_complete(q, slots, scores) as c;
    end if;
    select array_agg(u.slot), array_agg(u.score) into slots, scores
    from unnest(slots, scores) as u(slot, score) where u.score > 0;    -- others have no word of the query
end
$body$);

    -- Handles say where the key is found: a slot, or minus a version of recent. They
    -- are all that a caller gets here, so that row security decides on the keys.
    perform pgembed._bm25_function(p_index.bm25_id, 'top',
        'terms text[], k int, prefix text default null, among int[] default null, among_recent bigint[] default null, '
        'out handles bigint[], out scores float8[]', 'record',
        -- One plan a statement and session: by default the first five calls plan anew.
        'stable security definer set search_path = index_path set jit = off set enable_nestloop = off '
        'set plan_cache_mode = force_generic_plan', $body$
#variable_conflict use_column
declare
    q _bm25_query;
    found_slots int[];
    found_scores float8[];
    best_slots int[];
    best_scores float8[];
    rest_slots int[];
    rest_scores float8[];
    threshold float8 := 0;
    guess float8;
    lowest constant float8 := 1e-20;    -- below every score there is
    packed_slots int;
begin
    if prefix is not null then
        terms := array(select distinct term from unnest(terms || bm25_N_expand(prefix, 50)) as term);
    end if;
    q := bm25_N_live(terms);
    if q.terms is null then
        return;
    end if;
    if among is not null then
        select a.slots, a.scores into found_slots, found_scores from bm25_N_among(q, among) as a;
    else
        if q.has_sparse then
            select s.slots, s.scores into found_slots, found_scores from bm25_N_sparse(q, k) as s;
        end if;
        <<dense>>
        begin
            exit dense when q.dense is null;
            if cardinality(found_slots) >= k then
                -- The best sparse candidates, completed, prove what the k-th best reaches.
                select c.slots, c.scores into best_slots, best_scores
                from bm25_N_complete(q, found_slots[:2 * k], found_scores[:2 * k]) as c;
                threshold := (select score from unnest(best_scores) as score order by score desc offset k - 1 limit 1)
                             * q.margin;
                if threshold >= q.dense_bound then
                    -- A document without a sparse term cannot reach it.
                    select array_agg(u.slot), array_agg(u.score) into rest_slots, rest_scores
                    from unnest(found_slots[2 * k + 1:], found_scores[2 * k + 1:]) as u(slot, score)
                    where u.score + q.dense_bound >= threshold;
                    if rest_slots is not null then
                        select best_slots || c.slots, best_scores || c.scores into best_slots, best_scores
                        from bm25_N_complete(q, rest_slots, rest_scores) as c;
                    end if;
                    found_slots := best_slots;
                    found_scores := best_scores;
                    exit dense;
                end if;
            end if;
            -- A proven threshold finds all at once. A guess is checked: when fewer than k
            -- reach it, so that it could hide some of them, it is lowered.
            guess := threshold;
            if threshold = 0 then
                packed_slots := (select slots from pgembed.bm25 where bm25_id = index_N);
                if packed_slots > 6000 then
                    guess := bm25_N_guess(
                        q, least(k * (1 + coalesce(cardinality(q.dead), 0)::float8 / packed_slots), 2e9)::int, packed_slots)
                        * q.margin;
                end if;
            end if;
            for try in 1 .. 5 loop
                guess := greatest(case when try = 5 then threshold else guess end, lowest);
                select d.slots, d.scores into best_slots, best_scores
                from bm25_N_dense(q, guess, found_slots, found_scores) as d;
                exit when guess <= greatest(threshold, lowest)
                    or (select score from unnest(best_scores) as score order by score desc offset k - 1 limit 1)
                       * q.margin >= guess;
                guess := guess * 0.7;
            end loop;
            found_slots := best_slots;
            found_scores := best_scores;
        end dense;
    end if;

    if q.drifted and found_slots is not null then
        select r.slots, r.scores into found_slots, found_scores
        from bm25_N_rescore(q, array(
            select u.slot from unnest(found_slots, found_scores) as u(slot, score)
            where u.score >= coalesce((select score from unnest(found_scores) as score
                                       order by score desc offset k - 1 limit 1), 0) * q.margin)) as r;
    end if;
    select array_agg(handle order by score desc, handle), array_agg(score order by score desc, handle)
    into handles, scores
    from (select u.handle, u.score
          from (select unnest(found_slots)::bigint as handle, unnest(found_scores) as score
                union all
                select -r.version, r.score from unnest(q.recent, q.recent_scores) as r(version, score)
                where among is null or r.version in (select unnest(among_recent))) as u
          order by u.score desc, u.handle limit k) as best;
end
$body$);

    -- Runs as the caller, so under the row security of doc and recent: the key of
    -- each handle, NULL where the caller may not see it.
    perform pgembed._bm25_function(p_index.bm25_id, 'keys', 'handles bigint[]', 'text[]', 'stable', $body$
begin
    if 0 > any (handles) then
        return array(
            select coalesce(d.key, r.key)
            from unnest(handles) with ordinality as h(handle, place)
            left join pgembed.bm25_N_doc as d on d.slot = h.handle and h.handle >= 0
            left join pgembed.bm25_N_recent as r on r.version = -h.handle
            order by h.place);
    end if;
    return array(
        select (select d.key from pgembed.bm25_N_doc as d where d.slot = h.handle)
        from unnest(handles) with ordinality as h(handle, place) order by h.place);
end
$body$);
end
$create$;
comment on function pgembed._bm25_install_top(pgembed.bm25) is
    'Makes, or makes again, the functions that rank documents of a BM25 index.';
