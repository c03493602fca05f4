-- Services: heartbeats, and the care for embeddings whose table has changed.

create or replace function pgembed._wake(p_what text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A full queue of notifications would fail the commit; services look anyway, a moment later.
    if pg_notification_queue_usage() < 0.5 then
        perform pg_notify('pgembed', p_what);
    end if;
end
$$;
comment on function pgembed._wake(text) is 'Wakes the services, if that can be done.';

create or replace function pgembed._set_back(p_by interval) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- What lies ahead of a clock that was set back moves back with it, so that nothing waits
    -- longer than it would have. What was never claimed is ready at once.
    update pgembed.queue set not_before = case when attempts = 0 then clock_timestamp() else not_before - p_by end
    where not_before > clock_timestamp();
    update pgembed.query_embedding
    set requested_at = least(requested_at, clock_timestamp()), answered_at = least(answered_at, clock_timestamp()),
        claimed_until = claimed_until - p_by
    where clock_timestamp() < any (array[requested_at, answered_at, claimed_until]);
    update pgembed.worker set heartbeat_at = heartbeat_at - p_by where heartbeat_at > clock_timestamp()
$$;
comment on function pgembed._set_back(interval) is 'Follows the server''s clock, which was set back so far.';

create or replace function pgembed._heartbeat_v1(
    p_worker_id uuid, p_hostname text, p_pid int, p_version text, p_models jsonb, p_work jsonb, p_problems text[] default '{}', p_session int default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    latest constant timestamptz := (select c.latest from pgembed.clock as c for update);
    heard constant timestamptz := clock_timestamp();    -- no earlier than any heartbeat before
    -- Another role may not see what the sessions of this one do, so it is said here.
    builds constant jsonb := coalesce((
        select jsonb_object_agg(e.embedding_id, to_jsonb(p))
        from pgembed.index_build as b join pgembed.embedding as e using (embedding_id)
        join lateral pgembed._vector_indexes(e) as x on x.relation = b.relation
        cross join lateral pgembed._build_progress(x.index) as p
        where b.worker_id = p_worker_id and p.phase is not null), '{}');
begin
    if heard < latest then
        perform pgembed._set_back(latest - heard);
    elsif not exists (select from pgembed.worker where worker_id = p_worker_id) then
        -- The clock may have been set back while no service ran.
        update pgembed.queue set not_before = heard where attempts = 0 and not_before > heard;
    end if;
    update pgembed.clock as c set latest = heard, highest = greatest(c.highest, heard);
    insert into pgembed.worker (worker_id, hostname, pid, version, models, work, builds, problems, session)
    values (p_worker_id, p_hostname, p_pid, p_version, p_models, p_work, builds, p_problems, p_session)
    on conflict (worker_id) do update
    set models = excluded.models, work = excluded.work, builds = excluded.builds, problems = excluded.problems, session = excluded.session,
        heartbeat_at = heard;
end
$$;
comment on function pgembed._heartbeat_v1(uuid, text, int, text, jsonb, jsonb, text[], int) is
    'A service says that it is alive, how its models stand, what it has in hand, and what keeps it from its duties. '
    'Notices that the clock was set back.';

create or replace function pgembed._later() returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Between two heartbeats, a few seconds apart, the clock may have said more than is known.
    select coalesce((select highest + interval '1 minute' from pgembed.clock where highest > clock_timestamp()), clock_timestamp())
$$;
comment on function pgembed._later() is
    'A time after all that were written down before, even if the server''s clock was set back since.';

create or replace function pgembed._goodbye_v1(p_worker_id uuid) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from pgembed.worker where worker_id = p_worker_id
$$;
comment on function pgembed._goodbye_v1(uuid) is 'A service stops.';

create or replace function pgembed._service_alive() returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A heartbeat is due every few seconds.
    select exists (select from pgembed.worker where heartbeat_at > clock_timestamp() - interval '30 seconds')
$$;
comment on function pgembed._service_alive() is 'Whether an encoder service is running.';

create or replace function pgembed._follow_v1(p_embedding_id int) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._reconcile_text_v1(e.text_id) from pgembed.embedding as e where e.embedding_id = p_embedding_id;
    return exists (select from pgembed.embedding as e join pgembed.captured_text as t using (text_id)
                   where e.embedding_id = p_embedding_id and t.state = 'active');
end
$$;
comment on function pgembed._follow_v1(int) is
    'Follows the table of an embedding; whether its text can be read at all. One that cannot is broken, and heals with its table.';

create or replace function pgembed._broken_v1(p_embedding_id int, p_revision int, p_reason text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted constant int := (select e.text_id from pgembed.embedding as e where e.embedding_id = p_embedding_id);
    held constant boolean := (select pgembed._fence_holds(t) from pgembed.captured_text as t where t.text_id = wanted);
    readable constant boolean := pgembed._follow_v1(p_embedding_id);
    holds constant boolean := (select pgembed._fence_holds(t) from pgembed.captured_text as t where t.text_id = wanted);
begin
    -- Where the table is to blame, its text is broken, and the embedding itself is not; where the table has another
    -- owner, that was to blame, and is followed now.
    if readable and (held or not holds) then
        -- What was repaired or changed meanwhile is not what the service has seen.
        update pgembed.embedding
        set state = 'broken', state_reason = p_reason, revision = revision + 1
        where embedding_id = p_embedding_id and state = 'active' and revision = p_revision;
    end if;
end
$$;
comment on function pgembed._broken_v1(int, int, text) is
    'Takes an embedding, as of its revision, out of service, with the reason; the application''s writes go on.';

create or replace function pgembed._reconcile_text_v1(p_text_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    code text;
    hint text;
    reason text;
begin
    begin
        perform pgembed._follow(t, false) from pgembed.captured_text as t where t.text_id = p_text_id;
    exception
        when lock_not_available or deadlock_detected or insufficient_privilege then
            null;    -- the next minute; the doctor tells meanwhile
        when others or assert_failure then    -- what is not followed is not captured: nothing of that may stay unsaid
            get stacked diagnostics code = pg_datatype_name, hint = pg_exception_hint;
            if pgembed._may_pass(case sqlstate when 'PE018' then code else sqlstate end) then
                raise;
            end if;
            reason := case sqlstate when 'PE007' then format('%s. %s', sqlerrm, hint) else sqlerrm end;
            update pgembed.captured_text set state = 'broken', state_reason = reason
            where text_id = p_text_id and (state, state_reason) is distinct from ('broken', reason);
    end;
    begin
        perform pgembed._mark_judgements(t) from pgembed.captured_text as t where t.text_id = p_text_id and t.state = 'active';
    exception when others then
        null;    -- they may wait for the next minute; nothing is wrong with the text
    end;
end
$$;
comment on function pgembed._reconcile_text_v1(int) is
    'Has what was made for a captured text follow its table (owner, columns, key, partitions, privileges, row '
    'security), or says that it is broken. A service calls it each minute, for each in a transaction of its own.';

create or replace function pgembed._reconcile_rest_v1() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
begin
    for e in select * from pgembed.embedding where state = 'active' order by embedding_id loop
        if pgembed._table_sql(e.source) is not null and e.storage = 'column' and not exists (
            select from pg_attribute
            where attrelid = e.source and attname = e.column_name and not attisdropped) then
            update pgembed.embedding
            set state = 'broken', revision = revision + 1, state_reason = format(
                'The vector column %I has been dropped or renamed. Rename it back, or '
                'SELECT pgembed.drop_embedding(%L), and declare it anew.', e.column_name, pgembed._qualified_name(e.source, e.name))
            where embedding_id = e.embedding_id;
        end if;
    end loop;
    perform pgembed._bm25_reconcile();
    perform pgembed._drop_judgements('1 hour');
    delete from pgembed.worker where heartbeat_at < clock_timestamp() - interval '10 minutes';
    -- The cache keeps the ten thousand latest queries, errors for an hour, and what nobody waits for not at all.
    delete from pgembed.query_embedding
    where answered_at < (select answered_at from pgembed.query_embedding
                         where answered_at is not null
                         order by answered_at desc offset 10000 limit 1)
       or (error is not null and answered_at < clock_timestamp() - interval '1 hour')
       or (answered_at is null and wanted_until < clock_timestamp());
end
$$;
comment on function pgembed._reconcile_rest_v1() is
    'Says which embeddings and BM25 indexes are broken besides their texts, and clears away dead services, old '
    'queries and judgements of rows that are gone. A service calls it each minute.';

create or replace function pgembed._reconcile_v1() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted int;
begin
    for wanted in select text_id from pgembed.captured_text order by text_id loop
        begin
            perform pgembed._reconcile_text_v1(wanted);
        exception when others then
            null;    -- of this one nothing is known: the others go on
        end;
    end loop;
    perform pgembed._reconcile_rest_v1();
end
$$;
comment on function pgembed._reconcile_v1() is 'What a service does each minute, in one transaction.';

create or replace function pgembed._key_fits(e pgembed.embedding) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- In the side table the key's columns come first, then the chunk.
    select coalesce((
        select bool_and(s.attname is not null and (k.position <= i.indnkeyatts) = (s.attname <> 'chunk'))
        from pg_index as i
        cross join lateral generate_series(1, i.indnkeyatts + 1) as k(position)
        left join pg_attribute as s
            on s.attrelid = (e).side_table and s.attnum = k.position
        where i.indrelid = (e).source and i.indisprimary), false)
$$;
comment on function pgembed._key_fits(pgembed.embedding) is
    'Whether the source still has a primary key, of as many columns as the side table has.';
