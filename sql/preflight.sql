-- Runs first in every install and upgrade, in the same transaction: checks what
-- pgembed needs, installs pgvector where that is allowed, lets one installer in
-- at a time, and puts pgvector's schema on the search_path, because the files
-- name its types without a schema.
do $preflight$
declare
    vector_version text;
    vector_schema  text;
    home constant text := coalesce(nullif(pg_catalog.current_setting('pgembed.home', true), ''), pg_catalog.current_schema(), 'public');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    if current_setting('server_version_num')::int < 160000 then
        raise exception 'pgembed needs PostgreSQL 16 or newer; this server is %',
            current_setting('server_version')
            using errcode = 'PE012', hint = 'Upgrade the server.';
    end if;
    if pg_catalog.pg_is_in_recovery() then
        raise exception 'this server is a standby, which cannot be written to'
            using errcode = 'PE012', hint = 'Connect to the primary.';
    end if;
    if not has_database_privilege(current_database(), 'CREATE') then
        raise exception 'role "%" may not create schemas in database "%"',
            current_user, current_database()
            using errcode = 'PE013',
                  hint = format('A superuser or the database''s owner can allow it: '
                                'GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user);
    end if;

    if to_regclass('pgembed.embedding') is not null and to_regclass('pgembed.captured_text') is null then
        raise exception 'schema pgembed is of a development version, from before the first release'
            using errcode = 'PE012', detail = 'Its tables have changed, and no upgrade was written.',
                  hint = 'Write down what is declared, drop it with that version''s pgembed uninstall --force (or DROP SCHEMA '
                         'pgembed CASCADE, and the side tables), and install again.';
    end if;
    if to_regclass('pgembed.alembic_version') is not null then
        lock table pgembed.alembic_version in share row exclusive mode;
    else
        -- There is nothing yet to lock but this, which anybody may hold: not for ever.
        perform set_config('lock_timeout', '10s', true);
        begin
            perform pg_advisory_xact_lock(1885824365, 2);
        exception when lock_not_available then
            raise exception 'another session installs pgembed in this database'
                using errcode = 'PE012',
                      detail = format('Process %s holds the advisory lock (1885824365, 2).', (
                          select string_agg(pid::text, ', ') from pg_catalog.pg_locks
                          where locktype = 'advisory' and classid = 1885824365 and objid = 2 and granted)),
                      hint = 'Wait for it; if it is not an installation: SELECT pg_terminate_backend(...).';
        end;
        perform set_config('lock_timeout', '0', true);
    end if;

    if not exists (select from pg_catalog.pg_extension where extname = 'vector') then
        if not exists (select from pg_catalog.pg_available_extensions where name = 'vector') then
            raise exception 'pgvector is not installed on this server'
                using errcode = 'PE012',
                      hint = 'Install the operating system''s package, for example '
                             'postgresql-16-pgvector, or enable "vector" with your provider.';
        end if;
        begin
            execute format('create extension vector schema %I', home);
        exception when insufficient_privilege then
            raise exception 'role "%" may not install pgvector: %', current_user, sqlerrm
                using errcode = 'PE013',
                      hint = format('A superuser can do it once, in database %I: '
                                    'CREATE EXTENSION vector;', current_database());
        end;
    end if;
    select e.extversion, n.nspname into vector_version, vector_schema
    from pg_catalog.pg_extension as e
    join pg_catalog.pg_namespace as n on n.oid = e.extnamespace
    where e.extname = 'vector';
    if string_to_array(substring(vector_version from '^[0-9]+(?:\.[0-9]+)*'), '.')::int[] < array[0, 8] then
        raise exception 'pgembed needs pgvector 0.8 or newer; this database has %', vector_version
            using errcode = 'PE012',
                  hint = 'Install the newer package, then: ALTER EXTENSION vector UPDATE;';
    end if;
    if not has_schema_privilege(vector_schema, 'USAGE') then
        raise exception 'role "%" may not use schema "%", where pgvector is', current_user, vector_schema
            using errcode = 'PE013',
                  hint = format('GRANT USAGE ON SCHEMA %I TO %I;', vector_schema, current_user);
    end if;

    -- Functions may call what a later file makes.
    perform set_config('check_function_bodies', 'off', true);
    -- No notice of what is there already.
    perform set_config('client_min_messages', 'warning', true);
    perform set_config('search_path', format('pg_catalog, %I, pg_temp', vector_schema), true);
end
$preflight$;
create schema if not exists pgembed;
