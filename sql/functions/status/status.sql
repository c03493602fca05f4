-- What people look at.

-- A view and a DO keep or use the operators that the path finds.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

create or replace function pgembed._row_count(p_table oid, p_condition text default 'true') returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
    counted bigint;
    estimate constant float8 := pgembed._estimated_size(p_table);
begin
    if pgembed._table_sql(p_table) is null then
        return null;
    end if;
    -- Counting a large table for a status line would be rude.
    if estimate > 200000 then
        return case p_condition when 'true' then estimate
            else pgembed._estimated_rows(format('select from %s where %s', pgembed._table_sql(p_table), p_condition)) end;
    end if;
    execute format('select count(*) from %s where %s', pgembed._held_name(p_table), p_condition) into counted;
    return counted;
exception when insufficient_privilege or lock_not_available then
    return null;
end
$$;
comment on function pgembed._row_count(oid, text) is
    'Number of rows of a table of pgembed''s: exact for small tables, the planner''s estimate above 200,000; NULL where it is locked.';

create or replace function pgembed._estimated_size(p_table oid) returns float8
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select sum(greatest(c.reltuples, 0)) from pg_class as c
    where c.oid in (select p_table union
                    select relid from pg_partition_tree(p_table) where isleaf)
      and c.relkind = 'r'
$$;
comment on function pgembed._estimated_size(oid) is 'Rows of a table and its partitions when it was last analyzed.';

create or replace function pgembed._source_count(p_text_id int) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
    t constant pgembed.captured_text := pgembed._text(p_text_id);
    estimate constant float8 := pgembed._estimated_size(t.source);
begin
    if estimate > 200000 then
        return estimate;
    end if;
    return (pgembed._keys_as_owner(p_text_id, format('select 1::int8, count(*)::text from %s', pgembed._table_sql(t.source))))[1];
exception when others or assert_failure or query_canceled then    -- a status is given whatever is broken
    return null;
end
$$;
comment on function pgembed._source_count(int) is
    'Number of rows of a source, read as its owner: exact for small tables, the planner''s estimate above 200,000.';

create or replace function pgembed._unseen_rows(p_text_id int) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
    t constant pgembed.captured_text := pgembed._text(p_text_id);
    found_keys text[];
begin
    if t.state = 'broken' or pgembed._estimated_size(t.source) > 200000 or pgembed._parts_missing(p_text_id) is not null then
        return null;
    end if;
    found_keys := pgembed._unknown_keys(t, t.source, 10000);
    -- What waits, or has failed, is not lost.
    return (select count(*) from unnest(found_keys) as f(key)
            where not exists (select from pgembed.queue as q join pgembed.embedding as e using (embedding_id)
                              where e.text_id = p_text_id and (q.key = f.key or q.op in ('R', 'T')))
              and not exists (select from pgembed.dead_letter as d join pgembed.embedding as e using (embedding_id)
                              where e.text_id = p_text_id and d.key = f.key)
              and not exists (select from pgembed.bm25_failed as x join pgembed.bm25 as b using (bm25_id)
                              where b.text_id = p_text_id and x.key = f.key));
exception when others or assert_failure or query_canceled then
    return null;
end
$$;
comment on function pgembed._unseen_rows(int) is
    'Rows that have a text and no vector or no words, though nothing waits for them: they were written while triggers '
    'did not fire. NULL above 200,000 rows, or where it cannot be told.';

create or replace function pgembed._relation_bytes(p_relation oid, p_with_indexes boolean) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
begin
    return (select sum(case when p_with_indexes then pg_total_relation_size(relid) else pg_relation_size(relid) end)
            from (select p_relation as relid union select relid from pg_partition_tree(p_relation)) as r);
exception when lock_not_available then
    return null;
end
$$;
comment on function pgembed._relation_bytes(oid, boolean) is 'Size of a table with its partitions, or of an index; NULL where it is gone, or locked.';

create or replace view pgembed._standing as
select d.kind, d.id, d.name, d.source,
       case when count(*) over (partition by d.kind, d.name) = 1 then d.name else pgembed._qualified_name(d.source, d.name) end as label,
       case t.state when 'broken' then t.state else d.state end as state,
       coalesce(t.state_reason, d.state_reason) as state_reason
from (select 'embedding' as kind, embedding_id as id, name, source, text_id, state, state_reason from pgembed.embedding
      union all
      select 'bm25', bm25_id, name, source, text_id, state, state_reason from pgembed.bm25) as d
join pgembed.captured_text as t using (text_id);
comment on view pgembed._standing is
    'State of each embedding and BM25 index, which is broken where its text is, and a label that no other has.';

create or replace function pgembed._model_standing(p_model text, out state text, out seconds float8, out reason text, out elsewhere bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select m.said ->> 'state',
           case m.said ->> 'state' when 'ready' then null
                else (m.said ->> 'seconds')::float8 + extract(epoch from clock_timestamp() - w.heartbeat_at)::float8 end,
           m.said ->> 'reason',
           count(*) filter (where m.said ->> 'state' = 'unavailable') over ()
    from pgembed.worker as w
    cross join lateral (select w.models -> p_model as said) as m
    where m.said is not null and w.heartbeat_at > clock_timestamp() - interval '30 seconds'
    order by case m.said ->> 'state' when 'ready' then 1 when 'loading' then 2 else 3 end, m.said ->> 'reason'
    limit 1
$$;
comment on function pgembed._model_standing(text) is
    'How a model stands with the service that has it readiest: ready, loading or unavailable, for how many seconds, and why; '
    'no row''s values where none serves it. elsewhere: services that cannot use it.';

create or replace function pgembed._oldest_waiting(p_embedding_id int) returns interval
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A job's age is the time since it became claimable: not_before moves with
    -- leases and back-off, so this is what waits for a service, not what has one.
    select clock_timestamp() - min(lane.not_before)
    from unnest(array[0, 1, 2]::smallint[]) as l(priority)
    cross join lateral (
        select q.not_before
        from pgembed.queue as q
        where q.embedding_id = p_embedding_id and q.priority = l.priority and q.not_before <= clock_timestamp()
        order by q.not_before
        limit 1) as lane
$$;
comment on function pgembed._oldest_waiting(int) is
    'For how long the oldest claimable job of an embedding has waited; NULL when none waits.';

create or replace function pgembed._row_counts(
    e pgembed.embedding, p_look boolean default true, out source_rows bigint, out embedded bigint, out waiting bigint, out encoding bigint, out failed bigint,
    out without_text bigint, out unseen bigint, out estimated boolean, out rate float8
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    most constant int := 200000;
    side text;
    jobs record;
    every int;               -- which part of the keys is counted
    changed bigint;          -- rows that have jobs
    unfilled bigint := 0;    -- rows that the first fill, or the next look at all rows, has still to pass
    vectorless bigint;       -- rows that wait, or have failed, and have no vector
    leaving bigint;          -- vectors whose row is gone
    known boolean;
begin
    source_rows := pgembed._source_count(e.text_id);
    embedded := pgembed._row_count(e.side_table, 'chunk = 0');
    side := pgembed._table_sql(e.side_table);    -- as it is called now that it is held
    estimated := greatest(pgembed._estimated_size(e.source), pgembed._estimated_size(e.side_table)) > most;
    failed := (select count(distinct coalesce(key, '')) from pgembed.dead_letter as d where d.embedding_id = e.embedding_id);
    select sum((w.work -> e.embedding_id::text ->> 'encoding')::bigint), sum((w.work -> e.embedding_id::text ->> 'rate')::float8)
    into encoding, rate
    from pgembed.worker as w
    where w.work ? e.embedding_id::text and w.heartbeat_at > clock_timestamp() - interval '30 seconds';

    -- A row that has changed five times has five jobs, and is one row. Of many jobs the keys
    -- of every sixteenth hash are counted.
    select count(*) as jobs, bool_or(q.key is null) as whole into jobs
    from (select key from pgembed.queue where embedding_id = e.embedding_id limit most) as q;
    every := case when jobs.jobs > 50000 then 16 else 1 end;
    changed := (select every * count(distinct q.key collate "C")
                from (select key from pgembed.queue where embedding_id = e.embedding_id limit most) as q
                where every = 1 or hashtext(q.key) % every = 0);
    if every > 1 then
        estimated := true;
        changed := changed * greatest(1, pgembed._estimated_rows(format(
            'select from pgembed.queue where embedding_id = %s', e.embedding_id)) / most);
    end if;
    if jobs.whole then
        unfilled := greatest(source_rows, 1);
    elsif e.backfill_state = 'pending' and e.state = 'active' then
        unfilled := greatest(source_rows - coalesce(
            (select b.passed from pgembed.backfill as b where b.embedding_id = e.embedding_id), 0), 0);
    end if;
    encoding := least(coalesce(encoding, 0), changed);    -- a heartbeat may be older than the queue
    -- A row that has changed while it waits for the fill is one row.
    waiting := least(changed + coalesce(unfilled, 0), greatest(source_rows, changed, unfilled)) - encoding;

    if not p_look then
        return;
    end if;
    unseen := pgembed._unseen_rows(e.text_id);
    known := not estimated and unfilled = 0 and changed <= 10000 and failed <= 10000 and source_rows is not null and embedded is not null;
    if known and changed + failed > 0 then
        execute format(
            'select count(*) filter (where not h.has and not k.gone), count(*) filter (where h.has and k.gone) '
            'from (select key, bool_and(op = ''D'') as gone from (select key, op from pgembed.queue where embedding_id = $1 '
            'union all select key, op from pgembed.dead_letter where embedding_id = $1) as j where key is not null group by key) as k '
            'cross join lateral (select k.key) as pgembed_key '
            'cross join lateral (select exists (select from %s as s where s.chunk = 0 and %s) as has) as h',
            side, pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
        into vectorless, leaving using e.embedding_id;
        embedded := embedded - leaving;
    end if;
    if known and unseen is not null then
        without_text := greatest(source_rows - embedded - coalesce(vectorless, 0) - unseen, 0);
    end if;
end
$$;
comment on function pgembed._row_counts(pgembed.embedding, boolean) is
    'Rows of an embedding: of its table, with a vector, waiting, being encoded, failed, without a text, unseen; whether '
    'these are estimates (above 200,000 rows or 50,000 jobs), and how many a second are worked off. p_look false leaves out what is not cheap: without_text and unseen.';

create or replace function pgembed._bm25_percent(p_text_id int, p_rows bigint) returns numeric
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A build is one transaction: only the name of its session shows anything of it.
    select least(100, round(100.0 * substring(a.application_name from '[0-9]+$')::bigint / nullif(p_rows, 0), 1))
    from pg_stat_activity as a
    where a.datname = current_database() and a.application_name like format('pgembed bm25 %s: %%', p_text_id)
    limit 1
$$;
comment on function pgembed._bm25_percent(int, bigint) is
    'How much of a table the build of its BM25 index has read; NULL while none is built.';

create or replace view pgembed.status as
select
    pgembed._schema_of(e.source) as schema,
    e.name,
    e.source,
    m.name as model,
    e.dimensions,
    standing.state,
    standing.state_reason,
    counts.source_rows as rows,
    counts.embedded,
    counts.waiting,
    counts.encoding,
    counts.failed,
    counts.without_text,
    counts.unseen,
    least(1, counts.embedded::float8 / nullif(counts.source_rows - coalesce(counts.without_text, 0), 0)) as coverage,
    counts.estimated,
    pgembed._oldest_waiting(e.embedding_id) as oldest_pending,
    counts.rate as rows_per_second,
    case when counts.rate > 0 then make_interval(secs => (counts.waiting + counts.encoding) / counts.rate) end as eta,
    e.backfill_state,
    loaded.state as model_state,
    loaded.seconds as model_seconds,
    loaded.reason as model_reason,
    pgembed._index_state(e) as index_state,
    build.phase as index_phase,
    build.percent as index_percent,
    e.index_error,
    build.notice as index_notice,
    (select sum(pgembed._relation_bytes(x.index, false))::bigint from pgembed._vector_indexes(e) as x) as index_bytes,
    pgembed._relation_bytes(e.side_table, true) as side_table_bytes,
    words.state as bm25_state,
    case words.state when 'pending' then pgembed._bm25_percent(e.text_id, counts.source_rows) end as bm25_percent,
    e.generation,
    e.switch,
    case when e.generation <> 'current' then coalesce(pgembed._switch_waits_for(e), e.switch_error) end as switch_waits_for,
    e.query_encoder,
    case when trained.encoder_id is null then 'none' when pgembed._query_encoder_stale(trained) then 'stale' else 'ready' end as query_encoder_state,
    trained.created_at as query_encoder_trained_at,
    trained.agreement as query_encoder_agreement,
    trained.overlap as query_encoder_overlap,
    e.is_default,
    e.reduction,
    e.partitions
from pgembed.embedding as e
join pgembed._standing as standing on standing.kind = 'embedding' and standing.id = e.embedding_id
join pgembed.model as m using (model_id)
cross join lateral pgembed._row_counts(e) as counts
cross join lateral pgembed._model_standing(m.name) as loaded
cross join lateral pgembed._build_standing(e) as build
left join (pgembed.bm25 as x join pgembed._standing as words on words.kind = 'bm25' and words.id = x.bm25_id) using (embedding_id)
cross join lateral pgembed._query_encoder(e) as trained;
comment on view pgembed.status is
    'How each embedding is doing, in rows: with a vector, waiting, being encoded, failed, without a text, unseen (written while '
    'triggers did not fire); coverage, rows a second, time to go; its model, its indexes, its query encoder; whether searches that name only the table use it; what a next or previous generation lacks to take '
    'the place of the current one. Counts are estimates above 200,000 rows or 50,000 jobs.';

create or replace function pgembed._bm25_counts(
    b pgembed.bm25, out recent bigint, out dead bigint, out must_rebuild boolean, out failed bigint, out bytes bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    failed := (select count(*) from pgembed.bm25_failed as f where f.bm25_id = b.bm25_id);
    if to_regclass(pgembed._bm25_part(b.bm25_id, 'recent')) is null or to_regclass(pgembed._bm25_part(b.bm25_id, 'dead')) is null then
        return;
    end if;
    execute format('select count(*) from %s', pgembed._bm25_part(b.bm25_id, 'recent')) into recent;
    execute format('select count(*) filter (where op = ''D''), coalesce(bool_or(op <> ''D''), false) from %s',
                   pgembed._bm25_part(b.bm25_id, 'dead')) into dead, must_rebuild;
    bytes := (select sum(pg_total_relation_size(to_regclass(pgembed._bm25_part(b.bm25_id, part))))
              from unnest(array['recent', 'dead', 'doc', 'term', 'posting', 'block']) as part);
end
$$;
comment on function pgembed._bm25_counts(pgembed.bm25) is
    'What of a BM25 index is not packed yet or could not be read, and its size; for its owner.';

create or replace view pgembed.bm25_status as
select pgembed._schema_of(x.source) as schema, x.name, x.source, e.name as embedding, x.config, standing.state, standing.state_reason,
       case standing.state when 'pending' then pgembed._bm25_percent(x.text_id, pgembed._source_count(x.text_id)) end as percent,
       p.packed_rows, c.recent as recent_rows, c.dead as dead_rows, c.failed, pgembed._unseen_rows(x.text_id) as unseen,
       c.must_rebuild, cardinality(p.segments) as segments, c.bytes, x.is_default
from pgembed.bm25 as x
join pgembed._standing as standing on standing.kind = 'bm25' and standing.id = x.bm25_id
join pgembed.bm25_pack as p using (bm25_id)
left join pgembed.embedding as e using (embedding_id)
cross join lateral pgembed._bm25_counts(x) as c;
comment on view pgembed.bm25_status is
    'How each BM25 index is doing: how much of the table is read while it is built, documents packed, not packed yet (recent), '
    'deleted but not purged yet (dead), rows that could not be read (failed) or were written while triggers did not fire (unseen), size; whether searches by words that name only the table use it.';

create or replace view pgembed.failed as
select 'embedding' as kind, pgembed._schema_of(e.source) as schema, e.name, e.source, d.key, d.op, d.attempts, d.error, d.failed_at, d.seq
from pgembed.dead_letter as d
join pgembed.embedding as e using (embedding_id)
union all
select 'bm25', pgembed._schema_of(b.source), b.name, b.source, f.key, 'U', null, f.error, f.failed_at, null
from pgembed.bm25_failed as f
join pgembed.bm25 as b using (bm25_id);
comment on view pgembed.failed is
    'Rows that could not be encoded, or whose words could not be read, with the error; pgembed.retry() has them tried again.';

create or replace view pgembed.workers as
select w.worker_id, w.hostname, w.pid, w.version,
       array(select m.name || case m.said ->> 'state' when 'ready' then ''
                                   else format(' (%s for %s s%s)', m.said ->> 'state',
                                               round(extract(epoch from clock_timestamp() - w.heartbeat_at) + (m.said ->> 'seconds')::numeric),
                                               ': ' || (m.said ->> 'reason')) end
             from jsonb_each(w.models) as m(name, said) order by m.name) as models,
       w.problems, w.started_at, w.heartbeat_at,
       w.heartbeat_at > clock_timestamp() - interval '30 seconds' as alive
from pgembed.worker as w;
comment on view pgembed.workers is
    'Encoder services, whether they are alive, how their models stand, and what keeps them from their duties.';

create or replace view pgembed.load as
select coalesce(sum(c.waiting + c.encoding), 0)::bigint as rows,
       extract(epoch from max(pgembed._oldest_waiting(e.embedding_id)))::float8 as oldest_seconds,
       (select count(*) from pgembed.query_embedding as q
        where q.answered_at is null and q.wanted_until > clock_timestamp()) as queries,
       count(*) filter (where i.state = 'building' or i.state in ('pending', 'invalid') and c.embedded > 0 and e.backfill_state = 'done'
                                                      and e.index_error is null)
       + (select count(*) from pgembed.bm25 as b where b.state = 'pending') as builds,
       (select count(*) from pgembed.worker as w where w.heartbeat_at > clock_timestamp() - interval '30 seconds') as services
from pgembed.embedding as e
join pgembed._standing as x on x.kind = 'embedding' and x.id = e.embedding_id and x.state = 'active'
cross join lateral pgembed._row_counts(e, p_look => false) as c
cross join lateral (select pgembed._index_state(e) as state) as i;
comment on view pgembed.load is
    'What all services together have to do, in one row, for whatever decides how many there are: rows that wait or are being encoded of '
    'active embeddings (estimates where they are many), seconds that the oldest has waited, queries that wait for their vector, indexes '
    'that are being built or are to be; and how many services run.';
