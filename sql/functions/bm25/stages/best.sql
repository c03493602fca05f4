-- From candidates to the k best, in the one order that there is, so that the k best are the
-- first of any more: by the exact score, and rows of one score by their key. Stored scores
-- decide where they are those of now and lie further apart than float4 rounds them; the
-- others are computed anew.
create or replace function pgembed._bm25_0_best(
    q pgembed._bm25_query, k int, found_slots int[], found_scores float8[], among_recent bigint[],
    out handles bigint[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    least constant float8 := coalesce((select score from unnest(found_scores) as score order by score desc offset k - 1 limit 1), 0)
                             * (q).margin;    -- stored scores below it are not among the k best
    apart constant float8 := 1 - 2.4e-7 * cardinality((q).terms);    -- lower score of two, as a share, that rounding cannot account for
    close int[];      -- slots of which the stored score does not decide
    any_close boolean := true;
    tied bigint[];    -- handles of documents of one score
    tied_keys text[];
begin
    if (q).margin < _bm25_exactness() - 1e-6::float8 then
        close := array(select slot from unnest(found_slots, found_scores) as f(slot, score) where score >= least);
    else
        select array_agg(handle), array_agg(score), array_agg(handle::int) filter (where handle >= 0 and is_close),
               bool_or(is_close and place <= k)
        into handles, scores, close, any_close
        from (select handle, score, place, score >= better * apart or worse >= score * apart as is_close
              from (select handle, score, row_number() over in_order as place, lag(score) over in_order as better,
                           lead(score) over in_order as worse
                    from (select slot::bigint as handle, score from unnest(found_slots, found_scores) as f(slot, score) where score >= least
                          union all
                          select -version, score from unnest((q).recent, (q).recent_scores) as r(version, score)
                          where among_recent is null or version in (select unnest(among_recent))) as c
                    window in_order as (order by score desc)) as c) as c;
    end if;
    if any_close then
        with exact as materialized (
            select u.slot, u.score from _bm25_0_rescore(q, close) as r, unnest(r.slots, r.scores) as u(slot, score)),
        scored as (
            select slot::bigint as handle, _bm25_rounded(score) as score from exact
            union all
            select slot, score from unnest(found_slots, found_scores) as f(slot, score)
            where score >= least and slot not in (select unnest(close))
            union all
            select -version, _bm25_rounded(score) from unnest((q).recent, (q).recent_scores) as r(version, score)
            where among_recent is null or version in (select unnest(among_recent)))
        select array_agg(handle), array_agg(score), array_agg(handle) filter (where score in (better, worse))
        into handles, scores, tied
        from (select handle, score, lag(score) over in_order as better, lead(score) over in_order as worse
              from scored window in_order as (order by score desc)) as c;
        if tied is not null then
            select array_agg(t.handle), array_agg(t.key) into tied, tied_keys
            from (select handle, (select key from _bm25_0_doc where slot = handle) as key from unnest(tied) as handle where handle >= 0
                  union all
                  select -version, key from _bm25_0_recent where -version in (select unnest(tied))) as t;
            select array_agg(handle), array_agg(score) into handles, scores
            from (select handle, score from unnest(handles, scores) as c(handle, score)
                  left join unnest(tied, tied_keys) as t(handle, key) using (handle)
                  order by score desc, key collate "C", handle limit k) as c;
        end if;
    end if;
    handles := handles[:k];
    scores := scores[:k];
end
$$;
comment on function pgembed._bm25_0_best(pgembed._bm25_query, int, int[], float8[], bigint[]) is
    'The k best of candidates, whose stored scores are given, and of the documents not packed yet: handles and scores, best first.';
