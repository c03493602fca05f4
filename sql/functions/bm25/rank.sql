-- The k best documents by BM25, exactly. In stages, each of which drops only what
-- can be shown not to be among the k best:
--
--   changes   what is not packed yet: documents, tombstones, what they add to the statistics
--   live      statistics of now: N, df, idf, avgdl; documents not packed yet are scored here
--   sparse    documents of the terms that few have: sums of their postings
--   threshold the k-th best of those, completed: a score that the k-th best surely reaches
--   dense     documents above it, found by adding whole blocks of vectors
--   rescore   the survivors' exact scores, from tf and the statistics of now
--
-- Stored impacts carry the avgdl, and blocks the idf, of the time of packing. The
-- score of now lies within known factors of the stored one: idf / frozen idf of its
-- terms, and between 1 (a document of length 0) and avgdl / frozen avgdl (an endless
-- one). margin is the quotient of the two bounds, and every comparison of stored
-- scores keeps it.
--
-- The first search of a session pays for reading the catalog and planning, so what
-- every search executes is kept cheap in that: operands have one type (for float8 *
-- 0.5, a numeric, each cast from each type is looked up), statements are few, and
-- ways to join that are of no use here are switched off.

create or replace aggregate pgembed.bm25_sum(vector) (sfunc = vector_add, stype = vector, parallel = safe);
comment on aggregate pgembed.bm25_sum(vector) is
    'Sum of vectors of one length, by pgvector''s addition.';

create or replace function pgembed._bm25_lexeme_query(p_lexeme text) returns tsquery
language sql immutable
as $$
    select pg_catalog.concat('''', pg_catalog.replace(pg_catalog.replace(p_lexeme, '\', '\\'), '''', ''''''), '''')::pg_catalog.tsquery
$$;
comment on function pgembed._bm25_lexeme_query(text) is 'A tsquery that one lexeme matches.';

create or replace function pgembed._bm25_prefix_query(p_prefix text) returns tsquery
language sql immutable
as $$
    select case when p_prefix is not null then
        pg_catalog.concat(pgembed._bm25_lexeme_query(p_prefix)::pg_catalog.text, ':*')::pg_catalog.tsquery end
$$;
comment on function pgembed._bm25_prefix_query(text) is 'A tsquery that lexemes with a prefix match; NULL for none.';

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
set search_path = pg_catalog, pg_temp
as $create$
begin
    perform pgembed._bm25_function(p_index.bm25_id, 'mark', 'mark "char", truncated oid default null', 'void', 'volatile', $body$
begin
    -- To be read again: one a transaction. That of another would not do: it may be acted
    -- upon, and be gone, before the rows of this one are there to be read.
    insert into pgembed.bm25_N_dead (op, key, partition)
    select mark, pg_catalog.pg_current_xact_id()::text, case mark when 'P' then truncated end
    where mark <> 'R' or not exists (select from pgembed.bm25_N_dead
                                    where op = mark and key = pg_catalog.pg_current_xact_id()::text);
end
$body$);

    perform pgembed._bm25_function(p_index.bm25_id, 'key', 'r anyelement', 'text',
        'stable ' || pgembed._key_settings_sql(),
        pgembed._bm25_key_body(p_index.source));

    -- Every document that was written counts, and every tombstone takes one away: the
    -- statistics are sums, whichever documents the tombstones mean. Which ones matters
    -- only of those with a word of the query, as others are not found.
    perform pgembed._bm25_function(p_index.bm25_id, 'changes', 'terms text[]', 'pgembed._bm25_changes', 'stable', $body$
#variable_conflict use_column
declare
    c _bm25_changes;
    query_terms alias for terms;
    term_queries constant tsquery[] := array(select _bm25_lexeme_query(term) from unnest(query_terms) as term);
    any_term constant tsquery := nullif(array_to_string(term_queries, '|'), '')::tsquery;
    since bigint;
    stale boolean;
    emptied regclass[];    -- partitions that were truncated, and when
    emptied_at bigint[];
    gone_rows bigint;    -- packed, of these
    gone_length bigint;
    gone int[];
    dead_rows bigint;
    dead_length bigint;
    dead_keys text[];
    dead_versions bigint[];
    dead_lexemes tsvector[];
begin
    select coalesce(max(version) filter (where op = 'T'), 0), bool_or(op = 'R'), array_agg(distinct partition) filter (where op = 'P')
    into since, stale, emptied from bm25_N_dead;
    c.truncated := since > 0;    -- what is packed was written before
    emptied_at := array(select (select max(version) from bm25_N_dead where op = 'P' and partition = p)
                        from unnest(emptied) with ordinality as e(p, place) order by place);
    with hit as materialized (
        select key, version, slot, lexemes from bm25_N_dead
        where op = 'D' and version > greatest(since, emptied_at[array_position(emptied, partition)]) and lexemes @@ any_term)
    select g.rows, g.length,
           array(select (select count(*) from hit as h where h.lexemes @@ t.query)
                 from unnest(term_queries) with ordinality as t(query, place) order by t.place),
           g.slots,
           (select array_agg(key order by version) from hit where slot is null),
           (select array_agg(version order by version) from hit where slot is null),
           (select array_agg(lexemes order by version) from hit where slot is null)
    into dead_rows, dead_length, c.dead_df, c.dead, dead_keys, dead_versions, dead_lexemes
    from (select count(*) as rows, coalesce(sum(length), 0) as length,
                 array_agg(slot) filter (where slot is not null) as slots
          from bm25_N_dead
          where op = 'D' and version > greatest(since, emptied_at[array_position(emptied, partition)])) as g;
    if emptied is not null and not c.truncated then
        select array_agg(slot), count(*), coalesce(sum(length), 0) into gone, gone_rows, gone_length
        from bm25_N_doc where version < emptied_at[array_position(emptied, partition)];
        c.dead := c.dead || gone;
        dead_rows := dead_rows + gone_rows;
        dead_length := dead_length + gone_length;
        with mask as materialized (    -- bits of a block: which of its documents are gone
            select b.block, vectors.binary_quantize(array_agg(case when g.slot is null then 0 else 1 end order by place)::real[]::vectors.vector) as bits
            from (select distinct slot / 2000 as block from unnest(gone) as slot) as b
            cross join generate_series(0, 1999) as place
            left join unnest(gone) as g(slot) on g.slot = b.block * 2000 + place
            group by b.block)
        select array_agg(w.df + (
                   select coalesce(sum(bit_count(vectors.binary_quantize(b.impacts::vectors.vector) & m.bits)), 0)
                   from bm25_N_block as b join mask as m using (block) where b.term = w.term collate "C") + (
                   select count(*) from bm25_N_posting as p cross join unnest(p.slots) as slot
                   where p.term = w.term collate "C" and slot in (select unnest(gone))) order by w.place)
        into c.dead_df
        from unnest(query_terms, c.dead_df) with ordinality as w(term, df, place);
    end if;
    if stale then    -- rows went without a tombstone, and their keys may have come back
        c.dead := c.dead || array(select p.slot from bm25_N_recent as r
                                  join bm25_N_doc as p on p.key = r.key and p.version < r.version);
    end if;

    -- Documents not packed yet, the caller's own uncommitted ones included. A tombstone
    -- kills one of the same key and words, else the packed one of its key before it.
    with hit as materialized (
        select key, version, length, lexemes from bm25_N_recent
        where version > greatest(since, emptied_at[array_position(emptied, partition)]) and lexemes @@ any_term),
    killed as materialized (
        select d.key, d.version as dead_version, h.version
        from (select key, version, lexemes, row_number() over (partition by key, lexemes order by version) as nth
              from unnest(dead_keys, dead_versions, dead_lexemes) as d(key, version, lexemes)) as d
        left join (select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
                   from hit where key = any (dead_keys)) as h using (key, lexemes, nth)),
    hit_of_term as materialized (
        select t.place, t.term, h.version, h.length,
               h.version not in (select k.version from killed as k where k.version is not null) as alive,
               width_bucket(ts_rank('{1,1,1,1}', h.lexemes, t.query), (select _bm25_tf_bounds())) as tf
        from hit as h
        join unnest(query_terms, term_queries) with ordinality as t(term, query, place) on h.lexemes @@ t.query)
    select c.dead || array(select p.slot
                           from killed as k
                           cross join lateral (select p.slot from bm25_N_doc as p
                                               where p.key = k.key and p.version < k.dead_version
                                                 and p.slot <> all (coalesce(c.dead, '{}'))    -- these are dead already
                                               order by p.version desc limit 1) as p
                           where k.version is null),
           r.rows - dead_rows, r.length - dead_length,
           array(select count(h.place) from generate_subscripts(query_terms, 1) as place
                 left join hit_of_term as h using (place) group by place order by place),
           h.*
    into c.dead, c.rows, c.length, c.recent_df, c.versions, c.lengths, c.terms, c.tfs
    from (select count(*) as rows, coalesce(sum(length), 0) as length
          from bm25_N_recent
          where version > greatest(since, emptied_at[array_position(emptied, partition)])) as r
    cross join (select array_agg(version), array_agg(length), array_agg(term), array_agg(tf)
                from hit_of_term where alive) as h;
    return c;
end
$body$);

    perform pgembed._bm25_function(p_index.bm25_id, 'live', 'terms text[]', 'pgembed._bm25_query', 'stable', $body$
#variable_conflict use_column
declare
    q _bm25_query;
    c _bm25_changes;
    query_terms alias for terms;
    rows float8;
    total float8;
    changed boolean;
begin
    select packed_rows, packed_length, k1, b, frozen_avgdl, slots,
           exists (select from bm25_N_dead) or exists (select from bm25_N_recent)
    into rows, total, q.k1, q.b, q.frozen_avgdl, q.slots, changed
    from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = index_N;
    if changed then
        c := bm25_N_changes(query_terms);
        q.dead := c.dead;
        rows := case when c.truncated then 0 else rows end + c.rows;
        total := case when c.truncated then 0 else total end + c.length;
    end if;
    -- At least 1, each: a tombstone of a row that no trigger has seen, until the
    -- packer drops it, hides no row of another.
    select n, l / n, coalesce(q.frozen_avgdl, l / n)
    into rows, q.avgdl, q.frozen_avgdl
    from (select greatest(rows, 1::float8) as n, greatest(total, rows, 1::float8) as l) as size;
    select array_agg(term), array_agg(idf), array_agg(frozen_idf),
           array_agg(term) filter (where dense_df > 0),
           coalesce(sum(frozen_idf * max_impact) filter (where dense_df > 0), 0::float8) / 0.99999::float8,
           bool_or(packed_df > dense_df),
           coalesce(least(min(idf / frozen_idf), 1::float8) / greatest(max(idf / frozen_idf), 1::float8), 1::float8)
           * least(q.avgdl / q.frozen_avgdl, q.frozen_avgdl / q.avgdl) * 0.99999::float8
    into q.terms, q.idf, q.frozen_idf, q.dense, q.dense_bound, q.has_sparse, q.margin
    from (
        select term, packed_df, dense_df, max_impact, frozen_idf,
               ln(1::float8 + (rows - df + 0.5::float8) / (df + 0.5::float8)) as idf
        from (
            select term, (packed).max_impact::float8, (packed).frozen_idf::float8, (packed).dense_df, (packed).df as packed_df,
                   greatest(least((coalesce((packed).df, 0) + coalesce(recent_df - dead_df, 0))::float8, rows), 1::float8) as df
            from (
                select w.*, (select p from bm25_N_term as p
                             where p.term = w.term collate "C" and c.truncated is not true) as packed
                from unnest(query_terms, c.recent_df, c.dead_df) as w(term, recent_df, dead_df) offset 0) as known
            where (packed).df > 0 or recent_df > 0 offset 0) as counted offset 0) as t;
    if c.versions is not null and q.terms is not null then
        select array_agg(version), array_agg(score) into q.recent, q.recent_scores
        from (select h.version,
                     sum(t.idf * h.tf * (q.k1 + 1) / (h.tf + q.k1 * (1 - q.b + q.b * h.length / q.avgdl))) as score
              from unnest(c.versions, c.lengths, c.terms, c.tfs) as h(version, length, term, tf)
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
    after text;    -- ends the range in the index
begin
    if getdatabaseencoding() = 'UTF8' then    -- where alone there is this character
        after := prefix || chr(1114111);
    else
        after := (select max(term) || 'z' from bm25_N_term);
    end if;
    return array(
        select term
        from (select term, df from bm25_N_term
              where term >= prefix collate "C" and term < after collate "C" and starts_with(term, prefix)
              union all
              select u.lexeme, count(*)
              from bm25_N_recent as r
              cross join lateral (select lexeme from unnest(r.lexemes) offset 0) as u
              where r.lexemes @@ _bm25_prefix_query(prefix)
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
        'q pgembed._bm25_query, known_slots int[], known_scores float8[], out slots int[], out scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
declare
    blocks constant int[] := array(select distinct slot / 2000 from unnest(known_slots) as slot);
begin
    with summed as materialized (
        select block, bm25_sum(impacts::vectors.vector) as impacts
        from bm25_N_block where term = any ((q).dense) and block = any (blocks) group by block)
    select array_agg(c.slot), array_agg(c.score + coalesce(vectors.inner_product(vectors.subvector(s.impacts, c.slot % 2000 + 1, 1), '[1]'), 0))
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
        'q pgembed._bm25_query, threshold float8, known_slots int[], known_scores float8[], '
        'out slots int[], out scores float8[], out sure int', 'record', 'stable', $body$
#variable_conflict use_column
declare
    limits constant vectors.vector := array_fill(threshold::real, array[2000])::vectors.vector;
begin
    with summed as materialized (
        select block, bm25_sum(impacts::vectors.vector) as impacts
        from bm25_N_block where term = any ((q).dense) group by block),
    marked as (
        select block, impacts, vectors.binary_quantize(vectors.vector_sub(impacts, limits)) as above from summed),
    hit as (
        select m.block * 2000 + place - 1 as slot, vectors.inner_product(vectors.subvector(m.impacts, place, 1), '[1]') as score
        from (select * from marked where bit_count(above) > 0 offset 0) as m
        cross join lateral (
            -- The pieces between the ones of a bit string: their lengths add up to places.
            -- What follows the last is no place: 2001.
            select (sum(length(piece) + 1) over (order by n))::int as place
            from string_to_table(m.above::text, '1') with ordinality as p(piece, n)) as p
        where place <= 2000),
    known as (
        select c.slot, c.score + coalesce(vectors.inner_product(vectors.subvector(s.impacts, c.slot % 2000 + 1, 1), '[1]'), 0) as score
        from unnest(known_slots, known_scores) as c(slot, score)
        left join summed as s on s.block = c.slot / 2000
        where c.score + (q).dense_bound >= threshold)
    -- Sure: those that no document below the threshold can pass once both are scored anew.
    select array_agg(slot), array_agg(score), count(*) filter (where score * (q).margin >= threshold)
    into slots, scores, sure
    from (select slot, max(score) as score    -- one that is both has its whole score as known
          from (select * from hit union all select * from known) as both_kinds
          group by slot
          having (q).dead is null or slot not in (select unnest((q).dead))) as found
    where score >= threshold;
end
$body$);

    -- A threshold to begin with where no sparse term gives one: from two blocks, the
    -- score that some more documents than needed would reach if all were like them.
    perform pgembed._bm25_function(p_index.bm25_id, 'guess', 'q pgembed._bm25_query, k int', 'float8', 'stable', $body$
#variable_conflict use_column
declare
    expected constant float8 := k::float8 * 4000::float8 / (q).slots::float8;
begin
    return (
        select score
        from (select unnest(impacts::real[]) as score
              from (select bm25_sum(impacts::vectors.vector) as impacts
                    from bm25_N_block
                    where term = any ((q).dense) and block in ((q).slots / 6000, (q).slots / 3000)
                    group by block) as s) as scores
        order by score desc offset (expected + 3::float8 * sqrt(expected))::int + 1 limit 1);
end
$body$);

    -- Exact scores: tf comes back from the stored impact, and is scored with the
    -- statistics of now.
    perform pgembed._bm25_function(p_index.bm25_id, 'rescore',
        'q pgembed._bm25_query, known_slots int[], out slots int[], out scores float8[]', 'record', 'stable', $body$
#variable_conflict use_column
begin
    with candidate as materialized (
        select d.slot, d.length, t.term, t.idf, t.frozen_idf
        from bm25_N_doc as d
        cross join unnest((q).terms, (q).idf, (q).frozen_idf) as t(term, idf, frozen_idf)
        where d.slot = any (known_slots)),
    stored as (
        select c.slot, c.length, c.idf, coalesce(
            (select nullif(vectors.inner_product(vectors.subvector(b.impacts::vectors.vector, c.slot % 2000 + 1, 1), '[1]'), 0) / c.frozen_idf
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

    -- Handles say where the key is found: a slot, or minus a version of recent. For those
    -- whom no row security restricts.
    perform pgembed._bm25_function(p_index.bm25_id, 'rank',
        'terms text[], k int, prefix text default null, among int[] default null, among_recent bigint[] default null, '
        'out handles bigint[], out scores float8[]', 'record',
        -- One plan a statement and session: by default the first five calls plan anew.
        'stable security definer set search_path = index_path set jit = off set enable_nestloop = off set enable_memoize = off '
        'set plan_cache_mode = force_generic_plan', $body$
#variable_conflict use_column
declare
    q _bm25_query;
    found_slots int[];
    found_scores float8[];
    sparse_slots int[];
    sparse_scores float8[];
    best_slots int[];
    best_scores float8[];
    rest_slots int[];
    rest_scores float8[];
    threshold float8;    -- a score that the k-th best is known to reach
    guess float8;
    tries int;
    d record;
begin
    if prefix is not null then
        terms := array(select distinct term from unnest(terms || bm25_N_expand(prefix, 50)) as term);
    end if;
    q := bm25_N_live(terms);
    if among is not null then
        if q.has_sparse or q.dense is not null then    -- the words are in what is packed and not truncated
            select a.slots, a.scores into found_slots, found_scores from bm25_N_among(q, among) as a;
        end if;
    else
        if q.has_sparse then
            select s.slots, s.scores into sparse_slots, sparse_scores from bm25_N_sparse(q, k) as s;
        end if;
        <<dense>>
        begin
            if q.dense is null then
                found_slots := sparse_slots;
                found_scores := sparse_scores;
                exit dense;
            end if;
            if cardinality(sparse_slots) >= k then
                -- The best sparse candidates, completed, prove what the k-th best reaches.
                select c.slots, c.scores into best_slots, best_scores
                from bm25_N_complete(q, sparse_slots[:2 * k], sparse_scores[:2 * k]) as c;
                threshold := (select score from unnest(best_scores) as score order by score desc offset k - 1 limit 1)
                             * q.margin;
                if threshold >= q.dense_bound then
                    -- A document without a sparse term cannot reach it.
                    select array_agg(u.slot), array_agg(u.score) into rest_slots, rest_scores
                    from unnest(sparse_slots[2 * k + 1:], sparse_scores[2 * k + 1:]) as u(slot, score)
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
            guess := greatest(case when threshold is null and q.slots > 6000 then bm25_N_guess(q, k) * q.margin end,
                              threshold, 1e-20::float8);
            loop
                d := bm25_N_dense(q, guess, sparse_slots, sparse_scores);
                found_slots := d.slots;
                found_scores := d.scores;
                exit when guess <= greatest(threshold, 1e-20::float8) or d.sure >= k;
                tries := coalesce(tries, 0) + 1;
                guess := greatest(case when tries < 4 then guess * 0.7 end, threshold, 1e-20::float8);
            end loop;
        end dense;
    end if;

    -- Stored scores are those of now but for rounding, or are computed anew.
    if q.margin < 0.999989::float8 and found_slots is not null then
        select r.slots, r.scores into found_slots, found_scores
        from bm25_N_rescore(q, array(
            select u.slot from unnest(found_slots, found_scores) as u(slot, score)
            where u.score >= coalesce((select score from unnest(found_scores) as score
                                       order by score desc offset k - 1 limit 1), 0) * q.margin)) as r;
    end if;
    select array_agg(handle), array_agg(score)    -- in the order of best
    into handles, scores
    from (select u.handle, u.score
          from (select unnest(found_slots)::bigint as handle, unnest(found_scores) as score
                union all
                select -r.version, r.score from unnest(q.recent, q.recent_scores) as r(version, score)
                where among is null or r.version in (select unnest(among_recent))) as u
          order by u.score desc, u.handle limit k) as best;
end
$body$);

    -- What a caller who may see all rows asks. Handles are all that comes back, so a caller
    -- who has lost the right to the table since cannot look their keys up. Where the table
    -- has row security at all, this way is closed, whoever asks and from the moment on that
    -- it is switched on: callers whom no policy restricts have rank() itself.
    perform pgembed._bm25_function(p_index.bm25_id, 'top',
        'terms text[], k int, prefix text default null, among int[] default null, among_recent bigint[] default null, '
        'out handles bigint[], out scores float8[]', 'record',
        'stable security definer set search_path = index_path', $body$
begin
    if (select c.relrowsecurity from pgembed.bm25 as b join pg_class as c on c.oid = b.source where b.bm25_id = index_N) then
        raise exception 'the table of this BM25 index has row-level security' using errcode = 'PE013',
            hint = 'Use pgembed.bm25_search.';
    end if;
    select r.handles, r.scores into handles, scores from bm25_N_rank(terms, k, prefix, among, among_recent) as r;
end
$body$);

    -- Runs as the caller, so under the row security of doc and recent: the key of
    -- each handle, NULL where the caller may not see it. And on the caller's path,
    -- where somebody may have put an unnest(bigint[]).
    perform pgembed._bm25_function(p_index.bm25_id, 'keys', 'handles bigint[]', 'text[]', 'stable', $body$
begin
    if 0 operator(pg_catalog.>) any (handles) then
        return array(
            select coalesce(d.key, r.key)
            from pg_catalog.unnest(handles) with ordinality as h(handle, place)
            left join pgembed.bm25_N_doc as d on d.slot operator(pg_catalog.=) h.handle and h.handle operator(pg_catalog.>=) 0
            left join pgembed.bm25_N_recent as r on r.version operator(pg_catalog.=) (operator(pg_catalog.-) h.handle)
            order by h.place);
    end if;
    return array(
        select (select d.key from pgembed.bm25_N_doc as d where d.slot operator(pg_catalog.=) h.handle)
        from pg_catalog.unnest(handles) with ordinality as h(handle, place) order by h.place);
end
$body$);
end
$create$;
comment on function pgembed._bm25_install_top(pgembed.bm25) is
    'Makes, or makes again, the functions that rank documents of a BM25 index.';
