-- Fewer dimensions than the model has: the first of them (truncate), or those of a stored matrix (pca).
--
-- A projection is learnt from whole vectors of the model that are stored already, so what has one is the next
-- generation of an embedding (embedding/switch.sql). Until it is learnt, which a service does once there are
-- vectors enough, nothing is encoded for that generation, and what was queued for it is thrown away.

create or replace function pgembed._unlearnt(e pgembed.embedding) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (e).reduction = 'pca' and (e).projection_id is null
$$;
comment on function pgembed._unlearnt(pgembed.embedding) is 'Whether the projection of an embedding is not learnt yet.';

create or replace function pgembed._has_row_security(e pgembed.embedding) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce((select c.relrowsecurity from pg_class as c where c.oid = (e).source::oid), false)
$$;
comment on function pgembed._has_row_security(pgembed.embedding) is 'Whether policies of its table may hide rows of an embedding from some.';

create or replace function pgembed._projected(p_projection_id uuid, p_dimensions int, p_vector vector) returns vector
language sql stable
return (
    select array_agg(inner_product(a.axis, p_vector)::real order by a.place)::vector
    from pgembed.projection_axis as a
    where a.projection_id = p_projection_id and a.place <= p_dimensions);
comment on function pgembed._projected(uuid, int, vector) is
    'A vector of the model projected to so many dimensions; NULL where the caller may not read the projection.';

create or replace function pgembed._fitted(e pgembed.embedding, m pgembed.model, p_vector vector) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    made pgembed.query_embedding.embedding%type;
begin
    if e.dimensions = m.dimensions or array_length(p_vector::real[], 1) <> m.dimensions then
        return p_vector;
    end if;
    if e.reduction = 'truncate' then
        made := pgembed._first_dimensions(p_vector, e.dimensions);
    elsif pgembed._unlearnt(e) then
        raise exception 'the projection of embedding "%" is not learnt yet', e.name using errcode = 'PE020',
            hint = 'A service learns it from the vectors of the current generation; until then searches use those.';
    else
        made := pgembed._projected(e.projection_id, e.dimensions, p_vector);
        if made is null then
            raise exception 'the projection of embedding "%" is not for who may not read the whole table', e.name using errcode = 'PE013',
                detail = 'It was learnt from all rows, so a role that row security restricts, or that may not read all of the text, could learn of others by it.',
                hint = format('Give the embedding vectors without one: SELECT pgembed.alter_embedding(%L, reset => ''{dimensions,reduction}'').',
                              pgembed._qualified_name(e.source, e.name));
        end if;
    end if;
    return case when m.normalized then pgembed._unit(made) else made end;
end
$$;
comment on function pgembed._fitted(pgembed.embedding, pgembed.model, vector) is
    'A vector of the model as an embedding has them: cut or projected, at unit length again. Of any other length it is as it was.';

create or replace function pgembed._with_projection(was pgembed.embedding, e pgembed.embedding) returns pgembed.embedding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model;
begin
    e.projection_id := null;
    if e.reduction <> 'pca' then
        return e;
    elsif was.model_id = e.model_id and was.projection_id is not null and e.dimensions <= was.dimensions then
        e.projection_id := was.projection_id;    -- the first of its dimensions
        return e;
    end if;
    select * into m from pgembed.model where model_id = e.model_id;
    if pgembed._has_row_security(e) then
        raise exception 'the table of embedding "%" has row-level security, so its vectors are not projected', was.name using errcode = 'PE007',
            detail = 'A projection is learnt from all rows, and who searches with it may not see all.',
            hint = 'Use reduction => ''truncate'', or all dimensions.';
    elsif was.model_id <> e.model_id or was.dimensions <> m.dimensions then
        raise exception 'a projection is learnt from whole vectors of the same model, and embedding "%" has others', was.name using errcode = 'PE007',
            detail = format('It has %s dimensions of model "%s"; wanted are %s of "%s".', was.dimensions,
                            (select x.name from pgembed.model as x where x.model_id = was.model_id), e.dimensions, m.name),
            hint = format('First give it whole vectors of that model: SELECT pgembed.alter_embedding(%L, model => %L, dimensions => %s); when these are switched to, reduce them.',
                          pgembed._qualified_name(was.source, was.name), m.name, m.dimensions);
    end if;
    return e;
end
$$;
comment on function pgembed._with_projection(pgembed.embedding, pgembed.embedding) is
    'A declaration with the projection that it can have from another one, whose place it takes; NULL where it is to be learnt, or PE007.';

create or replace function pgembed._whole(e pgembed.embedding, p_vector_type text) returns pgembed.embedding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    e.reduction := 'truncate';
    e.projection_id := null;
    select m.dimensions into e.dimensions from pgembed.model as m where m.model_id = e.model_id;
    e.vector_type := coalesce(p_vector_type, case when e.dimensions <= 2000 then 'vector' else 'halfvec' end);
    perform pgembed._check_declaration(e);
    return e;
end
$$;
comment on function pgembed._whole(pgembed.embedding, text) is
    'A declaration with whole vectors, which a projection is learnt from.';

create or replace function pgembed._reduce(e pgembed.embedding, p_reduced pgembed.embedding, p_switch text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made pgembed.embedding := e;
begin
    made.dimensions := p_reduced.dimensions;
    made.reduction := p_reduced.reduction;
    made.vector_type := p_reduced.vector_type;
    perform pgembed._make_next(e, made, p_switch);
end
$$;
comment on function pgembed._reduce(pgembed.embedding, pgembed.embedding, text) is
    'Declares the next generation of an embedding without vectors, with those of another declaration: it waits for its projection.';

create or replace function pgembed._check_projected_text(p_current pgembed.embedding, p_text_id int) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lost text[];
begin
    lost := array(select c.name from pgembed.captured_text as t cross join unnest(t.source_columns) as c(name) where t.text_id = p_current.text_id
                  except select c.name from pgembed.captured_text as t cross join unnest(t.source_columns) as c(name) where t.text_id = p_text_id);
    if lost <> '{}' and exists (select from pgembed.embedding as x
                                where coalesce(x.current_id, x.embedding_id) = coalesce(p_current.current_id, p_current.embedding_id) and x.projection_id is not null) then
        raise exception 'embedding "%" has a projection, which was learnt from columns that the new text does not read', p_current.name using errcode = 'PE007',
            detail = format('Columns: %s. Roles that may not read these could use what it tells of them.', array_to_string(lost, ', ')),
            hint = format('First give it whole vectors: SELECT pgembed.alter_embedding(%L, reset => ''{dimensions,reduction}''), and drop the previous generation when these are switched to.',
                          pgembed._qualified_name(p_current.source, p_current.name));
    end if;
end
$$;
comment on function pgembed._check_projected_text(pgembed.embedding, int) is
    'PE007 where an embedding with a projection is to have a text for other readers.';

create or replace function pgembed._check_weights_projected(p_model_id int) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    names text;
begin
    select string_agg(pgembed._qualified_name(e.source, e.name), ', ' order by e.name) into names
    from pgembed.embedding as e where e.model_id = p_model_id and e.projection_id is not null;
    if names is not null then
        raise exception 'projections were learnt from vectors of the earlier weights' using errcode = 'PE007',
            detail = format('Of: %s.', names),
            hint = 'Drop these (a previous generation), or have whole vectors made instead: SELECT pgembed.alter_embedding(name, reset => ''{dimensions,reduction}'', '
                   'switch => ''in_place''); accept the weights; reduce them again when they are there.';
    end if;
end
$$;
comment on function pgembed._check_weights_projected(int) is 'PE007 for a model some of whose embeddings have a projection.';

create or replace function pgembed._projection_waits_for(e pgembed.embedding) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c pgembed.embedding;
    least int;
    vectors bigint;
begin
    if pgembed._has_row_security(e) then
        return 'row-level security to be disabled: who it restricts could not search by projected vectors';
    end if;
    select * into c from pgembed.embedding where embedding_id = e.current_id;
    if c.backfill_state <> 'done' or exists (select from pgembed.queue where embedding_id = c.embedding_id and priority = 2) then
        return 'its projection, which is learnt after the first fill of the vectors';
    end if;
    -- With fewer there are directions of which nothing is known.
    select dimensions into least from pgembed.model where model_id = e.model_id;
    vectors := pgembed._row_count(c.side_table);
    return case when vectors is null then 'its projection, which is learnt from vectors that cannot be read now'
                when vectors < least then format('its projection, which is learnt from %s vectors or more (there are %s)', least, vectors) end;
end
$$;
comment on function pgembed._projection_waits_for(pgembed.embedding) is
    'What the projection of a next generation waits for; NULL: a service can learn it.';

create or replace function pgembed._projections_due_v1() returns table (embedding_id int, name text, dimensions int, model_dimensions int)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (select from pgembed.embedding as e where pgembed._unlearnt(e)) then
        return;
    end if;
    delete from pgembed.queue as q using pgembed.embedding as e where e.embedding_id = q.embedding_id and pgembed._unlearnt(e);
    return query
    select e.embedding_id, x.label, e.dimensions, m.dimensions
    from pgembed.embedding as e
    join pgembed._standing as x on x.kind = 'embedding' and x.id = e.embedding_id and x.state = 'active'
    join pgembed.model as m on m.model_id = e.model_id
    where pgembed._unlearnt(e) and pgembed._projection_waits_for(e) is null
    order by e.embedding_id;
end
$$;
comment on function pgembed._projections_due_v1() is
    'Embeddings whose projection a service is to learn now. Jobs of those that must wait are deleted: all is encoded when it is learnt.';

create or replace function pgembed._projection_sample_v1(p_embedding_id int, p_most int) returns setof vector
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    c pgembed.embedding;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    select * into c from pgembed.embedding where embedding_id = e.current_id;
    if c.embedding_id is not null then    -- of a large table pages are drawn, so that not all of it is read
        return query execute format(
            'select s.embedding::%s.vector from %s as s tablesample system (least(100, 100.0 * $2 / greatest($3, 1))) where s.model_id = $1 limit $2',
            pgembed._vector_schema(), pgembed._table_sql(c.side_table))
        using e.model_id, p_most, pgembed._row_count(c.side_table);
    end if;
end
$$;
comment on function pgembed._projection_sample_v1(int, int) is
    'About so many vectors, drawn at random, of the generation whose place an embedding is to take.';

create or replace function pgembed._projection_learnt_v1(p_embedding_id int, p_axes vector[], p_vectors bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    learnt uuid;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id for no key update;
    if e.embedding_id is null or not pgembed._unlearnt(e) or cardinality(p_axes) <> e.dimensions or pgembed._projection_waits_for(e) is not null then
        return false;    -- another service did it, it was given up, or the vectors are not those any more
    end if;
    insert into pgembed.projection (vectors) values (p_vectors) returning projection_id into learnt;
    insert into pgembed.projection_axis (projection_id, place, axis)
    select learnt, a.place, a.axis from unnest(p_axes) with ordinality as a(axis, place);
    update pgembed.embedding set projection_id = learnt, revision = revision + 1 where embedding_id = e.embedding_id;
    perform pgembed._restart_backfill(e.embedding_id);
    return true;
end
$$;
comment on function pgembed._projection_learnt_v1(int, vector[], bigint) is
    'Stores the projection of an embedding, which is filled from now on; whether it still wanted one.';

create or replace function pgembed._projection_v1(p_projection_id uuid) returns table (axis vector)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select a.axis from pgembed.projection_axis as a where a.projection_id = p_projection_id order by a.place;
    if not found then
        raise exception 'projection % is not there any more', p_projection_id using errcode = 'object_not_in_prerequisite_state',
            hint = 'Its embedding has been changed meanwhile: try again.';
    end if;
end
$$;
comment on function pgembed._projection_v1(uuid) is 'The rows of a projection''s matrix.';

create or replace function pgembed._forget_projections() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from pgembed.projection as p where not exists (select from pgembed.embedding as e where e.projection_id = p.projection_id);
    return null;
end
$$;
comment on function pgembed._forget_projections() is 'Deletes the projections of embeddings that are gone.';

create or replace trigger forget_projections after delete or update of projection_id on pgembed.embedding
for each statement execute function pgembed._forget_projections();
