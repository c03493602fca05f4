-- All documents whose stored score reaches a threshold: those that the blocks
-- alone lift above it, and the sparse candidates, completed. Adding a whole
-- block is one call in C; binary_quantize then says which of its 2,000 sums are
-- above the threshold, so no other is looked at.
create or replace function pgembed._bm25_0_dense(
    q pgembed._bm25_query, threshold float8, known_slots int[], known_scores float8[],
    out slots int[], out scores float8[], out sure int
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    limits constant real[] := array_fill(threshold::real, array[_bm25_block_size()]);
begin
    with summed as materialized (
        select block, _bm25_sum(_bm25_unpack(impacts)) as impacts
        from _bm25_0_block where term = any ((q).dense) group by block),
    marked as (
        select block, impacts, _bm25_places_above(impacts, (select _bm25_vector(limits))) as above from summed),
    hit as (
        select _bm25_slot(m.block, place) as slot, _bm25_impact(m.impacts, place) as score
        from (select * from marked where bit_count(above) > 0 offset 0) as m
        cross join lateral (
            -- The pieces between the ones of a bit string: their lengths add up to places.
            -- What follows the last is no place: one more than there are.
            select (sum(length(piece) + 1) over (order by n))::int as place
            from string_to_table(m.above::text, '1') with ordinality as p(piece, n)) as p
        where place <= _bm25_block_size()),
    known as (
        select c.slot, c.score + coalesce(_bm25_impact(s.impacts, _bm25_place_of(c.slot)), 0) as score
        from unnest(known_slots, known_scores) as c(slot, score)
        left join summed as s on s.block = _bm25_block_of(c.slot)
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
$$;
comment on function pgembed._bm25_0_dense(pgembed._bm25_query, float8, int[], float8[]) is
    'All packed documents whose stored score reaches a threshold; sure: how many of them no other can pass.';
