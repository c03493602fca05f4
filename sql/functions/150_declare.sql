-- Declaration: create_embedding, alter_embedding, drop_embedding and the switches.

create or replace function pgembed.create_embedding(
    source text,
    text_expression text,
    name text default null,
    model text default 'all-MiniLM-L6-v2',
    dimensions int default null,
    distance text default null,
    storage text default 'table',
    column_name text default null,
    chunking text default null,
    chunk_size int default null,
    chunk_overlap int default null,
    vector_type text default null,
    index text default 'hnsw',
    index_options jsonb default '{}',
    wake text default 'notify',
    max_attempts int default 5,
    bm25 boolean default null,
    bm25_options jsonb default '{}'
) returns text
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    m pgembed.model;
    schema_name name;
    table_name name;
    side text;
    has_rows boolean;
begin
    perform pgembed._require_owner();
    e.source := pgembed._source_table(create_embedding.source);
    select n.nspname, c.relname into schema_name, table_name
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = e.source;
    perform pgembed._require_source_owner(e.source);

    e.name := coalesce(create_embedding.name, table_name || '_embedding');
    if e.name = '' or octet_length(e.name) > 63 then
        raise exception 'the name of an embedding has 1 to 63 bytes, not %: "%"', octet_length(e.name), e.name
            using errcode = 'PE007', hint = 'Give a shorter one: name => ''...''.';
    end if;
    if exists (select from pgembed.bm25 where name = e.name and embedding_id is null) then
        raise exception 'there is a BM25 index "%" already', e.name using errcode = 'PE002',
            hint = 'Give the embedding another name: name => ''...''.';
    end if;
    if exists (select from pgembed.embedding where name = e.name) then
        raise exception 'there is an embedding "%" already', e.name using errcode = 'PE002',
            detail = (select format('It is declared on %s with text %s.', source, text_expression)
                      from pgembed.embedding where name = e.name),
            hint = 'Give this one another name (name => ''...''), change the other with '
                   'pgembed.alter_embedding, or drop it with pgembed.drop_embedding.';
    end if;
    side := format('%I.%I', schema_name, e.name);
    if to_regclass(side) is not null then
        raise exception 'there is a relation % already', side using errcode = 'PE002',
            detail = 'The side table of the embedding would have this name.',
            hint = 'Give the embedding another name: name => ''...''.';
    end if;

    m := pgembed._model(create_embedding.model);
    e.model_id := m.model_id;
    e.text_expression := create_embedding.text_expression;
    e.dimensions := coalesce(create_embedding.dimensions, m.dimensions);
    e.distance := coalesce(create_embedding.distance, m.distance);
    e.storage := coalesce(create_embedding.storage, 'table');
    e.column_name := case when e.storage = 'column' then coalesce(create_embedding.column_name, 'embedding') end;
    e.chunking := coalesce(create_embedding.chunking, case e.storage when 'column' then 'none' else 'sentences' end);
    e.chunk_size := create_embedding.chunk_size;
    e.chunk_overlap := create_embedding.chunk_overlap;
    e.vector_type := coalesce(create_embedding.vector_type,
                              case when e.dimensions <= 2000 then 'vector' else 'halfvec' end);
    e.index_kind := coalesce(create_embedding.index, 'hnsw');
    e.index_options := coalesce(create_embedding.index_options, '{}');
    e.wake := coalesce(create_embedding.wake, 'notify');
    e.max_attempts := pgembed._check_attempts(coalesce(create_embedding.max_attempts, 5));
    perform pgembed._check_declaration(e);
    if e.index_kind <> 'none'
       and to_regclass(format('%I.%I', schema_name, pgembed._index_name(e))) is not null then
        raise exception 'there is a relation % already', format('%I.%I', schema_name, pgembed._index_name(e))
            using errcode = 'PE002', detail = 'The index of the embedding would have this name.',
            hint = 'Give the embedding another name: name => ''...''.';
    end if;
    select a.canonical, a.source_columns, a.compare_in_trigger
    into e.canonical_expression, e.source_columns, e.compare_in_trigger
    from pgembed._analyze_expression(e.source, e.text_expression) as a;

    if e.storage = 'column' then
        if exists (select from pg_catalog.pg_attribute
                   where attrelid = e.source and attname = e.column_name and not attisdropped) then
            raise exception 'table % has a column "%" already', e.source, e.column_name
                using errcode = 'PE002', hint = 'Name another: column_name => ''...''.';
        end if;
        execute format('alter table %s add column %I %s', pgembed._table_sql(e.source),
                       e.column_name, pgembed._vector_column_type(e));
        execute format('alter table %s alter column %I set storage external',
                       pgembed._table_sql(e.source), e.column_name);
        e.source_columns := (pgembed._analyze_expression(e.source, e.canonical_expression)).source_columns;
        perform pgembed._check_not_own_column(e);
    end if;
    e.side_table := pgembed._create_side_table(e, side);

    insert into pgembed.embedding (name, source, side_table, text_expression, canonical_expression,
        source_columns, compare_in_trigger, model_id, dimensions, distance, storage, column_name,
        vector_type, chunking, chunk_size, chunk_overlap, index_kind, index_options, wake, max_attempts)
    values (e.name, e.source, e.side_table, e.text_expression, e.canonical_expression,
        e.source_columns, e.compare_in_trigger, e.model_id, e.dimensions, e.distance, e.storage, e.column_name,
        e.vector_type, e.chunking, e.chunk_size, e.chunk_overlap, e.index_kind, e.index_options, e.wake, e.max_attempts)
    returning * into e;
    perform pgembed._install_capture(e);
    perform pgembed._sync_privileges(e);

    -- The triggers now hold off writers until this commits, so an empty table
    -- stays empty and can have its index at once. IVFFlat learns its lists from
    -- rows: it waits for them.
    execute format('select exists (select from %s)', pgembed._table_sql(e.source)) into has_rows;
    if not has_rows then
        update pgembed.embedding set backfill_state = 'done' where embedding_id = e.embedding_id;
        if e.index_kind = 'hnsw' then
            execute pgembed._index_ddl(e, p_concurrently => false);
        end if;
    end if;
    if coalesce(create_embedding.bm25, e.compare_in_trigger and pgembed._bm25_possible(e.source)) then
        perform pgembed._embedding_bm25(e, create_embedding.bm25_options);
    end if;
    perform pg_notify('pgembed', '');
    return e.name;
end
$$;
comment on function pgembed.create_embedding(text, text, text, text, int, text, text, text, text, int, int, text, text, jsonb, text, int, boolean, jsonb) is
    'Declares that a text expression over the rows of a table has an embedding: makes the side '
    'table and the triggers, and queues the rows that are there. It has a BM25 index too, unless bm25 => false '
    '(or NULL, the default, and the expression calls functions of your own). Returns its name. Example: '
    'SELECT pgembed.create_embedding(''article'', $$ title || E''\n\n'' || body $$);';

create or replace function pgembed._embedding_bm25(e pgembed.embedding, p_options jsonb) returns void
language plpgsql
as $$
declare
    b pgembed.bm25;
begin
    b.name := e.name;
    b.embedding_id := e.embedding_id;
    b.source := e.source;
    b.text_expression := e.text_expression;
    perform pgembed._bm25_create(pgembed._bm25_defaults(b, p_options));
end
$$;
comment on function pgembed._embedding_bm25(pgembed.embedding, jsonb) is
    'Makes the BM25 index of an embedding.';

create or replace function pgembed._alter_embedding_bm25(e pgembed.embedding, p_bm25 boolean, p_options jsonb)
returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
begin
    select * into b from pgembed.bm25 where embedding_id = e.embedding_id;
    if b.bm25_id is null then
        if p_bm25 then
            perform pgembed._embedding_bm25(e, coalesce(p_options, '{}'));
        elsif p_options is not null then
            raise exception 'the embedding "%" has no BM25 index', e.name using errcode = 'PE007',
                hint = 'Give it one with bm25 => true.';
        end if;
    elsif not p_bm25 then
        perform pgembed._bm25_drop(b);
    elsif p_options is not null or b.text_expression <> e.text_expression or b.state = 'broken' then
        perform pgembed._bm25_alter(b, e.text_expression, p_options);
    end if;
    if not e.capture then    -- paused with capture => false: no triggers until resume()
        perform pgembed._bm25_remove_capture(x) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    end if;
end
$$;
comment on function pgembed._alter_embedding_bm25(pgembed.embedding, boolean, jsonb) is
    'Gives an embedding a BM25 index, takes it away or changes it.';

create or replace function pgembed._restart_backfill(p_embedding_id int) returns void
language sql
as $$
    update pgembed.embedding
    set backfill_state = 'pending', backfill_cursor = null
    where embedding_id = p_embedding_id;
    select pg_notify('pgembed', '');
$$;
comment on function pgembed._restart_backfill(int) is
    'Has the whole table looked at again; what is up to date is left alone.';

create or replace function pgembed._drop_index(p_embedding pgembed.embedding) returns void
language plpgsql
as $$
declare
    index_oid oid := pgembed._index_oid(p_embedding);
begin
    if index_oid is not null then
        execute format('drop index %s', pgembed._table_sql(index_oid));
    end if;
end
$$;
comment on function pgembed._drop_index(pgembed.embedding) is 'Drops the vector index, if there is one.';

create or replace function pgembed.alter_embedding(
    name text,
    text_expression text default null,
    model text default null,
    dimensions int default null,
    distance text default null,
    chunking text default null,
    chunk_size int default null,
    chunk_overlap int default null,
    vector_type text default null,
    index text default null,
    index_options jsonb default null,
    wake text default null,
    max_attempts int default null,
    bm25 boolean default null,
    bm25_options jsonb default null
) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    was pgembed.embedding := pgembed._embedding(alter_embedding.name);
    e pgembed.embedding;
    m pgembed.model;
    new_vectors boolean;
    new_chunks boolean;
begin
    perform pgembed._require_owner();
    perform pgembed._require_tables(was);
    select * into was from pgembed.embedding where embedding_id = was.embedding_id for update;
    e := was;
    if alter_embedding.model is null then
        select * into m from pgembed.model where model_id = e.model_id;
    else
        m := pgembed._model(alter_embedding.model);
    end if;
    e.model_id := m.model_id;
    e.dimensions := coalesce(alter_embedding.dimensions,
                             case when e.model_id = was.model_id then was.dimensions else m.dimensions end);
    e.distance := coalesce(alter_embedding.distance,
                           case when e.model_id = was.model_id then was.distance else m.distance end);
    e.text_expression := coalesce(alter_embedding.text_expression, was.text_expression);
    e.chunking := coalesce(alter_embedding.chunking, was.chunking);
    e.chunk_size := coalesce(alter_embedding.chunk_size, was.chunk_size);
    e.chunk_overlap := coalesce(alter_embedding.chunk_overlap, was.chunk_overlap);
    e.vector_type := coalesce(alter_embedding.vector_type,
        case when e.dimensions = was.dimensions then was.vector_type
             when e.dimensions <= 2000 then 'vector' else 'halfvec' end);
    e.index_kind := coalesce(alter_embedding.index, was.index_kind);
    e.index_options := coalesce(alter_embedding.index_options,
        case when e.index_kind = was.index_kind then was.index_options else '{}' end);
    e.wake := coalesce(alter_embedding.wake, was.wake);
    e.max_attempts := pgembed._check_attempts(coalesce(alter_embedding.max_attempts, was.max_attempts));
    perform pgembed._check_declaration(e);
    select a.canonical, a.source_columns, a.compare_in_trigger
    into e.canonical_expression, e.source_columns, e.compare_in_trigger
    from pgembed._analyze_expression(e.source, e.text_expression) as a;
    perform pgembed._check_not_own_column(e);

    new_vectors := (e.model_id, e.dimensions, e.vector_type)
                   is distinct from (was.model_id, was.dimensions, was.vector_type);
    new_chunks := (e.chunking, e.chunk_size, e.chunk_overlap)
                  is distinct from (was.chunking, was.chunk_size, was.chunk_overlap);
    if new_vectors or (e.index_kind, e.index_options, e.distance)
                      is distinct from (was.index_kind, was.index_options, was.distance) then
        perform pgembed._drop_index(was);
    end if;
    update pgembed.embedding
    set text_expression = e.text_expression, canonical_expression = e.canonical_expression,
        source_columns = e.source_columns, compare_in_trigger = e.compare_in_trigger,
        model_id = e.model_id, dimensions = e.dimensions, distance = e.distance,
        vector_type = e.vector_type, chunking = e.chunking, chunk_size = e.chunk_size,
        chunk_overlap = e.chunk_overlap, index_kind = e.index_kind, index_options = e.index_options,
        index_error = null, wake = e.wake, max_attempts = e.max_attempts,
        state = case state when 'broken' then 'active' else state end, state_reason = null,
        revision = revision + 1,
        valid_from = case when new_chunks then clock_timestamp() else valid_from end
    where embedding_id = e.embedding_id
    returning * into e;
    if new_vectors then
        perform pgembed._clear_vectors(e);
    end if;
    if e.capture then
        perform pgembed._install_capture(e);
    end if;
    if new_vectors or new_chunks or was.state = 'broken'
       or e.canonical_expression <> was.canonical_expression then
        perform pgembed._restart_backfill(e.embedding_id);
    end if;
    perform pgembed._alter_embedding_bm25(e, alter_embedding.bm25, alter_embedding.bm25_options);
    perform pg_notify('pgembed', '');
end
$$;
comment on function pgembed.alter_embedding(text, text, text, int, text, text, int, int, text, text, jsonb, text, int, boolean, jsonb) is
    'Changes an embedding; NULL keeps a setting. Another model, dimensions or vector type remove '
    'all vectors and make them again; another text or chunk size refreshes them in place. Also '
    'repairs a broken embedding.';

create or replace function pgembed.drop_embedding(name text, if_exists boolean default false)
returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
begin
    if drop_embedding.if_exists
       and not exists (select from pgembed.embedding where name = drop_embedding.name) then
        raise notice 'there is no embedding "%", skipping', drop_embedding.name;
        return;
    end if;
    e := pgembed._embedding(drop_embedding.name);
    perform pgembed._require_owner();
    perform pgembed._bm25_drop(x) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    -- A service that is writing finishes first; one that comes later finds nothing.
    delete from pgembed.embedding where embedding_id = e.embedding_id;
    perform pgembed._remove_capture(e);
    if e.storage = 'column' and pgembed._table_sql(e.source) is not null then
        execute format('alter table %s drop column if exists %I', pgembed._table_sql(e.source), e.column_name);
    end if;
    if pgembed._table_sql(e.side_table) is not null then
        execute format('drop table %s', pgembed._table_sql(e.side_table));
    end if;
    delete from pgembed.queue where embedding_id = e.embedding_id;
    delete from pgembed.dead_letter where embedding_id = e.embedding_id;
end
$$;
comment on function pgembed.drop_embedding(text, boolean) is
    'Removes an embedding with its vectors, triggers and queued jobs. The source table stays as it is.';

create or replace function pgembed.pause(name text, capture boolean default true) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding := pgembed._embedding(pause.name);
begin
    perform pgembed._require_owner();
    update pgembed.embedding
    set state = case state when 'broken' then state else 'paused' end,
        capture = pause.capture and capture, revision = revision + 1
    where embedding_id = e.embedding_id;
    if not pause.capture then
        perform pgembed._remove_capture(e);
        perform pgembed._bm25_remove_capture(x) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    end if;
end
$$;
comment on function pgembed.pause(text, boolean) is
    'Stops encoding for an embedding; changes are still queued. With capture => false the triggers '
    'are removed too, so that ALTER TABLE ... ALTER COLUMN ... TYPE is possible; resume() then '
    'looks at the whole table again.';

create or replace function pgembed.resume(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding := pgembed._embedding(resume.name);
begin
    perform pgembed._require_owner();
    if e.capture and e.state <> 'broken' then
        update pgembed.embedding set state = 'active' where embedding_id = e.embedding_id;
        perform pg_notify('pgembed', '');
    else
        perform pgembed.repair(e.name);
    end if;
end
$$;
comment on function pgembed.resume(text) is 'Continues a paused embedding.';

create or replace function pgembed.repair(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding := pgembed._embedding(repair.name);
begin
    perform pgembed._require_owner();
    perform pgembed._require_tables(e);
    -- The canonical form reads the same under every search_path.
    select a.canonical, a.source_columns, a.compare_in_trigger
    into e.canonical_expression, e.source_columns, e.compare_in_trigger
    from pgembed._analyze_expression(e.source, e.canonical_expression) as a;
    update pgembed.embedding
    set canonical_expression = e.canonical_expression, source_columns = e.source_columns,
        compare_in_trigger = e.compare_in_trigger, state = 'active', state_reason = null,
        capture = true, index_error = null, revision = revision + 1
    where embedding_id = e.embedding_id
    returning * into e;
    perform pgembed._sync_key_columns(e);
    perform pgembed._install_capture(e);
    perform pgembed._sync_privileges(e);
    perform pgembed._bm25_repair(x) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    perform pgembed._restart_backfill(e.embedding_id);
end
$$;
comment on function pgembed.repair(text) is
    'Makes again what follows from the declaration: triggers, privileges, row security, and has the '
    'whole table compared with its vectors. Loses nothing; safe to call at any time.';

create or replace function pgembed.reembed(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding := pgembed._embedding(reembed.name);
begin
    perform pgembed._require_owner();
    update pgembed.embedding
    set valid_from = clock_timestamp(), revision = revision + 1
    where embedding_id = e.embedding_id;
    perform pgembed._restart_backfill(e.embedding_id);
end
$$;
comment on function pgembed.reembed(text) is
    'Encodes every row again. Searches use the earlier vectors until each is replaced.';

create or replace function pgembed.retry(name text default null) returns bigint
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
    queued bigint;
begin
    if retry.name is not null then
        e := pgembed._embedding(retry.name);
    end if;
    perform pgembed._require_owner();
    with failed as (
        delete from pgembed.dead_letter
        where retry.name is null or embedding_id = e.embedding_id
        returning embedding_id, key, op)
    insert into pgembed.queue (embedding_id, key, op, priority)
    select embedding_id, key, op, 1 from failed;
    get diagnostics queued = row_count;
    perform pg_notify('pgembed', '');
    return queued;
end
$$;
comment on function pgembed.retry(text) is
    'Queues the failed rows of an embedding again (NULL: of all); returns how many.';
