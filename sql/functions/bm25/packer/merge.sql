-- Joins the postings of the last segments into one, when eight are small
-- beside the one before them, so that a term has few rows.
create or replace function pgembed._bm25_0_merge() returns int
language plpgsql
set work_mem = '256MB'
set enable_hashagg = off
as $$
declare
    b record;
    first int;
    total int := 0;
    size int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
    for i in reverse cardinality(b.segments) .. 1 loop
        size := coalesce(b.segments[i + 1], b.slots) - b.segments[i];
        exit when size > greatest(2 * total, _bm25_smallest_merge());
        first := i;
        total := total + size;
    end loop;
    if first is null or cardinality(b.segments) - first < 7 then
        return 0;
    end if;
    create temp table bm25_merged on commit drop as
    select p.term, array_agg(u.slot order by u.slot) as slots, array_agg(u.impact order by u.slot) as impacts
    from _bm25_0_posting as p
    cross join unnest(p.slots, p.impacts) as u(slot, impact)
    where p.first_slot >= b.segments[first]
    group by p.term;
    delete from _bm25_0_posting where first_slot >= b.segments[first];
    insert into _bm25_0_posting (term, first_slot, slots, impacts)
    select term, b.segments[first], slots, impacts from bm25_merged;
    drop table bm25_merged;
    update pgembed.bm25_pack set segments = b.segments[:first] where bm25_id = 0;
    return total;
end
$$;
comment on function pgembed._bm25_0_merge() is
    'Joins the last segments into one when they are many and small; returns how many slots they have.';
