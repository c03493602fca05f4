-- From candidates to the k best, in the one order that there is, so that the k best are the
-- first of any more: by the exact score, and rows of one score by their key. Stored scores
-- decide where they lie far enough apart for how exact they are; the others are scored anew.
create or replace function pgembed._bm25_0_best(
    q pgembed._bm25_query, k int, found_slots int[], found_scores float8[], among_recent bigint[],
    out handles bigint[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    candidate_handles bigint[];
    candidate_scores float8[];
    close int[];       -- slots of which the stored scores do not decide
    any_close boolean;
    tied bigint[];     -- handles of documents of one score
    tied_keys text[];
begin
    with candidate as materialized (
        select slot::bigint as handle, score from unnest(found_slots, found_scores) as f(slot, score)
        where score >= coalesce((select score from unnest(found_scores) as score
                                 order by score desc offset k - 1 limit 1), 0) * (q).margin
        union all
        select -version, score from unnest((q).recent, (q).recent_scores) as r(version, score)
        where among_recent is null or version in (select unnest(among_recent)))
    select array_agg(handle order by place), array_agg(score order by place),
           array_agg(handle::int) filter (where handle >= 0 and is_close), bool_or(is_close and place <= k)
    into candidate_handles, candidate_scores, close, any_close
    from (select handle, score, place, (q).margin < _bm25_exactness() - 1e-6::float8
                 or score >= better * _bm25_exactness() or worse >= score * _bm25_exactness() as is_close
          from (select handle, score, row_number() over in_order as place, lag(score) over in_order as better, lead(score) over in_order as worse
                from candidate window in_order as (order by score desc)) as c) as c;
    if any_close then
        select array_agg(handle order by score desc, handle), array_agg(score order by score desc, handle),
               array_agg(handle) filter (where ties > 1)
        into candidate_handles, candidate_scores, tied
        from (select handle, score, rank() over (order by score desc) as rank, count(*) over (partition by score) as ties
              from (select c.handle, _bm25_rounded(coalesce(r.score, c.score)) as score
                    from unnest(candidate_handles, candidate_scores) as c(handle, score)
                    left join (select u.slot::bigint, u.score
                               from _bm25_0_rescore(q, close) as r, unnest(r.slots, r.scores) as u(slot, score)) as r(handle, score)
                    on r.handle = c.handle
                    where r.handle is not null or c.handle not in (select unnest(close))) as c) as c
        where rank <= k;
        if tied is not null then
            select array_agg(handle), array_agg(key) into tied, tied_keys
            from (select handle, (select key from _bm25_0_doc where slot = handle) as key from unnest(tied) as handle where handle >= 0
                  union all
                  select -version, key from _bm25_0_recent where -version in (select unnest(tied))) as t;
            select array_agg(handle order by score desc, key collate "C", handle), array_agg(score order by score desc, key collate "C", handle)
            into candidate_handles, candidate_scores
            from unnest(candidate_handles, candidate_scores) as c(handle, score)
            left join unnest(tied, tied_keys) as t(handle, key) using (handle);
        end if;
    end if;
    handles := candidate_handles[:k];
    scores := candidate_scores[:k];
end
$$;
comment on function pgembed._bm25_0_best(pgembed._bm25_query, int, int[], float8[], bigint[]) is
    'The k best of candidates, whose stored scores are given, and of the documents not packed yet: handles and scores, best first.';
