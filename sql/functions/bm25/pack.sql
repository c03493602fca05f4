-- The packer: moves what writers appended into the postings, and takes deleted
-- documents out of them. One at a time an index (its catalog row is locked), never blocking
-- writers; a search sees all of its work or, in its snapshot, none.

create or replace function pgembed._bm25_install_packer(p_index pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    -- From the temporary table bm25_input to one new segment.
    perform pgembed._bm25_function(p_index.bm25_id, 'pack_input', 'max_rows int', 'int',
        'volatile set work_mem = ''256MB'' set enable_hashagg = off', $body$
declare
    b record;
    base int;
    added int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = index_N;
    base := (b.slots + 1999) / 2000 * 2000;    -- a new segment starts a new block

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
        where bm25_id = index_N;
        select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = index_N;
        insert into bm25_N_doc (slot, key, version, length, lexemes, partition)
        select s.slot, s.key, s.version, s.length, case when c.relrowsecurity then s.lexemes end, s.partition
        from bm25_slotted as s cross join pg_class as c where c.oid = 'pgembed.bm25_N_doc'::regclass;

        -- An impact is the part of a score that does not change with idf:
        -- tf (k1 + 1) / (tf + k1 (1 - b + b length / avgdl)).
        create temp table bm25_impact on commit drop as
        select term, slot, impact, count(*) over (partition by term, slot / 2000) as in_block
        from (select u.lexeme collate "C" as term, s.slot,
                     (f.tf * (b.k1 + 1) / (f.tf + b.k1 * (1 - b.b + b.b * s.length / b.frozen_avgdl)))::real as impact
              from bm25_slotted as s
              cross join unnest(s.lexemes) as u
              cross join lateral (select coalesce(cardinality(u.positions), 1)::float8 as tf offset 0) as f) as i;

        -- The idf of a dense term is folded into its blocks (pgvector adds fast and
        -- multiplies slowly), so it is frozen when the first is written.
        insert into bm25_N_term as t (term, df, dense_df, max_impact, frozen_idf)
        select term, df, dense_df, max_impact,
               case when dense_df > 0 then ln(1 + (b.packed_rows - df + 0.5) / (df + 0.5)) end
        from (select term, count(*) as df, count(*) filter (where in_block >= 16) as dense_df,
                     max(impact) as max_impact
              from bm25_impact group by term) as i
        on conflict (term) do update
        set df = t.df + excluded.df, dense_df = t.dense_df + excluded.dense_df,
            max_impact = greatest(t.max_impact, excluded.max_impact),
            frozen_idf = coalesce(t.frozen_idf, case when excluded.dense_df > 0 then
                ln(1 + (greatest(b.packed_rows - t.df - excluded.df, 0) + 0.5) / (t.df + excluded.df + 0.5)) end);
        insert into bm25_N_block (term, block, impacts)
        select i.term, slot / 2000,
               ('{' || string_agg((slot % 2000 + 1)::text || ':' || (impact * t.frozen_idf)::real::text, ',')
                || '}/2000')::vectors.sparsevec
        from bm25_impact as i
        join bm25_N_term as t on t.term = i.term
        where in_block >= 16
        group by i.term, slot / 2000;
        insert into bm25_N_posting (term, first_slot, slots, impacts)
        select term, base, array_agg(slot order by slot), array_agg(impact order by slot)
        from bm25_impact
        where in_block < 16
        group by term;
        drop table bm25_impact;
    end if;
    drop table bm25_slotted;
    return added;
end
$body$);

    -- A tombstone and a document of the same key and the same words, neither of them
    -- packed, cancel out, in whatever order they came: a user's trigger may change a row
    -- again before ours has seen the first change. Tombstones of packed documents get their
    -- slot; those that find nothing to kill go.
    perform pgembed._bm25_function(p_index.bm25_id, 'settle', '', 'void', 'volatile', $body$
begin
    with tombstone as materialized (
        select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
        from bm25_N_dead where op = 'D' and slot is null),
    document as materialized (
        select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
        from bm25_N_recent where key in (select key from tombstone)),
    pair as materialized (
        select t.version as dead_version, d.version from tombstone as t join document as d using (key, lexemes, nth)),
    gone as (
        delete from bm25_N_recent where version in (select version from pair))
    delete from bm25_N_dead where op = 'D' and version in (select dead_version from pair);

    with packed as materialized (
        select d.version, p.slot
        from bm25_N_dead as d
        left join lateral (
            select p.slot from bm25_N_doc as p
            where p.key = d.key and p.version < d.version
              and not exists (select from bm25_N_dead as x where x.slot = p.slot)    -- that one is dead already
            order by p.version desc limit 1) as p on true
        where d.op = 'D' and d.slot is null
          -- It may have been committed since the pairs were looked for: its turn is the next.
          and not exists (select from bm25_N_recent as r where r.key = d.key and r.lexemes = d.lexemes)),
    resolved as materialized (
        select distinct on (slot) version, slot from packed
        where slot is not null and slot not in (select slot from bm25_N_dead where slot is not null)
        order by slot, version),
    orphan as (
        delete from bm25_N_dead where op = 'D' and slot is null
           and version in (select version from packed except select version from resolved))
    update bm25_N_dead as d set slot = r.slot
    from resolved as r where d.op = 'D' and d.version = r.version;
    -- Rows that can be read again.
    delete from pgembed.bm25_failed where bm25_id = index_N and key in (select key from bm25_N_recent);
end
$body$);

    -- Takes deleted documents out of blocks and postings. Their lexemes, kept with
    -- the tombstones, say which terms to look at.
    perform pgembed._bm25_function(p_index.bm25_id, 'purge', '', 'int',
        'volatile set work_mem = ''256MB''', $body$
declare
    purged int;
begin
    create temp table bm25_gone on commit drop as
    select slot, slot / 2000 as block, length, lexemes from bm25_N_dead where slot is not null;
    create temp table bm25_gone_term on commit drop as
    select u.lexeme collate "C" as term, g.slot from bm25_gone as g cross join unnest(g.lexemes) as u;
    analyze bm25_gone, bm25_gone_term;

    with mask as materialized (
        select m.block, array_agg(case when g.slot is null then 1 else 0 end order by i)::real[]::vectors.vector as ones
        from (select distinct block from bm25_gone) as m
        cross join generate_series(0, 1999) as i
        left join bm25_gone as g on g.slot = m.block * 2000 + i
        group by m.block)
    update bm25_N_block as b
    set impacts = vectors.vector_mul(b.impacts::vectors.vector, m.ones)::vectors.sparsevec
    from mask as m
    where b.block = m.block;

    with touched as materialized (
        select distinct p.term, p.first_slot
        from bm25_gone_term as g
        join bm25_N_posting as p on p.term = g.term
        where g.slot = any (p.slots)),
    kept as (
        select t.term, t.first_slot,
               array_agg(u.slot order by u.slot) as slots, array_agg(u.impact order by u.slot) as impacts
        from touched as t
        join bm25_N_posting as p using (term, first_slot)
        cross join unnest(p.slots, p.impacts) as u(slot, impact)
        where u.slot not in (select slot from bm25_gone)
        group by t.term, t.first_slot),
    emptied as (
        delete from bm25_N_posting as p using touched as t
        where p.term = t.term and p.first_slot = t.first_slot
          and not exists (select from kept as k where k.term = t.term and k.first_slot = t.first_slot))
    update bm25_N_posting as p set slots = k.slots, impacts = k.impacts
    from kept as k where p.term = k.term and p.first_slot = k.first_slot;

    update bm25_N_term as t set df = t.df - g.df, dense_df = t.dense_df - g.dense_df
    from (select g.term, count(*) as df, count(b.term) as dense_df
          from bm25_gone_term as g
          left join bm25_N_block as b on b.term = g.term and b.block = g.slot / 2000
          group by g.term) as g
    where t.term = g.term;
    delete from bm25_N_term where df <= 0;
    delete from bm25_N_doc where slot in (select slot from bm25_gone);
    delete from bm25_N_dead where slot is not null;
    update pgembed.bm25_pack as b
    set packed_rows = b.packed_rows - g.rows, packed_length = b.packed_length - g.length
    from (select count(*) as rows, coalesce(sum(length), 0) as length from bm25_gone) as g
    where b.bm25_id = index_N;
    select count(*) into purged from bm25_gone;
    drop table bm25_gone, bm25_gone_term;
    return purged;
end
$body$);

    -- Joins the postings of the last segments into one, when eight are small
    -- beside the one before them, so that a term has few rows.
    perform pgembed._bm25_function(p_index.bm25_id, 'merge', '', 'int',
        'volatile set work_mem = ''256MB'' set enable_hashagg = off', $body$
declare
    b record;
    first int;
    total int := 0;
    size int;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = index_N;
    for i in reverse cardinality(b.segments) .. 1 loop
        size := coalesce(b.segments[i + 1], b.slots) - b.segments[i];
        exit when size > greatest(2 * total, 20000);
        first := i;
        total := total + size;
    end loop;
    if first is null or cardinality(b.segments) - first < 7 then
        return 0;
    end if;
    create temp table bm25_merged on commit drop as
    select p.term, array_agg(u.slot order by u.slot) as slots, array_agg(u.impact order by u.slot) as impacts
    from bm25_N_posting as p
    cross join unnest(p.slots, p.impacts) as u(slot, impact)
    where p.first_slot >= b.segments[first]
    group by p.term;
    delete from bm25_N_posting where first_slot >= b.segments[first];
    insert into bm25_N_posting (term, first_slot, slots, impacts)
    select term, b.segments[first], slots, impacts from bm25_merged;
    drop table bm25_merged;
    update pgembed.bm25_pack set segments = b.segments[:first] where bm25_id = index_N;
    return total;
end
$body$);

    -- Folds the idf of now into the blocks of terms where it has moved by 10 %. A
    -- search is exact without, but the further it has moved, the more documents it
    -- has to score anew.
    perform pgembed._bm25_function(p_index.bm25_id, 'refreeze', '', 'void', 'volatile', $body$
begin
    with moved as materialized (
        select term, idf, array_fill(idf / frozen_idf, array[2000])::vectors.vector as factors
        from (select t.term, t.frozen_idf,
                     ln(1 + (greatest(b.packed_rows - t.df, 0) + 0.5) / (t.df + 0.5))::real as idf
              from bm25_N_term as t cross join pgembed.bm25_pack as b
              where t.dense_df > 0 and b.bm25_id = index_N) as now
        where idf / frozen_idf not between 0.91 and 1.1),
    folded as (
        update bm25_N_block as b
        set impacts = vectors.vector_mul(b.impacts::vectors.vector, m.factors)::vectors.sparsevec
        from moved as m where b.term = m.term)
    update bm25_N_term as t set frozen_idf = m.idf
    from moved as m where t.term = m.term;
end
$body$);

    -- Reads the whole table anew, as its owner, in one statement and so in one snapshot:
    -- what recent and dead hold in that snapshot is in the rows too. Later entries have
    -- versions above 0, so their tombstones find what they kill.
    perform pgembed._bm25_function(p_index.bm25_id, 'rebuild', '', 'bigint',
        'volatile set work_mem = ''256MB''', $body$
declare
    t constant pgembed.captured_text := pgembed._text((select x.text_id from pgembed.bm25 as x where x.bm25_id = index_N));
    rows bigint;
begin
    delete from bm25_N_block;
    delete from bm25_N_posting;
    delete from bm25_N_term;
    delete from bm25_N_doc;
    create temp table bm25_input (key text, version bigint, length int, lexemes tsvector, partition regclass) on commit drop;
    with recent as (delete from bm25_N_recent), dead as (delete from bm25_N_dead),
    failed as (delete from pgembed.bm25_failed where bm25_id = index_N),
    document as materialized (select * from pgembed._documents(t)),
    unread as (
        insert into pgembed.bm25_failed (bm25_id, key, error)
        select index_N, key, left(error, 10000) from document where error is not null)
    insert into bm25_input (key, version, length, lexemes, partition)
    select key, 0, length, lexemes, partition from document where lexemes is not null;
    get diagnostics rows = row_count;
    update pgembed.bm25_pack
    set packed_rows = 0, packed_length = 0, slots = 0, segments = '{}',
        frozen_avgdl = (select avg(length) from bm25_input)
    where bm25_id = index_N;
    loop
        exit when bm25_N_pack_input(200000) = 0;
    end loop;
    drop table bm25_input;
    return rows;
end
$body$);

    -- What is due, in this order. Returns what it did.
    perform pgembed._bm25_function(p_index.bm25_id, 'maintain', 'min_rows int', 'text',
        'volatile set search_path = index_path ' || pgembed._key_settings_sql(), $body$
declare
    b record;
    rows bigint;
    avgdl float8;    -- with what is not packed yet
    done text;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = index_N;
    select (b.packed_length + coalesce(sum(length), 0))::float8 / nullif(b.packed_rows + count(*), 0) into avgdl
    from bm25_N_recent;
    if b.state = 'pending' or exists (select from bm25_N_dead where op <> 'D')
       or b.packed_rows < b.slots / 2 and b.slots > 20000
       -- Built from a few short rows, and filled since: impacts that are far off make
       -- searches slow.
       or least(avgdl / b.frozen_avgdl, b.frozen_avgdl / avgdl) < 0.91 then
        rows := bm25_N_rebuild();
        update pgembed.bm25 set state = 'ready', state_reason = null where bm25_id = index_N;
        return format('built from %s rows', rows);
    end if;
    perform bm25_N_settle();
    select count(*) into rows from (select from bm25_N_recent limit min_rows) as r;
    if rows >= min_rows then
        -- Nothing once a mark is there: what was written after a TRUNCATE must stay
        -- apart from what is packed until the rebuild. And no document before the tombstones
        -- of its key have theirs: of a key at most one packed document lives, so it is clear
        -- which one a tombstone means.
        create temp table bm25_input on commit drop as
        select key, version, length, lexemes, partition from bm25_N_recent
        where not exists (select from bm25_N_dead where op <> 'D')
          and key not in (select key from bm25_N_dead where op = 'D' and slot is null) order by version
        limit case when min_rows >= 2000 then (select count(*) from bm25_N_recent) / 2000 * 2000 end;    -- whole blocks
        delete from bm25_N_recent where version in (select version from bm25_input);
        rows := 0;
        loop
            rows := rows + bm25_N_pack_input(200000);
            exit when not exists (select from bm25_input);
        end loop;
        drop table bm25_input;
        done := format('packed %s rows', rows);
        perform bm25_N_settle();
        if bm25_N_merge() > 0 then
            perform bm25_N_refreeze();
        end if;
    end if;
    select count(*) into rows from bm25_N_dead where slot is not null;
    if rows >= least(min_rows, 1000) and rows > 0 then
        done := concat_ws(', ', done, format('purged %s rows', bm25_N_purge()));
    end if;
    return done;
end
$body$);
end
$create$;
comment on function pgembed._bm25_install_packer(pgembed.bm25) is
    'Makes, or makes again, the functions that maintain a BM25 index.';
