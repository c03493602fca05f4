-- Declaration: create_embedding, alter_embedding, drop_embedding and the switches.
--
-- What a user calls here begins by keeping the search_path, under which the table and the
-- expression are meant, and setting it to PostgreSQL's own names alone.

create or replace function pgembed._check_new_name(p_kind text, p_source oid, p_name text, p_if_not_exists boolean) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    taken record;
begin
    if coalesce(p_name, '') = '' or octet_length(p_name) > 63 then
        raise exception 'the name of % has 1 to 63 bytes, not %: "%"', p_kind, octet_length(p_name), p_name
            using errcode = 'PE007', hint = 'Give a shorter one: name => ''...''.';
    end if;
    select d.kind, d.source, t.text_expression into taken
    from (select 'an embedding' as kind, name, source, text_id from pgembed.embedding
          union all select 'a BM25 index', name, source, text_id from pgembed.bm25 where embedding_id is null) as d
    join pgembed.captured_text as t using (text_id)
    where d.name = p_name and pgembed._schema_of(d.source) = pgembed._schema_of(p_source);
    if not found then
        return true;
    elsif p_if_not_exists and taken.kind = p_kind then
        raise notice 'there is % "%" already, skipping', p_kind, p_name;
        return false;
    end if;
    raise exception 'there is % "%" already', taken.kind, p_name using errcode = 'PE002',
        detail = format('It is declared on %s with text %s.', taken.source, taken.text_expression),
        hint = format('Give this one another name (name => ''...''), change the other with pgembed.%s, or drop it.',
                      case taken.kind when 'an embedding' then 'alter_embedding' else 'alter_bm25' end);
end
$$;
comment on function pgembed._check_new_name(text, oid, text, boolean) is
    'Whether something can be declared under a name in the schema of a table; PE002, PE007, or false with if_not_exists.';

create or replace function pgembed._check_no_relation(p_source oid, p_name text, p_what text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant text := pgembed._qualified_name(p_source, p_name);
begin
    if to_regclass(relation) is not null then
        raise exception 'there is a relation % already', relation using errcode = 'PE002',
            detail = format('The %s of the embedding would have this name.', p_what),
            hint = 'Give the embedding another name: name => ''...''.';
    end if;
end
$$;
comment on function pgembed._check_no_relation(oid, text, text) is 'PE002 where a relation has a name that is needed.';

create or replace function pgembed._lock_patiently(p_statement text, p_text_id int default null) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    asked constant int := (select setting::int from pg_settings where name = 'lock_timeout');    -- milliseconds; 0: for ever
    deadline constant timestamptz := clock_timestamp() + make_interval(secs => case asked when 0 then 30 else least(asked / 1000.0, 30) end);
    most int := 50;    -- milliseconds
begin
    loop
        begin
            -- Others wait behind it: for a moment, and for more only if that is never enough.
            perform set_config('lock_timeout', most || 'ms', true);
            if p_text_id is null then
                execute p_statement;
            else
                perform pgembed._run_as_owner(p_text_id, p_statement);
            end if;
            perform set_config('lock_timeout', patience, true);
            return true;
        exception when lock_not_available or deadlock_detected then    -- a concurrent build waits for this transaction, too
            if clock_timestamp() > deadline then
                return false;
            end if;
        end;
        perform pg_sleep(most / 1000.0);
        most := least(2 * most, 2000);
    end loop;
end
$$;
comment on function pgembed._lock_patiently(text, int) is
    'Has a statement lock a table, as its owner where a captured text is given, while others do not wait behind it for longer than two seconds; '
    'false: it cannot for thirty, or for lock_timeout.';

create or replace function pgembed._await_writers(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pgembed._lock_patiently(pgembed._lock_source_sql(e.source, 'share row exclusive'), e.text_id) then
        raise exception 'a transaction that writes to % is open for long', e.source using errcode = 'lock_not_available',
            detail = 'What it has written would not be seen.', hint = 'Try again when it has ended.';
    end if;
end
$$;
comment on function pgembed._await_writers(pgembed.embedding) is
    'Waits until no transaction that has written to a table is open, and keeps new ones out until the end of this one; others do '
    'not wait behind it for longer than two seconds. 55P03 after thirty.';

create or replace function pgembed._lock_vectors(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not (case e.storage
            when 'column' then pgembed._lock_patiently(pgembed._lock_source_sql(e.source, 'access exclusive'), e.text_id)
            else pgembed._lock_patiently(format('lock table %s in access exclusive mode', pgembed._table_sql(e.side_table))) end) then
        raise exception 'the vectors of "%" are in use for long', e.name using errcode = 'lock_not_available',
            detail = case when (pgembed._build_standing(e)).phase is not null then 'A service builds their index.'
                          else 'A transaction that reads them is open, or a service builds their index.' end,
            hint = 'Try again when it has ended; pgembed.status shows how far a build is.';
    end if;
end
$$;
comment on function pgembed._lock_vectors(pgembed.embedding) is
    'Locks the vectors of an embedding until the end of the transaction; searches do not wait behind it for longer than two seconds while '
    'others hold them. 55P03 after thirty.';

create or replace function pgembed._move_text(p_current pgembed.embedding, p_text_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    moved int;
begin
    perform pgembed._check_projected_text(p_current, p_text_id);
    for moved in
        update pgembed.embedding as x set text_id = p_text_id, revision = x.revision + 1
        where coalesce(x.current_id, x.embedding_id) = coalesce(p_current.current_id, p_current.embedding_id) and x.text_id <> p_text_id
        returning x.embedding_id
    loop
        perform pgembed._restart_backfill(moved);
    end loop;
end
$$;
comment on function pgembed._move_text(pgembed.embedding, int) is
    'Gives all generations of an embedding another text: rows whose text is another now are encoded again.';

create or replace function pgembed._add_embedding(e pgembed.embedding) returns pgembed.embedding
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- What an open transaction has written would be queued for those that were there before alone.
    if exists (select from pgembed.embedding where text_id = e.text_id) then
        perform pgembed._await_writers(e);
    end if;
    e.embedding_id := nextval('pgembed.embedding_embedding_id_seq');
    e.side_table := pgembed._create_side_table(e, pgembed._qualified_name(e.source, e.name));
    insert into pgembed.embedding (embedding_id, name, text_id, source, side_table, model_id, dimensions, distance, storage, column_name,
        vector_type, chunking, chunk_size, chunk_overlap, index_kind, index_options, wake, max_attempts, query_encoder, generation, current_id, switch,
        reduction, projection_id, partitions)
    overriding system value
    values (e.embedding_id, e.name, e.text_id, e.source, e.side_table, e.model_id, e.dimensions, e.distance, e.storage, e.column_name,
        e.vector_type, e.chunking, e.chunk_size, e.chunk_overlap, e.index_kind, e.index_options, e.wake, e.max_attempts, e.query_encoder,
        coalesce(e.generation, 'current'), e.current_id, e.switch,
        e.reduction, e.projection_id, e.partitions)
    returning * into e;
    perform pgembed._keep_default(e.source);
    return e;
end
$$;
comment on function pgembed._add_embedding(pgembed.embedding) is
    'Makes the side table of an embedding and its row in the catalog; waits for open writers where its text is captured already.';

create or replace function pgembed.create_embedding(
    source text,
    text_expression text,
    name text default null,
    model text default 'all-MiniLM-L6-v2',
    dimensions bigint default null,
    distance text default null,
    storage text default 'table',
    column_name text default null,
    chunking text default null,
    chunk_size bigint default null,
    chunk_overlap bigint default null,
    vector_type text default null,
    index text default 'hnsw',
    index_options jsonb default '{}',
    wake text default 'notify',
    max_attempts bigint default 5,
    query_encoder text default 'auto',
    is_default boolean default false,
    bm25 boolean default null,
    bm25_options jsonb default '{}',
    if_not_exists boolean default false,
    reduction text default 'truncate',
    partitions bigint default 1
) returns text
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e pgembed.embedding;
    reduced pgembed.embedding;    -- its next generation, where vectors are projected
    t pgembed.captured_text;
    m pgembed.model;
    part pg_catalog.regclass;
begin
    perform pgembed._back_inside();
    perform pgembed._require_owner();
    e.source := pgembed._source_table(create_embedding.source, path);
    perform pgembed._require_source_owner(e.source);
    perform pgembed._lock_declarations();
    e.name := coalesce(create_embedding.name, (select relname from pg_class where oid = e.source) || '_embedding');
    if not pgembed._check_new_name('an embedding', e.source, e.name, coalesce(create_embedding.if_not_exists, false)) then
        perform set_config('search_path', path, true);
        return e.name;
    end if;
    perform pgembed._check_no_relation(e.source, e.name, 'side table');
    perform pgembed._check_schema_rights(e.source);

    m := pgembed._model(create_embedding.model);
    e.model_id := m.model_id;
    e.dimensions := coalesce(pgembed._as_int(create_embedding.dimensions, 'dimensions'), m.dimensions);
    e.distance := coalesce(create_embedding.distance, m.distance);
    e.storage := coalesce(create_embedding.storage, 'table');
    e.column_name := case when e.storage = 'column' then coalesce(create_embedding.column_name, 'embedding') end;
    e.chunking := coalesce(create_embedding.chunking, pgembed._default_chunking(e.storage));
    e.chunk_size := pgembed._as_int(create_embedding.chunk_size, 'chunk_size');
    e.chunk_overlap := pgembed._as_int(create_embedding.chunk_overlap, 'chunk_overlap');
    e.vector_type := coalesce(create_embedding.vector_type,
                              case when e.dimensions <= 2000 then 'vector' else 'halfvec' end);
    e.index_kind := coalesce(create_embedding.index, 'hnsw');
    e.index_options := coalesce(create_embedding.index_options, '{}');
    e.wake := coalesce(create_embedding.wake, 'notify');
    e.max_attempts := pgembed._check_attempts(coalesce(create_embedding.max_attempts, 5));
    e.query_encoder := coalesce(create_embedding.query_encoder, 'auto');
    e.reduction := coalesce(create_embedding.reduction, 'truncate');
    e.partitions := coalesce(pgembed._as_int(create_embedding.partitions, 'partitions'), 1);
    perform pgembed._check_declaration(e);
    if e.reduction = 'pca' then    -- learnt from whole vectors, which are first
        reduced := e;
        e := pgembed._whole(e, create_embedding.vector_type);
    end if;
    if e.index_kind <> 'none' and e.partitions = 1 then
        perform pgembed._check_no_relation(e.source, pgembed._index_name(e), 'index');
    end if;
    t := pgembed._declare_text(e.source, create_embedding.text_expression, false, path);
    e := pgembed._of_text(e, t, create_embedding.chunking is null);

    if e.storage = 'column' then
        if exists (select from pg_attribute
                   where attrelid = e.source and attname = e.column_name and not attisdropped) then
            raise exception 'table % has a column "%" already', e.source, e.column_name
                using errcode = 'PE002', hint = 'Name another: column_name => ''...''.';
        end if;
        perform pgembed._run_as_owner(e.text_id, format(
            'alter table %1$s add column %2$I %3$s; alter table %1$s alter column %2$I set storage external',
            pgembed._table_sql(e.source), e.column_name, pgembed._vector_column_type(e)));
        t := pgembed._store_analysis(pgembed._reanalyzed(t));    -- a whole row has it now
        perform pgembed._check_not_own_column(e);
    end if;
    e := pgembed._add_embedding(e);
    if reduced.reduction is not null then
        perform pgembed._reduce(e, reduced, 'auto');
    end if;
    if coalesce(create_embedding.bm25, pgembed._bm25_by_default(t)) then
        perform pgembed._embedding_bm25(e, create_embedding.bm25_options, path);
    else
        perform pgembed._install_capture(t);
        perform pgembed._sync_privileges(t);
    end if;

    if create_embedding.is_default then
        perform pgembed._make_default(e);
    end if;

    -- The triggers now hold off writers until this commits, so an empty table
    -- stays empty and can have its index at once. IVFFlat learns its lists from
    -- rows: it waits for them.
    if pgembed._source_is_empty(t) then
        update pgembed.embedding set backfill_state = 'done' where embedding_id = e.embedding_id;
        if e.index_kind = 'hnsw' then
            for part in select x.relation from pgembed._vector_indexes(e) as x loop
                if e.storage = 'table' then
                    execute pgembed._index_ddl(e, part, p_concurrently => false);
                else
                    perform pgembed._run_as_owner(e.text_id, pgembed._index_ddl(e, part, p_concurrently => false));
                end if;
            end loop;
        end if;
    end if;
    perform pgembed._warn_of_text(t, e.name);
    perform pgembed._wake('');
    perform set_config('search_path', path, true);
    return e.name;
end
$$;
comment on function pgembed.create_embedding(text, text, text, text, bigint, text, text, text, text, bigint, bigint, text, text, jsonb, text, bigint, text, boolean, boolean, jsonb, boolean, text, bigint) is
    'Declares that a text expression over the rows of a table has an embedding: makes the side '
    'table and the triggers, and queues the rows that are there. It has a BM25 index too, unless bm25 => false '
    '(or NULL, the default, and the expression calls functions of your own). Searches that name only the table use the '
    'first embedding of it, or the one that was last declared with is_default => true. Fewer dimensions than the model''s are its first '
    '(reduction => ''truncate''), or those of a projection that is learnt once there are vectors enough (''pca''). partitions: the side table is '
    'partitioned by hash of the key into so many, with an index each. Returns its name, which is unique in '
    'the schema of the table. Example: '
    'SELECT pgembed.create_embedding(''article'', $$ title || E''\n\n'' || body $$);';

create or replace function pgembed._bm25_by_default(t pgembed.captured_text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (t).kind = 'text' and (t).volatility = 'immutable' and not (t).foreign_code and (t).canonical_expression !~ '[.][*]'
           and pgembed._bm25_possible((t).source)
$$;
comment on function pgembed._bm25_by_default(pgembed.captured_text) is
    'Whether an embedding of a text has a BM25 index where nobody said whether.';

create or replace function pgembed._embedding_bm25(e pgembed.embedding, p_options jsonb, p_path text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
    t pgembed.captured_text := pgembed._text(e.text_id);
begin
    b.name := e.name;
    b.embedding_id := e.embedding_id;
    b.source := e.source;
    if exists (select from pgembed.bm25 where text_id = e.text_id) then    -- that of another
        t := pgembed._declare_text(e.source, t.text_expression, true, p_path);
        perform pgembed._install_capture(pgembed._text(e.text_id));
        perform pgembed._sync_privileges(pgembed._text(e.text_id));
    end if;
    b.text_id := t.text_id;
    perform pgembed._bm25_create(pgembed._bm25_defaults(b, p_options, p_path));
end
$$;
comment on function pgembed._embedding_bm25(pgembed.embedding, jsonb, text) is
    'Makes the BM25 index of an embedding.';

create or replace function pgembed._alter_embedding_bm25(
    e pgembed.embedding, p_bm25 boolean, p_options jsonb, p_reset text[], p_path text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
    t pgembed.captured_text;
    fresh constant text[] := array(select name from unnest(pgembed._bm25_options()) as name
                                   where 'bm25_options' = any (p_reset) or 'bm25_options.' || name = any (p_reset));
begin
    select * into b from pgembed.bm25 where embedding_id = e.embedding_id;
    if b.bm25_id is null then
        if p_bm25 then
            perform pgembed._embedding_bm25(e, coalesce(p_options, '{}'), p_path);
        elsif p_options is not null or fresh <> '{}' then
            raise exception 'the embedding "%" has no BM25 index', e.name using errcode = 'PE007',
                hint = 'Give it one with bm25 => true.';
        end if;
    elsif not p_bm25 then
        perform pgembed._bm25_drop(b);
    else
        t := pgembed._text(e.text_id);
        if b.text_id <> e.text_id and exists (select from pgembed.bm25 where text_id = e.text_id) then
            t := pgembed._declare_text(e.source, t.text_expression, true, p_path);
        end if;
        if p_options is not null or fresh <> '{}' or b.text_id <> t.text_id or b.state = 'broken' then
            perform pgembed._bm25_alter(b, t.text_id, p_options, fresh, p_path);
        end if;
    end if;
end
$$;
comment on function pgembed._alter_embedding_bm25(pgembed.embedding, boolean, jsonb, text[], text) is
    'Gives an embedding a BM25 index, takes it away or changes it.';

create or replace function pgembed._restart_backfill(p_embedding_id int) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.embedding
    set backfill_state = 'pending' where embedding_id = p_embedding_id;
    delete from pgembed.backfill where embedding_id = p_embedding_id;
    select pgembed._wake('');
$$;
comment on function pgembed._restart_backfill(int) is
    'Has the whole table looked at again; what is up to date is left alone.';

create or replace function pgembed._drop_index(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    part regclass;
    dependent text;
begin
    if not exists (select from pgembed._vector_indexes(e) as x where x.index is not null) then
        return;
    end if;
    perform pgembed._lock_vectors(e);
    for part in select x.index from pgembed._vector_indexes(e) as x where x.index is not null loop
        dependent := (select h.inhparent::regclass from pg_inherits as h where h.inhrelid = part);
        if dependent is not null then    -- PostgreSQL has made it a part of that
            raise exception 'somebody has made index %, which index % belongs to', dependent, part using errcode = 'PE016',
                detail = 'The indexes of partitions are pgembed''s own, and none is on the side table.', hint = format('DROP INDEX %s; then try again.', dependent);
        end if;
        execute format('drop index %s', part);
    end loop;
end
$$;
comment on function pgembed._drop_index(pgembed.embedding) is 'Drops the vector index, or those of all partitions.';

create or replace function pgembed._check_embedding_reset(p_reset text[], p_bm25_options jsonb, p_given json) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    of_bm25 constant text[] := array(select 'bm25_options.' || name from unnest(pgembed._bm25_options()) as name);
begin
    perform pgembed._check_reset(
        p_reset, array(select json_object_keys(p_given)) || 'bm25_options'::text || of_bm25,
        array(select key from json_each_text(p_given) where value is not null
              union all select 'bm25_options' where p_bm25_options is not null
              union all select 'bm25_options.' || key from pgembed._object_keys(p_bm25_options) as key));
end
$$;
comment on function pgembed._check_embedding_reset(text[], jsonb, json) is
    'PE007 for what is to be reset of an embedding and is no option, or is given (p_given: options, null where they are not) as well.';

create or replace function pgembed.alter_embedding(
    name text,
    text_expression text default null,
    model text default null,
    dimensions bigint default null,
    distance text default null,
    chunking text default null,
    chunk_size bigint default null,
    chunk_overlap bigint default null,
    vector_type text default null,
    index text default null,
    index_options jsonb default null,
    wake text default null,
    max_attempts bigint default null,
    query_encoder text default null,
    is_default boolean default null,
    bm25 boolean default null,
    bm25_options jsonb default null,
    reset text[] default null,
    switch text default null,
    reduction text default null,
    partitions bigint default null
) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    searched pgembed.embedding;    -- what searches use
    was pgembed.embedding;         -- what is declared: its next generation, where there is one
    e pgembed.embedding;
    reduced pgembed.embedding;     -- its next generation, where there are no vectors yet to project
    t pgembed.captured_text;
    m pgembed.model;
    has_vectors boolean := false;
    new_vectors boolean;
    new_chunks boolean;
    fresh constant pg_catalog.text[] := coalesce(alter_embedding.reset, '{}');    -- what is not kept where it is not given
begin
    perform pgembed._require_owner();
    searched := pgembed._embedding(alter_embedding.name);
    perform pgembed._back_inside();
    perform pgembed._check_switch(alter_embedding.switch);
    if searched.generation <> 'current' and (alter_embedding.text_expression is not null or alter_embedding.bm25 is not null
            or alter_embedding.is_default is not null or alter_embedding.bm25_options is not null or 'bm25' = any (fresh) or array_to_string(fresh, ' ') ~ 'bm25_options') then
        raise exception '"%" is the % generation of an embedding', searched.name, searched.generation using errcode = 'PE007',
            detail = 'The text, the words, and whether searches mean it, are those of the embedding.',
            hint = format('Change them there: SELECT pgembed.alter_embedding(%L, ...).',
                          (select pgembed._qualified_name(x.source, x.name) from pgembed.embedding as x where x.embedding_id = searched.current_id));
    end if;
    perform pgembed._require_source(searched.source, searched.name);
    perform pgembed._check_default(alter_embedding.is_default, searched.is_default, searched.source, searched.name);
    perform pgembed._check_embedding_reset(fresh, alter_embedding.bm25_options, json_build_object(
        'model', model, 'dimensions', dimensions, 'distance', distance, 'chunking', chunking, 'chunk_size', chunk_size,
        'chunk_overlap', chunk_overlap, 'vector_type', vector_type, 'index', index, 'index_options', index_options,
        'wake', wake, 'max_attempts', max_attempts, 'query_encoder', query_encoder, 'bm25', bm25, 'reduction', reduction,
        'partitions', partitions));
    perform pgembed._lock_declarations();
    select * into searched from pgembed.embedding where embedding_id = searched.embedding_id for no key update;
    was := coalesce(pgembed._generation(searched, 'next'), searched);
    e := was;
    if alter_embedding.model is null and 'model' <> all (fresh) then
        select * into m from pgembed.model where model_id = e.model_id;
    else
        m := pgembed._model(coalesce(alter_embedding.model, 'all-MiniLM-L6-v2'));
    end if;
    e.model_id := m.model_id;
    e.dimensions := coalesce(pgembed._as_int(alter_embedding.dimensions, 'dimensions'),
        case when e.model_id = was.model_id and 'dimensions' <> all (fresh) then was.dimensions else m.dimensions end);
    e.reduction := coalesce(alter_embedding.reduction,
        case when e.model_id = was.model_id and e.dimensions < m.dimensions and 'reduction' <> all (fresh) then was.reduction else 'truncate' end);
    e.distance := coalesce(alter_embedding.distance,
        case when e.model_id = was.model_id and 'distance' <> all (fresh) then was.distance else m.distance end);
    e.chunking := coalesce(alter_embedding.chunking,
        case when 'chunking' <> all (fresh) then was.chunking else pgembed._default_chunking(was.storage) end);
    e.chunk_size := coalesce(pgembed._as_int(alter_embedding.chunk_size, 'chunk_size'), case when 'chunk_size' <> all (fresh) then was.chunk_size end);
    e.chunk_overlap := coalesce(pgembed._as_int(alter_embedding.chunk_overlap, 'chunk_overlap'), case when 'chunk_overlap' <> all (fresh) then was.chunk_overlap end);
    e.vector_type := coalesce(alter_embedding.vector_type,
        case when e.dimensions = was.dimensions and 'vector_type' <> all (fresh) then was.vector_type
             when e.dimensions <= 2000 then 'vector' else 'halfvec' end);
    e.index_kind := coalesce(alter_embedding.index, case when 'index' <> all (fresh) then was.index_kind else 'hnsw' end);
    e.index_options := coalesce(alter_embedding.index_options,
        case when e.index_kind = was.index_kind and 'index_options' <> all (fresh) then was.index_options else '{}' end);
    e.wake := coalesce(alter_embedding.wake, case when 'wake' <> all (fresh) then was.wake else 'notify' end);
    e.max_attempts := pgembed._check_attempts(
        coalesce(alter_embedding.max_attempts, case when 'max_attempts' <> all (fresh) then was.max_attempts else 5 end));
    e.query_encoder := coalesce(alter_embedding.query_encoder, case when 'query_encoder' <> all (fresh) then was.query_encoder else 'auto' end);
    e.partitions := coalesce(pgembed._as_int(alter_embedding.partitions, 'partitions'), case when 'partitions' <> all (fresh) then was.partitions else 1 end);
    perform pgembed._check_declaration(e);
    if was.embedding_id <> searched.embedding_id and pgembed._new_vectors(was, e) then
        -- What was asked for last counts: another one, or back to what it is.
        raise notice 'the next generation of "%" is given up', searched.name;
        perform pgembed._drop_embedding(was);
        e := pgembed._placed(e, searched);
        was := searched;
    end if;

    perform pgembed._check_source(e.source);
    t := pgembed._text(was.text_id);
    if alter_embedding.text_expression is not null and alter_embedding.text_expression <> t.text_expression then
        t := pgembed._declare_text(e.source, alter_embedding.text_expression, false, path);
        perform pgembed._warn_of_text(t, e.name);
    else    -- what is wrong with it is mended
        perform pgembed._install_fence(t);
        t := pgembed._store_analysis(pgembed._reanalyzed(t));
        update pgembed.captured_text set state = 'active', state_reason = null where text_id = t.text_id;
    end if;
    e := pgembed._of_text(e, t, alter_embedding.chunking is null);
    perform pgembed._check_not_own_column(e);
    perform pgembed._follow_parts(pgembed._text(was.text_id), case when alter_embedding.switch = 'in_place' and e.partitions <> was.partitions then was.embedding_id end);
    select side_table into e.side_table from pgembed.embedding where embedding_id = e.embedding_id;
    was.side_table := e.side_table;
    if pgembed._table_sql(e.side_table) is not null then
        execute format('select exists (select from %s)', pgembed._table_sql(e.side_table)) into has_vectors;
    end if;
    if was.generation = 'current' and e.reduction = 'pca' and coalesce(alter_embedding.switch, 'auto') <> 'in_place'
       and pgembed._new_vectors(was, e) and not has_vectors then
        reduced := e;
        e := pgembed._whole(e, alter_embedding.vector_type);
    end if;
    if was.generation = 'current' and coalesce(alter_embedding.switch, 'auto') <> 'in_place'
       and pgembed._new_vectors(was, e) and has_vectors then
        perform pgembed._move_text(was, e.text_id);
        perform pgembed._make_next(was, e, coalesce(alter_embedding.switch, 'auto'));
    else
        new_vectors := (e.model_id, e.dimensions, e.reduction, e.vector_type)
                       is distinct from (was.model_id, was.dimensions, was.reduction, was.vector_type);
        if (e.model_id, e.dimensions, e.reduction) is distinct from (was.model_id, was.dimensions, was.reduction) then
            if e.reduction = 'pca' then
                raise exception 'vectors are not projected in place' using errcode = 'PE007',
                    detail = 'A projection is learnt from whole vectors, and the shorter ones are made beside those.',
                    hint = format('SELECT pgembed.alter_embedding(%L, dimensions => %s, reduction => ''pca''), without in_place.',
                                  pgembed._qualified_name(searched.source, searched.name), e.dimensions);
            end if;
            e.projection_id := null;
            if e.reduction <> was.reduction then    -- what was learnt is of the vectors that were
                delete from pgembed.token_encoder where embedding_id = e.embedding_id;
            end if;
        end if;
        new_chunks := (e.chunking, e.chunk_size, e.chunk_overlap)
                      is distinct from (was.chunking, was.chunk_size, was.chunk_overlap);
        if new_vectors or (e.index_kind, e.index_options, e.distance)
                          is distinct from (was.index_kind, was.index_options, was.distance) then
            perform pgembed._drop_index(was);
        end if;
        if e.partitions <> was.partitions then
            if new_vectors then
                execute format('truncate %s', pgembed._table_sql(e.side_table));
            end if;
            perform pgembed._remake_side_table(e);
        end if;
        update pgembed.embedding
        set text_id = e.text_id,
            model_id = e.model_id, dimensions = e.dimensions, reduction = e.reduction, projection_id = e.projection_id, distance = e.distance,
            vector_type = e.vector_type, chunking = e.chunking, chunk_size = e.chunk_size,
            chunk_overlap = e.chunk_overlap, index_kind = e.index_kind, index_options = e.index_options,
            index_error = null, wake = e.wake, max_attempts = e.max_attempts, query_encoder = e.query_encoder,
            state = case state when 'broken' then 'active' else state end, state_reason = null,
            revision = revision + 1,
            switch = case when switch is not null then coalesce(nullif(alter_embedding.switch, 'in_place'), switch) end,
            valid_from = case when new_chunks then pgembed._later() else valid_from end
        where embedding_id = e.embedding_id
        returning * into e;
        perform pgembed._move_text(searched, e.text_id);
        -- What does not make the vectors is of the current one too.
        update pgembed.embedding as x
        set wake = e.wake, max_attempts = e.max_attempts, query_encoder = e.query_encoder, revision = x.revision + 1,
            state = case x.state when 'broken' then 'active' else x.state end, state_reason = null
        where x.embedding_id = searched.embedding_id and x.embedding_id <> e.embedding_id;
        if new_vectors then
            perform pgembed._clear_vectors(e);
        end if;
        if new_vectors or new_chunks or was.state = 'broken' or e.text_id <> was.text_id then
            perform pgembed._restart_backfill(e.embedding_id);
        end if;
        if reduced.reduction is not null then
            perform pgembed._reduce(e, reduced, coalesce(alter_embedding.switch, 'auto'));
        end if;
    end if;
    perform pgembed._alter_embedding_bm25(
        pgembed._placed(e, searched), case when 'bm25' = any (fresh) then pgembed._bm25_by_default(pgembed._text(e.text_id)) else alter_embedding.bm25 end,
        alter_embedding.bm25_options, fresh, path);
    if alter_embedding.is_default then
        perform pgembed._make_default(searched);
    end if;
    perform pgembed._install_capture(pgembed._text(e.text_id));
    if e.text_id <> was.text_id then
        perform pgembed._drop_text_unless_used(was.text_id);
    end if;
    perform pgembed._sync_privileges(pgembed._text(e.text_id));
    perform pgembed._wake('');
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.alter_embedding(text, text, text, bigint, text, text, bigint, bigint, text, text, jsonb, text, bigint, text, boolean, boolean, jsonb, text[], text, text, bigint) is
    'Changes an embedding; NULL keeps a setting, and reset names those that go back to their defaults (bm25_options.k1: '
    'one BM25 option). Vectors of another model, dimensions, reduction, type or distance, or in other partitions, are made beside those that searches use, and take their place '
    'when all are there (switch => ''auto'') or at switch_embedding (''manual''); ''in_place'' removes the old ones first. '
    'Another text or chunk size refreshes them in place. is_default => true: searches that name only the table use it. '
    'Also repairs a broken embedding. Example: '
    'SELECT pgembed.alter_embedding(''article_embedding'', chunk_size => 128);';

create or replace function pgembed.drop_embedding(name text, if_exists boolean default false)
returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e pgembed.embedding;
begin
    perform pgembed._require_owner();
    if drop_embedding.if_exists and pgembed._named('embedding', drop_embedding.name, true) is null then
        raise notice 'there is no embedding "%", skipping', drop_embedding.name;
        return;
    end if;
    e := pgembed._embedding(drop_embedding.name);
    perform pgembed._back_inside();
    perform pgembed._lock_declarations();
    perform pgembed._drop_embedding(x) from pgembed.embedding as x where x.current_id = e.embedding_id;
    perform pgembed._drop_embedding(e);
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.drop_embedding(text, boolean) is
    'Removes an embedding with its vectors, triggers and queued jobs, and its next and previous generation. The source table stays as it is.';

create or replace function pgembed._drop_embedding(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    texts int[];
    part regclass;
begin
    texts := array(select e.text_id union select text_id from pgembed.bm25 where embedding_id = e.embedding_id);
    perform pgembed._bm25_drop(x, false) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
    -- A service that is writing finishes first; one that comes later finds nothing.
    delete from pgembed.embedding where embedding_id = e.embedding_id;
    perform pgembed._drop_text_unless_used(text_id) from unnest(texts) as text_id;
    if e.storage = 'column' and pgembed._table_sql(e.source) is not null then
        execute format('alter table %s drop column if exists %I', pgembed._table_sql(e.source), e.column_name);
    end if;
    if pgembed._table_sql(e.side_table) is not null then
        execute format('drop table %s', pgembed._table_sql(e.side_table));
    end if;
    for part in select pgembed._detached_partitions(e.embedding_id) loop    -- which have texts too
        execute format('drop table %s', part);
    end loop;
    delete from pgembed.queue where embedding_id = e.embedding_id;
    delete from pgembed.dead_letter where embedding_id = e.embedding_id;
    perform pgembed._keep_default(e.source);
end
$$;
comment on function pgembed._drop_embedding(pgembed.embedding) is
    'Removes an embedding and all that was made for it.';

create or replace function pgembed.pause_embedding(name text, capture boolean default true) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    wanted int;
    texts int[];
begin
    perform pgembed._require_owner();
    wanted := pgembed._named('embedding', pause_embedding.name);
    if wanted is null then
        texts := array[(pgembed._bm25(pause_embedding.name)).text_id];    -- or PE001
    end if;
    perform pgembed._back_inside();
    perform pgembed._lock_declarations();
    update pgembed.embedding
    set state = case state when 'broken' then state else 'paused' end, revision = revision + 1
    where embedding_id = wanted;
    texts := coalesce(texts, array(select text_id from pgembed.embedding where embedding_id = wanted
                                   union select text_id from pgembed.bm25 where embedding_id = wanted));
    if not pause_embedding.capture then
        update pgembed.captured_text set capture = false where text_id = any (texts);
        perform pgembed._remove_capture(text_id, '((words_)?(insert|delete)|update|truncate)$') from unnest(texts) as text_id;
    end if;
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.pause_embedding(text, boolean) is
    'Stops encoding for an embedding; changes are still captured. With capture => false the triggers '
    'are removed too (those of all that is declared over the same text), so that ALTER TABLE ... ALTER '
    'COLUMN ... TYPE is possible; resume_embedding() then looks at the whole table again. That is possible '
    'for a BM25 index without vectors too, by its name.';

create or replace function pgembed.resume_embedding(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    wanted int;
    e pgembed.embedding;
    t pgembed.captured_text;
begin
    perform pgembed._require_owner();
    wanted := pgembed._named('embedding', resume_embedding.name);
    select * into e from pgembed.embedding as x where x.embedding_id operator(pg_catalog.=) wanted;
    t := pgembed._text(coalesce(e.text_id, (pgembed._bm25(resume_embedding.name)).text_id));
    if t.capture and t.state operator(pg_catalog.<>) 'broken' and e.state is distinct from 'broken' then
        update pgembed.embedding as x set state = 'active' where x.embedding_id operator(pg_catalog.=) wanted;
        perform pgembed._wake('');
    else
        perform pgembed.repair(resume_embedding.name);
    end if;
end
$$;
comment on function pgembed.resume_embedding(text) is 'Continues a paused embedding.';

create or replace function pgembed._repair_text(p_text_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text := pgembed._text(p_text_id);
begin
    perform pgembed._require_source(t.source, pgembed._name_of_text(p_text_id));
    update pgembed.captured_text set capture = true where text_id = p_text_id;
    perform pgembed._require_fit(t);
    perform pgembed._follow(pgembed._text(p_text_id), true);
end
$$;
comment on function pgembed._repair_text(int) is 'Makes all of a captured text again, or says why that cannot be.';

create or replace function pgembed.repair(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    wanted int;
    b pgembed.bm25;
    old_level pg_catalog.text;
begin
    perform pgembed._require_owner();
    wanted := pgembed._named('embedding', repair.name);
    if wanted is null then
        b := pgembed._bm25(repair.name);    -- or PE001
    else
        select * into b from pgembed.bm25 as x where x.embedding_id operator(pg_catalog.=) wanted;
    end if;
    perform pgembed._back_inside();
    perform pgembed._lock_declarations();
    update pgembed.embedding set state = 'active', state_reason = null, index_error = null, revision = revision + 1
    where embedding_id = wanted;
    perform pgembed._bm25_lock(b.bm25_id);
    update pgembed.bm25 set state = 'pending', state_reason = null where bm25_id = b.bm25_id and state = 'broken';
    perform pgembed._repair_text(x.text_id)
    from (select text_id from pgembed.embedding where embedding_id = wanted
          union select text_id from pgembed.bm25 where bm25_id = b.bm25_id) as x;
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.repair(text) is
    'Makes again what follows from the declaration of an embedding or BM25 index: side table, indexes, functions, '
    'triggers, privileges, row security, whatever of it was dropped, and has the whole table compared with what '
    'was made of it. Loses nothing; safe to call at any time.';

create or replace function pgembed.reembed(name text) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    e pgembed.embedding;
begin
    perform pgembed._require_owner();
    e := pgembed._embedding(reembed.name);
    update pgembed.embedding as x
    set valid_from = pgembed._later(), revision = x.revision operator(pg_catalog.+) 1
    where x.embedding_id operator(pg_catalog.=) e.embedding_id;
    perform pgembed._restart_backfill(e.embedding_id);
    perform pgembed._bm25_mark(b.bm25_id) from pgembed.bm25 as b where b.embedding_id operator(pg_catalog.=) e.embedding_id;
end
$$;
comment on function pgembed.reembed(text) is
    'Encodes every row again, and reads its words again. Searches use the earlier vectors until each is replaced.';

create or replace function pgembed.retry(name text default null) returns bigint
language plpgsql
as $$
#variable_conflict use_column
declare
    wanted int;
    b pgembed.bm25;
    queued bigint;
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
begin
    perform pgembed._require_owner();
    wanted := pgembed._named('embedding', retry.name);
    if retry.name is not null and wanted is null then
        b := pgembed._bm25(retry.name);    -- or PE001
    end if;
    perform pgembed._back_inside();
    with failed as (
        delete from pgembed.dead_letter
        where retry.name is null or embedding_id = wanted
        returning embedding_id, key, op)
    insert into pgembed.queue (embedding_id, key, op, priority)
    select embedding_id, key, op, 1 from failed;
    get diagnostics queued = row_count;
    for b in select * from pgembed.bm25 as x
             where (retry.name is null or x.bm25_id = b.bm25_id or x.embedding_id = wanted)
               and exists (select from pgembed.bm25_failed as f where f.bm25_id = x.bm25_id) loop
        queued := queued + (select count(*) from pgembed.bm25_failed as f where f.bm25_id = b.bm25_id);
        perform pgembed._bm25_mark(b.bm25_id);
    end loop;
    perform pgembed._wake('');
    perform set_config('search_path', path, true);
    return queued;
end
$$;
comment on function pgembed.retry(text) is
    'Has the failed rows of an embedding or BM25 index tried again (NULL: of all); returns how many.';
