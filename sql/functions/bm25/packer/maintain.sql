-- What is due, in this order. Returns what it did.
create or replace function pgembed._bm25_0_maintain(min_rows int) returns text
language plpgsql
set search_path = pg_catalog, pgembed, pg_temp
set datestyle = 'ISO, YMD'    -- as all keys and texts are written: _key_settings_sql()
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
    b record;
    rows bigint;
    avgdl float8;    -- with what is not packed yet
    done text;
begin
    select * into b from pgembed.bm25 join pgembed.bm25_pack using (bm25_id) where bm25_id = 0;
    select (b.packed_length + coalesce(sum(length), 0))::float8 / nullif(b.packed_rows + count(*), 0) into avgdl
    from _bm25_0_recent;
    if b.state = 'pending' or exists (select from _bm25_0_dead where op <> 'D')
       or b.packed_rows < b.slots / 2 and b.slots > _bm25_smallest_merge() then
        rows := _bm25_0_rebuild();
        update pgembed.bm25 set state = 'ready', state_reason = null where bm25_id = 0;
        return format('built from %s rows', rows);
    end if;
    if b.weighed_to is null and least(avgdl / b.frozen_avgdl, b.frozen_avgdl / avgdl) < 1 / _bm25_drift() then
        update pgembed.bm25_pack set old_avgdl = frozen_avgdl, frozen_avgdl = avgdl, weighed_to = '' where bm25_id = 0;
        b.weighed_to := '';
    end if;
    if b.weighed_to is not null then
        done := 'weighed ' || nullif(_bm25_0_weigh(_bm25_weigh_size()), 0) || ' terms';
    end if;
    perform _bm25_0_settle();
    select count(*) into rows from (select from _bm25_0_recent limit min_rows) as r;
    if rows >= min_rows then
        -- Nothing once a mark is there: what was written after a TRUNCATE must stay
        -- apart from what is packed until the rebuild. And no document before the tombstones
        -- of its key have theirs: of a key at most one packed document lives, so it is clear
        -- which one a tombstone means.
        create temp table bm25_input on commit drop as
        select key, version, length, lexemes, partition from _bm25_0_recent
        where not exists (select from _bm25_0_dead where op <> 'D')
          and key not in (select key from _bm25_0_dead where op = 'D' and slot is null) order by version
        limit case when min_rows >= _bm25_block_size() then _bm25_slot(_bm25_block_of((select count(*) from _bm25_0_recent)::int), 1) end;    -- whole blocks
        delete from _bm25_0_recent where version in (select version from bm25_input);
        rows := 0;
        loop
            rows := rows + _bm25_0_pack_input(_bm25_pack_size());
            exit when not exists (select from bm25_input);
        end loop;
        drop table bm25_input;
        done := concat_ws(', ', done, format('packed %s rows', rows));
        perform _bm25_0_settle();
        if _bm25_0_merge() > 0 and b.weighed_to is null then
            -- The frequencies of words have moved too, by and by.
            update pgembed.bm25_pack set old_avgdl = frozen_avgdl, weighed_to = '' where bm25_id = 0;
            perform _bm25_0_weigh(_bm25_weigh_size());
        end if;
    end if;
    select count(*) into rows from _bm25_0_dead where slot is not null;
    if rows >= least(min_rows, 1000) and rows > 0 then
        done := concat_ws(', ', done, format('purged %s rows', _bm25_0_purge()));
    end if;
    return done;
end
$$;
comment on function pgembed._bm25_0_maintain(int) is
    'Does what is due once min_rows have gathered; returns what it did.';
