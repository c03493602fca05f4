-- The doctor: everything that follows from a declaration, compared with what is
-- really there. Read-only; pgembed.repair() mends most of what it finds. A cause is
-- told once, and not what only follows from it: rows that wait for a model that is out
-- of order are a number in the finding about the model.

create or replace function pgembed._functions_tampered(t pgembed.captured_text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(p.oid::regprocedure::text, ', ' order by p.proname)
    from pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace and p.proname ~ format('^_text_%s_', (t).text_id)
      and (p.proname !~ '_(read|run|change|queue|mark)$' and p.proowner <> pgembed._owner_of((t).source)
           or p.prosecdef = (p.proname ~ '_document$')
           or p.proname !~ '_(read|run|change|queue|document)$' and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
           or p.proname ~ '_(change|queue|document)$' and p.proconfig is not null)
$$;
comment on function pgembed._functions_tampered(pgembed.captured_text) is
    'Functions of a captured text whose owner, rights or settings are not as they were made; NULL: none.';

create or replace function pgembed._doctor_text(t pgembed.captured_text)
returns table (severity text, code text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._name_of_text(t.text_id);
    repair constant text := format('SELECT pgembed.repair(%L).', name);
    missing text;
    disabled text;
    were_disabled text;
    unseen bigint;
begin
    if t.state = 'broken' then
        return query select 'error', 'broken', 'is broken: ' || coalesce(t.state_reason, 'no reason known'),
            format('Mend the table, then %s', repair);
        return;
    end if;
    if pgembed._table_sql(t.source) is null then
        return query select 'error', 'table_dropped', 'its table has been dropped'::text,
            format('SELECT pgembed.drop_embedding(%L) or pgembed.drop_bm25(%L).', name, name);
        return;
    end if;
    begin
        perform pgembed._check_source(t.source);
    exception when sqlstate 'PE003' or sqlstate 'PE013' then
        return query select 'error', 'source', sqlerrm, 'Undo that, and ' || repair;
        return;
    end;
    if pgembed._parts_missing(t.text_id) is not null then
        return query select 'error', 'parts_dropped', format('somebody has dropped %s', pgembed._parts_missing(t.text_id)), repair;
        return;
    end if;
    if not pg_has_role(pgembed._own(), pgembed._owner_of(t.source), 'SET') then
        return query select 'error', 'owner', format('role "%s", which owns pgembed, cannot work as "%s", the owner of %s',
                                            pg_get_userbyid(pgembed._own()), pg_get_userbyid(pgembed._owner_of(t.source)), t.source),
            format('GRANT %s TO %s;', pgembed._owner_of(t.source)::regrole, pgembed._own()::regrole);
    end if;
    if not pgembed._fence_holds(t) then
        return query select 'error', 'owner', format('the owner of %s has changed, or the functions that read it as the owner have been', t.source), repair;
        return;
    end if;
    if pgembed._functions_tampered(t) is not null then
        return query select 'error', 'functions_changed', format('the rights or the settings of %s have been changed', pgembed._functions_tampered(t)), repair;
    end if;
    if t.capture then
        select string_agg(distinct made.event, ', ') filter (where g.tgenabled is null),
               string_agg(distinct made.event, ', ') filter (where g.tgenabled in ('D', 'R')),
               string_agg(distinct made.event, ', ') filter (where g.tgenabled = 'O')
        into missing, disabled, were_disabled
        from pgembed._capture_triggers(t) as made
        left join pg_trigger as g on g.tgrelid = t.source and g.tgname = pgembed._trigger_name(t.text_id, made.name);
        if missing is not null then
            return query select 'error', 'trigger_missing', format('its trigger for %s is missing: such changes are not seen', missing), repair;
        end if;
        if disabled is not null then
            return query select 'error', 'trigger_disabled', format('its trigger for %s is disabled: such changes are not seen', disabled), repair;
        end if;
        if were_disabled is not null then
            return query select 'error', 'trigger_was_disabled', format('its trigger for %s was disabled for a while: such changes were not seen', were_disabled),
                format('A running service reads all rows again; or %s', repair);
        end if;
        if coalesce(missing, disabled, were_disabled) is null and pgembed._capture_differs(t) then
            return query select 'error', 'table_changed', format('columns, key or owner of %s were changed since its triggers were made', t.source), repair;
        end if;
    end if;
    if pgembed._security_differs(t) then
        return query select case when c.relrowsecurity then 'error' else 'warning' end, 'row_security',
            case when c.relrowsecurity
                 then format('%s has row-level security, and what was made of its text has not: it can be read past the policies', t.source)
                 else format('%s has no row-level security any more, and what was made of its text has', t.source) end, repair
        from pg_class as c where c.oid = t.source;
    end if;
    return query
    select case when d.may_read then 'warning' else 'error' end, 'privileges',
           case when d.may_read then format('%s may read %s but not all that was made of it, so cannot search', d.who, t.source)
                else format('%s may not read %s any more, but may still read what was made of it', d.who, t.source) end, repair
    from (select f.may_read, case count(*) when 1 then 'role ' else 'roles ' end || string_agg(f.who, ', ' order by f.who) as who
          from (select distinct may_read, pgembed._role_sql(role) as who from pgembed._readers_differ(t)) as f
          group by f.may_read) as d;
    return query
    select 'error', 'privileges', format('%s has rights on %s, which nobody but pgembed''s owner may have: row-level security does not hold there', d.who, d.objects), repair
    from (select case count(distinct x.role) when 1 then 'role ' else 'roles ' end || string_agg(distinct pgembed._role_sql(x.role), ', ') as who,
                 string_agg(distinct x.object, ', ') as objects
          from pgembed._opened_tables(t) as x having count(*) > 0) as d;
    unseen := pgembed._unseen_rows(t.text_id);
    if unseen > 0 and coalesce(missing, disabled, were_disabled) is null then
        return query select 'error', 'unseen', format('%s rows have a text and were never seen: they were written while triggers did not fire', unseen), repair;
    end if;
    if t.code_digest is distinct from pgembed._code_digest(t.code_functions) then
        return query select 'warning', 'function_changed', 'a function that its text calls has been changed'::text,
            format('A running service reads all rows again; or %s', repair);
    end if;
end
$$;
comment on function pgembed._doctor_text(pgembed.captured_text) is
    'What is wrong with the table, triggers, privileges and row security of a captured text.';

create or replace function pgembed._doctor_bm25(b pgembed.bm25)
returns table (severity text, code text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._qualified_name(b.source, b.name);
    counts record;
begin
    if b.state = 'broken' and (pgembed._text(b.text_id)).state <> 'broken' then
        return query select 'error', 'bm25_broken', 'its BM25 index is broken: ' || coalesce(b.state_reason, 'no reason known'),
            format('Mend the table, then SELECT pgembed.bm25_rebuild(%L); or another text: SELECT pgembed.%s(%L, text_expression => ...).',
                   name, case when b.embedding_id is null then 'alter_bm25' else 'alter_embedding' end,
                   coalesce((select pgembed._qualified_name(source, name) from pgembed.embedding where embedding_id = b.embedding_id), name));
    end if;
    if pgembed._table_sql(b.source) is null then
        return;
    end if;
    counts := pgembed._bm25_counts(b);
    if (counts.recent > 20000 or counts.dead > 20000) and b.state <> 'pending' then
        return query select 'warning', 'bm25_unpacked',
            format('its BM25 index has %s documents to pack and %s to purge, which makes searches slow',
                   counts.recent, counts.dead),
            'Run an encoder service, or SELECT pgembed.bm25_maintain() from time to time.';
    end if;
    if counts.failed > 0 then
        return query select 'warning', 'failed', format('the words of %s rows could not be read', counts.failed),
            format('SELECT * FROM pgembed.failed WHERE name = %L; mend them, then SELECT pgembed.retry(%L).', b.name, name);
    end if;
end
$$;
comment on function pgembed._doctor_bm25(pgembed.bm25) is 'What is wrong with a BM25 index.';

create or replace function pgembed._doctor_query_encoder(e pgembed.embedding, p_served boolean)
returns table (severity text, code text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._qualified_name(e.source, e.name);
    t constant pgembed.token_encoder := pgembed._query_encoder(e);
    restricted constant boolean := (select c.relrowsecurity from pg_class as c where c.oid = e.source::oid);
    again text := format('pgembed train-query-encoder %s', quote_literal(name));
begin
    if e.generation = 'previous' then
        return;
    end if;
    if restricted and (t.encoder_id is not null and not t.over_row_security and e.query_encoder <> 'model'
                       or t.encoder_id is null and e.query_encoder = 'static') then
        return query select 'warning', 'query_encoder_row_security',
            'roles that row security restricts may not use its query encoder, which learns from all rows'::text,
            format('If all who search may know which words there are: %s --over-row-security. Else: SELECT pgembed.alter_embedding(%L, query_encoder => ''model'').', again, name);
        return;
    end if;
    again := again || case when t.over_row_security then ' --over-row-security' else '' end || '.';
    if p_served and not restricted and e.query_encoder <> 'model' then
        again := 'A running service trains it when it has nothing else to do, unless it is told not to; or at once: ' || again;
    end if;
    if t.encoder_id is null and e.query_encoder = 'static' then
        return query select 'error', 'query_encoder_missing', 'its searches are to use a query encoder, and none is trained for the vectors that it has'::text, again;
    elsif pgembed._query_encoder_stale(t) then
        return query select 'warning', 'query_encoder_stale',
            format('its query encoder is stale: %s %% of the chunks came after it was trained, and on these it agrees with the model by %s (cosine), on others by %s',
                   round(100 * t.new_share::numeric), round(t.new_agreement::numeric, 2), round(t.agreement::numeric, 2)), again;
    end if;
end
$$;
comment on function pgembed._doctor_query_encoder(pgembed.embedding, boolean) is
    'What is wrong with the query encoder of an embedding. p_served: whether a service runs that can use its model.';

create or replace function pgembed._doctor_vectors(e pgembed.embedding, p_served boolean)
returns table (severity text, code text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._qualified_name(e.source, e.name);
    t constant pgembed.captured_text := pgembed._text(e.text_id);
    state text;
    build record;
    operator_class text;
    wrong_index regclass;
    other_model boolean;
    counts record;
    oldest interval;
    late timestamptz;
begin
    if e.state = 'broken' and t.state <> 'broken' then
        return query select 'error', 'broken', 'is broken: ' || coalesce(e.state_reason, 'no reason known'),
            format('SELECT pgembed.alter_embedding(%L, ...) or pgembed.repair(%L).', name, name);
    elsif e.state = 'paused' then
        return query select 'warning', 'paused', 'is paused' || case when t.capture then '' else ', and its triggers are removed' end,
            format('SELECT pgembed.resume_embedding(%L).', name);
    end if;
    if pgembed._table_sql(e.source) is null or pgembed._table_sql(e.side_table) is null then
        return;
    end if;
    if e.switch_error is not null then
        return query select 'error', 'switch_failed', 'cannot take the place of the current generation: ' || e.switch_error,
            'Remove the cause; a running service tries again each second.';
    end if;
    state := pgembed._index_state(e);
    build := pgembed._build_standing(e);
    if e.index_error is not null then
        return query select 'error', 'index_failed', 'its index could not be built: ' || e.index_error,
            format('Remove the cause, then SELECT pgembed.repair(%L).', name);
    elsif build.waits_for is not null then
        return query select 'warning', 'index_waits', format('the build of its index waits for a transaction of process %s%s', build.waits_for,
                (select format(' ("%s"), open since %s', a.usename, date_trunc('second', a.xact_start)) from pg_stat_activity as a where a.pid = build.waits_for)),
            format('End that transaction; or SELECT pg_terminate_backend(%s).', build.waits_for);
    elsif build.notice is not null then
        return query select 'warning', 'index_memory', split_part(build.notice, ' Set ', 1), 'Set ' || split_part(build.notice, ' Set ', 2);
    elsif state = 'invalid' and p_served then
        return query select 'warning', 'index_invalid', 'its index is invalid (an interrupted build): searches are exact, and slow',
            'A running service builds it again.';
    elsif state = 'pending' and e.backfill_state = 'done' and e.state = 'active' and p_served
          and not exists (select from pgembed.queue where embedding_id = e.embedding_id and priority = 2)
          and pgembed._row_count(e.side_table) > 0 then
        return query select 'warning', 'index_missing', 'its index is missing: searches are exact, and slow',
            'A running service builds it.';
    end if;
    select o.opcname, i.indexrelid::regclass into operator_class, wrong_index
    from pgembed._vector_indexes(e) as x
    join pg_index as i on i.indexrelid = x.index
    join pg_opclass as o on o.oid = i.indclass[0]
    where o.opcname <> pgembed._operator_class(e) limit 1;
    if found then
        return query select 'error', 'index_operators', format('its index has operator class %s, distance %s needs %s: it is not used',
                                            operator_class, e.distance, pgembed._operator_class(e)),
            format('DROP INDEX %s; a running service builds it as declared.', wrong_index);
    end if;
    execute format('select exists (select from %s where model_id <> $1)', pgembed._table_sql(e.side_table))
        into other_model using e.model_id;
    if other_model then
        return query select 'error', 'other_model', 'holds vectors of another model than it declares: they cannot be compared',
            format('SELECT pgembed.reembed(%L).', name);
    end if;
    return query select d.severity, d.code, d.problem, d.advice from pgembed._doctor_query_encoder(e, p_served) as d;
    if e.projection_id is not null and e.generation <> 'previous' and pgembed._has_row_security(e) then
        return query select 'error', 'projection_row_security',
            'roles that row security restricts cannot search with its projection, which was learnt from all rows'::text,
            format('Give it vectors without one: SELECT pgembed.alter_embedding(%L, reset => ''{dimensions,reduction}'').', pgembed._qualified_name(e.source, e.name));
    end if;
    counts := pgembed._row_counts(e, p_look => false);
    if counts.failed > 0 then
        return query select 'warning', 'failed', format('%s rows could not be encoded', counts.failed),
            format('SELECT * FROM pgembed.failed WHERE name = %L; then SELECT pgembed.retry(%L).', e.name, name);
    end if;
    return query
    select 'warning', 'retrying', format('%s rows have failed before and are tried again', r.rows),
           'See the service''s log. After max_attempts they are in pgembed.failed with their error.'
    from (select count(distinct key) as rows from pgembed.queue where embedding_id = e.embedding_id and attempts >= 2) as r
    where r.rows > 0;
    if e.state <> 'active' then
        return;
    end if;
    oldest := pgembed._oldest_waiting(e.embedding_id);
    if p_served and oldest > interval '15 minutes' then
        return query select 'warning', 'late', format('a change has waited for %s; %s rows wait, %s a second are worked off',
                                                      date_trunc('second', oldest), counts.waiting, coalesce(round(counts.rate::numeric, 1), 0)),
            'See the service''s log; more services can run side by side.';
    end if;
    late := (select max(lane.not_before) from unnest(array[0, 1, 2]::smallint[]) as l(priority)
             cross join lateral (select q.not_before from pgembed.queue as q
                                 where q.embedding_id = e.embedding_id and q.priority = l.priority
                                 order by q.not_before desc limit 1) as lane);
    if late > clock_timestamp() + interval '1 hour' then
        return query select 'error', 'clock', format('rows may not be worked off before %s: the server''s clock was set back', date_trunc('second', late)),
            format('UPDATE pgembed.queue SET not_before = now() WHERE embedding_id = %s;', e.embedding_id);
    end if;
end
$$;
comment on function pgembed._doctor_vectors(pgembed.embedding, boolean) is
    'What is wrong with the vectors, index and queue of an embedding. p_served: whether a service runs that can use its '
    'model, so that what a service would mend by itself is amiss.';

create or replace function pgembed._doctor_locked(p_source oid)
returns table (severity text, code text, problem text, advice text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'warning', 'locked', format('%s is locked by process %s%s: its rows can be neither read nor written', l.relation::regclass, l.pid,
                                       format(' ("%s"), since %s', a.usename, date_trunc('second', a.xact_start))),
           format('End that transaction; or SELECT pg_terminate_backend(%s).', l.pid)
    from pg_locks as l
    left join pg_stat_activity as a using (pid)
    where l.locktype = 'relation' and l.granted and l.mode = 'AccessExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())
      and (l.relation = p_source or l.relation in (select side_table from pgembed.embedding where source = p_source))
      and coalesce(a.xact_start, '-infinity') < clock_timestamp() - interval '5 seconds'
    limit 1
$$;
comment on function pgembed._doctor_locked(oid) is
    'Who holds a table, or what was made of it, locked for more than a few seconds.';

create or replace function pgembed._doctor_models()
returns table (severity text, code text, problem text, advice text)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select f.severity, f.code,
           f.problem || case when used.waiting > 0 then format('; %s rows wait', used.waiting) else '' end, f.advice
    from (select m.name, sum(c.waiting) as waiting
          from pgembed.embedding as e
          join pgembed._standing as x on x.kind = 'embedding' and x.id = e.embedding_id and x.state = 'active'
          join pgembed.model as m using (model_id)
          cross join lateral pgembed._row_counts(e, p_look => false) as c
          group by m.name) as used
    cross join lateral pgembed._model_standing(used.name) as s
    cross join lateral (
        select 'error' as severity, 'model_unavailable' as code,
               format('no service can use model %s: %s', used.name, replace(split_part(s.reason, E'\nHINT: ', 1), E'\n', ' ')) as problem,
               coalesce(nullif(split_part(s.reason, E'\nHINT: ', 2), ''), 'Remove the cause.') || ' The services try again by themselves.' as advice
        where s.state = 'unavailable'
        union all
        select 'error', 'model_not_served', format('no running service serves model %s', used.name),
               'Start one that does: pgembed serve --models ...'
        -- One that has just started has not looked yet.
        where s.state is null and exists (select from pgembed.worker where started_at < clock_timestamp() - interval '15 seconds'
                                          and heartbeat_at > clock_timestamp() - interval '30 seconds')
        union all
        select 'warning', 'model_loading', format('model %s has been loading for %s', used.name, make_interval(secs => round(s.seconds))),
               'The first time it is downloaded. See the service''s log.' where s.state = 'loading' and s.seconds > 600
        union all
        select 'warning', 'model_partly_unavailable',
               format('%s of the services cannot use model %s: %s', s.elsewhere, used.name,
                      (select min(w.models -> used.name ->> 'reason') from pgembed.worker as w
                       where w.models -> used.name ->> 'state' = 'unavailable' and w.heartbeat_at > clock_timestamp() - interval '30 seconds')),
               'See pgembed.workers.' where s.state <> 'unavailable' and s.elsewhere > 0) as f
$$;
comment on function pgembed._doctor_models() is 'What is wrong with the models of active embeddings, once each.';

create or replace function pgembed._doctor_services()
returns table (severity text, code text, problem text, advice text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    waiting bigint;
begin
    if not pgembed._service_alive() then
        waiting := (select sum(c.waiting) from pgembed.embedding as e cross join lateral pgembed._row_counts(e, p_look => false) as c
                    where e.state = 'active');
        return query select 'error', 'no_service', format('no encoder service is running: changes wait%s, and queries are not encoded',
                                                           case when waiting > 0 then format(' (%s rows)', waiting) else '' end),
            'Start one: pgembed serve --dsn ...'
        where exists (select from pgembed.embedding where state = 'active');
        return;
    end if;
    return query
    select 'warning', 'service', format('%s: %s', string_agg(distinct format('service %s (process %s)', w.hostname, w.pid), ', '), p.problem),
           'See its log.'
    from pgembed.worker as w
    cross join unnest(w.problems) as p(problem)
    where w.heartbeat_at > clock_timestamp() - interval '30 seconds'
    group by p.problem;
    return query select * from pgembed._doctor_models();
    return query
    select 'error', 'queries', format('%s queries wait for their vector, the oldest for %s, most of them of role "%s"', q.n,
                                      date_trunc('second', q.age), q.who),
           'See the service''s log; more services can run side by side.'
    from (select count(*) as n, clock_timestamp() - min(a.requested_at) as age, mode() within group (order by a.role) as who
          from pgembed.query_embedding as a
          join pgembed.model as m using (model_id)
          where a.answered_at is null and (pgembed._model_standing(m.name)).state = 'ready') as q
    where q.age > interval '10 seconds';
end
$$;
comment on function pgembed._doctor_services() is 'What is wrong with the services, their models and the lane of queries.';

create or replace function pgembed.doctor()
returns table (severity text, code text, embedding text, problem text, advice text)
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
#variable_conflict use_column
declare
    vector_version text := (select extversion from pg_extension where extname = 'vector');
    t pgembed.captured_text;
    e pgembed.embedding;
    b pgembed.bm25;
    name text;
begin
    if current_setting('server_version_num')::int < 160000 then
        return query select 'error', 'server_version', null::text, format('the server is PostgreSQL %s', current_setting('server_version')),
            'pgembed needs PostgreSQL 16 or newer.';
    end if;
    if vector_version is null
       or string_to_array(substring(vector_version from '^[0-9]+(?:\.[0-9]+)*'), '.')::int[] < array[0, 8] then
        return query select 'error', 'pgvector_version', null::text, format('pgvector is %s', coalesce(vector_version, 'missing')),
            'Filtered searches need iterative scans, which came with pgvector 0.8: ALTER EXTENSION vector UPDATE.';
    end if;
    if pg_notification_queue_usage() > 0.5 then
        return query select 'error', 'notification_queue', null::text, 'the queue of notifications is more than half full: writers do not wake services'::text,
            'A session that listens has been idle in a transaction for long: end it.';
    end if;
    return query select d.severity, d.code, null::text, d.problem, d.advice from pgembed._doctor_standbys() as d;
    return query select d.severity, d.code, null::text, d.problem, d.advice from pgembed._doctor_services() as d;
    for t in select * from pgembed.captured_text order by text_id loop
        -- Named after the first that hangs on the text.
        name := coalesce((select min(label) from pgembed._standing where kind = 'embedding' and id in (select embedding_id from pgembed.embedding where text_id = t.text_id)),
                         (select min(label) from pgembed._standing where kind = 'bm25' and id in (select bm25_id from pgembed.bm25 where text_id = t.text_id)));
        begin
            if exists (select from pgembed._doctor_locked(t.source)) then
                return query select d.severity, d.code, name, d.problem, d.advice from pgembed._doctor_locked(t.source) as d;
                continue;
            end if;
            return query select d.severity, d.code, name, d.problem, d.advice from pgembed._doctor_text(t) as d;
            for e in select * from pgembed.embedding where text_id = t.text_id order by name loop
                return query select d.severity, d.code, x.label, d.problem, d.advice
                from pgembed._standing as x
                cross join lateral pgembed._doctor_vectors(e, exists (
                    select from pgembed.model as m where m.model_id = e.model_id and (pgembed._model_standing(m.name)).state = 'ready')) as d
                where x.kind = 'embedding' and x.id = e.embedding_id;
            end loop;
            for b in select * from pgembed.bm25 where text_id = t.text_id loop
                return query select d.severity, d.code, x.label, d.problem, d.advice
                from pgembed._standing as x cross join lateral pgembed._doctor_bm25(b) as d
                where x.kind = 'bm25' and x.id = b.bm25_id;
            end loop;
        exception when lock_not_available then
            return query select 'warning', 'locked', name, format('%s is locked, and cannot be looked at', t.source::regclass), 'Look again in a moment.'::text;
        end;
    end loop;
end
$$;
comment on function pgembed.doctor() is
    'What is wrong and what to do: triggers, indexes, models, row-level security, privileges, '
    'services. code is the kind of finding. No row: nothing found.';
