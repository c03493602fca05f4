-- The doctor: everything that follows from a declaration, compared with what is
-- really there. Read-only; pgembed.repair() mends most of what it finds.

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
returns table (severity text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._name_of_text(t.text_id);
    repair constant text := format('SELECT pgembed.repair(%L).', name);
    made record;
    enabled "char";
    unseen bigint;
begin
    if t.state = 'broken' then
        return query select 'error', 'is broken: ' || coalesce(t.state_reason, 'no reason known'),
            format('Mend the table, then %s', repair);
        return;
    end if;
    if pgembed._table_sql(t.source) is null then
        return query select 'error', 'its table has been dropped'::text,
            format('SELECT pgembed.drop_embedding(%L) or pgembed.drop_bm25(%L).', name, name);
        return;
    end if;
    begin
        perform pgembed._check_source(t.source);
    exception when sqlstate 'PE003' or sqlstate 'PE013' then
        return query select 'error', sqlerrm, 'Undo that, and ' || repair;
        return;
    end;
    if pgembed._parts_missing(t.text_id) is not null then
        return query select 'error', format('somebody has dropped %s', pgembed._parts_missing(t.text_id)), repair;
        return;
    end if;
    if not pg_has_role(pgembed._own(), pgembed._owner_of(t.source), 'SET') then
        return query select 'error', format('role "%s", which owns pgembed, cannot work as "%s", the owner of %s',
                                            pg_get_userbyid(pgembed._own()), pg_get_userbyid(pgembed._owner_of(t.source)), t.source),
            format('GRANT %s TO %s;', pgembed._owner_of(t.source)::regrole, pgembed._own()::regrole);
    end if;
    if not pgembed._fence_holds(t) then
        return query select 'error', format('the owner of %s has changed, or the functions that read it as the owner have been', t.source), repair;
        return;
    end if;
    if pgembed._functions_tampered(t) is not null then
        return query select 'error', format('the rights or the settings of %s have been changed', pgembed._functions_tampered(t)), repair;
    end if;
    if t.capture then
        for made in select * from pgembed._capture_triggers(t) loop
            enabled := (select tgenabled from pg_trigger
                        where tgrelid = t.source and tgname = pgembed._trigger_name(t.text_id, made.name));
            if enabled is null then
                return query select 'error', format('its trigger for %s is missing: such changes are not seen', made.event), repair;
            elsif enabled in ('D', 'R') then
                return query select 'error', format('its trigger for %s is disabled: such changes are not seen', made.event), repair;
            elsif enabled = 'O' then
                return query select 'error', format('its trigger for %s was disabled for a while: such changes were not seen', made.event),
                    format('A running service reads all rows again; or %s', repair);
            end if;
        end loop;
        if pgembed._capture_differs(t) then
            return query select 'error', format('columns, key or owner of %s were changed since its triggers were made', t.source), repair;
        end if;
    end if;
    if pgembed._security_differs(t) then
        return query select case when c.relrowsecurity then 'error' else 'warning' end,
            case when c.relrowsecurity
                 then format('%s has row-level security, and what was made of its text has not: it can be read past the policies', t.source)
                 else format('%s has no row-level security any more, and what was made of its text has', t.source) end, repair
        from pg_class as c where c.oid = t.source;
    end if;
    return query
    select case when d.may_read then 'warning' else 'error' end,
           case when d.may_read then format('role %s may read %s but not all that was made of it, so it cannot search', d.who, t.source)
                else format('role %s may not read %s any more, but may still read what was made of it', d.who, t.source) end, repair
    from (select distinct may_read, pgembed._role_sql(role) as who from pgembed._readers_differ(t)) as d;
    unseen := pgembed._unseen_rows(t.text_id);
    if unseen > 0 then
        return query select 'error', format('%s rows have a text and were never seen: they were written while triggers did not fire', unseen), repair;
    end if;
    if t.code_digest is distinct from pgembed._code_digest(t.code_functions) then
        return query select 'warning', 'a function that its text calls has been changed'::text,
            format('A running service reads all rows again; or %s', repair);
    end if;
end
$$;
comment on function pgembed._doctor_text(pgembed.captured_text) is
    'What is wrong with the table, triggers, privileges and row security of a captured text.';

create or replace function pgembed._doctor_bm25(b pgembed.bm25)
returns table (severity text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._qualified_name(b.source, b.name);
    counts record;
begin
    if b.state = 'broken' and (pgembed._text(b.text_id)).state <> 'broken' then
        return query select 'error', 'its BM25 index is broken: ' || coalesce(b.state_reason, 'no reason known'),
            format('Mend the table, then SELECT pgembed.bm25_rebuild(%L); or another text: SELECT pgembed.%s(%L, text_expression => ...).',
                   name, case when b.embedding_id is null then 'alter_bm25' else 'alter_embedding' end,
                   coalesce((select pgembed._qualified_name(source, name) from pgembed.embedding where embedding_id = b.embedding_id), name));
    end if;
    if pgembed._table_sql(b.source) is null then
        return;
    end if;
    counts := pgembed._bm25_counts(b);
    if counts.recent > 20000 or counts.dead > 20000 then
        return query select 'warning',
            format('its BM25 index has %s documents to pack and %s to purge, which makes searches slow',
                   counts.recent, counts.dead),
            'Run an encoder service, or SELECT pgembed.bm25_maintain() from time to time.';
    end if;
    if counts.failed > 0 then
        return query select 'warning', format('the words of %s rows could not be read', counts.failed),
            format('SELECT * FROM pgembed.failed WHERE name = %L; mend them, then SELECT pgembed.retry(%L).', b.name, name);
    end if;
end
$$;
comment on function pgembed._doctor_bm25(pgembed.bm25) is 'What is wrong with a BM25 index.';

create or replace function pgembed._doctor_vectors(e pgembed.embedding)
returns table (severity text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name constant text := pgembed._qualified_name(e.source, e.name);
    t constant pgembed.captured_text := pgembed._text(e.text_id);
    state text;
    operator_class text;
    other_model boolean;
    dead bigint := (select count(*) from pgembed.dead_letter where embedding_id = e.embedding_id);
    oldest timestamptz := (select min(not_before) from pgembed.queue where embedding_id = e.embedding_id);
begin
    if e.state = 'broken' and t.state <> 'broken' then
        return query select 'error', 'is broken: ' || coalesce(e.state_reason, 'no reason known'),
            format('SELECT pgembed.alter_embedding(%L, ...) or pgembed.repair(%L).', name, name);
    elsif e.state = 'paused' then
        return query select 'warning', 'is paused' || case when t.capture then '' else ', and its triggers are removed' end,
            format('SELECT pgembed.resume(%L).', name);
    end if;
    if pgembed._table_sql(e.source) is null or pgembed._table_sql(e.side_table) is null then
        return;
    end if;
    state := pgembed._index_state(e);
    if e.index_error is not null then
        return query select 'error', 'its index could not be built: ' || e.index_error,
            format('Remove the cause, then SELECT pgembed.repair(%L).', name);
    elsif state = 'invalid' then
        return query select 'warning', 'its index is invalid (an interrupted build): searches are exact, and slow',
            'A running service builds it again.';
    elsif state = 'pending' and e.backfill_state = 'done' and e.state = 'active'
          and not exists (select from pgembed.queue where embedding_id = e.embedding_id and priority = 2)
          and pgembed._row_count(e.side_table) > 0 then
        return query select 'warning', 'its index is missing: searches are exact, and slow',
            'A running service builds it.';
    end if;
    select o.opcname into operator_class
    from pg_index as i
    join pg_opclass as o on o.oid = i.indclass[0]
    where i.indexrelid = pgembed._index_oid(e);
    if operator_class <> pgembed._operator_class(e) then
        return query select 'error', format('its index has operator class %s, distance %s needs %s: it is not used',
                                            operator_class, e.distance, pgembed._operator_class(e)),
            format('DROP INDEX %s; a running service builds it as declared.', pgembed._index_oid(e)::regclass);
    end if;
    execute format('select exists (select from %s where model_id <> $1)', pgembed._table_sql(e.side_table))
        into other_model using e.model_id;
    if other_model then
        return query select 'error', 'holds vectors of another model than it declares: they cannot be compared',
            format('SELECT pgembed.reembed(%L).', name);
    end if;
    if dead > 0 then
        return query select 'warning', format('%s rows could not be encoded', dead),
            format('SELECT * FROM pgembed.failed WHERE name = %L; then SELECT pgembed.retry(%L).', e.name, name);
    end if;
    if e.state = 'active' and oldest < clock_timestamp() - interval '15 minutes' then
        return query select 'warning', format('a change has waited for %s', date_trunc('second', clock_timestamp() - oldest)),
            'See the service''s log; more services can run side by side.';
    end if;
end
$$;
comment on function pgembed._doctor_vectors(pgembed.embedding) is
    'What is wrong with the vectors, index and queue of an embedding.';

create or replace function pgembed.doctor()
returns table (severity text, embedding text, problem text, advice text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    vector_version text := (select extversion from pg_extension where extname = 'vector');
begin
    if current_setting('server_version_num')::int < 160000 then
        return query select 'error', null::text, format('the server is PostgreSQL %s', current_setting('server_version')),
            'pgembed needs PostgreSQL 16 or newer.';
    end if;
    if vector_version is null
       or string_to_array(substring(vector_version from '^[0-9]+(?:\.[0-9]+)*'), '.')::int[] < array[0, 8] then
        return query select 'error', null::text, format('pgvector is %s', coalesce(vector_version, 'missing')),
            'Filtered searches need iterative scans, which came with pgvector 0.8: ALTER EXTENSION vector UPDATE.';
    end if;
    if not pgembed._service_alive() and exists (select from pgembed.embedding where state = 'active') then
        return query select 'error', null::text, 'no encoder service is running: changes wait, and queries are not encoded'::text,
            'Start one: pgembed serve --dsn ...';
    end if;
    if pg_notification_queue_usage() > 0.5 then
        return query select 'error', null::text, 'the queue of notifications is more than half full: writers do not wake services'::text,
            'A session that listens has been idle in a transaction for long: end it.';
    end if;
    return query
    select found.*
    from (select d.severity, x.name, d.problem, d.advice
          from pgembed.captured_text as t
          cross join lateral (
              select name from (select name, 1 as place from pgembed.embedding where text_id = t.text_id
                                union all select name, 2 from pgembed.bm25 where text_id = t.text_id) as named
              order by place, name limit 1) as x
          cross join lateral pgembed._doctor_text(t) as d
          union all
          select d.severity, e.name, d.problem, d.advice
          from pgembed.embedding as e
          cross join lateral pgembed._doctor_vectors(e) as d
          union all
          select d.severity, x.name, d.problem, d.advice
          from pgembed.bm25 as x
          cross join lateral pgembed._doctor_bm25(x) as d) as found(severity, name, problem, advice)
    order by found.name, found.severity, found.problem;
end
$$;
comment on function pgembed.doctor() is
    'What is wrong and what to do: triggers, indexes, models, row-level security, privileges, '
    'services. No row: nothing found.';
