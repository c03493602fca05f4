-- Who may do what. PUBLIC gets nothing; a role that searches is given what that
-- needs, and reads side tables only where it may read the source.

create or replace function pgembed.grant_usage(role text) returns void
language plpgsql
as $$
declare
    grantee text;
begin
    perform pgembed._require_owner();
    if grant_usage.role = 'public' then
        grantee := 'public';
    elsif not exists (select from pg_catalog.pg_roles where rolname = grant_usage.role) then
        raise exception 'there is no role "%"', coalesce(grant_usage.role, 'NULL') using errcode = 'PE007',
            hint = 'Give the name of the role that the application connects as.';
    else
        grantee := quote_ident(grant_usage.role);
    end if;
    execute format('grant usage on schema pgembed to %s', grantee);
    execute format('grant select on pgembed.embedding, pgembed.model to %s', grantee);
    execute format('grant execute on function pgembed._cached_query(text, int), '
                   'pgembed._request_query(text, text), pgembed._service_alive_public() to %s', grantee);
end
$$;
comment on function pgembed.grant_usage(text) is
    'Lets a role search. The role still needs SELECT on the tables it searches.';

revoke all on all functions in schema pgembed from public;
revoke all on all tables in schema pgembed from public;

do $$
declare
    f regprocedure;
begin
    -- Functions that run with the caller's rights are safe for all who may use the
    -- schema; those that run with the owner's stay closed but for grant_usage().
    for f in select p.oid from pg_catalog.pg_proc as p
             where p.pronamespace = 'pgembed'::regnamespace and not p.prosecdef
    loop
        execute format('grant execute on routine %s to public', f);
    end loop;
end
$$;
