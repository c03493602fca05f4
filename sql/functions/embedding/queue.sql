-- What the encoder service does with the queue. Every function is one short
-- transaction of its own; no transaction is open while a model runs. The names
-- end in a version: a service of an earlier release keeps working during an
-- upgrade.

create or replace function pgembed._embeddings_v1()
returns table (
    embedding_id int, name text, source text, state text, model_id int, model text, provider text,
    model_dimensions int, dimensions int, normalized boolean, query_prompt text,
    document_prompt text, max_tokens int, fingerprint text, chunking text, chunk_size int,
    chunk_overlap int, storage text, max_attempts int, backfill_state text, revision int, model_revision text, switch text, images boolean, located boolean,
    projection_id uuid
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select e.embedding_id, x.label, e.source::text, e.state, m.model_id, m.name, m.provider,
           m.dimensions, e.dimensions, m.normalized, m.query_prompt, m.document_prompt,
           m.max_tokens, m.fingerprint, e.chunking, e.chunk_size, e.chunk_overlap, e.storage,
           e.max_attempts::int, e.backfill_state, e.revision, m.revision, e.switch, t.kind <> 'text', t.kind = 'location',
           e.projection_id
    from pgembed.embedding as e
    join pgembed._standing as x on x.kind = 'embedding' and x.id = e.embedding_id
    join pgembed.model as m using (model_id)
    join pgembed.captured_text as t using (text_id)
    where x.state = 'active' and not pgembed._unlearnt(e)
    order by e.embedding_id
$$;
comment on function pgembed._embeddings_v1() is 'Active embeddings, as a service needs to know them.';

create or replace function pgembed._claim_v1(p_embedding_id int, p_batch int, p_lease interval)
returns table (seq bigint, key text, op "char", attempts smallint, priority smallint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted int := p_batch;
    taken int;
    lane smallint;
begin
    -- One query a priority keeps the index scan in order and short.
    foreach lane in array array[0, 1, 2]::smallint[] loop
        return query
        with ready as materialized (
            select q.seq
            from pgembed.queue as q
            where q.embedding_id = p_embedding_id and q.priority = lane
              and q.not_before <= statement_timestamp()
            order by q.not_before, q.seq
            limit wanted
            for update skip locked
        )
        update pgembed.queue as q
        set not_before = clock_timestamp() + p_lease, attempts = q.attempts + 1
        from ready
        where q.seq = ready.seq
        returning q.seq, q.key, q.op, q.attempts, q.priority;
        get diagnostics taken = row_count;
        wanted := wanted - taken;
        exit when wanted <= 0;
    end loop;
end
$$;
comment on function pgembed._claim_v1(int, int, interval) is
    'Leases ready jobs of an embedding: fresh changes first, then bulk, then backfill.';

create or replace function pgembed._release_v1(
    p_seqs bigint[], p_attempts smallint[], p_delay interval, p_refund boolean
) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.queue as q
    set not_before = clock_timestamp() + p_delay,
        attempts = q.attempts - case when p_refund then 1 else 0 end
    from unnest(p_seqs, p_attempts) as j(seq, attempts)
    where q.seq = j.seq and q.attempts = j.attempts
$$;
comment on function pgembed._release_v1(bigint[], smallint[], interval, boolean) is
    'Gives leased jobs back, to be claimed after a delay; refund does not count the attempt.';

create or replace function pgembed._extend_v1(p_seqs bigint[], p_attempts smallint[], p_lease interval)
returns int
language sql
set search_path = pg_catalog, pg_temp
as $$
    with extended as (
        update pgembed.queue as q
        set not_before = clock_timestamp() + p_lease
        from unnest(p_seqs, p_attempts) as j(seq, attempts)
        where q.seq = j.seq and q.attempts = j.attempts
        returning 1)
    select count(*)::int from extended
$$;
comment on function pgembed._extend_v1(bigint[], smallint[], interval) is
    'Renews leases while a long batch is encoded; returns how many are still held.';

create or replace function pgembed._fail_v1(
    p_embedding_id int, p_seq bigint, p_attempts smallint, p_error text, p_delay interval
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    allowed smallint;
begin
    select max_attempts into allowed from pgembed.embedding where embedding_id = p_embedding_id;
    if p_attempts < allowed then
        update pgembed.queue
        set not_before = clock_timestamp() + p_delay
        where seq = p_seq and attempts = p_attempts;
        return 'retry';
    end if;
    with failed as (
        delete from pgembed.queue where seq = p_seq and attempts = p_attempts
        returning seq, embedding_id, key, op, attempts)
    insert into pgembed.dead_letter (seq, embedding_id, key, op, attempts, error)
    select seq, embedding_id, key, op, attempts, left(p_error, 10000) from failed;
    return 'dead';
end
$$;
comment on function pgembed._fail_v1(int, bigint, smallint, text, interval) is
    'A job failed: it is tried again after a delay or, when it has had its attempts, becomes a dead '
    'letter with the error.';

create or replace function pgembed._sweep(e pgembed.embedding) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
-- Keys are written as the triggers write them.
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
    t constant pgembed.captured_text := pgembed._text(e.text_id);
    page text[];
    swept bigint;
    total bigint := 0;
    after text;
begin
    perform pgembed._require_side_table(e);
    -- Page by page: the source may only be asked as its owner, who may not see the keys of
    -- rows that are gone.
    loop
        execute format(
            'select array_agg(s.key order by s.place) from (select %1$s as key, row_number() over (order by %2$s) as place from %3$s as s '
            'where s.chunk = 0 and %4$s order by %2$s limit 10000) as s',
            pgembed._side_key_text_sql(e), pgembed._key_sql(e.source, e.side_table, 's.%3$I', ', '), pgembed._table_sql(e.side_table),
            case when after is null then 'true' else format('(%s) > (select %s from (select $1) as pgembed_key(key))',
                pgembed._key_sql(e.source, e.side_table, 's.%3$I', ', '), pgembed._key_sql(e.source, e.side_table, '%5$s::%4$s', ', ')) end)
        into page using after;
        exit when page is null;
        execute format('delete from %s as s using unnest($1) as pgembed_key(key) where %s', pgembed._table_sql(e.side_table),
                       pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
        using pgembed._missing_keys(t, page);
        get diagnostics swept = row_count;
        total := total + swept;
        exit when cardinality(page) < 10000;
        after := page[cardinality(page)];
    end loop;
    return total;
end
$$;
comment on function pgembed._sweep(pgembed.embedding) is
    'Removes vectors whose row is gone; returns how many chunks.';

create or replace function pgembed._side_key_text_sql(e pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(case when i.indnkeyatts = 1 then '%s' else 'array[%s]::text' end,
                  pgembed._key_sql((e).source, (e).side_table, '%6$s(concat(s.%3$I))', ', '))
    from pg_index as i
    where i.indrelid = (e).source and i.indisprimary
$$;
comment on function pgembed._side_key_text_sql(pgembed.embedding) is
    'Expression for the key text of a row of the side table (alias s).';

create or replace function pgembed._control_v1(p_embedding_id int, p_seq bigint, p_attempts smallint, p_op "char")
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    t pgembed.captured_text;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id for no key update;
    if found then
        t := pgembed._text(e.text_id);
        perform pgembed._require_side_table(e);
    end if;
    if found and p_op = 'T' then
        -- Emptied at once when the source is empty still: that lock is on the
        -- side table, which no application writes.
        execute format('lock table %s in access exclusive mode', pgembed._table_sql(e.side_table));
        if pgembed._source_is_empty(t) then
            execute format('truncate %s', pgembed._table_sql(e.side_table));
        else
            perform pgembed._sweep(e);
        end if;
    elsif found and p_op = 'R' then
        -- The table has another shape than the capture functions know, or a row could not
        -- be captured.
        perform pgembed._install_functions(pgembed._store_analysis(pgembed._reanalyzed(t)));
        perform pgembed._sweep(e);
        perform pgembed._restart_backfill(e.embedding_id);
    end if;
    delete from pgembed.queue where seq = p_seq and attempts = p_attempts;
end
$$;
comment on function pgembed._control_v1(int, bigint, smallint, "char") is
    'Performs a job that concerns the whole table: T truncated, R to be scanned again.';

create or replace function pgembed._backfill_v1(p_embedding_id int, p_batch int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    keys text[];
    queued int;
    cursor_key text;
    passed bigint;
begin
    select * into e from pgembed.embedding
    where embedding_id = p_embedding_id and state = 'active' for no key update skip locked;    -- a BM25 build refers to the row
    if not found then
        return 0;    -- another service is at it
    end if;
    if e.backfill_state = 'done' then
        return null;
    end if;
    -- The page and the cursor move in one transaction: a crash repeats or
    -- continues, but leaves nothing out. Rows that are up to date cost a look.
    select b.after, b.passed into cursor_key, passed from pgembed.backfill as b where b.embedding_id = p_embedding_id;
    keys := pgembed._keys_as_owner(e.text_id, format(
        'select row_number() over (order by %2$s), %1$s from %3$s as s where %4$s order by %2$s limit ($1).n',
        pgembed._key_text_sql(e.source, 's'),
        pgembed._key_sql(e.source, null, 's.%2$I', ', '),
        pgembed._table_sql(e.source),
        case when cursor_key is null then 'true'
             else pgembed._keys_after_sql(e.source) end),
        row(null, null, cursor_key, p_batch)::pgembed._work);
    queued := cardinality(keys);
    insert into pgembed.queue (embedding_id, key, op, priority)
    select p_embedding_id, k.key, 'U', 2 from unnest(keys) with ordinality as k(key, place) order by k.place;
    update pgembed.embedding set backfill_state = 'done' where embedding_id = p_embedding_id and queued < p_batch;
    delete from pgembed.backfill where embedding_id = p_embedding_id;
    insert into pgembed.backfill (embedding_id, after, passed)
    select p_embedding_id, keys[queued], coalesce(passed, 0) + queued where queued = p_batch;
    if queued < p_batch then
        perform pgembed._sweep(e);
    end if;
    return case when queued > 0 then queued end;
end
$$;
comment on function pgembed._backfill_v1(int, int) is
    'Queues the next rows in key order at the lowest priority; returns how many, NULL when the '
    'backfill is finished.';

create or replace function pgembed._ready_v1(p_skip int[] default '{}', out ready boolean, out next_at timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(bool_or(e.backfill_state = 'pending' or first.not_before <= clock_timestamp()), false),
           min(first.not_before)
    from pgembed.embedding as e
    join pgembed.captured_text as t using (text_id)
    left join lateral (
        select min(lane.not_before) as not_before
        from unnest(array[0, 1, 2]::smallint[]) as l(priority)
        cross join lateral (
            select q.not_before from pgembed.queue as q
            where q.embedding_id = e.embedding_id and q.priority = l.priority
            order by q.not_before limit 1) as lane) as first on true
    where e.state = 'active' and t.state = 'active' and not pgembed._unlearnt(e) and e.embedding_id <> all (p_skip)
$$;
comment on function pgembed._ready_v1(int[]) is
    'Whether anything can be claimed now; else when the next lease or back-off ends.';
