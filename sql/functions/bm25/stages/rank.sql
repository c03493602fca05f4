-- The k best documents by BM25, exactly. In stages, one file each, which drop only what
-- can be shown not to be among the k best:
--
--   prefix_terms the terms that begin with what was typed
--   changes      what is not packed yet: documents, tombstones, what they add to the statistics
--   statistics   of now: N, df, idf, avgdl; documents not packed yet are scored here
--   sparse       documents of the terms that few have: sums of their postings
--   complete     the best of those, with their dense terms: a score that the k-th best surely reaches
--   guess, dense documents above it, found by adding whole blocks of vectors
--   best         the survivors in order, with those not packed yet; ties by key
--   rescore      exact scores, from tf and the statistics of now
--   keys         of handles, as the caller
--
-- among takes the place of sparse, guess and dense where few documents are asked about.
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
--
-- Handles say where the key is found: a slot, or minus a version of recent. Only for those
-- whom no row security restricts.
create or replace function pgembed._bm25_0_rank(
    terms text[], k int, prefix text default null, among int[] default null, among_recent bigint[] default null,
    out handles bigint[], out scores float8[]
)
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
set jit = off
set enable_nestloop = off
set enable_memoize = off
set plan_cache_mode = force_generic_plan    -- by default the first five calls plan anew
as $$
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
        terms := array(select distinct term from unnest(terms || _bm25_0_prefix_terms(prefix)) as term);
    end if;
    q := _bm25_0_statistics(terms);
    if among is not null then
        if q.has_sparse or q.dense is not null then    -- the words are in what is packed and not truncated
            select a.slots, a.scores into found_slots, found_scores from _bm25_0_among(q, among) as a;
        end if;
    else
        if q.has_sparse then
            select s.slots, s.scores into sparse_slots, sparse_scores from _bm25_0_sparse(q, k) as s;
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
                from _bm25_0_complete(q, sparse_slots[:2 * k], sparse_scores[:2 * k]) as c;
                threshold := (select score from unnest(best_scores) as score order by score desc offset k - 1 limit 1)
                             * q.margin;
                if threshold >= q.dense_bound then
                    -- A document without a sparse term cannot reach it.
                    select array_agg(u.slot), array_agg(u.score) into rest_slots, rest_scores
                    from unnest(sparse_slots[2 * k + 1:], sparse_scores[2 * k + 1:]) as u(slot, score)
                    where u.score + q.dense_bound >= threshold;
                    if rest_slots is not null then
                        select best_slots || c.slots, best_scores || c.scores into best_slots, best_scores
                        from _bm25_0_complete(q, rest_slots, rest_scores) as c;
                    end if;
                    found_slots := best_slots;
                    found_scores := best_scores;
                    exit dense;
                end if;
            end if;
            -- A proven threshold finds all at once. A guess is checked: when fewer than k
            -- reach it, so that it could hide some of them, it is lowered.
            guess := greatest(case when threshold is null and q.slots > 3 * _bm25_block_size() then _bm25_0_guess(q, k) * q.margin end,
                              threshold, 1e-20::float8);
            loop
                d := _bm25_0_dense(q, guess, sparse_slots, sparse_scores);
                found_slots := d.slots;
                found_scores := d.scores;
                exit when guess <= greatest(threshold, 1e-20::float8) or d.sure >= k;
                tries := coalesce(tries, 0) + 1;
                guess := greatest(case when tries < 4 then guess * 0.7 end, threshold, 1e-20::float8);
            end loop;
        end dense;
    end if;

    select b.handles, b.scores into handles, scores
    from _bm25_0_best(q, k, found_slots, found_scores, case when among is not null then coalesce(among_recent, '{}') end) as b;
end
$$;
comment on function pgembed._bm25_0_rank(text[], int, text, int[], bigint[]) is
    'The k best documents, best first: a handle is a slot, or minus the version of one that is not packed.';
