-- Adds what the dense terms give to documents that are already known.
create or replace function pgembed._bm25_0_complete(
    q pgembed._bm25_query, known_slots int[], known_scores float8[],
    out slots int[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    blocks constant int[] := array(select distinct _bm25_block_of(slot) from unnest(known_slots) as slot);
begin
    with summed as materialized (
        select block, _bm25_sum(_bm25_unpack(impacts)) as impacts
        from _bm25_0_block where term = any ((q).dense) and block = any (blocks) group by block)
    select array_agg(c.slot), array_agg(c.score + coalesce(_bm25_impact(s.impacts, _bm25_place_of(c.slot)), 0))
    into slots, scores
    from unnest(known_slots, known_scores) as c(slot, score)
    left join summed as s on s.block = _bm25_block_of(c.slot);
end
$$;
comment on function pgembed._bm25_0_complete(pgembed._bm25_query, int[], float8[]) is
    'Known documents, with what the dense terms give them added to their scores.';
