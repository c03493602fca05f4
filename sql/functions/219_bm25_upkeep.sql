-- What a service asks about BM25 indexes.

create or replace function pgembed._bm25_due_v1() returns table (bm25_id int, name text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
    due boolean;
begin
    for b in select * from pgembed.bm25 as x where x.engine = 'sql' and x.state <> 'broken' order by x.bm25_id loop
        continue when pgembed._table_sql(b.source) is null;
        execute format(
            'select %L = ''pending'' or exists (select from %s offset 1999) '
            'or exists (select from %3$s where op <> ''D'') or exists (select from %3$s offset 999) '
            'or exists (select from %3$s where slot is null offset 99)',
            b.state, pgembed._bm25_table(b.bm25_id, 'recent'), pgembed._bm25_table(b.bm25_id, 'dead'))
        into due;
        if due then
            bm25_id := b.bm25_id;
            name := b.name;
            return next;
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_due_v1() is
    'BM25 indexes with work to do: to be built, 2,000 documents to pack, 1,000 tombstones to purge, 100 '
    'to be given their slot (a search looks up that of each with a word of the query).';

create or replace function pgembed._bm25_maintain_v1(p_bm25_id int) returns text
language plpgsql
as $$
declare
    b pgembed.bm25;
begin
    -- Another service is at it.
    if not pg_try_advisory_xact_lock(1885824368, p_bm25_id) then
        return null;
    end if;
    select * into b from pgembed.bm25 where bm25_id = p_bm25_id;
    return pgembed._bm25_maintain(b, 2000);
end
$$;
comment on function pgembed._bm25_maintain_v1(int) is
    'Does what is due for one BM25 index, unless another session does; returns what it did.';

create or replace function pgembed._bm25_partitions_changed(b pgembed.bm25) returns boolean
language plpgsql
as $$
declare
    part regclass;
    found_row boolean := false;
    trigger_name constant name := pgembed._bm25_trigger_name(b.bm25_id, 'truncate');
begin
    for part in
        select t.relid from pg_catalog.pg_partition_tree(b.source) as t
        where t.level > 0
          and not exists (select from pg_catalog.pg_trigger as g where g.tgrelid = t.relid and g.tgname = trigger_name)
    loop
        -- What was written since it is a partition has been captured.
        execute format(
            'select exists (select from (select p as row, %s as key from %s as p offset 0) as p '
            'where not exists (select from %s as d where d.key = p.key) '
            'and not exists (select from %s as r where r.key = p.key) and (%s(p.row)).lexemes is not null)',
            pgembed._bm25_key_text_sql(b, 'p'), pgembed._table_sql(part), pgembed._bm25_table(b.bm25_id, 'doc'),
            pgembed._bm25_table(b.bm25_id, 'recent'), pgembed._bm25_table(b.bm25_id, 'document'))
        into found_row;
        exit when found_row;
    end loop;
    return found_row or exists (
        select from pg_catalog.pg_trigger as g
        where g.tgname = trigger_name
          and g.tgrelid not in (select relid from pg_catalog.pg_partition_tree(b.source)));
end
$$;
comment on function pgembed._bm25_partitions_changed(pgembed.bm25) is
    'Whether partitions with rows that are not known were attached, or some detached, since they were taken in.';

create or replace function pgembed._bm25_follow_partitions(b pgembed.bm25, p_mark boolean default true) returns void
language plpgsql
set lock_timeout = '50ms'    -- a busy partition has its turn a minute later
as $$
declare
    part regclass;
    trigger_name constant name := pgembed._bm25_trigger_name(b.bm25_id, 'truncate');
    changed boolean := false;
begin
    if p_mark then    -- rows came or went without a trigger
        changed := pgembed._bm25_partitions_changed(b);
    end if;
    for part in
        select t.relid from pg_catalog.pg_partition_tree(b.source) as t
        where t.level > 0
          and not exists (select from pg_catalog.pg_trigger as g where g.tgrelid = t.relid and g.tgname = trigger_name)
    loop
        begin
            perform pgembed._bm25_install_partition_capture(b, part);
        exception when lock_not_available or deadlock_detected then
            continue;
        end;
    end loop;
    for part in
        select g.tgrelid from pg_catalog.pg_trigger as g
        where g.tgname = trigger_name
          and g.tgrelid not in (select relid from pg_catalog.pg_partition_tree(b.source))
    loop
        begin
            execute format('drop trigger %I on %s', trigger_name, pgembed._table_sql(part));
        exception when lock_not_available or deadlock_detected then
            continue;
        end;
    end loop;
    if changed then
        execute format('select %s(''R'')', pgembed._bm25_table(b.bm25_id, 'mark'));
    end if;
end
$$;
comment on function pgembed._bm25_follow_partitions(pgembed.bm25, boolean) is
    'Takes in partitions that were attached since, and lets detached ones go; p_mark has the table read again.';

create or replace function pgembed._bm25_reconcile() returns void
language plpgsql
as $$
declare
    b pgembed.bm25;
begin
    for b in select * from pgembed.bm25 where engine = 'sql' order by bm25_id loop
        if pgembed._table_sql(b.source) is null then
            update pgembed.bm25
            set state = 'broken',
                state_reason = format('The table has been dropped. SELECT pgembed.drop_bm25(%L) removes what is left.', b.name)
            where bm25_id = b.bm25_id and state <> 'broken';
        elsif b.state = 'broken' then
            begin    -- the column may be back
                perform pgembed._bm25_analyze(b);
                if pgembed._bm25_capture_fits(b) then
                    update pgembed.bm25 set state = 'pending' where bm25_id = b.bm25_id and state = 'broken';
                end if;
            exception when sqlstate 'PE003' or sqlstate 'PE004' or sqlstate 'PE007' then
                null;
            end;
        elsif not pgembed._bm25_capture_fits(b) then
            update pgembed.bm25
            set state = 'broken', state_reason = pgembed._bm25_misfit(b.name)
            where bm25_id = b.bm25_id;
        elsif b.state = 'ready' then
            perform pgembed._bm25_sync_readers(b);
            if pgembed._bm25_key_fits(b) is not true then    -- maintenance sees what is the matter
                execute format('select %s(''R'')', pgembed._bm25_table(b.bm25_id, 'mark'));
            end if;
            if pgembed._is_partitioned(b.source) then
                perform pgembed._bm25_follow_partitions(b);
            end if;
            if pgembed._bm25_security_differs(b) then
                begin
                    perform pgembed._bm25_sync_privileges(b);
                exception when lock_not_available or insufficient_privilege then
                    null;    -- the next minute
                end;
            end if;
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_reconcile() is
    'Finds BM25 indexes whose table was dropped, partitioned anew or given row security.';
