-- Exact scores: tf comes back from the stored impact, and is scored with the
-- statistics of now.
create or replace function pgembed._bm25_0_rescore(
    q pgembed._bm25_query, known_slots int[],
    out slots int[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
begin
    with candidate as materialized (
        select d.slot, d.length, t.term, t.idf, t.frozen_idf
        from _bm25_0_doc as d
        cross join unnest((q).terms, (q).idf, (q).frozen_idf) as t(term, idf, frozen_idf)
        where d.slot = any (known_slots)),
    stored as (
        select c.slot, c.length, c.idf, coalesce(
            (select nullif(_bm25_impact(_bm25_unpack(b.impacts), _bm25_place_of(c.slot)), 0) / c.frozen_idf
             from _bm25_0_block as b
             where c.frozen_idf is not null and b.term = c.term collate "C" and b.block = _bm25_block_of(c.slot)),
            (select case when p.slots[i.place] = c.slot then p.impacts[i.place] end
             from (select * from _bm25_0_posting as p
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
$$;
comment on function pgembed._bm25_0_rescore(pgembed._bm25_query, int[]) is
    'Exact scores of packed documents, by the statistics of now.';
