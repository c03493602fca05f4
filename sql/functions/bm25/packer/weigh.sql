-- Weighs what is stored anew, term by term, once the average length (bm25_pack.frozen_avgdl,
-- old_avgdl) or the idf of terms has moved by 10 %: from the impacts themselves and the lengths
-- of documents, without the table. A search is exact without, but the further they
-- have moved, the more documents it has to score anew. Each call takes the next terms that need
-- it, about so many entries, and notes how far it came (weighed_to): a search or a packer
-- in between finds each term as it is.
create or replace function pgembed._bm25_0_weigh(max_entries bigint) returns int
language plpgsql
set work_mem = '256MB'
as $$
declare
    b record;
    last text collate "C";    -- NULL: there are none after these
    weighed int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
    create temp table bm25_term on commit drop as
    select term, df, frozen_idf, idf
    from (select t.*, sum(t.df) over (order by t.term) - t.df as before
          from (select term, df, dense_df, frozen_idf, _bm25_idf(b.packed_rows, df)::real as idf
                from _bm25_0_term where term > b.weighed_to) as t
          where b.old_avgdl <> b.frozen_avgdl
             or dense_df > 0 and idf / frozen_idf not between 1 / _bm25_drift() and _bm25_drift()
          order by t.term limit 100000) as next
    where before < max_entries;
    select count(*), case when count(*) = 100000 or sum(df) >= max_entries then max(term) end
    into weighed, last from bm25_term;

    create temp table bm25_entry on commit drop as
    select e.term, e.first_slot, e.slot, e.idf,
           _bm25_weight(_bm25_frequency(e.impact, _bm25_norm(d.length, b.old_avgdl, b.k1, b.b), b.k1),
                        _bm25_norm(d.length, b.frozen_avgdl, b.k1, b.b), b.k1)::real as impact
    from (select t.term, null::int as first_slot, _bm25_slot(s.block, u.place) as slot, t.idf, u.impact / t.frozen_idf as impact
          from bm25_term as t
          join _bm25_0_block as s on s.term = t.term
          cross join _bm25_entries(s.impacts) as u
          union all
          select t.term, p.first_slot, u.slot, t.idf, u.impact
          from bm25_term as t
          join _bm25_0_posting as p on p.term = t.term
          cross join unnest(p.slots, p.impacts) as u(slot, impact)) as e
    join _bm25_0_doc as d on d.slot = e.slot;

    update _bm25_0_block as s set impacts = e.impacts
    from (select term, _bm25_block_of(slot) as block,
                 _bm25_sparse(string_agg(_bm25_place_of(slot)::text || ':' || (impact * idf)::real::text, ',')) as impacts
          from bm25_entry where first_slot is null
          group by term, _bm25_block_of(slot)) as e
    where s.term = e.term and s.block = e.block;
    update _bm25_0_posting as p set slots = e.slots, impacts = e.impacts
    from (select term, first_slot, array_agg(slot order by slot) as slots, array_agg(impact order by slot) as impacts
          from bm25_entry where first_slot is not null
          group by term, first_slot) as e
    where p.term = e.term and p.first_slot = e.first_slot;
    update _bm25_0_term as t set max_impact = e.max_impact, frozen_idf = case when t.dense_df > 0 then e.idf end
    from (select term, idf, max(impact) as max_impact from bm25_entry group by term, idf) as e
    where t.term = e.term;
    update pgembed.bm25_pack set weighed_to = last where bm25_id = 0;
    drop table bm25_term, bm25_entry;
    return weighed;
end
$$;
comment on function pgembed._bm25_0_weigh(bigint) is
    'Weighs stored impacts of the next terms anew, about so many entries; returns of how many terms.';
