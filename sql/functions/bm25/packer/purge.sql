-- Takes deleted documents out of blocks and postings. Their lexemes, kept with
-- the tombstones, say which terms to look at.
create or replace function pgembed._bm25_0_purge() returns int
language plpgsql
set work_mem = '256MB'
as $$
declare
    purged int;
begin
    create temp table bm25_gone on commit drop as
    select slot, _bm25_block_of(slot) as block, length, lexemes from _bm25_0_dead where slot is not null;
    create temp table bm25_gone_term on commit drop as
    select u.lexeme collate "C" as term, g.slot from bm25_gone as g cross join unnest(g.lexemes) as u;
    analyze bm25_gone, bm25_gone_term;

    with mask as materialized (
        select m.block, _bm25_vector(array_agg(case when g.slot is null then 1 else 0 end order by place)::real[]) as ones
        from (select distinct block from bm25_gone) as m
        cross join generate_series(1, _bm25_block_size()) as place
        left join bm25_gone as g on g.slot = _bm25_slot(m.block, place)
        group by m.block)
    update _bm25_0_block as b
    set impacts = _bm25_pack(_bm25_multiply(_bm25_unpack(b.impacts), m.ones))
    from mask as m
    where b.block = m.block;

    with touched as materialized (
        select distinct p.term, p.first_slot
        from bm25_gone_term as g
        join _bm25_0_posting as p on p.term = g.term
        where g.slot = any (p.slots)),
    kept as (
        select t.term, t.first_slot,
               array_agg(u.slot order by u.slot) as slots, array_agg(u.impact order by u.slot) as impacts
        from touched as t
        join _bm25_0_posting as p using (term, first_slot)
        cross join unnest(p.slots, p.impacts) as u(slot, impact)
        where u.slot not in (select slot from bm25_gone)
        group by t.term, t.first_slot),
    emptied as (
        delete from _bm25_0_posting as p using touched as t
        where p.term = t.term and p.first_slot = t.first_slot
          and not exists (select from kept as k where k.term = t.term and k.first_slot = t.first_slot))
    update _bm25_0_posting as p set slots = k.slots, impacts = k.impacts
    from kept as k where p.term = k.term and p.first_slot = k.first_slot;

    update _bm25_0_term as t set df = t.df - g.df, dense_df = t.dense_df - g.dense_df
    from (select g.term, count(*) as df, count(b.term) as dense_df
          from bm25_gone_term as g
          left join _bm25_0_block as b on b.term = g.term and b.block = _bm25_block_of(g.slot)
          group by g.term) as g
    where t.term = g.term;
    delete from _bm25_0_term where df <= 0;
    delete from _bm25_0_doc where slot in (select slot from bm25_gone);
    delete from _bm25_0_dead where slot is not null;
    update pgembed.bm25_pack as b
    set packed_rows = b.packed_rows - g.rows, packed_length = b.packed_length - g.length
    from (select count(*) as rows, coalesce(sum(length), 0) as length from bm25_gone) as g
    where b.bm25_id = 0;
    select count(*) into purged from bm25_gone;
    drop table bm25_gone, bm25_gone_term;
    return purged;
end
$$;
comment on function pgembed._bm25_0_purge() is
    'Takes deleted documents out of blocks, postings and statistics; returns how many.';
