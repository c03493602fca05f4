-- Reading texts and writing vectors. The source is read, compared and, with column
-- storage, written as its owner (capture/fence.sql); the side table belongs to pgembed.

create or replace function pgembed._require_side_table(e pgembed.embedding) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pgembed._table_sql(e.side_table) is null then
        raise exception 'the side table of embedding "%" has been dropped', e.name using errcode = 'PE016',
            hint = format('SELECT pgembed.repair(%L) makes it again.', pgembed._qualified_name(e.source, e.name));
    end if;
    perform pgembed._held_name(e.side_table);
end
$$;
comment on function pgembed._require_side_table(pgembed.embedding) is 'PE016 for an embedding without a side table; one that is there keeps its name until the end.';

create or replace function pgembed._keys_without_vector(e pgembed.embedding, p_keys text[]) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return case e.storage when 'table' then '{}'::text[]
                else pgembed._keys_of_rows(pgembed._text(e.text_id), p_keys, format('s.%I is null', e.column_name)) end;
end
$$;
comment on function pgembed._keys_without_vector(pgembed.embedding, text[]) is
    'Rows that have no vector in their column: deleted and inserted again, they may have an entry in the side table.';

create or replace function pgembed._read_v1(p_embedding_id int, p_keys text[], p_max_bytes bigint)
returns table (key text, found boolean, deferred boolean, current boolean, content text, hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    texts record;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    if not found then
        return;
    end if;
    perform pgembed._require_side_table(e);
    texts := pgembed._read_texts(pgembed._text(e.text_id), p_keys, p_max_bytes);
    return query execute format(
        $sql$
        select c.key, c.present,
               coalesce(c.bytes > $6 and c.position > 1, false) and not up_to_date.is,
               up_to_date.is,
               case when not up_to_date.is then c.content end,
               c.hash
        from unnest($1, $2, $3, $4, $5) with ordinality as c(key, present, content, hash, bytes, position)
        cross join lateral (select c.key) as pgembed_key
        left join %1$s as s on %2$s and s.chunk = 0
        cross join lateral (
            select case when c.hash is null then s.chunk is null
                        else coalesce(s.text_hash = c.hash and s.model_id = $7
                                      and s.embedded_at >= $8, false) and c.key <> all ($9) end) as up_to_date("is")
        order by c.position
        $sql$,
        pgembed._table_sql(e.side_table),
        pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
    using p_keys, texts.present, texts.contents, texts.hashes, texts.bytes, p_max_bytes, e.model_id, e.valid_from,
          pgembed._keys_without_vector(e, p_keys);
end
$$;
comment on function pgembed._read_v1(int, text[], bigint) is
    'Composed texts of rows, with their hash; what is up to date already says so and comes without '
    'its text, and what goes past max_bytes is deferred.';

create or replace function pgembed._chunks_v1(p_embedding_id int, p_keys text[])
returns table (key text, chunk int, content text, embedding vector)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    m pgembed.model;
    one pgembed.embedding;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    if not found or e.storage <> 'table' then
        return;
    end if;
    perform pgembed._require_side_table(e);
    select * into m from pgembed.model where model_id = e.model_id;
    -- Its own, and what it shall take the place of has, if that is of the same model and as precise.
    for one in select x.* from pgembed.embedding as x
               where x.model_id = e.model_id and pgembed._table_sql(x.side_table) is not null
                 and (x.embedding_id = e.embedding_id
                      or x.embedding_id = e.current_id
                         and x.dimensions >= e.dimensions
                         and (x.dimensions = m.dimensions
                              or (x.reduction, x.projection_id) is not distinct from (e.reduction, e.projection_id))
                         -- A projection loses more than halves of numbers do.
                         and (x.vector_type in ('vector', e.vector_type) or e.reduction = 'pca' and x.dimensions = m.dimensions))
               order by x.embedding_id <> e.embedding_id loop
        return query execute format(
            $sql$
            select pgembed_key.key, s.chunk, s.content, %4$s
            from unnest($1) as pgembed_key(key)
            join %2$s as s on %3$s
            where s.model_id = $2 and s.embedded_at >= $3
            $sql$,
            pgembed._vector_schema(), pgembed._table_sql(one.side_table),
            pgembed._key_sql(e.source, one.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '),
            -- What is to be projected comes whole: the service does that.
            format(case when one.dimensions = e.dimensions or one.reduction <> e.reduction then 's.embedding::%1$s.vector'
                        when m.normalized then '%1$s.l2_normalize(%1$s.subvector(s.embedding::%1$s.vector, 1, %2$s))'
                        else '%1$s.subvector(s.embedding::%1$s.vector, 1, %2$s)' end, pgembed._vector_schema(), e.dimensions))
        using p_keys, e.model_id, one.valid_from;
    end loop;
end
$$;
comment on function pgembed._chunks_v1(int, text[]) is
    'Chunks that rows have now, whose vectors may be used again where the text is the same: as the embedding has them, or whole where they are still to be projected.';

create or replace function pgembed._lock_rows(e pgembed.embedding, p_keys text[]) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    keys constant text[] := array(select distinct k.key collate "C" from unnest(p_keys) as k(key) order by 1);
    work pgembed._work;
begin
    -- One service at a time writes a row; applications never take these locks. In order,
    -- so that two services do not wait for each other.
    insert into pgembed.write_lock (embedding_id, key)
    select e.embedding_id, k.key from unnest(keys) with ordinality as k(key, place) order by k.place;
    delete from pgembed.write_lock where embedding_id = e.embedding_id and key = any (keys);
    if e.storage = 'table' then
        return '{}';
    end if;
    -- Vectors in the source itself mean row locks there. A service never waits for one,
    -- lest it and an application wait for each other.
    work.keys := p_keys;
    return array(
        select unnest(pgembed._keys_of_rows(pgembed._text(e.text_id), p_keys))
        except
        select unnest(pgembed._run_as_owner(e.text_id, format(
            'select array(select k.key from unnest(($1).keys) as k(key) cross join lateral (select k.key) as pgembed_key '
            'cross join lateral (select from %s as s where %s for no key update skip locked) as s)',
            pgembed._table_sql(e.source), pgembed._key_sql(e.source, null, 's.%2$I %7$s %5$s::%4$s', ' and ')), work)));
end
$$;
comment on function pgembed._lock_rows(pgembed.embedding, text[]) is
    'Keeps other services, and with column storage applications too, from writing rows until the end of the '
    'transaction; returns the keys of rows that somebody is writing now.';

create or replace function pgembed._write_v1(
    p_embedding_id int, p_revision int, p_seqs bigint[], p_attempts smallint[],
    p_keys text[], p_hashes bytea[],
    p_chunk_rows int[], p_chunks int[], p_contents text[], p_embeddings vector[],
    out written int, out stale int
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    t pgembed.captured_text;
    side text;
    key_list text;
    texts record;
    unwritten text[];    -- keys of jobs that come without a result: their rows were up to date when read
    later text[];        -- keys whose jobs go back, because somebody is writing the row
    again text[] := '{}';
    still_true boolean[];
    work pgembed._work;
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
    t := pgembed._text(e.text_id);
    perform pgembed._require_side_table(e);
    side := pgembed._table_sql(e.side_table);
    key_list := pgembed._key_sql(e.source, e.side_table, '%3$I', ', ');
    select coalesce(array_agg(distinct q.key), '{}') into unwritten
    from unnest(p_seqs, p_attempts) as j(seq, attempts)
    join pgembed.queue as q on q.seq = j.seq and q.attempts = j.attempts
    where q.key is not null and not exists (select from unnest(p_keys) as k(key) where k.key = q.key);

    later := pgembed._lock_rows(e, p_keys || unwritten);
    -- Another service may have been writing an earlier text of theirs since.
    if unwritten <> '{}' then
        select later || coalesce(array_agg(r.key), '{}') into later
        from pgembed._read_v1(p_embedding_id, unwritten, 0) as r where not r.current;
    end if;

    -- This statement's snapshot is younger than the locks: whoever wrote one of these
    -- rows before has committed. A result counts only if the row's text is still the
    -- one that was encoded.
    texts := pgembed._read_texts(t, p_keys, 0);
    execute format(
        $sql$
        select array_agg(case when k.key = any ($4) then false
                              when k.now is not distinct from k.hash then true
                              -- A text that depends on more than its row may never be twice the same. The
                              -- second time it is written as it was, unless the row has one of now.
                              when $5 and k.now is not null and k.hash is not null
                                  then k.attempts > 1 and s.text_hash is distinct from k.now
                              else false end
                         order by k.position)
        from (select k.*, (select max(j.attempts) from unnest($6, $7) as j(seq, attempts)
                           join pgembed.queue as q on q.seq = j.seq and q.key = k.key) as attempts
              from unnest($1, $2, $3) with ordinality as k(key, hash, now, position)) as k
        cross join lateral (select k.key) as pgembed_key
        left join %1$s as s on %2$s and s.chunk = 0
        $sql$, side, pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
    into still_true
    using p_keys, p_hashes, texts.hashes, later, t.volatility <> 'immutable', p_seqs, p_attempts;
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
        $sql$, side, pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
    using p_keys, still_true, p_chunk_rows;

    execute format(
        $sql$
        insert into %1$s (%2$s, chunk, %3$s text_hash, model_id, embedded_at)
        select %4$s, c.chunk, %5$s pgembed_key.hash, $7, $9
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
    using p_keys, p_hashes, still_true, p_chunk_rows, p_chunks, p_contents, e.model_id, p_embeddings,
          greatest(clock_timestamp(), e.valid_from);    -- made for this declaration, even if the clock has been set back since

    if e.storage = 'column' then
        select array_agg(k.key order by k.position), array_agg(c.embedding order by k.position) into work.keys, work.vectors
        from unnest(p_keys, still_true) with ordinality as k(key, still_true, position)
        left join unnest(p_chunk_rows, p_embeddings) as c(row_position, embedding) on c.row_position = k.position
        where k.still_true;
        if work.keys is not null then
            perform pgembed._run_as_owner(e.text_id, format(
                'update %1$s as s set %2$I = pgembed_key.embedding::%3$s '
                'from unnest(($1).keys, ($1).vectors) as pgembed_key(key, embedding) where %4$s',
                pgembed._table_sql(e.source), e.column_name, pgembed._vector_column_type(e),
                pgembed._key_sql(e.source, null, 's.%2$I %7$s %5$s::%4$s', ' and ')), work);
        end if;
    end if;

    -- A job goes when its result is written, or when another of the same key is there;
    -- else it goes back: nobody else would see to that row.
    select array_agg(k.key) into again
    from unnest(p_keys, still_true) as k(key, still_true)
    where not k.still_true and k.key <> all (later)
      and not exists (select from pgembed.queue as q
                      where q.embedding_id = p_embedding_id and q.key = k.key and q.seq <> all (p_seqs));
    update pgembed.queue as q
    set not_before = clock_timestamp() + interval '100 ms',
        attempts = q.attempts - case when q.key = any (later) then 1 else 0 end
    from unnest(p_seqs, p_attempts) as j(seq, attempts)
    where q.seq = j.seq and q.attempts = j.attempts and q.key = any (later || again);
    with done as (
        delete from pgembed.queue as q
        using unnest(p_seqs, p_attempts) as j(seq, attempts)
        where q.seq = j.seq and q.attempts = j.attempts and not coalesce(q.key = any (later || again), false)
        returning q.key)
    delete from pgembed.dead_letter as d
    where d.embedding_id = p_embedding_id
      and d.key in (select key from done
                    union all
                    select k.key from unnest(p_keys, still_true) as k(key, still_true) where k.still_true);
end
$$;
comment on function pgembed._write_v1(int, int, bigint[], smallint[], text[], bytea[], int[], int[], text[], vector[]) is
    'Writes the chunks of rows whose text is still the one that was encoded, and removes their jobs, '
    'in one transaction. chunk_rows are positions in keys, from 1. Safe to call late: a result for '
    'an earlier text, a deleted row or an earlier declaration is dropped, and its job goes back unless a newer one is there.';
