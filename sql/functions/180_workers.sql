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
        exception when others then
            perform pgembed._broken_v1(e.embedding_id, format(
                'The text expression no longer fits the table: %s. '
                'SELECT pgembed.alter_embedding(%L, text_expression => ...) repairs it.', sqlerrm, e.name));
        end;
    end loop;
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
    'Finds embeddings whose table or columns have been dropped or renamed, and clears away dead '
    'services and old queries. A service calls it each minute.';

create or replace function pgembed._expression_probe_sql(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('select %s from %s limit 0', p_embedding.canonical_expression,
                  pgembed._table_sql(p_embedding.source))
$$;
comment on function pgembed._expression_probe_sql(pgembed.embedding) is
    'Statement that fails if the text expression no longer fits its table.';
