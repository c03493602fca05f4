-- A change of the vectors without a gap. Vectors of another model, dimensions, type or distance are
-- made beside those that searches use, and take their place at once.
--
-- The next generation of an embedding, and the previous one, are embeddings themselves, called
-- NAME_next and NAME_previous, with a side table, an index and jobs of their own: whatever can be
-- done with an embedding can be done with them. To switch is to rename.

create or replace function pgembed._generation(p_current pgembed.embedding, p_generation text) returns pgembed.embedding
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select e from pgembed.embedding as e where e.current_id = (p_current).embedding_id and e.generation = p_generation
$$;
comment on function pgembed._generation(pgembed.embedding, text) is 'The next or previous generation of an embedding, or NULL.';

create or replace function pgembed._new_vectors(was pgembed.embedding, e pgembed.embedding) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select ((e).model_id, (e).dimensions, (e).reduction, (e).vector_type, (e).distance, (e).partitions)
           is distinct from ((was).model_id, (was).dimensions, (was).reduction, (was).vector_type, (was).distance, (was).partitions)
$$;
comment on function pgembed._new_vectors(pgembed.embedding, pgembed.embedding) is
    'Whether a declaration has other vectors than another, which cannot be compared with those, or has them elsewhere.';

create or replace function pgembed._vector_bytes(e pgembed.embedding) returns int
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select 8 + (e).dimensions * case (e).vector_type when 'halfvec' then 2 else 4 end
$$;
comment on function pgembed._vector_bytes(pgembed.embedding) is 'Bytes that a vector of an embedding takes.';

create or replace function pgembed._placed(e pgembed.embedding, p_place pgembed.embedding) returns pgembed.embedding
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    e.embedding_id := p_place.embedding_id;
    e.name := p_place.name;
    e.side_table := p_place.side_table;
    e.generation := p_place.generation;
    e.current_id := p_place.current_id;
    e.switch := p_place.switch;
    return e;
end
$$;
comment on function pgembed._placed(pgembed.embedding, pgembed.embedding) is 'A declaration in the place of another.';

create or replace function pgembed._check_switch(p_switch text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_switch not in ('auto', 'manual', 'in_place') then
        raise exception 'unknown switch "%"', p_switch using errcode = 'PE007',
            hint = 'It is auto (when all vectors are there), manual (at switch_embedding) or in_place (the old ones are removed first).';
    end if;
end
$$;
comment on function pgembed._check_switch(text) is 'PE007 for a way of switching that there is not.';

create or replace function pgembed._rename_embedding(p_embedding_id int, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    side text;
    index_oid oid;
    key_constraint name;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    side := pgembed._table_sql(e.side_table);
    if e.partitions = 1 then    -- by the name that it had; those of partitions keep theirs
        index_oid := (select x.index from pgembed._vector_indexes(e) as x);
    end if;
    e.name := p_name;
    update pgembed.embedding set name = e.name where embedding_id = e.embedding_id;
    update pgembed.bm25 set name = e.name where embedding_id = e.embedding_id;
    if index_oid is not null then
        execute format('alter index %s rename to %I', pgembed._table_sql(index_oid), pgembed._index_name(e));
    end if;
    select c.conname into key_constraint from pg_constraint as c where c.conrelid = e.side_table and c.contype = 'p';
    if to_regclass(pgembed._qualified_name(e.source, pgembed._with_suffix(e.name, 'pkey'))) is null then
        execute format('alter table %s rename constraint %I to %I', side, key_constraint, pgembed._with_suffix(e.name, 'pkey'));
    end if;
    execute format('alter table %s rename to %I', side, e.name);
end
$$;
comment on function pgembed._rename_embedding(int, text) is 'Gives an embedding, its side table and its index another name.';

create or replace function pgembed._make_next(was pgembed.embedding, e pgembed.embedding, p_switch text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    earlier constant pgembed.embedding := pgembed._generation(was, 'previous');
    name constant text := pgembed._with_suffix(was.name, 'next');
begin
    if was.state = 'paused' then
        raise exception 'embedding "%" is paused', was.name using errcode = 'PE007',
            hint = format('Resume it first: SELECT pgembed.resume_embedding(%L). Or change it in place: switch => ''in_place''.',
                          pgembed._qualified_name(was.source, was.name));
    elsif was.storage = 'column' then
        raise exception 'vectors in a column cannot be made anew beside those that are there' using errcode = 'PE007',
            detail = format('Embedding "%s" keeps its vectors in column "%s" of %s.', was.name, was.column_name, was.source),
            hint = 'switch => ''in_place'' removes them first; searches by meaning find rows as they are encoded again. Or declare '
                   'a second embedding, with storage => ''table'', and drop this one when it is filled.';
    end if;
    if earlier.embedding_id is not null and earlier.text_id = e.text_id and not pgembed._new_vectors(earlier, e)
       and (earlier.chunking, earlier.chunk_size, earlier.chunk_overlap) is not distinct from (e.chunking, e.chunk_size, e.chunk_overlap) then
        -- Back to what it was: that is kept up to date.
        if (earlier.index_kind, earlier.index_options) is distinct from (e.index_kind, e.index_options) then
            perform pgembed._drop_index(earlier);
        end if;
        update pgembed.embedding
        set generation = 'next', switch = p_switch, wake = e.wake, max_attempts = e.max_attempts, query_encoder = e.query_encoder,
            index_kind = e.index_kind, index_options = e.index_options, index_error = null, revision = revision + 1
        where embedding_id = earlier.embedding_id;
        perform pgembed._rename_embedding(earlier.embedding_id, name);
        return;
    end if;
    e := pgembed._with_projection(was, e);
    e.name := name;
    e.generation := 'next';
    e.current_id := was.embedding_id;
    e.switch := p_switch;
    perform pgembed._check_new_name('an embedding', e.source, e.name, false);
    perform pgembed._check_no_relation(e.source, e.name, 'side table of the next generation');
    if e.index_kind <> 'none' and e.partitions = 1 then
        perform pgembed._check_no_relation(e.source, pgembed._index_name(e), 'index of the next generation');
    end if;
    if earlier.embedding_id is null then
        perform pgembed._check_no_relation(e.source, pgembed._with_suffix(was.name, 'previous'), 'side table of the previous generation');
    end if;
    perform pgembed._check_schema_rights(e.source);
    perform pgembed._add_embedding(e);
end
$$;
comment on function pgembed._make_next(pgembed.embedding, pgembed.embedding, text) is
    'Declares the next generation of an embedding, or makes the previous one that again; to be filled by the services.';

create or replace function pgembed._switch_waits_for(e pgembed.embedding) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lacking bigint;
    state text;
begin
    -- Whatever the current generation finds the other must find too.
    if e.state <> 'active' then
        return concat('it is ', e.state, ': ' || e.state_reason);
    elsif (pgembed._text(e.text_id)).state <> 'active' then
        return concat('its text is broken: ', (pgembed._text(e.text_id)).state_reason);
    elsif pgembed._table_sql(e.side_table) is null then
        return 'its side table has been dropped';
    elsif pgembed._unlearnt(e) or e.reduction = 'pca' and pgembed._has_row_security(e) then
        return coalesce(pgembed._projection_waits_for(e), 'its projection, which a service learns');
    elsif e.backfill_state <> 'done' or exists (select from pgembed.queue where embedding_id = e.embedding_id and priority = 2) then
        return 'its first fill';
    elsif e.query_encoder = 'static' and not pgembed._has_query_encoder(e.embedding_id) and pgembed._has_query_encoder(e.current_id) then
        return format('its query encoder, which pgembed train-query-encoder %s trains if no service does', e.name);
    end if;
    lacking := (select count(*) from pgembed.dead_letter as d
                where d.embedding_id = e.embedding_id and not exists (
                    select from pgembed.dead_letter as c where c.embedding_id = e.current_id and c.key is not distinct from d.key));
    if lacking > 0 then
        return format('%s rows that could not be encoded for it, see pgembed.failed', lacking);
    end if;
    state := pgembed._index_state(e);
    if state not in ('none', 'valid') and not (e.index_kind = 'ivfflat' and pgembed._row_count(e.side_table) = 0) then
        return concat('its index, which is ', state, ': ' || e.index_error);
    end if;
    if exists (select from pgembed.queue where embedding_id = e.embedding_id offset 1000) then
        return 'more than 1,000 changes';
    end if;
    lacking := (select count(*) from pgembed.queue as q
                where q.embedding_id = e.embedding_id and not exists (
                    select from pgembed.queue as c
                    where c.embedding_id = e.current_id and c.key is not distinct from q.key and c.op = q.op));
    return case when lacking > 0 then format('%s changes that the current generation has', lacking) end;
end
$$;
comment on function pgembed._switch_waits_for(pgembed.embedding) is
    'What a generation lacks that the current one has; NULL: nothing, so that it can take its place.';

create or replace function pgembed._switch(p_embedding_id int, p_force boolean) returns text
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'    -- nobody waits for long behind what this waits for: it is tried again
as $$
declare
    e pgembed.embedding;
    was pgembed.embedding;
    earlier pgembed.embedding;
    waits_for text;
begin
    perform pgembed._lock_declarations();
    -- No service writes vectors until the end.
    perform from pgembed.embedding as x
    where x.embedding_id = p_embedding_id or x.embedding_id = (select current_id from pgembed.embedding where embedding_id = p_embedding_id)
    order by x.embedding_id for no key update;
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    select * into was from pgembed.embedding where embedding_id = e.current_id;
    if was.embedding_id is null then
        return 'it has been dropped, or switched, meanwhile';
    end if;
    waits_for := pgembed._switch_waits_for(e);
    if waits_for is not null and not p_force then
        return waits_for;
    elsif pgembed._unlearnt(e) then    -- nothing could be found, nor encoded
        return waits_for;
    end if;
    -- A search that runs is over first; one that comes waits for the end of this transaction.
    execute format('lock table %s in access exclusive mode', concat_ws(', ', pgembed._table_sql(was.side_table), pgembed._table_sql(e.side_table)));
    earlier := pgembed._generation(was, 'previous');
    if earlier.embedding_id <> e.embedding_id then
        perform pgembed._drop_embedding(earlier);
    end if;
    update pgembed.embedding set is_default = false where embedding_id = was.embedding_id;
    update pgembed.embedding set current_id = null, generation = 'current', switch = null, switch_error = null, is_default = was.is_default
    where embedding_id = e.embedding_id;
    update pgembed.embedding set current_id = e.embedding_id
    where current_id = was.embedding_id;    -- a next generation, when the previous one comes back
    update pgembed.embedding set current_id = e.embedding_id, generation = 'previous' where embedding_id = was.embedding_id;
    update pgembed.bm25 set embedding_id = e.embedding_id where embedding_id = was.embedding_id;
    if e.generation = 'previous' then    -- both names are taken
        perform pgembed._rename_embedding(e.embedding_id, pgembed._with_suffix(was.name, 'switched'));
    end if;
    perform pgembed._rename_embedding(was.embedding_id, pgembed._with_suffix(was.name, 'previous'));
    perform pgembed._rename_embedding(e.embedding_id, was.name);
    perform pgembed._sync_privileges(pgembed._text(text_id)) from (select e.text_id union select was.text_id) as x(text_id);
    perform pgembed._wake('');
    return null;
end
$$;
comment on function pgembed._switch(int, boolean) is
    'Has a generation take the place of the current one, unless it lacks something: then says what. Waits for no lock for longer than a moment.';

create or replace function pgembed.switch_embedding(name text, generation text default 'next', force boolean default false) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    was pgembed.embedding;
    e pgembed.embedding;
    deadline constant pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) pg_catalog.make_interval(secs => 5);
    waits_for pg_catalog.text;
begin
    perform pgembed._require_owner();
    was := pgembed._embedding(switch_embedding.name);
    perform pgembed._back_inside();
    if switch_embedding.generation is null or switch_embedding.generation not in ('next', 'previous') then
        raise exception 'unknown generation "%"', switch_embedding.generation using errcode = 'PE007',
            hint = 'It is next or previous.';
    end if;
    if was.generation <> 'current' then
        raise exception '"%" is the % generation of an embedding', was.name, was.generation using errcode = 'PE007',
            hint = format('Name the embedding: SELECT pgembed.switch_embedding(%L%s).',
                          (select pgembed._qualified_name(x.source, x.name) from pgembed.embedding as x where x.embedding_id = was.current_id),
                          case was.generation when 'previous' then ', ''previous''' else '' end);
    end if;
    e := pgembed._generation(was, switch_embedding.generation);
    if e.embedding_id is null then
        raise exception 'embedding "%" has no % generation', was.name, switch_embedding.generation using errcode = 'PE001',
            hint = case switch_embedding.generation when 'next' then 'pgembed.alter_embedding with another model, dimensions, reduction, vector_type, distance or partitions makes one.'
                        else 'There is one after a switch, until it is dropped.' end;
    end if;
    loop
        begin
            waits_for := pgembed._switch(e.embedding_id, coalesce(switch_embedding.force, false));
            exit when waits_for is null;
        exception when lock_not_available then
            waits_for := format('a lock: %s', sqlerrm);
        end;
        if clock_timestamp() > deadline then
            raise exception 'embedding "%" cannot be switched to its % generation yet', was.name, switch_embedding.generation using errcode = 'PE020',
                detail = format('It waits for %s.', waits_for),
                hint = case when waits_for like 'a lock: %' then 'A transaction that reads the side table is open for long: end it, or try again.'
                            else 'SELECT * FROM pgembed.status shows how far it is. force => true switches all the same: searches then find what is there.' end;
        end if;
        perform pg_sleep(0.05);
    end loop;
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.switch_embedding(text, text, boolean) is
    'Has the next generation of an embedding, which alter_embedding made, take the place of the current one, or the previous one come back. '
    'What it replaces is kept up to date as NAME_previous until it is dropped, or until the next switch. PE020 while it is not complete; '
    'force => true does not wait for that. Example: SELECT pgembed.switch_embedding(''article_embedding'');';

create or replace function pgembed._switch_due_v1() returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    waits_for text;
begin
    for e in select * from pgembed.embedding where switch = 'auto' order by embedding_id loop
        -- Under writes it has all that the current one has now and then: for moments.
        for attempt in 1 .. 10 loop
            waits_for := pgembed._switch_waits_for(e);
            if waits_for is null then
                begin
                    waits_for := pgembed._switch(e.embedding_id, false);
                exception
                    when lock_not_available or deadlock_detected then
                        exit;    -- a second later: others wait behind it
                    when others then
                        update pgembed.embedding as x set switch_error = sqlerrm
                        where x.embedding_id = e.embedding_id and x.switch_error is distinct from sqlerrm;
                        exit;
                end;
                if waits_for is null then    -- what is locked now is free at the end
                    return (select x.name from pgembed.embedding as x where x.embedding_id = e.embedding_id);
                end if;
            end if;
            exit when waits_for !~ '^[0-9]+ changes';
            perform pg_sleep(0.03);
        end loop;
    end loop;
    return null;
end
$$;
comment on function pgembed._switch_due_v1() is
    'Has a next generation that is complete, and is to, take its place; returns the name of the embedding, NULL: none did. A service '
    'calls it each second.';
