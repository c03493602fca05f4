-- Lets a role search, or no more.

create or replace function pgembed._usage_sql(p_role text, p_way text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    who text;
begin
    if p_role = 'public' then
        who := 'public';
    elsif not exists (select from pg_roles where rolname = p_role) then
        raise exception 'there is no role "%"', coalesce(p_role, 'NULL') using errcode = 'PE007',
            hint = 'Give the name of the role that the application connects as.';
    else
        who := quote_ident(p_role);
    end if;
    return format('%1$s select on pgembed.embedding, pgembed.model, pgembed.bm25, pgembed.captured_text, pgembed.search_status, pgembed._searchable, '
                  'pgembed.character, pgembed.tokenizer, pgembed.token, pgembed.token_encoder, pgembed.token_vector, pgembed.projection, pgembed.projection_axis %2$s %3$s; '
                  '%1$s select, insert (model_id, query_hash, query, image, wanted_until), '
                  'update (query, image, error, answered_at, requested_at, wanted_until, claimed_until) '
                  'on pgembed.query_embedding %2$s %3$s; '
                  '%1$s select on pgembed._seen_judgement %2$s %3$s; '
                  '%1$s select (source, judged_by, digest), insert (source, query, key, grade), update (grade), delete on pgembed.judgement %2$s %3$s; '
                  '%1$s execute on function pgembed._service_alive_public(), pgembed._service_awake(), pgembed._words_unread(int) %2$s %3$s; '
                  '%1$s usage on schema pgembed %2$s %3$s',
                  p_way, case p_way when 'grant' then 'to' else 'from' end, who);
end
$$;
comment on function pgembed._usage_sql(text, text) is 'Statements that let a role search, or no more; PE007 for no role.';

create or replace function pgembed.grant_usage(role text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._require_owner();
    perform pgembed._lock_declarations();    -- they change the same row of the catalog
    execute pgembed._usage_sql(grant_usage.role, 'grant');
end
$$;
comment on function pgembed.grant_usage(text) is
    'Lets a role search. The role still needs SELECT on the tables it searches.';

create or replace function pgembed.revoke_usage(role text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owns text;
begin
    perform pgembed._require_owner();
    perform pgembed._lock_declarations();
    select string_agg(distinct t.source::text, ', ') into owns
    from pgembed.captured_text as t where pg_get_userbyid(pgembed._owner_of(t.source)) = revoke_usage.role;
    execute pgembed._usage_sql(revoke_usage.role, 'revoke');
    if owns is not null then    -- its triggers call functions here
        execute format('grant usage on schema pgembed to %I', revoke_usage.role);
        raise notice 'role "%" owns %, so it keeps USAGE on schema pgembed', revoke_usage.role, owns;
    end if;
end
$$;
comment on function pgembed.revoke_usage(text) is
    'Takes from a role what grant_usage gave it: it cannot search any more, whatever tables it may read.';
