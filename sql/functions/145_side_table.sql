-- The side table of an embedding: its columns, its keys, who may read it.

create or replace function pgembed._sync_key_columns(p_embedding pgembed.embedding) returns void
language plpgsql
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
    if changes is not null then
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
    execute format('create table %s (%s, chunk int not null, %s text_hash uuid not null, '
                   'model_id int not null, embedded_at timestamptz not null, primary key (%s, chunk))',
        p_side, key_columns,
        case when p_embedding.storage = 'table'
             then format('content text not null, embedding %s not null,',
                         pgembed._vector_column_type(p_embedding)) else '' end,
        key_list);
    -- Large vectors are moved out of line; compressing floats only costs time.
    if p_embedding.storage = 'table' then
        execute format('alter table %s alter column embedding set storage external', p_side);
    end if;
    execute format('comment on table %s is %L', p_side, format(
        'Embedding of %s, kept by pgembed: one row a chunk.', p_embedding.source));
    begin
        perform pgembed._give_to_owner('table', p_side);
    exception when insufficient_privilege then    -- it may not own tables in this schema
        execute format('grant all on table %s to %s', p_side,
                       (select nspowner::regrole from pg_catalog.pg_namespace where nspname = 'pgembed'));
    end;
    return p_side::regclass;
end
$$;
comment on function pgembed._create_side_table(pgembed.embedding, text) is
    'Makes the side table of an embedding.';

create or replace function pgembed._sync_privileges(p_embedding pgembed.embedding) returns void
language plpgsql
as $$
declare
    side text := pgembed._table_sql(p_embedding.side_table);
    grantee text;
begin
    -- Search runs with the caller's rights: who may read the source may read its
    -- vectors and chunks, and no one else.
    execute format('revoke all on %s from public', side);
    for grantee in
        select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        from pg_catalog.pg_class as c, aclexplode(c.relacl) as a
        where c.oid = p_embedding.source and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on %s to %s', side, grantee);
    end loop;

    if exists (select from pg_catalog.pg_policy
               where polrelid = p_embedding.side_table and polname = 'pgembed_source') then
        execute format('drop policy pgembed_source on %s', side);
    end if;
    if (select relrowsecurity from pg_catalog.pg_class where oid = p_embedding.source) then
        execute format('alter table %s enable row level security', side);
        execute format('create policy pgembed_source on %1$s for select using '
                       '(exists (select from %2$s as pgembed_source where %3$s))',
            side, pgembed._table_sql(p_embedding.source),
            pgembed._key_sql(p_embedding.source, p_embedding.side_table,
                             format('pgembed_source.%%2$I = %s.%%3$I', replace(side, '%', '%%')), ' and '));
    else
        execute format('alter table %s disable row level security', side);
    end if;
end
$$;
comment on function pgembed._sync_privileges(pgembed.embedding) is
    'Gives the side table the readers and the row security of the source.';

create or replace function pgembed._clear_vectors(p_embedding pgembed.embedding) returns void
language plpgsql
as $$
begin
    execute format('truncate %s', pgembed._table_sql(p_embedding.side_table));
    if p_embedding.storage = 'table' then
        execute format('alter table %s alter column embedding type %s using null',
            pgembed._table_sql(p_embedding.side_table), pgembed._vector_column_type(p_embedding));
    else
        execute format('alter table %1$s drop column if exists %2$I, add column %2$I %3$s',
            pgembed._table_sql(p_embedding.source), p_embedding.column_name,
            pgembed._vector_column_type(p_embedding));
    end if;
end
$$;
comment on function pgembed._clear_vectors(pgembed.embedding) is
    'Removes all vectors of an embedding, for a change of model or type.';
