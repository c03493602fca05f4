-- What keeps BM25 indexes up: by the service, by pg_cron, by hand.

create or replace function pgembed._bm25_lock(p_id int) returns void
language sql
as $$
    select from pgembed.bm25 as b where b.bm25_id operator(pg_catalog.=) p_id for update
$$;
comment on function pgembed._bm25_lock(int) is
    'Waits until no one else maintains a BM25 index, until the end of the transaction.';

create or replace function pgembed._bm25_maintain(b pgembed.bm25, p_min_rows int) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text;
    done text;
    changed boolean;
    locks boolean;
    vectors boolean;
    patience constant text := current_setting('lock_timeout');
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'BM25 indexes cannot be maintained in a % transaction', current_setting('transaction_isolation')
            using errcode = 'PE007', hint = 'Use READ COMMITTED: the work must see what others have committed.';
    end if;
    perform pgembed._bm25_lock(b.bm25_id);
    select * into b from pgembed.bm25 where bm25_id = b.bm25_id;    -- as it is now that the lock is here
    if not found then
        return null;
    end if;
    t := pgembed._text(b.text_id);
    vectors := exists (select from pgembed.embedding where text_id = t.text_id);
    if t.state = 'broken' or pgembed._capture_differs(t) or pgembed._security_differs(t) then
        locks := t.capture and not pgembed._triggers_fit(t) or t.key_columns is distinct from pgembed._key_columns(t.source)
                 or pgembed._security_differs(t);
        begin
            perform set_config('lock_timeout', '1s', true);
            locks := pgembed._follow(t, false) and vectors or locks;
            perform set_config('lock_timeout', patience, true);
        exception
            when lock_not_available then
                return 'waits: the table has changed, and transactions that write are open';
            when sqlstate 'PE018' then
                return format('waits: its text cannot be looked at: %s', sqlerrm);
        end;
        t := pgembed._text(b.text_id);
        if t.state = 'broken' then
            update pgembed.bm25 set state = 'broken', state_reason = t.state_reason where bm25_id = b.bm25_id;
            return format('broken: %s', t.state_reason);
        elsif locks then
            -- A step of its own, not before hours of building: it locks out writers, or holds
            -- the row of the embedding, whose first fill then stops.
            return 'followed its table';
        end if;
        select * into b from pgembed.bm25 where bm25_id = b.bm25_id;
    end if;
    perform pgembed._sync_readers(t);
    if pgembed._follow_partitions(t) and vectors then
        return 'followed its table';
    end if;
    if exists (select from pgembed.bm25_failed where bm25_id = b.bm25_id) then
        perform pgembed._bm25_forget_failed(b, t);
    end if;
    if b.config_digest is distinct from pgembed._bm25_config_digest(b) then
        perform pgembed._bm25_mark(b.bm25_id);
    end if;
    execute format('select exists (select from %s where op = ''R'')', pgembed._bm25_part(b.bm25_id, 'dead')) into changed;
    if changed or b.state <> 'ready' or not pgembed._key_immediate(b.source) then
        begin
            b := pgembed._bm25_check(b);
        exception when sqlstate 'PE003' or sqlstate 'PE004' or sqlstate 'PE007' then
            update pgembed.bm25 set state = 'broken', state_reason = sqlerrm where bm25_id = b.bm25_id;
            return format('broken: %s', sqlerrm);
        end;
        perform pgembed._install_functions(t);    -- compiled anew in every session
        b.config_digest := pgembed._bm25_config_digest(b);
        update pgembed.bm25 as x set state = 'pending', config_digest = b.config_digest where x.bm25_id = b.bm25_id;
    end if;
    execute format('select %s($1)', pgembed._bm25_part(b.bm25_id, 'maintain')) into done using p_min_rows;
    if changed then
        -- Rows that fail as if a column were missing, now that none is, fail by their
        -- values: to read them again would change nothing.
        execute format('delete from %s where op = ''R'' and key = pg_current_xact_id()::text',
                       pgembed._bm25_part(b.bm25_id, 'dead'));
    end if;
    return done;
end
$$;
comment on function pgembed._bm25_maintain(pgembed.bm25, int) is
    'Does what is due for a BM25 index once p_min_rows have gathered; returns what it did.';

create or replace function pgembed._bm25_forget_failed(b pgembed.bm25, t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    keys constant text[] := array(select distinct key from pgembed.bm25_failed where bm25_id = b.bm25_id and key is not null limit 1000);
begin
    delete from pgembed.bm25_failed where bm25_id = b.bm25_id and key = any (pgembed._missing_keys(t, keys));
    -- What made them fail may be mended: a function, a right.
    if pgembed._keys_of_rows(t, keys, format('(pgembed._text_%s_document(s.*)).error is null', t.text_id)) <> '{}'
       and exists (select from pgembed.bm25_failed where bm25_id = b.bm25_id) then
        perform pgembed._bm25_mark(b.bm25_id);
    end if;
end
$$;
comment on function pgembed._bm25_forget_failed(pgembed.bm25, pgembed.captured_text) is
    'Forgets failed rows that are gone, and has all read again when one could be read now.';

create or replace function pgembed.bm25_maintain(name text default null, min_rows bigint default 2000)
returns table (bm25 text, done text)
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b pgembed.bm25;
    wanted int;
begin
    perform pgembed._require_owner();
    if bm25_maintain.name is not null then
        wanted := (pgembed._bm25(bm25_maintain.name)).bm25_id;
    end if;
    perform pgembed._back_inside();
    if bm25_maintain.min_rows < 1 or bm25_maintain.min_rows is null then
        raise exception 'min_rows must be 1 or more, not %', coalesce(bm25_maintain.min_rows::text, 'NULL')
            using errcode = 'PE007', hint = 'Rows are packed when so many have gathered.';
    end if;
    for b in select * from pgembed.bm25 as x where wanted is null or x.bm25_id = wanted order by x.name loop
        bm25 := b.name;
        done := pgembed._bm25_maintain(b, least(bm25_maintain.min_rows, 2000000000)::int);
        perform pgembed._back_inside();
        if done is not null then
            return next;
        end if;
    end loop;
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.bm25_maintain(text, bigint) is
    'Builds, packs, merges and purges BM25 indexes where that is due. The encoder service does this by '
    'itself; without one, call it from pg_cron. Writers never wait for it.';

create or replace function pgembed._bm25_due_v1(p_erase_seconds float8 default 3600) returns table (bm25_id int, name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
    due boolean;
begin
    for b in select * from pgembed.bm25 as x where x.state <> 'broken' order by x.bm25_id loop
        continue when pgembed._table_sql(b.source) is null or to_regclass(pgembed._bm25_part(b.bm25_id, 'dead')) is null
            or to_regclass(pgembed._bm25_part(b.bm25_id, 'recent')) is null;
        execute format(
            'select %L = ''pending'' or exists (select from %s offset 1999) '
            'or exists (select from pgembed.bm25_pack where bm25_id = %4$s and weighed_to is not null) '
            'or exists (select from %3$s where op <> ''D'') or exists (select from %3$s offset 999) '
            'or exists (select from %3$s where slot is null offset 99) '
            'or exists (select from %3$s where recorded_at not between clock_timestamp() - make_interval(secs => $1) and clock_timestamp()) '
            'or exists (select from pgembed.bm25_failed where bm25_id = %4$s and failed_at not between clock_timestamp() - interval ''1 minute'' and clock_timestamp())',
            b.state, pgembed._bm25_part(b.bm25_id, 'recent'), pgembed._bm25_part(b.bm25_id, 'dead'), b.bm25_id)
        into due using p_erase_seconds;
        if due then
            bm25_id := b.bm25_id;
            name := b.name;
            return next;
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_due_v1(float8) is
    'BM25 indexes with work to do: to be built, or weighed further, 2,000 documents to pack, 1,000 tombstones to purge or one that is '
    'older than the given seconds, 100 to be given their slot (a search looks up that of each with a word of the query).';

create or replace function pgembed._bm25_maintain_v1(p_bm25_id int, p_erase_seconds float8 default 3600) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
    done text;
    old boolean;
begin
    -- Another service is at it.
    select * into b from pgembed.bm25 where bm25_id = p_bm25_id for update skip locked;
    if not found then
        return null;
    end if;
    done := pgembed._bm25_maintain(b, 2000);
    if to_regclass(pgembed._bm25_part(p_bm25_id, 'dead')) is not null then
        execute format('select exists (select from %s where recorded_at not between clock_timestamp() - make_interval(secs => $1) and clock_timestamp())',
                       pgembed._bm25_part(p_bm25_id, 'dead')) into old using p_erase_seconds;
        if old then
            done := concat_ws(', ', done, pgembed._bm25_maintain(b, 1));
        end if;
    end if;
    return done;
end
$$;
comment on function pgembed._bm25_maintain_v1(int, float8) is
    'Does what is due for one BM25 index, unless another session does; returns what it did.';

create or replace function pgembed._bm25_reconcile() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
    t pgembed.captured_text;
begin
    for b in select * from pgembed.bm25 order by bm25_id for update skip locked loop
        t := pgembed._text(b.text_id);
        if t.state = 'broken' then
            update pgembed.bm25 set state = 'broken', state_reason = t.state_reason
            where bm25_id = b.bm25_id and (state, state_reason) is distinct from ('broken', t.state_reason);
            continue;
        end if;
        begin
            perform pgembed._bm25_check(b);
        exception when sqlstate 'PE003' or sqlstate 'PE004' or sqlstate 'PE007' then
            update pgembed.bm25 set state = 'broken', state_reason = sqlerrm
            where bm25_id = b.bm25_id and (state, state_reason) is distinct from ('broken', sqlerrm);
            continue;
        end;
        if b.state = 'broken' then    -- what was amiss is mended
            update pgembed.bm25 set state = 'pending', state_reason = null where bm25_id = b.bm25_id;
        elsif b.config_digest is distinct from pgembed._bm25_config_digest(b) then
            perform pgembed._bm25_mark(b.bm25_id);
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_reconcile() is
    'Says which BM25 indexes are broken, with their text or by their configuration, and which are so no more.';
