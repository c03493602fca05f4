-- A tombstone and a document of the same key and the same words, neither of them
-- packed, cancel out, in whatever order they came: a user's trigger may change a row
-- again before ours has seen the first change. Tombstones of packed documents get their
-- slot; those that find nothing to kill go.
create or replace function pgembed._bm25_0_settle() returns void
language plpgsql
as $$
begin
    with tombstone as materialized (
        select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
        from _bm25_0_dead where op = 'D' and slot is null),
    document as materialized (
        select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
        from _bm25_0_recent where key in (select key from tombstone)),
    pair as materialized (
        select t.version as dead_version, d.version from tombstone as t join document as d using (key, lexemes, nth)),
    gone as (
        delete from _bm25_0_recent where version in (select version from pair))
    delete from _bm25_0_dead where op = 'D' and version in (select dead_version from pair);

    with packed as materialized (
        select d.version, p.slot
        from _bm25_0_dead as d
        left join lateral (
            select p.slot from _bm25_0_doc as p
            where p.key = d.key and p.version < d.version
              and not exists (select from _bm25_0_dead as x where x.slot = p.slot)    -- that one is dead already
            order by p.version desc limit 1) as p on true
        where d.op = 'D' and d.slot is null
          -- It may have been committed since the pairs were looked for: its turn is the next.
          and not exists (select from _bm25_0_recent as r where r.key = d.key and r.lexemes = d.lexemes)),
    resolved as materialized (
        select distinct on (slot) version, slot from packed
        where slot is not null and slot not in (select slot from _bm25_0_dead where slot is not null)
        order by slot, version),
    orphan as (
        delete from _bm25_0_dead where op = 'D' and slot is null
           and version in (select version from packed except select version from resolved))
    update _bm25_0_dead as d set slot = r.slot
    from resolved as r where d.op = 'D' and d.version = r.version;
    -- Rows that can be read again.
    delete from pgembed.bm25_failed where bm25_id = 0 and key in (select key from _bm25_0_recent);
end
$$;
comment on function pgembed._bm25_0_settle() is
    'Finds what each tombstone kills: a document that is not packed, else the slot of a packed one.';
