-- What a table must be to have a captured text.

create or replace function pgembed._check_source(p_source oid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    source constant regclass := p_source;
    kind "char";
    offender text;
begin
    select relkind into kind from pg_class where oid = p_source;
    if kind not in ('r', 'p') then
        raise exception '% is not a table', source using errcode = 'PE003',
            hint = 'Embeddings are declared on ordinary and partitioned tables: name the table '
                   'under the view.';
    end if;
    if (select relnamespace = pg_my_temp_schema() from pg_class where oid = p_source) then
        raise exception '% is a temporary table', source using errcode = 'PE003',
            hint = 'The encoder service, another session, could not see it.';
    end if;
    if p_source < 16384 or exists (
        select from pg_class
        where oid = p_source and relnamespace in ('pgembed'::regnamespace, 'information_schema'::regnamespace)) then
        raise exception '% is a system table', source using errcode = 'PE003',
            hint = 'Embeddings are declared on tables of your own.';
    end if;
    if kind = 'r' and exists (select from pg_inherits where inhparent = p_source) then
        raise exception 'other tables inherit from %', source using errcode = 'PE003',
            hint = 'Writes to those would not be seen. Declare an embedding on each, or partition the table.';
    end if;
    if not exists (select from pg_index where indrelid = p_source and indisprimary) then
        raise exception 'table % has no primary key', source using errcode = 'PE003',
            hint = 'Vectors are tied to their rows by the primary key: '
                   'ALTER TABLE ... ADD PRIMARY KEY (...).';
    end if;
    -- Keys are compared by who searches and by the service, so they may call nothing of a user's.
    select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum) into offender
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
    where i.indrelid = p_source and i.indisprimary
      and pgembed._foreign_type(a.atttypid);
    if offender is not null then
        raise exception 'the primary key of table % has a type that a user has defined: %', source, offender using errcode = 'PE003',
            detail = 'Comparing such keys, or reading them from text, may call functions of whoever owns the type.',
            hint = 'Use a type of PostgreSQL or of an extension, such as bigint, uuid or text, for the primary key.';
    end if;
    select string_agg(p.relid::regclass::text, ', ') into offender
    from pg_partition_tree(p_source) as p where pgembed._owner_of(p.relid) <> pgembed._owner_of(p_source);
    if offender is not null then
        raise exception 'partitions of % belong to another role: %', source, offender using errcode = 'PE013',
            hint = format('ALTER TABLE ... OWNER TO %s.', pgembed._owner_of(p_source)::regrole);
    end if;
    if (select c.relforcerowsecurity and c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
        from pg_class as c join pg_roles as r on r.oid = c.relowner where c.oid = p_source) then
        raise exception 'table % has FORCE ROW LEVEL SECURITY, so its owner "%" may not see all rows', source,
            pg_get_userbyid(pgembed._owner_of(p_source)) using errcode = 'PE013',
            detail = 'pgembed reads the table as its owner, and a row that a policy hides would look deleted.',
            hint = format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, and let the application connect as a role that does not own '
                          'the table; or ALTER ROLE %s BYPASSRLS.', source, pgembed._owner_of(p_source)::regrole);
    end if;
end
$$;
comment on function pgembed._check_source(oid) is
    'PE003 or PE013 for a table that cannot have a captured text.';

create or replace function pgembed._source_table(p_source text, p_path text) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    named constant regclass := pgembed._table_named(p_source, p_path);
begin
    perform pgembed._check_source(named);
    return named;
end
$$;
comment on function pgembed._source_table(text, text) is
    'A table that may have an embedding, by its name under a search_path; or PE003.';

create or replace function pgembed._require_source_owner(p_source regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_has_role(pgembed._owner_of(p_source), 'USAGE') then
        raise exception 'role "%" does not own table %', current_user, p_source using errcode = 'PE013',
            hint = 'An embedding is declared by the owner of the table, as an index is.';
    end if;
end
$$;
comment on function pgembed._require_source_owner(regclass) is
    'PE013 unless the caller owns the table, or is a member of the role that does.';
