-- Lets a search in plain SQL encode its query by itself, where PostgreSQL has dblink
-- (the published images do): pgembed.embed() then asks the encoder service over a second
-- connection. Without it, CALL pgembed.encode('...') comes before the search.
-- Only for the superuser; docs/sql.md says how to let others use it.
do $$
begin
    if not exists (select from pg_available_extensions where name = 'dblink') then
        raise notice 'dblink is not there: use CALL pgembed.encode() before a search';
        return;
    end if;
    create extension if not exists dblink;
    execute format(
        'create server pgembed_loopback foreign data wrapper dblink_fdw '
        'options (host %L, port %L, dbname %L)',
        split_part(current_setting('unix_socket_directories'), ',', 1),
        current_setting('port'),
        current_database());
    execute format(
        'create user mapping for current_user server pgembed_loopback options (user %L)',
        current_user);
end
$$;
