-- The side table of an embedding: its columns and its keys. It belongs to pgembed's owner,
-- so the owner of the source can hang no code on it.

create or replace function pgembed._sync_key_columns(p_embedding pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changes text;
begin
    -- int that has become bigint, while capture was off.
    select string_agg(format('alter column %1$I type %2$s using %1$I::%2$s', s.attname, t.type), ', ')
    into changes
    from pg_catalog.pg_index as i
    cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    join pg_catalog.pg_attribute as s on s.attrelid = p_embedding.side_table and s.attnum = k.position
    cross join lateral (select format_type(a.atttypid, a.atttypmod)) as t(type)
    where i.indrelid = p_embedding.source and i.indisprimary and k.position <= i.indnkeyatts
      and (a.atttypid, a.atttypmod) is distinct from (s.atttypid, s.atttypmod);
    if changes is not null and p_embedding.partitions > 1 then    -- no key of partitions is changed
        perform pgembed._remake_side_table(p_embedding);
    elsif changes is not null then
        execute format('alter table %s %s', pgembed._table_sql(p_embedding.side_table), changes);
    end if;
end
$$;
comment on function pgembed._sync_key_columns(pgembed.embedding) is
    'Gives the key columns of the side table the types that the source''s have.';

create or replace function pgembed._vector_column_type(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s.%I(%s)', pgembed._vector_schema(), p_embedding.vector_type, p_embedding.dimensions)
$$;
comment on function pgembed._vector_column_type(pgembed.embedding) is
    'SQL type of the vectors of an embedding.';

create or replace function pgembed._create_side_table(p_embedding pgembed.embedding, p_side text)
returns regclass
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    key_columns text;
    key_list text;
begin
    -- Own names, types and collations, so that keys compare as in the source; a
    -- key column that is called as one of ours gets a prefix.
    select string_agg(format('%I %s%s not null', k.name, format_type(a.atttypid, a.atttypmod),
                             case when a.attcollation <> t.typcollation
                                  then ' collate ' || a.attcollation::regcollation else '' end),
                      ', ' order by i.position),
           string_agg(quote_ident(k.name), ', ' order by i.position)
    into key_columns, key_list
    from pg_catalog.pg_index as x
    cross join unnest(x.indkey::int2[]) with ordinality as i(attnum, position)
    join pg_catalog.pg_attribute as a on a.attrelid = x.indrelid and a.attnum = i.attnum
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    cross join lateral (
        select case when a.attname in ('chunk', 'content', 'embedding', 'text_hash', 'model_id',
                                       'embedded_at')
                    then 'source_' || a.attname else a.attname end) as k(name)
    where x.indrelid = p_embedding.source and x.indisprimary and i.position <= x.indnkeyatts;
    begin
        execute format('create table %s (%s, chunk int not null, %s text_hash bytea not null, '
                       'model_id int not null, embedded_at timestamptz not null, primary key (%s, chunk))%s',
            p_side, key_columns,
            case when p_embedding.storage = 'table'
                 then format('content text, embedding %s not null,',
                             pgembed._vector_column_type(p_embedding)) else '' end,
            key_list, case when p_embedding.partitions > 1 then format(' partition by hash (%s)', key_list) else '' end);
    exception when undefined_object then
        raise exception 'vectors of % cannot be partitioned by hash of its key', p_embedding.source
            using errcode = 'PE007', detail = sqlerrm,
                  hint = format('Leave partitions out; of one that is there: SELECT pgembed.alter_embedding(%L, partitions => 1, switch => ''in_place'').',
                                pgembed._qualified_name(p_embedding.source, p_embedding.name));
    end;
    -- Large vectors are moved out of line; compressing floats only costs time.
    if p_embedding.storage = 'table' then
        execute format('alter table %s alter column embedding set storage external', p_side);
    end if;
    execute format('comment on table %s is %L', p_side, format(
        'Embedding of %s, kept by pgembed: one row a chunk.', p_embedding.source));
    perform pgembed._give_to_owner('table', p_side);
    perform pgembed._close('table', p_side);
    perform pgembed._create_partitions(p_embedding, p_side);
    return p_side::regclass;
end
$$;
comment on function pgembed._create_side_table(pgembed.embedding, text) is
    'Makes the side table of an embedding.';

create or replace function pgembed._partition_name(p_embedding_id int, p_remainder int) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('pgembed._vectors_%s_%s', p_embedding_id, p_remainder)
$$;
comment on function pgembed._partition_name(int, int) is
    'Name of a partition of a side table: in schema pgembed, where no name of a user is in the way, and kept whatever the embedding is called.';

create or replace function pgembed._partitions(p_side oid) returns table (remainder int, relation regclass)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- By its bound: somebody may have renamed it, or moved it to another schema.
    select substring(pg_get_expr(c.relpartbound, c.oid) from 'remainder (\d+)')::int, c.oid
    from pg_inherits as h join pg_class as c on c.oid = h.inhrelid
    where h.inhparent = p_side and not h.inhdetachpending
$$;
comment on function pgembed._partitions(oid) is 'The partitions of a side table, whatever they are called.';

create or replace function pgembed._detached_partitions(p_embedding_id int) returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.oid from pg_class as c
    where c.relnamespace = 'pgembed'::regnamespace and c.relname ~ format('^_vectors_%s_\d+$', p_embedding_id)
      and c.relkind = 'r' and c.relowner = pgembed._own() and not c.relispartition
      -- One of the same name that somebody else has made has no such comment.
      and obj_description(c.oid, 'pg_class') like 'A part of the embedding %'
$$;
comment on function pgembed._detached_partitions(int) is 'Partitions of a side table that somebody has detached.';

create or replace function pgembed._create_partitions(p_embedding pgembed.embedding, p_side text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing int;
    name text;
    values_sql text;
begin
    for missing in
        select wanted from generate_series(0, p_embedding.partitions - 1) as wanted
        where p_embedding.partitions > 1 and wanted not in (select x.remainder from pgembed._partitions(p_side::regclass) as x)
    loop
        name := pgembed._partition_name(p_embedding.embedding_id, missing);
        values_sql := format('for values with (modulus %s, remainder %s)', p_embedding.partitions, missing);
        if to_regclass(name) in (select pgembed._detached_partitions(p_embedding.embedding_id)) then
            perform pgembed._attach_partition(p_embedding, p_side, name, values_sql);
        elsif to_regclass(name) is not null then
            raise exception 'there is a relation % already', name using errcode = 'PE002',
                detail = format('A partition of %s would have this name.', p_side),
                hint = format('Somebody has made it: give it another name, or drop it (partitions of pgembed''s own that are being detached: '
                              'ALTER TABLE %s DETACH PARTITION %s FINALIZE).', p_side, name);
        else
            execute format('create table %s partition of %s %s', name, p_side, values_sql);
            execute format('comment on table %s is %L', name, format('A part of the embedding "%s" of %s.', p_embedding.name, p_embedding.source));
            perform pgembed._give_to_owner('table', name);
        end if;
        -- Through the side table alone, where row security holds.
        perform pgembed._close('table', name);
    end loop;
end
$$;
comment on function pgembed._create_partitions(pgembed.embedding, text) is
    'Makes the partitions of a side table that are not there, or attaches them; PE002 where a relation of somebody else has the name of one.';

create or replace function pgembed._attach_partition(p_embedding pgembed.embedding, p_side text, p_name text, p_values_sql text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('alter table %s attach partition %s %s', p_side, p_name, p_values_sql);
exception when integrity_constraint_violation or syntax_error_or_access_rule_violation then    -- a row of another partition, or other columns
    raise exception 'table % cannot be attached to % again', p_name, p_side using errcode = 'PE016', detail = sqlerrm,
        hint = format('DROP TABLE %s; then SELECT pgembed.repair(%L) makes it again and encodes its rows.', p_name,
                      pgembed._qualified_name(p_embedding.source, p_embedding.name));
end
$$;
comment on function pgembed._attach_partition(pgembed.embedding, text, text, text) is
    'Attaches a partition that somebody has detached; PE016 where it was changed meanwhile.';

create or replace function pgembed._lacks_partition(e pgembed.embedding) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (e).partitions > 1 and (e).partitions > (select count(*) from pg_inherits where inhparent = (e).side_table and not inhdetachpending)
$$;
comment on function pgembed._lacks_partition(pgembed.embedding) is
    'Whether somebody has dropped or detached a partition of a side table.';

create or replace function pgembed._remake_side_table(p_embedding pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    side constant text := pgembed._table_sql(p_embedding.side_table);
    part regclass;
    columns text;
    values_sql text;
begin
    perform pgembed._lock_vectors(p_embedding);
    for part in select inhrelid from pg_inherits where inhparent = p_embedding.side_table loop
        execute format('alter table %s rename to %I', part, (select pgembed._with_suffix(c.relname, 'before') from pg_class as c where c.oid = part));
    end loop;
    p_embedding.side_table := pgembed._create_side_table(
        p_embedding, pgembed._qualified_name(p_embedding.source, pgembed._with_suffix(p_embedding.name, 'remade')));
    -- By their order: a column of the key may be called otherwise now, and have another type.
    select string_agg(quote_ident(made.attname), ', ' order by place),
           string_agg(format('%I::%s', was.attname, format_type(made.atttypid, made.atttypmod)), ', ' order by place)
    into columns, values_sql
    from (select a.*, row_number() over (order by a.attnum) as place from pg_attribute as a
          where a.attrelid = p_embedding.side_table and a.attnum > 0 and not a.attisdropped) as made
    join (select a.*, row_number() over (order by a.attnum) as place from pg_attribute as a
          where a.attrelid = side::regclass and a.attnum > 0 and not a.attisdropped) as was using (place);
    execute format('insert into %s (%s) select %s from %s', pgembed._table_sql(p_embedding.side_table), columns, values_sql, side);
    execute format('drop table %s', side);
    update pgembed.embedding set side_table = p_embedding.side_table, partitions = p_embedding.partitions where embedding_id = p_embedding.embedding_id;
    perform pgembed._rename_embedding(p_embedding.embedding_id, p_embedding.name);
end
$$;
comment on function pgembed._remake_side_table(pgembed.embedding) is
    'Copies the side table of an embedding into one of as many partitions as it has now, with the key''s types of now. Indexes are to be built again.';

create or replace function pgembed._clear_vectors(p_embedding pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._lock_vectors(p_embedding);
    execute format('truncate %s', pgembed._table_sql(p_embedding.side_table));
    if p_embedding.storage = 'table' then
        execute format('alter table %s alter column embedding type %s using null',
            pgembed._table_sql(p_embedding.side_table), pgembed._vector_column_type(p_embedding));
    else
        perform pgembed._run_as_owner(p_embedding.text_id, format('alter table %1$s drop column if exists %2$I, add column %2$I %3$s',
            pgembed._table_sql(p_embedding.source), p_embedding.column_name,
            pgembed._vector_column_type(p_embedding)));
    end if;
end
$$;
comment on function pgembed._clear_vectors(pgembed.embedding) is
    'Removes all vectors of an embedding, for a change of model or type.';

create or replace function pgembed._check_schema_rights(p_source oid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own constant oid := pgembed._own();
    space constant oid := (select relnamespace from pg_class where oid = p_source);
begin
    if not has_schema_privilege(own, space, 'USAGE') or not has_schema_privilege(own, space, 'CREATE') then
        raise exception 'role "%", which owns pgembed, may not create tables in schema %', pg_get_userbyid(own), space::regnamespace
            using errcode = 'PE013', detail = 'The side table of an embedding is there, and belongs to that role.',
                  hint = format('GRANT USAGE, CREATE ON SCHEMA %s TO %s;', space::regnamespace, own::regrole);
    end if;
end
$$;
comment on function pgembed._check_schema_rights(oid) is
    'PE013 where pgembed''s owner cannot have a side table beside a source.';

create or replace function pgembed._follow_parts(t pgembed.captured_text, p_remade int default null) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    b pgembed.bm25;
begin
    -- What was dropped is made again; reading the whole table fills it.
    for e in select x.* from pgembed.embedding as x where x.text_id = t.text_id
                and (pgembed._table_sql(x.side_table) is null or not pgembed._key_fits(x)) loop
        if pgembed._table_sql(e.side_table) is not null then    -- of another key
            execute format('drop table %s', pgembed._table_sql(e.side_table));
        end if;
        delete from pgembed.queue where embedding_id = e.embedding_id;    -- all rows are queued anew
        delete from pgembed.dead_letter where embedding_id = e.embedding_id;
        update pgembed.embedding
        set side_table = pgembed._create_side_table(e, pgembed._qualified_name(e.source, e.name)), index_error = null, revision = revision + 1
        where embedding_id = e.embedding_id;
    end loop;
    for e in select * from pgembed.embedding where text_id = t.text_id loop
        perform pgembed._create_partitions(e, pgembed._table_sql(e.side_table));
        continue when e.embedding_id = p_remade;
        perform pgembed._sync_key_columns(e);
    end loop;
    select * into b from pgembed.bm25 where text_id = t.text_id;
    if found then
        perform pgembed._bm25_make_parts(b);
    end if;
end
$$;
comment on function pgembed._follow_parts(pgembed.captured_text, int) is
    'Makes again the tables and functions of embeddings and BM25 indexes that somebody has dropped, and gives side tables the key''s '
    'types of now, but for that of an embedding (p_remade) that is remade at once.';
