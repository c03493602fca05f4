-- The doctor: everything that follows from a declaration, compared with what is
-- really there. Read-only; pgembed.repair() mends most of what it finds.

create or replace function pgembed._doctor_bm25(b pgembed.bm25)
returns table (severity text, problem text, advice text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    event text;
    counts record;
begin
    if b.state = 'broken' then
        return query select 'error', 'its BM25 index is broken: ' || coalesce(b.state_reason, 'no reason known'),
            format('Mend the table, then SELECT pgembed.bm25_rebuild(%L); or another text: SELECT pgembed.%s(%L, text_expression => ...).',
                   b.name, case when b.embedding_id is null then 'alter_bm25' else 'alter_embedding' end,
                   coalesce((select name from pgembed.embedding where embedding_id = b.embedding_id), b.name));
    end if;
    if pgembed._table_sql(b.source) is null or b.engine <> 'sql' then
        return;
    end if;
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
        if not exists (select from pg_catalog.pg_trigger
                       where tgrelid = b.source and tgname = pgembed._bm25_trigger_name(b.bm25_id, event)
                         and tgenabled <> 'D') then
            return query select 'error', format('its BM25 trigger for %s is missing or disabled', event),
                format('ENABLE the trigger if it is there, then SELECT pgembed.bm25_rebuild(%L).', b.name);
        end if;
    end loop;
    return query select 'warning', format('role %s may read %s but not its BM25 index, so it cannot search', reader, b.source),
                        format('SELECT pgembed.bm25_maintain(%L).', b.name)
                 from pgembed._bm25_readers_amiss(b) where may_read;
    counts := pgembed._bm25_counts(b);
    if counts.recent > 20000 or counts.dead > 20000 then
        return query select 'warning',
            format('its BM25 index has %s documents to pack and %s to purge, which makes searches slow',
                   counts.recent, counts.dead),
            'Run an encoder service, or SELECT pgembed.bm25_maintain() from time to time.';
    end if;
end
$$;
comment on function pgembed._doctor_bm25(pgembed.bm25) is 'What is wrong with a BM25 index.';

create or replace function pgembed._doctor_source(e pgembed.embedding)
returns table (severity text, problem text, advice text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    event text;
    enabled "char";
    reader name;
begin
    if e.state = 'broken' then
        return query select 'error', 'is broken: ' || coalesce(e.state_reason, 'no reason known'),
            format('SELECT pgembed.alter_embedding(%L, ...) or pgembed.repair(%L).', e.name, e.name);
    elsif e.state = 'paused' then
        return query select 'warning', 'is paused' || case when e.capture then '' else ', and its triggers are removed' end,
            format('SELECT pgembed.resume(%L).', e.name);
    end if;
    if pgembed._table_sql(e.source) is null or pgembed._table_sql(e.side_table) is null then
        return query select 'error', 'its table or side table has been dropped',
            format('SELECT pgembed.drop_embedding(%L).', e.name);
        return;
    end if;
    if e.capture then
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            enabled := (select tgenabled from pg_catalog.pg_trigger
                        where tgrelid = e.source and tgname = pgembed._trigger_name(e.embedding_id, event));
            if enabled is null then
                return query select 'error', format('its trigger for %s is missing: such changes are not seen', event),
                    format('SELECT pgembed.repair(%L).', e.name);
            elsif enabled = 'D' then
                return query select 'error', format('its trigger for %s is disabled: such changes are not seen', event),
                    format('ALTER TABLE %s ENABLE TRIGGER %I; then SELECT pgembed.repair(%L).', e.source,
                           pgembed._trigger_name(e.embedding_id, event), e.name);
            end if;
        end loop;
    end if;
    if (select relrowsecurity from pg_catalog.pg_class where oid = e.source)
       and not (select relrowsecurity from pg_catalog.pg_class where oid = e.side_table) then
        return query select 'error', format('%s has row-level security, its side table %s has not: '
                                            'texts can be read past the policies', e.source, e.side_table),
            format('SELECT pgembed.repair(%L).', e.name);
    end if;
    for reader in
        select case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end
        from pg_catalog.pg_class as c, aclexplode(c.relacl) as a
        where c.oid = e.source and a.privilege_type = 'SELECT'
        except
        select case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end
        from pg_catalog.pg_class as c, aclexplode(c.relacl) as a
        where c.oid = e.side_table and a.privilege_type = 'SELECT'
    loop
        return query select 'warning', format('role "%s" may read %s but not its side table, so it cannot search', reader, e.source),
            format('SELECT pgembed.repair(%L).', e.name);
    end loop;
end
$$;
comment on function pgembed._doctor_source(pgembed.embedding) is
    'What is wrong with the table, triggers and privileges of an embedding.';

create or replace function pgembed._doctor_vectors(e pgembed.embedding)
returns table (severity text, problem text, advice text)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    state text := pgembed._index_state(e);
    operator_class text;
    other_model boolean;
    dead bigint := (select count(*) from pgembed.dead_letter where embedding_id = e.embedding_id);
    oldest timestamptz := (select min(not_before) from pgembed.queue where embedding_id = e.embedding_id);
begin
    if pgembed._table_sql(e.source) is null or pgembed._table_sql(e.side_table) is null then
        return;
    end if;
    if e.index_error is not null then
        return query select 'error', 'its index could not be built: ' || e.index_error,
            format('Remove the cause, then SELECT pgembed.repair(%L).', e.name);
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
    from pg_catalog.pg_index as i
    join pg_catalog.pg_opclass as o on o.oid = i.indclass[0]
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
            format('SELECT pgembed.reembed(%L).', e.name);
    end if;
    if dead > 0 then
        return query select 'warning', format('%s rows could not be encoded', dead),
            format('SELECT * FROM pgembed.failed WHERE name = %L; then SELECT pgembed.retry(%L).', e.name, e.name);
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
as $$
#variable_conflict use_column
declare
    vector_version text := (select extversion from pg_catalog.pg_extension where extname = 'vector');
begin
    if current_setting('server_version_num')::int < 150000 then
        return query select 'error', null::text, format('the server is PostgreSQL %s', current_setting('server_version')),
            'pgembed needs PostgreSQL 15 or newer.';
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
        return query select 'error', null::text, 'the queue of notifications is more than half full',
            'A session that listens has been idle in a transaction for long: end it.';
    end if;
    return query
    select found.*
    from (select d.severity, e.name, d.problem, d.advice
          from pgembed.embedding as e
          cross join lateral (select * from pgembed._doctor_source(e)
                              union all select * from pgembed._doctor_vectors(e)) as d
          union all
          select d.severity, x.name, d.problem, d.advice
          from pgembed.bm25 as x
          left join pgembed.embedding as e on e.embedding_id = x.embedding_id
          cross join lateral pgembed._doctor_bm25(x) as d
          where e.capture is not false) as found(severity, name, problem, advice)
    order by found.name, found.severity, found.problem;
end
$$;
comment on function pgembed.doctor() is
    'What is wrong and what to do: triggers, indexes, models, row-level security, privileges, '
    'services. No row: nothing found.';
