-- From the temporary table bm25_input to one new segment.
create or replace function pgembed._bm25_0_pack_input(max_rows int) returns int
language plpgsql
set work_mem = '256MB'
as $$
declare
    b record;
    base int;
    added int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
    base := _bm25_slot(_bm25_block_of(b.slots + _bm25_block_size() - 1), 1);    -- a new segment starts a new block

    -- In the order of their keys, so that the index on these is filled from one end.
    create temp table bm25_slotted on commit drop as
    select (row_number() over (order by key))::int - 1 + base as slot, i.*
    from (select i.ctid as input, i.* from bm25_input as i limit max_rows) as i;
    select count(*) into added from bm25_slotted;
    if added > 0 then
        delete from bm25_input where ctid in (select input from bm25_slotted);
        update pgembed.bm25_pack
        set frozen_avgdl = coalesce(b.frozen_avgdl, (select avg(length) from bm25_slotted)),
            slots = base + added,
            segments = b.segments || base,
            packed_rows = b.packed_rows + added,
            packed_length = b.packed_length + (select sum(length) from bm25_slotted)
        where bm25_id = 0;
        select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
        insert into _bm25_0_doc (slot, key, version, length, lexemes, partition)
        select s.slot, s.key, s.version, s.length, case when c.relrowsecurity then s.lexemes end, s.partition
        from bm25_slotted as s cross join pg_class as c where c.oid = 'pgembed._bm25_0_doc'::regclass
        order by s.slot;

        -- Block by block, so that what is gathered fits into the processor's cache.
        create index on bm25_slotted (slot);
        create temp table bm25_run (term text collate "C", block int, slots int[], impacts real[], max_impact real) on commit drop;
        for number in _bm25_block_of(base) .. _bm25_block_of(base + added - 1) loop
            insert into bm25_run (term, block, slots, impacts, max_impact)
            select term, number, array_agg(slot), array_agg(impact), max(impact)
            from (select u.lexeme collate "C" as term, s.slot,
                         case when b.field_weights is null then _bm25_weight(coalesce(cardinality(u.positions), 1), n.norm, b.k1)
                              else _bm25_weight(_bm25_tf(u.weights, b.field_weights), n.norm, b.k1) end::real as impact
                  from (select slot, lexemes, _bm25_norm(length, b.frozen_avgdl, b.k1, b.b) as norm,
                               _bm25_norm(length, b.old_avgdl, b.k1, b.b) as old_norm
                        from bm25_slotted
                        where slot between _bm25_slot(number, 1) and _bm25_slot(number, _bm25_block_size())) as s
                  cross join unnest(s.lexemes) as u
                  -- While terms are weighed anew, each is packed as the rest of it is.
                  cross join lateral (select case when b.weighed_to is null or u.lexeme collate "C" <= b.weighed_to
                                                  then s.norm else s.old_norm end as norm) as n) as entry
            group by term;
        end loop;

        -- The idf of a dense term is folded into its blocks (pgvector adds fast and
        -- multiplies slowly), so it is frozen when the first is written.
        insert into _bm25_0_term as t (term, df, dense_df, max_impact, frozen_idf)
        select term, df, dense_df, max_impact, case when dense_df > 0 then _bm25_idf(b.packed_rows, df) end
        from (select term, sum(cardinality(slots)) as df, max(max_impact) as max_impact,
                     coalesce(sum(cardinality(slots)) filter (where cardinality(slots) >= _bm25_dense_from()), 0) as dense_df
              from bm25_run group by term) as i
        order by term
        on conflict (term) do update
        set df = t.df + excluded.df, dense_df = t.dense_df + excluded.dense_df,
            max_impact = greatest(t.max_impact, excluded.max_impact),
            frozen_idf = coalesce(t.frozen_idf, case when excluded.dense_df > 0 then _bm25_idf(b.packed_rows, t.df + excluded.df) end);
        insert into _bm25_0_block (term, block, impacts)
        select r.term, r.block,
               (select _bm25_sparse(string_agg(_bm25_place_of(u.slot)::text || ':' || (u.impact * t.frozen_idf)::real::text, ','))
                from unnest(r.slots, r.impacts) as u(slot, impact))
        from bm25_run as r
        join _bm25_0_term as t on t.term = r.term
        where cardinality(r.slots) >= _bm25_dense_from()
        order by r.term, r.block;
        insert into _bm25_0_posting (term, first_slot, slots, impacts)
        select r.term, base, array_agg(u.slot order by u.slot), array_agg(u.impact order by u.slot)
        from bm25_run as r
        cross join unnest(r.slots, r.impacts) as u(slot, impact)
        where cardinality(r.slots) < _bm25_dense_from()
        group by r.term
        order by r.term;
        drop table bm25_run;
    end if;
    drop table bm25_slotted;
    return added;
end
$$;
comment on function pgembed._bm25_0_pack_input(int) is
    'Makes one segment of at most so many documents of the temporary table bm25_input; returns how many.';
