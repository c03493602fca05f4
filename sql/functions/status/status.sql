-- What people look at.

-- A view and a DO keep or use the operators that the path finds.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

create or replace function pgembed._row_count(p_table oid, p_condition text default 'true') returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
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
    execute format('select count(*) from %s where %s', pgembed._table_sql(p_table), p_condition) into counted;
    return counted;
exception when insufficient_privilege then
    return null;
end
$$;
comment on function pgembed._row_count(oid, text) is
    'Number of rows of a table of pgembed''s: exact for small tables, the planner''s estimate above 200,000.';

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
set search_path = pg_catalog, pg_temp
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
set search_path = pg_catalog, pg_temp
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

create or replace view pgembed.status as
select
    pgembed._schema_of(e.source) as schema,
    e.name,
    e.source,
    m.name as model,
    e.dimensions,
    case t.state when 'broken' then 'broken' else e.state end as state,
    coalesce(t.state_reason, e.state_reason) as state_reason,
    counts.source_rows as rows,
    counts.embedded,
    jobs.queued + case when e.backfill_state = 'pending' and e.state = 'active'
                       then greatest(counts.source_rows - counts.embedded - jobs.queued, 0) else 0 end as pending,
    dead.failed,
    pgembed._unseen_rows(e.text_id) as unseen,
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
    words.state as bm25_state
from pgembed.embedding as e
join pgembed.captured_text as t using (text_id)
join pgembed.model as m using (model_id)
cross join lateral (
    select pgembed._source_count(e.text_id) as source_rows,
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
    'How each embedding is doing: rows, embedded, pending, failed, unseen (rows that were written while triggers did '
    'not fire), oldest pending age, rows a second, time to go, indexes. Counts are estimates above 200,000 rows.';

create or replace function pgembed._bm25_counts(
    b pgembed.bm25, out recent bigint, out dead bigint, out must_rebuild boolean, out failed bigint, out bytes bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    failed := (select count(*) from pgembed.bm25_failed as f where f.bm25_id = b.bm25_id);
    if to_regclass(pgembed._bm25_table(b.bm25_id, 'recent')) is null or to_regclass(pgembed._bm25_table(b.bm25_id, 'dead')) is null then
        return;
    end if;
    execute format('select count(*) from %s', pgembed._bm25_table(b.bm25_id, 'recent')) into recent;
    execute format('select count(*) filter (where op = ''D''), coalesce(bool_or(op <> ''D''), false) from %s',
                   pgembed._bm25_table(b.bm25_id, 'dead')) into dead, must_rebuild;
    bytes := (select sum(pg_total_relation_size(to_regclass(pgembed._bm25_table(b.bm25_id, part))))
              from unnest(array['recent', 'dead', 'doc', 'term', 'posting', 'block']) as part);
end
$$;
comment on function pgembed._bm25_counts(pgembed.bm25) is
    'What of a BM25 index is not packed yet or could not be read, and its size; for its owner.';

create or replace view pgembed.bm25_status as
select pgembed._schema_of(x.source) as schema, x.name, x.source, x.config, x.state, x.state_reason,
       p.packed_rows, c.recent as recent_rows, c.dead as dead_rows, c.failed, pgembed._unseen_rows(x.text_id) as unseen,
       c.must_rebuild, cardinality(p.segments) as segments, c.bytes
from pgembed.bm25 as x
join pgembed.bm25_pack as p using (bm25_id)
cross join lateral pgembed._bm25_counts(x) as c;
comment on view pgembed.bm25_status is
    'How each BM25 index is doing: documents packed, not packed yet (recent), deleted but not purged yet (dead), '
    'rows that could not be read (failed) or were written while triggers did not fire (unseen), size.';

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
select worker_id, hostname, pid, version, models, started_at, heartbeat_at,
       heartbeat_at > clock_timestamp() - interval '30 seconds' as alive
from pgembed.worker;
comment on view pgembed.workers is 'Encoder services and whether they are alive.';
