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

create or replace function pgembed._vector_indexes(e pgembed.embedding)
returns table (relation regclass, index regclass, valid boolean, lists int)
language plpgsql stable    -- searches ask: its plan is kept
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select t.oid::regclass, i.oid::regclass, coalesce(i.indisvalid, false),
           case when e.index_kind = 'ivfflat' then substring(i.reloptions::text from 'lists=([0-9]+)')::int end
    from (select case e.storage when 'table' then e.side_table else e.source end as oid, pgembed._index_name(e) as index_name where e.partitions = 1
          union all
          select h.inhrelid, null from pg_inherits as h where h.inhparent = e.side_table and e.partitions > 1) as t
    left join lateral (select i.oid, i.reloptions, x.indisvalid from pg_index as x join pg_class as i on i.oid = x.indexrelid
                       where x.indrelid = t.oid
                         -- That of a partition is called by its number, whatever the partition is called by now.
                         and (i.relname = t.index_name or e.partitions > 1 and i.relname ~ format('^_vectors_%s_\d+_%s$', e.embedding_id, e.index_kind))
                       order by x.indisvalid desc limit 1) as i on true
    order by t.oid;
end
$$;
comment on function pgembed._vector_indexes(pgembed.embedding) is
    'The vector index that an embedding is to have, or each of its partitions: on which table, and whether it is there, and valid.';

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

create or replace function pgembed._index_ddl(p_embedding pgembed.embedding, p_relation regclass, p_concurrently boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    vector_column constant name := coalesce(p_embedding.column_name, 'embedding');
    row_count float8;
    options text;
begin
    if p_embedding.index_kind = 'ivfflat' and not p_embedding.index_options ? 'lists' then
        -- pgvector's advice: rows / 1000 up to a million rows, their square root above.
        row_count := pgembed._vector_count(p_embedding, p_relation);
        p_embedding.index_options := jsonb_build_object('lists', greatest(1, least(32768,
            case when row_count <= 1e6 then ceil(row_count / 1000) else sqrt(row_count) end))::int);
    end if;
    select string_agg(format('%I = %s', key, value), ', ' order by key) into options
    from jsonb_each_text(p_embedding.index_options) where key <> 'binary';
    return format('create index %s %I on %s using %I (%s %s.%I)%s',
        case when p_concurrently then 'concurrently' else '' end,
        case p_embedding.partitions when 1 then pgembed._index_name(p_embedding)
             else (select format('_vectors_%s_%s_%s', p_embedding.embedding_id, x.remainder, p_embedding.index_kind)
                   from pgembed._partitions(p_embedding.side_table) as x where x.relation = p_relation) end,
        pgembed._table_sql(p_relation), p_embedding.index_kind,
        case when pgembed._index_is_binary(p_embedding)
             then format('(%s.binary_quantize(%I)::bit(%s))', pgembed._vector_schema(),
                         vector_column, p_embedding.dimensions)
             else format('%I', vector_column) end,
        pgembed._vector_schema(), pgembed._operator_class(p_embedding),
        coalesce(' with (' || options || ')', ''));
end
$$;
comment on function pgembed._index_ddl(pgembed.embedding, regclass, boolean) is
    'Statement that makes the vector index of an embedding, on one of its tables.';

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

create or replace function pgembed._build_standing(e pgembed.embedding, out phase text, out percent numeric, out waits_for int, out notice text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- What a session of another role does is not to be seen, so the service that builds says it, a heartbeat late.
    with said as (
        select w.builds -> (e).embedding_id::text as build from pgembed.worker as w
        where w.worker_id in (select b.worker_id from pgembed.index_build as b where b.embedding_id = (e).embedding_id) and w.heartbeat_at > clock_timestamp() - interval '30 seconds'
    ), built as (
        select coalesce(min(p.phase), (select min(build ->> 'phase') from said)) as phase,
               coalesce(sum(p.percent), (select sum((build ->> 'percent')::numeric) from said)) as percent,
               coalesce(min(p.waits_for), (select min((build ->> 'waits_for')::int) from said)) as waits_for,
               count(*) filter (where x.valid) as valid, count(*) as wanted
        from pgembed._vector_indexes(e) as x cross join lateral pgembed._build_progress(x.index) as p)
    select b.phase, case when b.phase is not null then round((100 * b.valid + b.percent) / b.wanted, 1) end, b.waits_for,
           case when b.phase is not null then (select max(x.notice) from pgembed.index_build as x where x.embedding_id = (e).embedding_id) end
    from built as b
$$;
comment on function pgembed._build_standing(pgembed.embedding) is
    'How far the build of a vector index is, or of those of all partitions, whoever builds it, and what makes it slow; NULL while nobody does.';

create or replace function pgembed._index_state(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_embedding.index_kind = 'none' then 'none'
        when (pgembed._build_standing(p_embedding)).phase is not null then 'building'
        else (select case when bool_and(x.valid) then 'valid'
                          when bool_or(x.index is not null and not x.valid) then 'invalid' else 'pending' end
              from pgembed._vector_indexes(p_embedding) as x) end
$$;
comment on function pgembed._index_state(pgembed.embedding) is
    'none, pending (made after the first fill), building, valid or invalid; of partitions all are valid, or one is not.';

create or replace function pgembed._vector_count(e pgembed.embedding, p_relation regclass) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- One vector a row with column storage, so the side table tells for both.
    select pgembed._row_count(case (e).partitions when 1 then (e).side_table else p_relation end)
$$;
comment on function pgembed._vector_count(pgembed.embedding, regclass) is 'About how many vectors a table of an embedding has.';

create or replace function pgembed._index_memory(e pgembed.embedding, p_relation regclass) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- Measured with pgvector 0.8: two links of 16 bytes for each of m neighbours, the vector, and
    -- about 200 bytes besides. A tenth more, for rows that come meanwhile.
    select case (e).index_kind when 'hnsw' then (1048576 + 1.1 * pgembed._vector_count(e, p_relation) * (
        32 * coalesce(((e).index_options ->> 'm')::int, 16) + 210
        + case when pgembed._index_is_binary(e) then (e).dimensions / 8.0
               when (e).vector_type = 'halfvec' then 2 * (e).dimensions else 4 * (e).dimensions end))::bigint end
$$;
comment on function pgembed._index_memory(pgembed.embedding, regclass) is
    'Bytes of maintenance_work_mem that the graph of an HNSW index on a table needs while it is built: past them the build is many times slower.';

create or replace function pgembed._memory_notice(p_needed bigint, p_most bigint, p_at_once bigint) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_needed > p_most then format(
            'The graph of its index needs about %1$s while it is built, and gets %2$s: once that is full, the build is many times slower. '
            'Set maintenance_work_mem, or pgembed serve --index-memory, to %1$s if the server has so much to spare.',
            pg_size_pretty(p_needed), pg_size_pretty(p_most))
        when p_needed * p_at_once > p_most then format(
            'The graphs of its indexes need about %1$s each while they are built, and all get %2$s together: %3$s at once, though %4$s services could build. '
            'Set maintenance_work_mem, or pgembed serve --index-memory, to %5$s if the server has so much to spare.',
            pg_size_pretty(p_needed), pg_size_pretty(p_most), p_most / p_needed, p_at_once, pg_size_pretty(p_needed * p_at_once)) end
$$;
comment on function pgembed._memory_notice(bigint, bigint, bigint) is
    'What keeps builds that need so many bytes each, so many at once, from being fast with so many for all; NULL: nothing.';

create or replace function pgembed._index_next_v1(
    p_worker_id uuid, p_most_memory bigint default null, out embedding_id int, out ddl text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    part record;
    has_vectors boolean;
    own constant bigint := pg_size_bytes(current_setting('maintenance_work_mem'));
    -- Who set shared_buffers knew how much memory the machine has.
    most constant bigint := greatest(own, coalesce(p_most_memory, pg_size_bytes(current_setting('shared_buffers'))));
    needed bigint;
    builders bigint;
    unbuilt bigint;
begin
    lock table pgembed.index_build in share row exclusive mode;    -- one claims at a time
    delete from pgembed.index_build as b
    where b.worker_id = p_worker_id
       or not exists (select from pgembed.worker as w where w.worker_id = b.worker_id and w.heartbeat_at > clock_timestamp() - interval '1 minute')
       or not exists (select from pgembed.embedding as x where x.embedding_id = b.embedding_id);
    builders := (select count(*) from pgembed.worker as w where w.heartbeat_at > clock_timestamp() - interval '1 minute');
    for e in
        select x.* from pgembed.embedding as x join pgembed.captured_text as t using (text_id)
        where x.state = 'active' and t.state = 'active' and index_kind <> 'none' and backfill_state = 'done' and index_error is null
        order by x.embedding_id
    loop
        continue when pgembed._table_sql(e.side_table) is null or pgembed._table_sql(e.source) is null
            or exists (select from pgembed.queue as q
                       where q.embedding_id = e.embedding_id and q.priority = 2);
        execute format('select exists (select from %s)', pgembed._table_sql(e.side_table)) into has_vectors;
        continue when e.index_kind = 'ivfflat' and not has_vectors;
        unbuilt := (select count(*) from pgembed._vector_indexes(e) as x where not x.valid);
        for part in
            select x.* from pgembed._vector_indexes(e) as x
            where not x.valid and (pgembed._build_progress(x.index)).phase is null
              and not exists (select from pgembed.index_build as b where b.relation = x.relation)
        loop
            needed := pgembed._index_memory(e, part.relation);
            -- The first always goes on; others as far as there is memory for all.
            continue when least(coalesce(needed, own), most) + (select sum(b.memory) from pgembed.index_build as b) > most;
            insert into pgembed.index_build (relation, embedding_id, revision, worker_id, memory, notice)
            values (part.relation, e.embedding_id, e.revision, p_worker_id, least(coalesce(needed, own), most),
                    pgembed._memory_notice(needed, most, least(builders, unbuilt)));
            embedding_id := e.embedding_id;
            ddl := array[format('set maintenance_work_mem = %L', greatest(own, least(coalesce(needed, own), most)) / 1024 || 'kB')];
            if part.index is not null then
                ddl := ddl || format('drop index concurrently %s', part.index);
            end if;
            ddl := ddl || pgembed._index_ddl(e, part.relation, p_concurrently => true);
            return;
        end loop;
    end loop;
end
$$;
comment on function pgembed._index_next_v1(uuid, bigint) is
    'The next index that a service is to build now that its first fill is done, and the statements for it (to be '
    'run outside a transaction). Its graph gets maintenance_work_mem as it needs, up to so many bytes, by default shared_buffers; '
    'of partitions several services build at once, as far as that is enough for all.';

create or replace function pgembed._index_done_v1(p_embedding_id int, p_error text, p_worker_id uuid default null) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    with ended as (
        delete from pgembed.index_build where embedding_id = p_embedding_id and worker_id = coalesce(p_worker_id, worker_id)
        returning relation, revision)
    update pgembed.embedding as e set index_error = p_error
    where e.embedding_id = p_embedding_id and p_error is not null
      -- Not that of a table, or a declaration, that another has taken the place of.
      and exists (select from ended where ended.revision = e.revision and ended.relation in (select x.relation from pgembed._vector_indexes(e) as x))
$$;
comment on function pgembed._index_done_v1(int, text, uuid) is
    'Ends what _index_next_v1 began; an error is shown in the status and keeps it from being tried '
    'again until repair() or alter_embedding(), unless the embedding has been changed meanwhile.';
