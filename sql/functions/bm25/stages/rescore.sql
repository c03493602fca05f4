-- Exact scores: tf comes back from the stored impact, and is scored with the
-- statistics of now. A block is unpacked once for all documents in it; postings are looked
-- up document by document where these are few, and read as a whole where they are many.
create or replace function pgembed._bm25_0_rescore(
    q pgembed._bm25_query, known_slots int[],
    out slots int[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    -- A field of q is taken out of it anew wherever it is named.
    k1 constant float8 := (q).k1;
    shortest constant float8 := (q).k1 * (1 - (q).b);
    now constant float8 := (q).k1 * (q).b / (q).avgdl;
    by_length constant float8 := (q).k1 * (q).b;
    few constant boolean := cardinality(known_slots) <= 500;
    blocks constant int[] := array(select distinct _bm25_block_of(slot) from unnest(known_slots) as slot);
begin
    with term as materialized (
        select term, idf, frozen_idf, by_length / frozen_avgdl as frozen
        from unnest((q).terms, (q).idf, (q).frozen_idf, (q).frozen_avgdl) as t(term, idf, frozen_idf, frozen_avgdl)),
    document as materialized (
        select slot, length, _bm25_block_of(slot) as block from _bm25_0_doc where slot = any (known_slots)),
    block as materialized (
        select b.block, t.idf, t.frozen_idf, t.frozen, _bm25_unpack(b.impacts) as impacts
        from _bm25_0_block as b join term as t on t.term = b.term
        where b.term = any ((q).dense) and b.block = any (blocks)),
    stored as (
        select d.slot, d.length, b.idf, b.frozen, _bm25_impact(b.impacts, _bm25_place_of(d.slot)) / b.frozen_idf as impact
        from document as d join block as b on b.block = d.block
        union all
        select d.slot, d.length, t.idf, t.frozen, (
            select case when p.slots[i.place] = d.slot then p.impacts[i.place] end
            from (select * from _bm25_0_posting as p
                  where p.term = t.term collate "C" and p.first_slot <= d.slot
                  order by p.first_slot desc limit 1) as p
            cross join lateral (select width_bucket(d.slot, p.slots) as place offset 0) as i
            where i.place > 0)
        from document as d cross join term as t
        where few and (q).has_sparse
        union all
        select d.slot, d.length, t.idf, t.frozen, p.impact
        from (select p.term, unnest(p.slots) as slot, unnest(p.impacts) as impact
              from _bm25_0_posting as p where not few and p.term = any ((q).terms)) as p
        join document as d on d.slot = p.slot join term as t on t.term = p.term)
    select array_agg(slot), array_agg(score) into slots, scores
    from (select s.slot,
                 sum(s.idf * f.tf * (k1 + 1) / (f.tf + shortest + now * s.length)) as score
          from stored as s
          cross join lateral (
              select round(s.impact * (shortest + s.frozen * s.length) / greatest(k1 + 1 - s.impact, 1e-9::float8)) as tf offset 0) as f
          where s.impact > 1e-6::float8
          group by s.slot) as rescored;
end
$$;
comment on function pgembed._bm25_0_rescore(pgembed._bm25_query, int[]) is
    'Exact scores of packed documents, by the statistics of now.';
