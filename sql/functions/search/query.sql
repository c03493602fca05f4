-- The query lane: a query's vector in plain SQL. A function cannot notify a
-- service and wait for it in its own transaction, so there is a procedure that
-- commits (encode), and a function that reads what it left (embed).

create or replace function pgembed._check_query(p_query text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(p_query, '') !~ '[^[:space:]]' then
        raise exception 'the query is empty' using errcode = 'PE009',
            hint = 'Give some words. Where you have a vector, vector_search takes it: query_embedding => ...';
    end if;
    return p_query;
end
$$;
comment on function pgembed._check_query(text) is 'The query; PE009 for one without words.';

create or replace function pgembed._cached_query(p_query text, p_model_id int, out embedding vector, out error text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select q.embedding, q.error
    from pgembed.query_embedding as q
    where q.model_id = p_model_id and q.query_hash = pgembed._hash(p_query) and q.role = current_user
      and q.answered_at is not null
$$;
comment on function pgembed._cached_query(text, int) is
    'Answer of a service to a query of the caller: nobody learns what others have asked.';

create or replace function pgembed._request_query(p_query text, p_model text) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model := pgembed._model(p_model);
begin
    perform pgembed._check_query(p_query);
    if exists (select from pgembed._cached_query(p_query, m.model_id) as c where c.embedding is not null) then
        return null;
    end if;
    if not pgembed._service_alive_public() then
        raise exception 'no encoder service is running, so the query cannot be encoded'
            using errcode = 'PE010',
            hint = 'Start one (pgembed serve), or encode the query in the application and pass '
                   'query_embedding => ...';
    end if;
    insert into pgembed.query_embedding (model_id, query_hash, query)
    values (m.model_id, pgembed._hash(p_query), p_query)
    on conflict (model_id, query_hash, role) do update
        set query = excluded.query, error = null, answered_at = null,
            requested_at = clock_timestamp(), claimed_until = null
        where query_embedding.embedding is null;
    perform pgembed._wake('query');
    return m.model_id;
end
$$;
comment on function pgembed._request_query(text, text) is
    'Asks the services for the vector of a query; NULL when it is in the cache already. Takes '
    'effect at commit.';

create or replace procedure pgembed._encode_cannot_run_inside_a_transaction_block()
language plpgsql
as $$
begin
    commit;
end
$$;
comment on procedure pgembed._encode_cannot_run_inside_a_transaction_block() is
    'Commits. Inside a transaction block the server refuses that with "invalid transaction '
    'termination" and names the function: the name is the explanation.';

create or replace procedure pgembed.encode(
    query text, model text default 'all-MiniLM-L6-v2', timeout float8 default 10
)
language plpgsql
as $$
declare
    wanted_model int;
    started constant timestamptz := pg_catalog.clock_timestamp();
    answer record;
    pause float8 := 0.001;    -- seconds
begin
    -- It commits, so it can have no search_path of its own: every name is qualified.
    if timeout is null or not (timeout operator(pg_catalog.>) 0::float8 and timeout operator(pg_catalog.<=) 3600::float8) then
        raise exception 'timeout must be more than 0 and at most 3600 seconds, not %',
            coalesce(timeout::pg_catalog.text, 'NULL') using errcode = 'PE007', hint = 'The default is 10.';
    end if;
    -- Nothing says for sure whether this is a transaction block. One that has written
    -- has a transaction id; one that is older than its statement is a block too, but
    -- drivers that send parameters apart (extended protocol) begin the transaction a
    -- moment before the statement. In all other blocks the first COMMIT below fails.
    if pg_catalog.pg_current_xact_id_if_assigned() is not null
       or pg_catalog.statement_timestamp() operator(pg_catalog.-) pg_catalog.now() operator(pg_catalog.>) interval '1 second' then
        raise exception 'pgembed.encode() commits, so it cannot run inside a transaction block'
            using errcode = 'PE010',
            hint = 'Call it before BEGIN (the vector stays in the cache), or encode the query in '
                   'the application and pass query_embedding => ...';
    end if;
    wanted_model := pgembed._request_query(query, model);
    if wanted_model is null then
        return;
    end if;
    call pgembed._encode_cannot_run_inside_a_transaction_block();    -- the request goes out
    loop
        commit;    -- each look has a new snapshot
        select * into answer from pgembed._cached_query(query, wanted_model);
        if answer.embedding is not null then
            return;
        elsif answer.error is not null then
            raise exception 'the encoder service could not encode the query: %', answer.error
                using errcode = 'PE014', hint = 'See the service''s log and pgembed doctor.';
        elsif pg_catalog.clock_timestamp() operator(pg_catalog.>) (started operator(pg_catalog.+) pg_catalog.make_interval(secs => timeout)) then
            raise exception 'no encoder service answered within % seconds', timeout
                using errcode = 'PE010',
                detail = pg_catalog.format('Model: %s.', model),
                hint = 'See pgembed.workers and the service''s log; the service may still be '
                       'loading the model.';
        end if;
        perform pg_catalog.pg_sleep(pause);
        pause := least(pause operator(pg_catalog.*) 1.5::float8, 0.02::float8);
    end loop;
end
$$;
comment on procedure pgembed.encode(text, text, float8) is
    'Has a service encode a query and waits for it, timeout in seconds; from then on the query can '
    'be searched for in plain SQL. Cannot run inside a transaction block.';

create or replace function pgembed.embed(query text, model text default 'all-MiniLM-L6-v2')
returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model := pgembed._model(model);
    answer record;
    dblink_schema text;
    encoded text;
begin
    perform pgembed._check_query(query);
    select * into answer from pgembed._cached_query(query, m.model_id);
    if answer.embedding is not null then
        return answer.embedding;
    end if;
    select quote_ident(n.nspname) into dblink_schema
    from pg_catalog.pg_extension as x
    join pg_catalog.pg_namespace as n on n.oid = x.extnamespace
    where x.extname = 'dblink'
      and exists (select from pg_catalog.pg_foreign_server where srvname = 'pgembed_loopback');
    if dblink_schema is not null then
        -- A second session asks and waits; this one's snapshot would not see the answer.
        execute format('select %s.dblink_exec(%L, %L)', dblink_schema, 'pgembed_loopback',
                       format('call pgembed.encode(%L, %L)', query, m.name));
        execute format('select v from %s.dblink(%L, %L) as t(v text)', dblink_schema, 'pgembed_loopback',
                       format('select pgembed.embed(%L, %L)', query, m.name)) into encoded;
        return encoded;
    end if;
    raise exception 'the vector of this query is not at hand'
        using errcode = 'PE010',
        detail = case when pgembed._service_alive_public() then 'An encoder service is running.'
                      else 'No encoder service is running: start one with pgembed serve.' end,
        hint = format('Outside a transaction block: CALL pgembed.encode(%L%s); then search again. '
                      'Or pass query_embedding => ..., or set up dblink with a server '
                      'pgembed_loopback so that this happens by itself.',
                      left(query, 200), case m.name when 'all-MiniLM-L6-v2' then '' else ', ' || quote_literal(m.name) end);
end
$$;
comment on function pgembed.embed(text, text) is
    'Vector of a query: from the cache, else through dblink where that is set up (a foreign server '
    'pgembed_loopback that leads back to this database), else PE010 with the ways out.';

create or replace function pgembed._service_alive_public() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._service_alive()
$$;
comment on function pgembed._service_alive_public() is
    'Whether an encoder service is running, for callers who may not read pgembed.worker.';

create or replace function pgembed._query_claim_v1(p_n int, p_lease interval)
returns table (model_id int, model text, provider text, query_hash bytea, query text)
language sql
set search_path = pg_catalog, pg_temp
as $$
    with ready as materialized (
        select q.model_id, q.query_hash, q.role
        from pgembed.query_embedding as q
        where q.answered_at is null
          and (q.claimed_until is null or q.claimed_until <= clock_timestamp())
        order by q.requested_at
        limit p_n
        for update skip locked)
    update pgembed.query_embedding as q
    set claimed_until = clock_timestamp() + p_lease
    from ready
    join pgembed.model as m using (model_id)
    where q.model_id = ready.model_id and q.query_hash = ready.query_hash and q.role = ready.role
    returning q.model_id, m.name, m.provider, q.query_hash, q.query
$$;
comment on function pgembed._query_claim_v1(int, interval) is 'Leases queries that wait for their vector.';

create or replace function pgembed._query_answer_v1(
    p_model_id int, p_query_hash bytea, p_embedding vector, p_error text
) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.query_embedding
    set embedding = p_embedding, error = p_error, query = null, answered_at = clock_timestamp()
    where model_id = p_model_id and query_hash = p_query_hash and answered_at is null
$$;
comment on function pgembed._query_answer_v1(int, bytea, vector, text) is
    'Answers a query with its vector, or with the error; its text is then forgotten.';
