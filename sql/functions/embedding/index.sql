-- The vector index of an embedding: what it must be, and whether it is there.

create or replace function pgembed._with_suffix(p_name text, p_suffix text) returns name
language plpgsql immutable    -- searches ask: its plan is kept
set search_path = pg_catalog, pg_temp
as $$
declare
    head text := p_name;
    full_name constant text := p_name || '_' || p_suffix;
begin
    if octet_length(full_name) <= 63 then
        return full_name;
    end if;
    -- A long name keeps its head, of whole characters, and a hash of the whole.
    while octet_length(head) > 40 loop
        head := left(head, -1);
    end loop;
    return head || '_' || left(md5(full_name), 8) || '_' || p_suffix;
end
$$;
comment on function pgembed._with_suffix(text, text) is
    'A name with a suffix of up to ten bytes, in 63 bytes.';

create or replace function pgembed._index_name(p_embedding pgembed.embedding) returns name
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return pgembed._with_suffix(p_embedding.name, p_embedding.index_kind);
end
$$;
comment on function pgembed._index_name(pgembed.embedding) is
    'Name of the vector index of an embedding.';

create or replace function pgembed._index_is_binary(p_embedding pgembed.embedding) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- pgvector indexes up to 2,000 dimensions of vector and 4,000 of halfvec.
    select coalesce((p_embedding.index_options ->> 'binary')::boolean, false)
           or p_embedding.dimensions > case p_embedding.vector_type when 'vector' then 2000 else 4000 end
$$;
comment on function pgembed._index_is_binary(pgembed.embedding) is
    'Whether the index is to have the signs of the vectors (binary quantisation), or they are too long to be indexed '
    'whole: candidates are then ranked again by the whole vectors.';

create or replace function pgembed._vector_column(p_embedding pgembed.embedding, out table_sql text, out column_name name)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._table_sql(case p_embedding.storage when 'table' then p_embedding.side_table else p_embedding.source end),
           coalesce(p_embedding.column_name, 'embedding')
$$;
comment on function pgembed._vector_column(pgembed.embedding) is
    'Table and column that hold the vectors of an embedding.';

create or replace function pgembed._index_oid(p_embedding pgembed.embedding) returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.oid
    from pg_index as i
    join pg_class as c on c.oid = i.indexrelid
    where i.indrelid = case p_embedding.storage when 'table' then p_embedding.side_table else p_embedding.source end
      and c.relname = pgembed._index_name(p_embedding)
$$;
comment on function pgembed._index_oid(pgembed.embedding) is
    'The vector index of an embedding; NULL when it is not there.';

create or replace function pgembed._operator_class(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when pgembed._index_is_binary(p_embedding) then 'bit_hamming_ops'
                else p_embedding.vector_type || case p_embedding.distance
                    when 'cosine' then '_cosine_ops'
                    when 'inner_product' then '_ip_ops'
                    else '_l2_ops' end end
$$;
comment on function pgembed._operator_class(pgembed.embedding) is
    'Operator class of the vector index.';

create or replace function pgembed._index_ddl(p_embedding pgembed.embedding, p_concurrently boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    vectors record;
    row_count float8;    -- one vector a row with column storage, so the side table tells for both
    options text;
begin
    select * into vectors from pgembed._vector_column(p_embedding);
    if p_embedding.index_kind = 'ivfflat' and not p_embedding.index_options ? 'lists' then
        -- pgvector's advice: rows / 1000 up to a million rows, their square root above.
        row_count := pgembed._row_count(p_embedding.side_table);
        p_embedding.index_options := jsonb_build_object('lists', greatest(1, least(32768,
            case when row_count <= 1e6 then ceil(row_count / 1000) else sqrt(row_count) end))::int);
    end if;
    select string_agg(format('%I = %s', key, value), ', ' order by key) into options
    from jsonb_each_text(p_embedding.index_options) where key <> 'binary';
    return format('create index %s %I on %s using %I (%s %s.%I)%s',
        case when p_concurrently then 'concurrently' else '' end,
        pgembed._index_name(p_embedding), vectors.table_sql, p_embedding.index_kind,
        case when pgembed._index_is_binary(p_embedding)
             then format('(%s.binary_quantize(%I)::bit(%s))', pgembed._vector_schema(),
                         vectors.column_name, p_embedding.dimensions)
             else format('%I', vectors.column_name) end,
        pgembed._vector_schema(), pgembed._operator_class(p_embedding),
        coalesce(' with (' || options || ')', ''));
end
$$;
comment on function pgembed._index_ddl(pgembed.embedding, boolean) is
    'Statement that makes the vector index of an embedding.';

create or replace function pgembed._build_progress(p_index oid, out phase text, out percent numeric, out waits_for int)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Blocks while the table is read; pgvector counts tuples up to no total.
    select p.phase,
           round(100.0 * coalesce(p.tuples_done::numeric / nullif(p.tuples_total, 0), p.blocks_done::numeric / nullif(p.blocks_total, 0)), 1),
           nullif(p.current_locker_pid, 0)::int
    from pg_stat_progress_create_index as p
    where p.index_relid = p_index and p.datname = current_database()
$$;
comment on function pgembed._build_progress(oid) is
    'How far the build of an index is, and which backend it waits for; NULL where it is not built, or by another role.';

create or replace function pgembed._build_standing(e pgembed.embedding, out phase text, out percent numeric, out waits_for int)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- What a session of another role does is not to be seen, so the service that builds says it, a heartbeat late.
    select coalesce(p.phase, b.said ->> 'phase'), coalesce(p.percent, (b.said ->> 'percent')::numeric),
           coalesce(p.waits_for, (b.said ->> 'waits_for')::int)
    from pgembed._build_progress(pgembed._index_oid(e)) as p
    left join (select w.builds -> (e).embedding_id::text as said from pgembed.worker as w
               where w.worker_id = (e).index_builder and w.heartbeat_at > clock_timestamp() - interval '30 seconds') as b on true
$$;
comment on function pgembed._build_standing(pgembed.embedding) is
    'How far the build of a vector index is, whoever builds it; NULL while nobody does.';

create or replace function pgembed._index_state(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_embedding.index_kind = 'none' then 'none'
        when (pgembed._build_standing(p_embedding)).phase is not null then 'building'
        else coalesce((select case when indisvalid then 'valid' else 'invalid' end
                       from pg_index where indexrelid = pgembed._index_oid(p_embedding)),
                      'pending') end
$$;
comment on function pgembed._index_state(pgembed.embedding) is
    'none, pending (made after the first fill), building, valid or invalid.';

create or replace function pgembed._index_memory(e pgembed.embedding) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- Measured with pgvector 0.8: two links of 16 bytes for each of m neighbours, the vector, and
    -- about 200 bytes besides. A tenth more, for rows that come meanwhile.
    select case (e).index_kind when 'hnsw' then (1048576 + 1.1 * pgembed._row_count((e).side_table) * (
        32 * coalesce(((e).index_options ->> 'm')::int, 16) + 210
        + case when pgembed._index_is_binary(e) then (e).dimensions / 8.0
               when (e).vector_type = 'halfvec' then 2 * (e).dimensions else 4 * (e).dimensions end))::bigint end
$$;
comment on function pgembed._index_memory(pgembed.embedding) is
    'Bytes of maintenance_work_mem that the graph of an HNSW index needs while it is built: past them the build is many times slower.';

create or replace function pgembed._index_next_v1(
    p_worker_id uuid, p_most_memory bigint default null, out embedding_id int, out ddl text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    has_vectors boolean;
    own constant bigint := pg_size_bytes(current_setting('maintenance_work_mem'));
    -- Who set shared_buffers knew how much memory the machine has.
    most constant bigint := greatest(own, coalesce(p_most_memory, pg_size_bytes(current_setting('shared_buffers'))));
    needed bigint;
begin
    for e in
        select x.* from pgembed.embedding as x join pgembed.captured_text as t using (text_id)
        where x.state = 'active' and t.state = 'active' and index_kind <> 'none' and backfill_state = 'done' and index_error is null
        order by x.embedding_id
    loop
        continue when pgembed._table_sql(e.side_table) is null or pgembed._table_sql(e.source) is null
            or (pgembed._build_progress(pgembed._index_oid(e))).phase is not null
            or exists (select from pg_index where indexrelid = pgembed._index_oid(e) and indisvalid)
            or exists (select from pgembed.queue as q
                       where q.embedding_id = e.embedding_id and q.priority = 2);
        execute format('select exists (select from %s)', pgembed._table_sql(e.side_table)) into has_vectors;
        continue when e.index_kind = 'ivfflat' and not has_vectors;
        -- One service builds, for as long as its heart beats.
        needed := pgembed._index_memory(e);
        update pgembed.embedding as x
        set index_builder = p_worker_id, index_notice = case when needed > most then format(
            'The graph of its index needs about %1$s while it is built, and gets %2$s: once that is full, the build is many times slower. '
            'Set maintenance_work_mem, or pgembed serve --index-memory, to %1$s if the server has so much to spare.',
            pg_size_pretty(needed), pg_size_pretty(most)) end
        where x.embedding_id = e.embedding_id
          and (x.index_builder is null or x.index_builder = p_worker_id or not exists (
              select from pgembed.worker as w
              where w.worker_id = x.index_builder and w.heartbeat_at > clock_timestamp() - interval '1 minute'));
        continue when not found;
        embedding_id := e.embedding_id;
        ddl := array[format('set maintenance_work_mem = %L', greatest(own, least(coalesce(needed, own), most)) / 1024 || 'kB')];
        if pgembed._index_oid(e) is not null then
            ddl := ddl || format('drop index concurrently %s', pgembed._table_sql(pgembed._index_oid(e)));
        end if;
        ddl := ddl || pgembed._index_ddl(e, p_concurrently => true);
        return;
    end loop;
end
$$;
comment on function pgembed._index_next_v1(uuid, bigint) is
    'The next index that a service is to build now that its first fill is done, and the statements for it (to be '
    'run outside a transaction). Its graph gets maintenance_work_mem as it needs, up to so many bytes, by default shared_buffers.';

create or replace function pgembed._index_done_v1(p_embedding_id int, p_error text) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.embedding set index_error = p_error, index_notice = null, index_builder = null
    where embedding_id = p_embedding_id
$$;
comment on function pgembed._index_done_v1(int, text) is
    'Ends what _index_next_v1 began; an error is shown in the status and keeps it from being tried '
    'again until repair() or alter_embedding().';
