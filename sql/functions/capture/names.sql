-- Names and pieces of SQL that the other functions put together. Every
-- identifier that reaches a statement is quoted here, by the server.

create or replace function pgembed._vector_schema() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select quote_ident(n.nspname)
    from pg_extension as e
    join pg_namespace as n on n.oid = e.extnamespace
    where e.extname = 'vector'
$$;
comment on function pgembed._vector_schema() is
    'Schema of the pgvector extension, quoted; its operators are always named with it.';

create or replace function pgembed._table_sql(p_table oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Its name of now, even if it was renamed since the snapshot; qualified, as no table of a user is in this path.
    select c.oid::regclass::text from pg_class as c where c.oid = p_table
$$;
comment on function pgembed._table_sql(oid) is
    'Schema-qualified quoted name of a table; NULL when there is no such table any more.';

create or replace function pgembed._held_name(p_table regclass) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    name text;
begin
    -- A switch may give its name to another table, but not once this one has been read. The name of now, not
    -- of the snapshot: so no look into pg_class.
    loop
        name := p_table::text;
        begin
            execute format('select from %s limit 0', name);
            exit when to_regclass(name) = p_table;
        exception when undefined_table then
            if p_table::text = name then    -- it was dropped
                raise;
            end if;
        end;
    end loop;
    return name;
end
$$;
comment on function pgembed._held_name(regclass) is
    'Name of a table, which it keeps until the end of the transaction.';

create or replace function pgembed._type_sql(p_type oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%I.%I', n.nspname, t.typname) from pg_type as t join pg_namespace as n on n.oid = t.typnamespace where t.oid = p_type
$$;
comment on function pgembed._type_sql(oid) is
    'Name of a type that means it under any search_path; without a length or precision, so that no value is cut.';

create or replace function pgembed._key_type(p_source oid, p_type oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Who searches and the service write this type into statements. Nearly all are
    -- PostgreSQL's own, which needs no look into the catalog.
    if p_type >= 16384 and pgembed._foreign_type(p_type) then
        raise exception 'the primary key of table % has a type that a user has defined: %', p_source::regclass, p_type::regtype
            using errcode = 'PE003',
            detail = 'Comparing such keys, or reading them from text, may call functions of whoever owns the type.',
            hint = 'Use a type of PostgreSQL or of an extension, such as bigint, uuid or text, for the primary key.';
    end if;
    return pgembed._type_sql(p_type);
end
$$;
comment on function pgembed._key_type(oid, oid) is 'Type of a key column as SQL; PE003 for one that may call functions of a user.';

create or replace function pgembed._key_sql(
    p_source oid, p_side oid, p_template text, p_separator text, p_key text default 'pgembed_key.key'
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A key's columns are always looked up in the catalog, never remembered by
    -- name, so a renamed key column needs no repair. In the side table they are
    -- the first columns, in the order of the primary key.
    with key_column as (
        select k.position,
               a.attname as source_column,
               coalesce(s.attname, a.attname) as side_column,
               pgembed._key_type(i.indrelid, a.atttypid) as type,
               case when i.indnkeyatts = 1 then p_key
                    else format('(%s::pg_catalog.text[])[%s]', p_key, k.position) end as part,
               case a.atttypid when 'bpchar'::regtype then 'pg_catalog.rtrim' else '' end as trim,
               -- That of the key's index: whatever else somebody has called =.
               (select format('operator(%I.%s)', n.nspname, o.oprname)
                from pg_opclass as x
                join pg_amop as m on m.amopfamily = x.opcfamily and m.amopstrategy = 3
                                 and m.amoplefttype = x.opcintype and m.amoprighttype = x.opcintype
                join pg_operator as o on o.oid = m.amopopr
                join pg_namespace as n on n.oid = o.oprnamespace
                where x.oid = i.indclass[k.position - 1]) as equals
        from pg_index as i
        cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        left join pg_attribute as s
            on s.attrelid = p_side and s.attnum = k.position and not s.attisdropped
        where i.indrelid = p_source and i.indisprimary and k.position <= i.indnkeyatts
    )
    select string_agg(
        format(p_template, position, source_column, side_column, type, part, trim, equals),
        p_separator order by position)
    from key_column
$$;
comment on function pgembed._key_sql(oid, oid, text, text, text) is
    'Expands a format() template for each primary key column of a source: %1$s position, '
    '%2$I column in the source, %3$I column in the side table, %4$s type, %5$s its part of '
    'the key (SQL, p_key), %6$s what takes the blanks at the end off a char(n), as a cast to text does, %7$s = of the key.';

create or replace function pgembed._keys_after_sql(p_source oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('(%s) > (select %s from (select ($1).after) as pgembed_key(key))',
                  pgembed._key_sql(p_source, null, 's.%2$I', ', '), pgembed._key_sql(p_source, null, '%5$s::%4$s', ', '))
$$;
comment on function pgembed._keys_after_sql(oid) is
    'Condition for the rows (alias s) behind the key in a pgembed._work ($1), for a walk in pages.';

create or replace function pgembed._key_text_sql(p_source oid, p_alias text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- concat() writes any type by its own output function. A cast may be a function
    -- of whoever owns the type, and triggers would call it with our rights.
    select format(case when i.indnkeyatts = 1 then '%s' else 'array[%s]::pg_catalog.text' end,
                  pgembed._key_sql(p_source, null,
                                   '%6$s(pg_catalog.concat(' || coalesce(p_alias || '.', '') || '%2$I))', ', '))
    from pg_index as i
    where i.indrelid = p_source and i.indisprimary
$$;
comment on function pgembed._key_text_sql(oid, text) is
    'Expression for the key text of a source row: the one key column as text, or the text '
    'form of a text[] of them.';

create or replace function pgembed._key_text_varies(p_source oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_index as i
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
        join pg_type as t on t.oid = a.atttypid
        where i.indrelid = p_source and i.indisprimary
          and (t.typcategory in ('A', 'C', 'D', 'R', 'T') or t.typtype = 'd'
               or t.oid in ('float4'::regtype, 'float8'::regtype, 'bytea'::regtype)))
$$;
comment on function pgembed._key_text_varies(oid) is
    'Whether the key text of a source may depend on settings of the session that writes it.';

create or replace function pgembed._source_rows_sql(p_source oid, p_expression text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- The empty string means what NULL means: there is no text.
    select format('select nullif((%s)::text, '''') as content from %s where %s',
                  p_expression,
                  pgembed._table_sql(p_source),
                  pgembed._key_sql(p_source, null,
                                   replace(format('%I', c.relname), '%', '%%') || '.%2$I %7$s %5$s::%4$s', ' and '))
    from pg_class as c
    where c.oid = p_source
$$;
comment on function pgembed._source_rows_sql(oid, text) is
    'Query for the composed text of the source row that pgembed_key.key names.';

create or replace function pgembed._key_settings_sql() returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Texts of dates, floats and the like depend on settings of the session. A key
    -- or a text must read the same whoever writes, deletes or reads it.
    select 'set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' set timezone = ''UTC'' '
           'set extra_float_digits = 1 set bytea_output = ''hex'''
$$;
comment on function pgembed._key_settings_sql() is
    'Settings under which keys and texts are written.';

create or replace function pgembed._schema_of(p_source oid) returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select n.nspname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.oid = p_source
$$;
comment on function pgembed._schema_of(oid) is 'Schema of a table; NULL when it is gone.';

create or replace function pgembed._qualified_name(p_source oid, p_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- One whose table is gone must not be taken for another of its name.
    select concat(coalesce(quote_ident(pgembed._schema_of(p_source)), '(dropped)'), '.', quote_ident(p_name))
$$;
comment on function pgembed._qualified_name(oid, text) is
    'Name of an embedding or BM25 index with the schema of its source, as functions take it anywhere.';

create or replace function pgembed._named(p_kind text, p_name text, p_in_path boolean default false) returns int
language plpgsql stable
as $$
declare
    ids int[];
    sources pg_catalog.oid[];
    names pg_catalog.text[];
    place int;
    best int;
    chosen int;
begin
    -- A bare name, or one with the schema of the source. Of several with one name the
    -- search_path decides, as for tables; nothing here is looked up by it.
    if p_kind operator(pg_catalog.=) 'embedding' then
        select pg_catalog.array_agg(d.embedding_id order by d.lives desc, d.embedding_id), pg_catalog.array_agg(d.source order by d.lives desc, d.embedding_id),
               pg_catalog.array_agg(d.name order by d.lives desc, d.embedding_id)
        into ids, sources, names
        from (select e.embedding_id, e.source::pg_catalog.oid as source, e.name, pgembed._schema_of(e.source) is not null as lives
              from pgembed.embedding as e where pgembed._name_matches(e.source, e.name, p_name)) as d;
    else
        select pg_catalog.array_agg(d.bm25_id order by d.lives desc, d.bm25_id), pg_catalog.array_agg(d.source order by d.lives desc, d.bm25_id),
               pg_catalog.array_agg(d.name order by d.lives desc, d.bm25_id)
        into ids, sources, names
        from (select b.bm25_id, b.source::pg_catalog.oid as source, b.name, pgembed._schema_of(b.source) is not null as lives
              from pgembed.bm25 as b where pgembed._name_matches(b.source, b.name, p_name)) as d;
    end if;
    for i in 1 .. coalesce(pg_catalog.cardinality(ids), 0) loop
        place := pg_catalog.array_position(pg_catalog.current_schemas(true), pgembed._schema_of(sources[i]));
        continue when p_in_path and place is null and pg_catalog.strpos(p_name, '.') operator(pg_catalog.=) 0;
        if chosen is null or place operator(pg_catalog.<) best or best is null and place is not null then
            chosen := ids[i];
            best := place;
        end if;
    end loop;
    if chosen is not null and (
        -- Several tables of one schema may have it, since one was moved there.
        select pg_catalog.count(*) from pg_catalog.unnest(sources) as d(source)
        where case when best is null then pgembed._schema_of(d.source) is not null
                   else pgembed._schema_of(d.source) operator(pg_catalog.=) (pg_catalog.current_schemas(true))[best] end
    ) operator(pg_catalog.>) 1 then
        raise exception 'there are several of the name "%"', p_name using errcode = 'PE001',
            detail = pg_catalog.format('They are: %s.', (
                select pg_catalog.string_agg(pgembed._qualified_name(sources[d.nth], names[d.nth]), ', ' order by d.nth)
                from pg_catalog.generate_subscripts(sources, 1) as d(nth)
                where pgembed._schema_of(sources[d.nth]) is not null)),
            hint = 'Say which: give the name with the schema of its table.';
    end if;
    return chosen;
end
$$;
comment on function pgembed._named(text, text, boolean) is
    'Id of the embedding or BM25 index that somebody means by a name; NULL for none, PE001 where that is not clear. '
    'p_in_path: a bare name means one in the search_path only.';

create or replace function pgembed._name_matches(p_source oid, p_name text, p_wanted text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- With the schema quoted or not: drivers quote always, people seldom.
    select p_name = p_wanted
        or strpos(p_wanted, '.') > 0 and exists (
            select from (select coalesce(pgembed._schema_of(p_source), '(dropped)') as schema) as s
            cross join unnest(array[s.schema, quote_ident(s.schema), concat('"', replace(s.schema, '"', '""'), '"')]) as part
            cross join unnest(array[p_name, quote_ident(p_name), concat('"', replace(p_name, '"', '""'), '"')]) as rest
            where concat(part, '.', rest) = p_wanted)
$$;
comment on function pgembed._name_matches(oid, text, text) is
    'Whether an embedding or BM25 index may be meant by a name, bare or with the schema of its source.';

create or replace function pgembed._embedding(p_name text) returns pgembed.embedding
language plpgsql stable
as $$
declare
    found_row pgembed.embedding;
begin
    select * into found_row from pgembed.embedding as e
    where e.embedding_id operator(pg_catalog.=) pgembed._named('embedding', p_name);
    if not found then
        raise exception 'there is no embedding "%"', coalesce(p_name, 'NULL')
            using errcode = 'PE001',
                  hint = coalesce(
                      (select pg_catalog.concat('Declared embeddings: ', pg_catalog.string_agg(e.name, ', ' order by e.name))
                       from pgembed.embedding as e having pg_catalog.count(*) operator(pg_catalog.>) 0),
                      'None is declared yet: SELECT pgembed.create_embedding(...).');
    end if;
    return found_row;
end
$$;
comment on function pgembed._embedding(text) is 'The catalog row of an embedding, or PE001.';

create or replace function pgembed._name_of_text(p_text_id int) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._qualified_name(d.source, d.name)
    from (select text_id, source, name from pgembed.embedding
          union all select text_id, source, name from pgembed.bm25) as d
    where d.text_id = p_text_id order by d.name limit 1
$$;
comment on function pgembed._name_of_text(int) is
    'What is declared over a captured text: the name by which a user repairs it.';

create or replace function pgembed._give_to_owner(p_kind text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner constant regrole := pgembed._own();
begin
    if owner <> (select oid from pg_catalog.pg_roles where rolname = current_user) then
        execute format('alter %s %s owner to %s', p_kind, p_name, owner);
    end if;
end
$$;
comment on function pgembed._give_to_owner(text, text) is
    'What a member of the owning role, or a superuser, has made in schema pgembed belongs to its owner, whom the service is.';

create or replace function pgembed._close(p_kind text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner oid;
    acl aclitem[];
    stranger oid;
begin
    -- PUBLIC may call any new function, and default privileges may have given anything to
    -- anybody: TRIGGER on a table, with which code hangs on what the service writes.
    if p_kind = 'function' then
        select proowner, coalesce(proacl, acldefault('f', proowner)) into owner, acl from pg_proc where oid = p_name::regprocedure;
    else
        select relowner, relacl into owner, acl from pg_class where oid = p_name::regclass;
    end if;
    for stranger in select distinct grantee from aclexplode(acl) where grantee <> owner loop
        execute format('revoke all on %s %s from %s cascade', p_kind, p_name, pgembed._role_sql(stranger));
    end loop;
end
$$;
comment on function pgembed._close(text, text) is
    'Takes all rights on a table, sequence or function from everybody but its owner.';

create or replace function pgembed._require_owner() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    owner constant oid := pgembed._own();
begin
    if not pg_has_role(current_user, owner, 'USAGE') then
        raise exception 'role "%" may not declare or change embeddings', current_user
            using errcode = 'PE013',
                  detail = format('The schema pgembed belongs to role "%s".', pg_get_userbyid(owner)),
                  hint = format('Connect as that role, or GRANT %I TO %I.',
                                pg_get_userbyid(owner), current_user);
    end if;
end
$$;
comment on function pgembed._require_owner() is
    'PE013 unless the caller is, or is a member of, the role that owns pgembed.';

create or replace function pgembed._hash(p_text text) returns bytea
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select sha256(convert_to(p_text, 'utf8'))
$$;
comment on function pgembed._hash(text) is 'SHA-256 of a text: nobody can make two texts of one hash.';
