-- What the encoder service asks besides claiming and writing: the fresh lane
-- over all embeddings at once, the models that queries name, and the depth of
-- the queue for its metrics.

create or replace function pgembed._claim_fresh_v1(p_embedding_ids int[], p_batch int, p_lease interval)
returns table (embedding_id int, seq bigint, key text, op "char", attempts smallint, priority smallint)
language sql
set search_path = pg_catalog, pg_temp
as $$
    with ready as materialized (
        select picked.seq
        from unnest(p_embedding_ids) as wanted(id)
        cross join lateral (
            select q.seq
            from pgembed.queue as q
            where q.embedding_id = wanted.id and q.priority = 0
              and q.not_before <= statement_timestamp()
            order by q.not_before, q.seq
            limit p_batch
            for update skip locked) as picked
    )
    update pgembed.queue as q
    set not_before = clock_timestamp() + p_lease, attempts = q.attempts + 1
    from ready
    where q.seq = ready.seq
    returning q.embedding_id, q.seq, q.key, q.op, q.attempts, q.priority
$$;
comment on function pgembed._claim_fresh_v1(int[], int, interval) is
    'Leases ready fresh changes, up to batch jobs of each embedding, in one call: no backfill, '
    'however long, makes them wait.';

create or replace function pgembed._models_v1(p_model_ids int[])
returns table (
    model_id int, model text, provider text, dimensions int, query_prompt text,
    document_prompt text, fingerprint text, model_revision text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select m.model_id, m.name, m.provider, m.dimensions, m.query_prompt, m.document_prompt,
           m.fingerprint, m.revision
    from pgembed.model as m
    where m.model_id = any (p_model_ids)
$$;
comment on function pgembed._models_v1(int[]) is
    'Models, as a service needs to know them to load them.';

create or replace function pgembed._measures_v1()
returns table (embedding text, rows bigint, embedded bigint, waiting bigint, encoding bigint, failed bigint, oldest_seconds float8)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select x.label, c.source_rows, c.embedded, c.waiting, c.encoding, c.failed,
           extract(epoch from case x.state when 'active' then pgembed._oldest_waiting(e.embedding_id) end)
    from pgembed.embedding as e
    join pgembed._standing as x on x.kind = 'embedding' and x.id = e.embedding_id
    cross join lateral pgembed._row_counts(e, p_look => false) as c
$$;
comment on function pgembed._measures_v1() is
    'Rows of each embedding by what they are, for metrics, and for how many seconds the oldest job has waited that could be '
    'claimed; NULL when none waits or none is to be worked off.';

create or replace function pgembed._findings_v1(p_worker_id uuid)
returns table (severity text, code text, embedding text, findings bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- One service looks for all.
    if p_worker_id = (select w.worker_id from pgembed.worker as w where w.heartbeat_at > clock_timestamp() - interval '30 seconds'
                      order by w.started_at, w.worker_id limit 1) then
        return query select d.severity, d.code, d.embedding, count(*) from pgembed.doctor() as d group by 1, 2, 3;
    end if;
end
$$;
comment on function pgembed._findings_v1(uuid) is
    'What the doctor finds, by kind, for the metrics of the service that has run for longest; no rows for the others.';
