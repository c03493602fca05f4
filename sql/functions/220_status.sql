-- What people look at.

create or replace function pgembed._row_count(p_table oid, p_condition text default 'true') returns bigint
language plpgsql stable
as $$
declare
    estimate float8 := (select sum(greatest(c.reltuples, 0)) from pg_catalog.pg_class as c
                        where c.oid in (select p_table union
                                        select relid from pg_catalog.pg_partition_tree(p_table) where isleaf)
                          and c.relkind = 'r');
    counted bigint;
begin
    if pgembed._table_sql(p_table) is null then
        return null;
    end if;
    -- Counting a large table for a status line would be rude.
    if estimate > 200000 then
        return case p_condition when 'true' then estimate
            else pgembed._estimated_rows(format('select from %s where %s', pgembed._table_sql(p_table), p_condition)) end;
    end if;
    execute format('select count(*) from %s where %s', pgembed._table_sql(p_table), p_condition) into counted;
    return counted;
exception when insufficient_privilege then
    return null;
end
$$;
comment on function pgembed._row_count(oid, text) is
    'Number of rows: exact for small tables, the planner''s estimate above 200,000.';

create or replace view pgembed.status as
select
    e.name,
    e.source,
    m.name as model,
    e.dimensions,
    e.state,
    e.state_reason,
    counts.source_rows as rows,
    counts.embedded,
    jobs.queued + case when e.backfill_state = 'pending' and e.state = 'active'
                       then greatest(counts.source_rows - counts.embedded - jobs.queued, 0) else 0 end as pending,
    dead.failed,
    jobs.oldest_pending,
    rate.rows_per_second,
    case when rate.rows_per_second > 0
         then make_interval(secs => (jobs.queued + case when e.backfill_state = 'pending'
                  then greatest(counts.source_rows - counts.embedded - jobs.queued, 0) else 0 end)
              / rate.rows_per_second) end as eta,
    e.backfill_state,
    pgembed._index_state(e) as index_state,
    e.index_error,
    pg_relation_size(pgembed._index_oid(e)) as index_bytes,
    case when pgembed._table_sql(e.side_table) is not null then pg_total_relation_size(e.side_table) end as side_table_bytes,
    progress.percent as index_percent,
    words.engine as bm25_engine,
    words.state as bm25_state
from pgembed.embedding as e
join pgembed.model as m using (model_id)
cross join lateral (
    select pgembed._row_count(e.source) as source_rows,
           pgembed._row_count(e.side_table, 'chunk = 0') as embedded) as counts
cross join lateral (
    select count(*) as queued,
           clock_timestamp() - min(q.not_before) filter (where q.not_before <= clock_timestamp()) as oldest_pending
    from pgembed.queue as q where q.embedding_id = e.embedding_id) as jobs
cross join lateral (
    select count(*) as failed from pgembed.dead_letter as d where d.embedding_id = e.embedding_id) as dead
cross join lateral (
    select sum((w.rates ->> e.embedding_id::text)::float8) as rows_per_second
    from pgembed.worker as w
    where w.heartbeat_at > clock_timestamp() - interval '30 seconds') as rate
left join lateral (
    select round(100.0 * p.tuples_done / nullif(p.tuples_total, 0), 1) as percent
    from pg_stat_progress_create_index as p where p.index_relid = pgembed._index_oid(e)) as progress on true
left join pgembed.bm25 as words on words.embedding_id = e.embedding_id;
comment on view pgembed.status is
    'How each embedding is doing: rows, embedded, pending, failed, oldest pending age, rows a second, '
    'time to go, indexes. Counts are estimates above 200,000 rows.';

create or replace function pgembed._bm25_counts(
    b pgembed.bm25, out recent bigint, out dead bigint, out must_rebuild boolean, out bytes bigint
)
language plpgsql stable
as $$
begin
    if b.engine = 'pg_textsearch' then
        bytes := pg_relation_size(to_regclass(pgembed._bm25_index_sql(b)));
        return;
    end if;
    execute format('select count(*) from %s', pgembed._bm25_table(b.bm25_id, 'recent')) into recent;
    execute format('select count(*) filter (where op = ''D''), coalesce(bool_or(op <> ''D''), false) from %s',
                   pgembed._bm25_table(b.bm25_id, 'dead')) into dead, must_rebuild;
    bytes := (select sum(pg_total_relation_size(pgembed._bm25_table(b.bm25_id, part)::regclass))
              from unnest(array['recent', 'dead', 'doc', 'term', 'posting', 'block']) as part);
end
$$;
comment on function pgembed._bm25_counts(pgembed.bm25) is
    'What of a BM25 index is not packed yet, and its size; for its owner.';

create or replace view pgembed.bm25_status as
select x.name, x.source, x.engine, x.config, x.state, x.state_reason,
       x.packed_rows, c.recent as recent_rows, c.dead as dead_rows, c.must_rebuild,
       cardinality(x.segments) as segments, c.bytes
from pgembed.bm25 as x
cross join lateral pgembed._bm25_counts(x) as c;
comment on view pgembed.bm25_status is
    'How each BM25 index is doing: the engine that serves it, documents packed, not packed yet (recent) and '
    'deleted but not purged yet (dead), size.';

create or replace view pgembed.failed as
select e.name, e.source, d.key, d.op, d.attempts, d.error, d.failed_at, d.seq
from pgembed.dead_letter as d
join pgembed.embedding as e using (embedding_id);
comment on view pgembed.failed is
    'Rows that could not be encoded, with the error; pgembed.retry() queues them again.';

create or replace view pgembed.workers as
select worker_id, hostname, pid, version, models, started_at, heartbeat_at,
       heartbeat_at > clock_timestamp() - interval '30 seconds' as alive
from pgembed.worker;
comment on view pgembed.workers is 'Encoder services and whether they are alive.';
