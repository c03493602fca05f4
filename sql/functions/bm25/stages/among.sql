-- Stored scores of given documents only (a selective filter).
create or replace function pgembed._bm25_0_among(
    q pgembed._bm25_query, among int[],
    out slots int[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
begin
    with wanted as materialized (
        select slot from unnest(among) as slot
        where (q).dead is null or slot not in (select unnest((q).dead))),
    sparse as (
        select slot, sum(score) as score
        from (select unnest(p.slots) as slot,
                     unnest(p.impacts) * (q).idf[array_position((q).terms, p.term collate "C")] as score
              from _bm25_0_posting as p where p.term = any ((q).terms)) as posting
        where slot in (select slot from wanted)
        group by slot)
    select array_agg(w.slot), array_agg(coalesce(s.score, 0)) into slots, scores
    from wanted as w left join sparse as s on s.slot = w.slot;
    if (q).dense is not null and slots is not null then
        select c.slots, c.scores into slots, scores from _bm25_0_complete(q, slots, scores) as c;
    end if;
    select array_agg(u.slot), array_agg(u.score) into slots, scores
    from unnest(slots, scores) as u(slot, score) where u.score > 0;    -- others have no word of the query
end
$$;
comment on function pgembed._bm25_0_among(pgembed._bm25_query, int[]) is
    'Those of given packed documents that have a word of the query, with their stored scores.';
