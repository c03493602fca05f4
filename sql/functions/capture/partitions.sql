-- Partitions come and go behind the parent's back: attached with rows in them, or
-- detached with theirs. Each needs the one trigger that it does not inherit (TRUNCATE).

create or replace function pgembed._unknown_rows_sql(t pgembed.captured_text, p_part oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- What was written since it is a partition has been captured.
    select format('select 1::int8, null::text from %s as p where %s limit 1', pgembed._table_sql(p_part), string_agg(condition, ' or '))
    from (
        select format('not exists (select from %s as s where %s)', pgembed._table_sql(e.side_table),
                      pgembed._key_sql(e.source, e.side_table, 'p.%2$I %7$s s.%3$I', ' and ')) as condition
        from pgembed.embedding as e where e.text_id = (t).text_id and pgembed._table_sql(e.side_table) is not null
        union all
        select format('not exists (select from %1$s as d where d.key = %2$s) and not exists (select from %3$s as r where r.key = %2$s) '
                      'and (pgembed._text_%4$s_document(p)).lexemes is not null',
                      pgembed._bm25_table(b.bm25_id, 'doc'), pgembed._key_text_sql(b.source, 'p'),
                      pgembed._bm25_table(b.bm25_id, 'recent'), b.text_id)
        from pgembed.bm25 as b where b.text_id = (t).text_id) as conditions
$$;
comment on function pgembed._unknown_rows_sql(pgembed.captured_text, oid) is
    'Query, to be read as the owner, that finds a row of a partition that nothing is known of.';

create or replace function pgembed._partitions_differ(t pgembed.captured_text, out came oid[], out went oid[])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with part as (
        select p.relid::oid from pg_partition_tree((t).source) as p where p.level > 0),
    watched as (
        select g.tgrelid as relid from pg_trigger as g
        where g.tgname = pgembed._trigger_name((t).text_id, 'truncate') and g.tgrelid <> (t).source)
    select array(select relid from part except select relid from watched),
           array(select relid from watched except select relid from part)
$$;
comment on function pgembed._partitions_differ(pgembed.captured_text) is
    'Partitions that were attached, and tables that were detached, since they were taken in or let go.';

create or replace function pgembed._follow_partitions(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changes record := pgembed._partitions_differ(t);
    patience constant text := current_setting('lock_timeout');
    part oid;
    again boolean := false;
    parts constant text[] := array(select pgembed._table_sql(p.relid) from pg_partition_tree(t.source) as p where p.level > 0 order by 1);
begin
    if not t.capture then
        return;
    end if;
    if parts <> t.partitions then
        again := not t.partitions <@ parts;    -- of one that was dropped not even a trigger is left
        update pgembed.captured_text set partitions = parts where text_id = t.text_id;
    end if;
    -- A busy partition has its turn a minute later.
    perform set_config('lock_timeout', '50ms', true);
    foreach part in array changes.came loop
        begin
            again := again or cardinality(pgembed._keys_as_owner(t.text_id, pgembed._unknown_rows_sql(t, part))) > 0;
            perform pgembed._run_as_owner(t.text_id, pgembed._partition_trigger_sql(t, part));
        exception when lock_not_available or deadlock_detected then
            null;
        end;
    end loop;
    foreach part in array changes.went loop
        begin
            perform pgembed._run_as_owner(t.text_id, format('drop trigger if exists %I on %s',
                pgembed._trigger_name(t.text_id, 'truncate'), pgembed._table_sql(part)));
            again := true;    -- its rows left without a DELETE
        exception when lock_not_available or deadlock_detected or insufficient_privilege then
            null;
        end;
    end loop;
    perform set_config('lock_timeout', patience, true);
    if again then
        perform pgembed._must_be_read_again(t.text_id);
    end if;
end
$$;
comment on function pgembed._follow_partitions(pgembed.captured_text) is
    'Takes in partitions that were attached since, and lets detached ones go.';
