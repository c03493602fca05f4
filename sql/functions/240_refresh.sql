-- After an upgrade, what was generated is generated again by the functions of
-- now, and who may use it is said again (230_privileges.sql has revoked all).

do $$
declare
    b pgembed.bm25;
begin
    for b in select * from pgembed.bm25 where engine = 'sql' and pgembed._table_sql(source) is not null loop
        perform pgembed._bm25_install_functions(b);
        perform pgembed._bm25_sync_privileges(b);
    end loop;
end
$$;
