-- What the encoder service does with the queue. Every function is one short
-- transaction of its own; no transaction is open while a model runs. The names
-- end in a version: a service of an earlier release keeps working during an
-- upgrade.

create or replace function pgembed._embeddings_v1()
returns table (
    embedding_id int, name text, source text, state text, model_id int, model text, provider text,
    model_dimensions int, dimensions int, normalized boolean, query_prompt text,
    document_prompt text, max_tokens int, fingerprint text, chunking text, chunk_size int,
    chunk_overlap int, storage text, max_attempts int, backfill_state text, revision int
)
language sql stable
as $$
    select e.embedding_id, e.name, e.source::text, e.state, m.model_id, m.name, m.provider,
           m.dimensions, e.dimensions, m.normalized, m.query_prompt, m.document_prompt,
           m.max_tokens, m.fingerprint, e.chunking, e.chunk_size, e.chunk_overlap, e.storage,
           e.max_attempts::int, e.backfill_state, e.revision
    from pgembed.embedding as e
    join pgembed.model as m using (model_id)
    where e.state = 'active'
    order by e.embedding_id
$$;
comment on function pgembed._embeddings_v1() is 'Active embeddings, as a service needs to know them.';

create or replace function pgembed._claim_v1(p_embedding_id int, p_batch int, p_lease interval)
returns table (seq bigint, key text, op "char", attempts smallint, priority smallint)
language plpgsql
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

create or replace function pgembed._read_v1(p_embedding_id int, p_keys text[], p_max_bytes bigint)
returns table (key text, found boolean, deferred boolean, current boolean, content text, hash uuid)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    if not found then
        return;
    end if;
    return query execute format(
        $sql$
        with composed as materialized (
            select k.key, k.position, source_row.content, source_row.present,
                   md5(source_row.content)::uuid as hash,
                   sum(octet_length(source_row.content)) over (order by k.position) as bytes
            from unnest($1) with ordinality as k(key, position)
            left join lateral (
                select true as present, r.content
                from (select k.key) as pgembed_key
                cross join lateral (%1$s) as r) as source_row on true
        )
        select c.key, c.present is not null,
               coalesce(c.bytes > $2 and c.position > 1, false) and not up_to_date.is,
               up_to_date.is,
               case when not up_to_date.is and (c.bytes <= $2 or c.position = 1) then c.content end,
               c.hash
        from composed as c
        cross join lateral (select c.key) as pgembed_key
        left join %2$s as s on %3$s and s.chunk = 0
        cross join lateral (
            select case when c.hash is null then s.chunk is null
                        else coalesce(s.text_hash = c.hash and s.model_id = $3
                                      and s.embedded_at >= $4, false) end and %4$s) as up_to_date("is")
        order by c.position
        $sql$,
        pgembed._source_rows_sql(e.source, e.canonical_expression),
        pgembed._table_sql(e.side_table),
        pgembed._key_sql(e.source, e.side_table, 's.%3$I = %5$s::%4$s', ' and '),
        -- A row that was deleted and inserted again has the text, but no vector.
        case e.storage when 'table' then 'true' else format(
            'not exists (select from %s as v where %s and (v.%I is null) = (c.hash is not null))',
            pgembed._table_sql(e.source),
            pgembed._key_sql(e.source, null, 'v.%2$I = %5$s::%4$s', ' and '), e.column_name) end)
    using p_keys, p_max_bytes, e.model_id, e.valid_from;
end
$$;
comment on function pgembed._read_v1(int, text[], bigint) is
    'Composed texts of rows, with their hash; what is up to date already says so and comes without '
    'its text, and what goes past max_bytes is deferred.';

create or replace function pgembed._chunks_v1(p_embedding_id int, p_keys text[])
returns table (key text, chunk int, content text, embedding vector)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    if not found or e.storage <> 'table' then
        return;
    end if;
    return query execute format(
        $sql$
        select pgembed_key.key, s.chunk, s.content, s.embedding::%1$s.vector
        from unnest($1) as pgembed_key(key)
        join %2$s as s on %3$s
        where s.model_id = $2 and s.embedded_at >= $3
        $sql$,
        pgembed._vector_schema(), pgembed._table_sql(e.side_table),
        pgembed._key_sql(e.source, e.side_table, 's.%3$I = %5$s::%4$s', ' and '))
    using p_keys, e.model_id, e.valid_from;
end
$$;
comment on function pgembed._chunks_v1(int, text[]) is
    'Chunks that rows have now, whose vectors may be used again where the text is the same.';

create or replace function pgembed._write_v1(
    p_embedding_id int, p_revision int, p_seqs bigint[], p_attempts smallint[],
    p_keys text[], p_hashes uuid[],
    p_chunk_rows int[], p_chunks int[], p_contents text[], p_embeddings vector[],
    out written int, out stale int
)
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    side text;
    source text;
    rows_sql text;
    key_match text;
    key_list text;
    unwritten text[];
    later text[] := '{}';
    still_true boolean[];
begin
    -- FOR SHARE: a change of the declaration waits for this write, or this write
    -- sees the new revision.
    select * into e from pgembed.embedding where embedding_id = p_embedding_id for share;
    if not found then
        written := 0; stale := cardinality(p_keys);
        return;
    end if;
    if e.revision <> p_revision then
        update pgembed.queue as q
        set not_before = clock_timestamp(), attempts = q.attempts - 1
        from unnest(p_seqs, p_attempts) as j(seq, attempts)
        where q.seq = j.seq and q.attempts = j.attempts;
        written := 0; stale := cardinality(p_keys);
        return;
    end if;
    side := pgembed._table_sql(e.side_table);
    source := pgembed._table_sql(e.source);
    rows_sql := pgembed._source_rows_sql(e.source, e.canonical_expression);
    key_match := pgembed._key_sql(e.source, e.side_table, 's.%3$I = %5$s::%4$s', ' and ');
    key_list := pgembed._key_sql(e.source, e.side_table, '%3$I', ', ');

    -- Jobs that come without a result: their rows were up to date when read.
    select coalesce(array_agg(distinct q.key), '{}') into unwritten
    from unnest(p_seqs, p_attempts) as j(seq, attempts)
    join pgembed.queue as q on q.seq = j.seq and q.attempts = j.attempts
    where q.key is not null and not exists (select from unnest(p_keys) as k(key) where k.key = q.key);

    -- One writer a row at a time. Only services take these locks; applications
    -- never do. In key order, so that two services do not wait for each other.
    perform pg_advisory_xact_lock(1885824366, h)
    from (select distinct hashtext(p_embedding_id || ':' || k) as h
          from unnest(p_keys || unwritten) as k order by 1) as locks;

    -- Another service may have been writing an earlier text of theirs since.
    if unwritten <> '{}' then
        select coalesce(array_agg(r.key), '{}') into later
        from pgembed._read_v1(p_embedding_id, unwritten, 0) as r where not r.current;
    end if;

    -- Vectors in the source itself mean row locks there. A service never waits
    -- for one, lest it and an application wait for each other: what someone is
    -- writing now comes again a moment later.
    if e.storage = 'column' then
        execute format(
            $sql$
            select $2 || coalesce(array_agg(pgembed_key.key), '{}')
            from unnest($1) as pgembed_key(key)
            where exists (select from %1$s as pgembed_source where %2$s)
              and not exists (select from %1$s as pgembed_source where %2$s for no key update skip locked)
            $sql$, source,
            pgembed._key_sql(e.source, null, 'pgembed_source.%2$I = %5$s::%4$s', ' and '))
        into later using p_keys, later;
    end if;

    -- This statement's snapshot is younger than the locks: whoever wrote one of
    -- these rows before has committed. A result counts only if the row's text is
    -- still the one that was encoded.
    execute format(
        $sql$
        select array_agg(case when k.key = any ($3) then false
                              when k.hash is null then r.content is null
                              else coalesce(md5(r.content)::uuid = k.hash, false) end
                         order by k.position)
        from unnest($1, $2) with ordinality as k(key, hash, position)
        left join lateral (
            select s.content from (select k.key) as pgembed_key cross join lateral (%s) as s) as r on true
        $sql$, rows_sql)
    into still_true using p_keys, p_hashes, later;
    written := coalesce((select count(*) from unnest(still_true) as t where t), 0);
    stale := cardinality(p_keys) - written;

    -- Chunks that the text no longer has. (Its own rows are updated below.)
    execute format(
        $sql$
        with pgembed_key as (
            select k.key, coalesce(c.chunks, 0) as chunks
            from unnest($1, $2) with ordinality as k(key, still_true, position)
            left join (select row_position, count(*) as chunks from unnest($3) as u(row_position) group by 1) as c
              on c.row_position = k.position
            where k.still_true)
        delete from %1$s as s using pgembed_key where %2$s and s.chunk >= pgembed_key.chunks
        $sql$, side, key_match)
    using p_keys, still_true, p_chunk_rows;

    execute format(
        $sql$
        insert into %1$s (%2$s, chunk, %3$s text_hash, model_id, embedded_at)
        select %4$s, c.chunk, %5$s pgembed_key.hash, $7, clock_timestamp()
        from unnest($4, $5, $6, $8) as c(row_position, chunk, content, embedding)
        join unnest($1, $2, $3) with ordinality as pgembed_key(key, hash, still_true, position)
          on pgembed_key.position = c.row_position
        where pgembed_key.still_true
        order by c.row_position, c.chunk
        on conflict (%2$s, chunk) do update
        set %6$s text_hash = excluded.text_hash, model_id = excluded.model_id,
            embedded_at = excluded.embedded_at
        $sql$, side, key_list,
        case e.storage when 'table' then 'content, embedding,' else '' end,
        pgembed._key_sql(e.source, e.side_table, '%5$s::%4$s', ', '),
        case e.storage when 'table' then format('c.content, c.embedding::%s,', pgembed._vector_column_type(e)) else '' end,
        case e.storage when 'table' then 'content = excluded.content, embedding = excluded.embedding,' else '' end)
    using p_keys, p_hashes, still_true, p_chunk_rows, p_chunks, p_contents, e.model_id, p_embeddings;

    if e.storage = 'column' then
        execute format(
            $sql$
            update %1$s as pgembed_source set %2$I = c.embedding::%3$s
            from unnest($1, $2) with ordinality as pgembed_key(key, still_true, position)
            left join unnest($3, $4) as c(row_position, embedding) on c.row_position = pgembed_key.position
            where pgembed_key.still_true and %4$s
            $sql$, source, e.column_name, pgembed._vector_column_type(e),
            pgembed._key_sql(e.source, null, 'pgembed_source.%2$I = %5$s::%4$s', ' and '))
        using p_keys, still_true, p_chunk_rows, p_embeddings;
    end if;

    update pgembed.queue as q
    set not_before = clock_timestamp() + interval '100 ms', attempts = q.attempts - 1
    from unnest(p_seqs, p_attempts) as j(seq, attempts)
    where q.seq = j.seq and q.attempts = j.attempts and q.key = any (later);
    -- A stale result needs no second try: the change that made it stale has
    -- queued a job of its own.
    with done as (
        delete from pgembed.queue as q
        using unnest(p_seqs, p_attempts) as j(seq, attempts)
        where q.seq = j.seq and q.attempts = j.attempts
        returning q.key)
    delete from pgembed.dead_letter as d
    where d.embedding_id = p_embedding_id
      and d.key in (select key from done
                    union all
                    select k.key from unnest(p_keys, still_true) as k(key, still_true) where k.still_true);
end
$$;
comment on function pgembed._write_v1(int, int, bigint[], smallint[], text[], uuid[], int[], int[], text[], vector[]) is
    'Writes the chunks of rows whose text is still the one that was encoded, and removes their jobs, '
    'in one transaction. chunk_rows are positions in keys, from 1. Safe to call late: a result for '
    'an earlier text, a deleted row or an earlier declaration is dropped.';

create or replace function pgembed._release_v1(
    p_seqs bigint[], p_attempts smallint[], p_delay interval, p_refund boolean
) returns void
language sql
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

create or replace function pgembed._sweep(p_embedding pgembed.embedding) returns bigint
language plpgsql
as $$
declare
    swept bigint;
begin
    execute format('delete from %s as s where not exists (select from %s as pgembed_source where %s)',
        pgembed._table_sql(p_embedding.side_table), pgembed._table_sql(p_embedding.source),
        pgembed._key_sql(p_embedding.source, p_embedding.side_table,
                         'pgembed_source.%2$I = s.%3$I', ' and '));
    get diagnostics swept = row_count;
    return swept;
end
$$;
comment on function pgembed._sweep(pgembed.embedding) is
    'Removes vectors whose row is gone; returns how many chunks.';

create or replace function pgembed._control_v1(p_embedding_id int, p_seq bigint, p_attempts smallint, p_op "char")
returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    is_empty boolean;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id for update;
    if found and p_op = 'T' then
        -- Emptied at once when the source is empty still: that lock is on the
        -- side table, which no application writes.
        execute format('lock table %s in access exclusive mode', pgembed._table_sql(e.side_table));
        execute format('select not exists (select from %s)', pgembed._table_sql(e.source)) into is_empty;
        if is_empty then
            execute format('truncate %s', pgembed._table_sql(e.side_table));
        else
            perform pgembed._sweep(e);
        end if;
    elsif found and p_op = 'R' then
        -- The table has another shape than the capture functions know.
        perform pgembed._analyze_expression(e.source, e.canonical_expression);
        perform pgembed._install_capture_functions(e);
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
-- Keys are written as the capture functions write them.
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    queued int;
    last_key text;
begin
    select * into e from pgembed.embedding
    where embedding_id = p_embedding_id and state = 'active' for update skip locked;
    if not found then
        return 0;    -- another service is at it
    end if;
    if e.backfill_state = 'done' then
        return null;
    end if;
    -- The page and the cursor move in one transaction: a crash repeats or
    -- continues, but leaves nothing out. Rows that are up to date cost a look.
    execute format(
        $sql$
        with page as materialized (
            select %1$s as key, row_number() over (order by %2$s) as position
            from %3$s as s
            where %4$s
            order by %2$s
            limit $2
        ), queued as (
            insert into pgembed.queue (embedding_id, key, op, priority)
            select $1, key, 'U', 2 from page order by position
            returning 1
        )
        select (select count(*) from queued), (select key from page order by position desc limit 1)
        $sql$,
        pgembed._key_text_sql(e.source, 's'),
        pgembed._key_sql(e.source, null, 's.%2$I', ', '),
        pgembed._table_sql(e.source),
        case when e.backfill_cursor is null then 'true'
             else format('(%s) > (select %s from (select $3) as pgembed_key(key))',
                         pgembed._key_sql(e.source, null, 's.%2$I', ', '),
                         pgembed._key_sql(e.source, null, '%5$s::%4$s', ', ')) end)
    into queued, last_key using e.embedding_id, p_batch, e.backfill_cursor;
    update pgembed.embedding
    set backfill_cursor = coalesce(last_key, backfill_cursor),
        backfill_state = case when queued < p_batch then 'done' else 'pending' end
    where embedding_id = p_embedding_id;
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
as $$
    select coalesce(bool_or(e.backfill_state = 'pending' or first.not_before <= clock_timestamp()), false),
           min(first.not_before)
    from pgembed.embedding as e
    left join lateral (
        select min(lane.not_before) as not_before
        from unnest(array[0, 1, 2]::smallint[]) as l(priority)
        cross join lateral (
            select q.not_before from pgembed.queue as q
            where q.embedding_id = e.embedding_id and q.priority = l.priority
            order by q.not_before limit 1) as lane) as first on true
    where e.state = 'active' and e.embedding_id <> all (p_skip)
$$;
comment on function pgembed._ready_v1(int[]) is
    'Whether anything can be claimed now; else when the next lease or back-off ends.';
