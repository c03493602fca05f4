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

create or replace function pgembed._queue_depth_v1(p_limit int)
returns table (embedding_id int, name text, depth bigint, oldest_seconds float8)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A job's age is the time since it became claimable: not_before moves with
    -- leases and back-off, so this is what waits for a service, not what has one.
    select e.embedding_id, e.name,
           (select count(*) from (select from pgembed.queue as q
                                  where q.embedding_id = e.embedding_id limit p_limit) as counted),
           (select extract(epoch from clock_timestamp() - min(lane.not_before))
            from unnest(array[0, 1, 2]::smallint[]) as l(priority)
            cross join lateral (
                select q.not_before
                from pgembed.queue as q
                where q.embedding_id = e.embedding_id and q.priority = l.priority
                  and q.not_before <= clock_timestamp()
                order by q.not_before
                limit 1) as lane)
    from pgembed.embedding as e
$$;
comment on function pgembed._queue_depth_v1(int) is
    'Jobs in the queue of each embedding (counted up to a limit, so that it stays cheap), and for '
    'how many seconds the oldest claimable one has waited; NULL when none waits.';
