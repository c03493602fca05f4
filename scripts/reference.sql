-- What scripts/reference.py asks the catalog.

-- functions --
-- Functions and procedures that are meant for people, with their arguments and result columns.
select h.topic, p.proname as name, regexp_replace(obj_description(p.oid, 'pg_proc'), '\s*Example: .*$', '') as comment,
       h.example, p.prokind = 'p' as is_procedure,
       p.provolatile as volatility, pg_catalog.pg_get_function_result(p.oid) as result,
       (select jsonb_agg(jsonb_build_object('name', a.name, 'type', format_type(a.type, null), 'mode', coalesce(a.mode, 'i'),
                                            'default', pg_get_function_arg_default(p.oid, a.place::int)) order by a.place)
        from rows from (unnest(p.proargnames), unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])), unnest(p.proargmodes))
             with ordinality as a(name, type, mode, place)) as arguments
from pgembed.help() with ordinality as h(topic, name, does, example, place)
join pg_proc as p on p.proname = h.name and p.pronamespace = 'pgembed'::regnamespace
order by h.place, p.oid

-- relations --
-- Views, and the tables that hold declarations, with their columns.
select c.relname as name, c.relkind = 'v' as is_view, obj_description(c.oid, 'pg_class') as comment,
       (select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                            'comment', col_description(c.oid, a.attnum)) order by a.attnum)
        from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_class as c
where c.relnamespace = 'pgembed'::regnamespace and c.relname !~ '^_'
  and (c.relkind = 'v' or c.relkind = 'r' and c.relname in ('embedding', 'bm25', 'model'))
order by c.relkind desc, c.relname
