-- Removes schema pgembed once no embedding is left and nothing outside depends on it.
-- Nobody declares an embedding between the look and the drop.
lock table pgembed.embedding, pgembed.bm25 in access exclusive mode;

do $uninstall$
declare
    names text;
begin
    select string_agg(format('"%s"', name), ', ' order by name) into names
    from (select name from pgembed.embedding
          union select name from pgembed.bm25) as declared;
    if names is not null then
        raise exception 'there are embeddings or BM25 indexes in database "%"', current_database()
            using errcode = 'PE015', detail = 'They are: ' || names || '.',
                  hint = 'Drop each with pgembed.drop_embedding() or drop_bm25(), or force it, which drops '
                         'them with all their vectors: pgembed uninstall --force.';
    end if;

    with own as (
        select 'pg_catalog.pg_class'::regclass::oid as classid, oid as objid
        from pg_catalog.pg_class where relnamespace = 'pgembed'::regnamespace
        union all
        select 'pg_catalog.pg_proc'::regclass, oid
        from pg_catalog.pg_proc where pronamespace = 'pgembed'::regnamespace
        union all
        select 'pg_catalog.pg_type'::regclass, oid
        from pg_catalog.pg_type where typnamespace = 'pgembed'::regnamespace
    ), outside as (
        select distinct pg_describe_object(d.classid, d.objid, 0) as description
        from own
        join pg_catalog.pg_depend as d on d.refclassid = own.classid and d.refobjid = own.objid
        cross join lateral pg_identify_object(d.classid, d.objid, 0) as o
        -- A default, a constraint or a view's rule is inside when its table is.
        where d.deptype = 'n' and o.identity !~ '(^| )pgembed\.'
          and (d.classid, d.objid) not in (select classid, objid from own)
    )
    select string_agg(description, ', ' order by description) into names from outside;
    if names is not null then
        raise exception 'objects outside schema pgembed depend on it'
            using errcode = 'PE015', detail = 'They are: ' || names || '.', hint = 'Drop them first.';
    end if;
end
$uninstall$;

drop schema pgembed cascade;
