-- From the temporary table bm25_input to one new segment.
create or replace function pgembed._bm25_0_pack_input(max_rows int) returns int
language plpgsql
set work_mem = '256MB'
set enable_hashagg = off
as $$
declare
    b record;
    base int;
    added int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
    base := _bm25_slot(_bm25_block_of(b.slots + _bm25_block_size() - 1), 1);    -- a new segment starts a new block

    create temp table bm25_slotted on commit drop as
    select (row_number() over ())::int - 1 + base as slot, i.*
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
        from bm25_slotted as s cross join pg_class as c where c.oid = 'pgembed._bm25_0_doc'::regclass;

        -- An impact is the part of a score that does not change with idf:
        -- tf (k1 + 1) / (tf + k1 (1 - b + b length / avgdl)).
        create temp table bm25_impact on commit drop as
        select term, slot, impact, count(*) over (partition by term, _bm25_block_of(slot)) as in_block
        from (select u.lexeme collate "C" as term, s.slot,
                     (f.tf * (b.k1 + 1) / (f.tf + b.k1 * (1 - b.b + b.b * s.length / b.frozen_avgdl)))::real as impact
              from bm25_slotted as s
              cross join unnest(s.lexemes) as u
              cross join lateral (select case when b.field_weights is null then coalesce(cardinality(u.positions), 1)
                                               else _bm25_tf(u.weights, b.field_weights) end::float8 as tf offset 0) as f) as i;

        -- The idf of a dense term is folded into its blocks (pgvector adds fast and
        -- multiplies slowly), so it is frozen when the first is written.
        insert into _bm25_0_term as t (term, df, dense_df, max_impact, frozen_idf)
        select term, df, dense_df, max_impact,
               case when dense_df > 0 then ln(1 + (b.packed_rows - df + 0.5) / (df + 0.5)) end
        from (select term, count(*) as df, count(*) filter (where in_block >= _bm25_dense_from()) as dense_df,
                     max(impact) as max_impact
              from bm25_impact group by term) as i
        on conflict (term) do update
        set df = t.df + excluded.df, dense_df = t.dense_df + excluded.dense_df,
            max_impact = greatest(t.max_impact, excluded.max_impact),
            frozen_idf = coalesce(t.frozen_idf, case when excluded.dense_df > 0 then
                ln(1 + (greatest(b.packed_rows - t.df - excluded.df, 0) + 0.5) / (t.df + excluded.df + 0.5)) end);
        insert into _bm25_0_block (term, block, impacts)
        select i.term, _bm25_block_of(slot),
               _bm25_sparse(string_agg(_bm25_place_of(slot)::text || ':' || (impact * t.frozen_idf)::real::text, ','))
        from bm25_impact as i
        join _bm25_0_term as t on t.term = i.term
        where in_block >= _bm25_dense_from()
        group by i.term, _bm25_block_of(slot);
        insert into _bm25_0_posting (term, first_slot, slots, impacts)
        select term, base, array_agg(slot order by slot), array_agg(impact order by slot)
        from bm25_impact
        where in_block < _bm25_dense_from()
        group by term;
        drop table bm25_impact;
    end if;
    drop table bm25_slotted;
    return added;
end
$$;
comment on function pgembed._bm25_0_pack_input(int) is
    'Makes one segment of at most so many documents of the temporary table bm25_input; returns how many.';
