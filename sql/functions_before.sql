-- Before the files of functions/ run: which versions of functions are there.

select pg_catalog.set_config('pgembed.functions_before', coalesce(pg_catalog.array_agg(row(p.oid, p.ctid)::text)::text, '{}'), true)
from pg_catalog.pg_proc as p
where p.pronamespace operator(pg_catalog.=) pg_catalog.to_regnamespace('pgembed')::oid;
