-- Services: heartbeats, and the care for embeddings whose table has changed.

create or replace function pgembed._heartbeat_v1(
    p_worker_id uuid, p_hostname text, p_pid int, p_version text, p_models text[], p_rates jsonb
) returns void
language sql
as $$
    insert into pgembed.worker (worker_id, hostname, pid, version, models, rates)
    values (p_worker_id, p_hostname, p_pid, p_version, p_models, p_rates)
    on conflict (worker_id) do update
    set models = excluded.models, rates = excluded.rates, heartbeat_at = clock_timestamp()
$$;
comment on function pgembed._heartbeat_v1(uuid, text, int, text, text[], jsonb) is
    'A service says that it is alive, what it has loaded and how fast it is.';

create or replace function pgembed._goodbye_v1(p_worker_id uuid) returns void
language sql
as $$
    delete from pgembed.worker where worker_id = p_worker_id
$$;
comment on function pgembed._goodbye_v1(uuid) is 'A service stops.';

create or replace function pgembed._service_alive() returns boolean
language sql stable
as $$
    -- A heartbeat is due every few seconds.
    select exists (select from pgembed.worker where heartbeat_at > clock_timestamp() - interval '30 seconds')
$$;
comment on function pgembed._service_alive() is 'Whether an encoder service is running.';

create or replace function pgembed._broken_v1(p_embedding_id int, p_reason text) returns void
language sql
as $$
    update pgembed.embedding
    set state = 'broken', state_reason = p_reason, revision = revision + 1
    where embedding_id = p_embedding_id and state = 'active'
$$;
comment on function pgembed._broken_v1(int, text) is
    'Takes an embedding out of service, with the reason; the application''s writes go on.';

create or replace function pgembed._reconcile_v1() returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
begin
    for e in select * from pgembed.embedding where state = 'active' order by embedding_id loop
        if pgembed._table_sql(e.source) is null then
            perform pgembed._broken_v1(e.embedding_id, format(
                'The source table has been dropped. SELECT pgembed.drop_embedding(%L) removes what is left.', e.name));
            continue;
        end if;
        if pgembed._table_sql(e.side_table) is null then
            perform pgembed._broken_v1(e.embedding_id, format(
                'The side table has been dropped. SELECT pgembed.drop_embedding(%L), and declare it anew.', e.name));
            continue;
        end if;
        if e.storage = 'column' and not exists (
            select from pg_catalog.pg_attribute
            where attrelid = e.source and attname = e.column_name and not attisdropped) then
            perform pgembed._broken_v1(e.embedding_id, format(
                'The vector column %I has been dropped or renamed. Rename it back, or '
                'SELECT pgembed.drop_embedding(%L), and declare it anew.', e.column_name, e.name));
            continue;
        end if;
        begin
            execute pgembed._expression_probe_sql(e);
        exception when syntax_error_or_access_rule_violation then    -- class 42, not a lock's timeout
            perform pgembed._broken_v1(e.embedding_id, format(
                'The text expression no longer fits the table: %s. '
                'SELECT pgembed.alter_embedding(%L, text_expression => ...) repairs it.', sqlerrm, e.name));
            continue;
        end;
        -- Row security that was switched on after the declaration.
        if (select count(distinct relrowsecurity) from pg_catalog.pg_class
            where oid in (e.source, e.side_table)) > 1 then
            begin
                perform pgembed._sync_privileges(e);
            exception when lock_not_available or insufficient_privilege then
                null;    -- the next minute; the doctor tells meanwhile
            end;
        end if;
        if not pgembed._key_fits(e) then
            perform pgembed._broken_v1(e.embedding_id, format(
                'The primary key of the table is no longer what it was. Restore it, or '
                'SELECT pgembed.drop_embedding(%L), and declare it anew.', e.name));
        elsif not pgembed._capture_fits(e) then
            perform pgembed._broken_v1(e.embedding_id, format(
                'Columns or partitions were changed so that the triggers no longer see all changes. '
                'SELECT pgembed.repair(%L) mends it.', e.name));
        elsif e.capture and pgembed._is_partitioned(e.source) then
            perform pgembed._follow_partitions(e);
        end if;
    end loop;
    perform pgembed._bm25_reconcile();
    delete from pgembed.worker where heartbeat_at < clock_timestamp() - interval '10 minutes';
    -- The cache keeps the ten thousand latest queries; unanswered ones die after an hour.
    delete from pgembed.query_embedding
    where answered_at < (select answered_at from pgembed.query_embedding
                         where answered_at is not null
                         order by answered_at desc offset 10000 limit 1)
       or (answered_at is null and requested_at < clock_timestamp() - interval '1 hour');
end
$$;
comment on function pgembed._reconcile_v1() is
    'Finds embeddings whose table or columns have been dropped or renamed, has side tables follow the '
    'row security of their source, and clears away dead '
    'services and old queries. A service calls it each minute.';

create or replace function pgembed._key_fits(p_embedding pgembed.embedding) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- In the side table the key's columns come first, then the chunk.
    select coalesce((
        select bool_and(s.attname is not null and (k.position <= i.indnkeyatts) = (s.attname <> 'chunk'))
        from pg_index as i
        cross join lateral generate_series(1, i.indnkeyatts + 1) as k(position)
        left join pg_attribute as s
            on s.attrelid = p_embedding.side_table and s.attnum = k.position
        where i.indrelid = p_embedding.source and i.indisprimary), false)
$$;
comment on function pgembed._key_fits(pgembed.embedding) is
    'Whether the source still has a primary key, of as many columns as the side table has.';

create or replace function pgembed._capture_fits(p_embedding pgembed.embedding) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A trigger follows a column that is renamed, the expression follows the
    -- name: they part when a new column takes the old one's name.
    select not exists (
        select from pg_trigger as t
        where t.tgrelid = p_embedding.source
          and t.tgname = pgembed._trigger_name(p_embedding.embedding_id, 'update')
          and not array(
              select a.attnum from pg_attribute as a
              where a.attrelid = p_embedding.source and a.attname = any (p_embedding.source_columns)
          ) <@ array(
              select d.refobjsubid::int2 from pg_depend as d
              where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid = p_embedding.source)
          and p_embedding.canonical_expression !~ '\.\*')
    -- A table that has become a partition is written through its parent.
    and not exists (
        select from pg_trigger as t
        where t.tgrelid = p_embedding.source and t.tgnewtable is not null
          and t.tgname = pgembed._trigger_name(p_embedding.embedding_id, 'insert')
          and pgembed._captures_by_row(p_embedding.source))
$$;
comment on function pgembed._capture_fits(pgembed.embedding) is
    'Whether the triggers that are there watch what the text is made of. Missing and disabled '
    'triggers are the doctor''s: people disable triggers for a while.';

create or replace function pgembed._follow_partitions(p_embedding pgembed.embedding) returns void
language plpgsql
set lock_timeout = '50ms'    -- a busy partition has its turn a minute later
as $$
declare
    part regclass;
    has_strange_rows boolean;
begin
    for part in
        select t.relid from pg_catalog.pg_partition_tree(p_embedding.source) as t
        where t.level > 0 and not exists (
            select from pg_catalog.pg_trigger as g
            where g.tgrelid = t.relid
              and g.tgname = pgembed._trigger_name(p_embedding.embedding_id, 'truncate'))
    loop
        -- It may have been attached with rows in it.
        execute format('select exists (select from %s as p where not exists (select from %s as s where %s))',
                       pgembed._table_sql(part), pgembed._table_sql(p_embedding.side_table),
                       pgembed._key_sql(p_embedding.source, p_embedding.side_table,
                                        'p.%2$I = s.%3$I', ' and '))
        into has_strange_rows;
        begin
            perform pgembed._install_partition_capture(p_embedding, part);
        exception when lock_not_available or deadlock_detected then
            continue;
        end;
        if has_strange_rows then
            perform pgembed._restart_backfill(p_embedding.embedding_id);
        end if;
    end loop;

    for part in
        select g.tgrelid from pg_catalog.pg_trigger as g
        where g.tgname = pgembed._trigger_name(p_embedding.embedding_id, 'truncate')
          and g.tgfoid = (select f.tgfoid from pg_catalog.pg_trigger as f
                          where f.tgrelid = p_embedding.source and f.tgname = g.tgname)
          and g.tgrelid not in (select relid from pg_catalog.pg_partition_tree(p_embedding.source))
    loop
        begin
            execute format('drop trigger %I on %s',
                pgembed._trigger_name(p_embedding.embedding_id, 'truncate'), pgembed._table_sql(part));
        exception when lock_not_available or deadlock_detected then
            continue;
        end;
        -- Its rows left without a DELETE: T sweeps what has no row.
        insert into pgembed.queue (embedding_id, op) values (p_embedding.embedding_id, 'T');
    end loop;
end
$$;
comment on function pgembed._follow_partitions(pgembed.embedding) is
    'Takes in partitions that were attached since, and lets detached ones go.';

create or replace function pgembed._expression_probe_sql(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('select %s from %s limit 0', p_embedding.canonical_expression,
                  pgembed._table_sql(p_embedding.source))
$$;
comment on function pgembed._expression_probe_sql(pgembed.embedding) is
    'Statement that fails if the text expression no longer fits its table.';
