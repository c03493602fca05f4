-- After the files of functions/ have run, and before privileges, which are a change of all
-- functions: a function that none of them has defined is of a release before. It goes:
-- beside one of the same name a call could mean either. The functions of one text or one
-- BM25 index are made with these, and stay.

do $$
declare
    users text;
    before constant text[] := pg_catalog.current_setting('pgembed.functions_before');
    left_over constant text := (
        select pg_catalog.string_agg(p.oid::regprocedure::text, ', ')
        from pg_catalog.pg_proc as p
        where p.pronamespace operator(pg_catalog.=) 'pgembed'::regnamespace::oid
          and row(p.oid, p.ctid)::text operator(pg_catalog.=) any (before)
          and p.proname::text operator(pg_catalog.!~) '^_(bm25|text)_[1-9][0-9]*_');
begin
    if left_over is not null then
        begin
            execute 'drop routine ' operator(pg_catalog.||) left_over;
        exception when dependent_objects_still_exist then
            get stacked diagnostics users = pg_exception_detail;
            raise exception 'functions that this release of pgembed does not have are still in use' using errcode = 'PE012',
                detail = users, hint = 'Drop what uses them, upgrade, and make it anew with functions that there are.';
        end;
    end if;
end
$$;
