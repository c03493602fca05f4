-- The query lane: a query's vector in plain SQL. A function cannot notify a
-- service and wait for it in its own transaction, so there is a procedure that
-- commits (encode), and a function that reads what it left (embed).

create or replace function pgembed._check_query(p_query text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant int := 100000;    -- characters; models read a few thousand words at most
begin
    if length(p_query) > most then
        raise exception 'the query has % characters, and may have %', length(p_query), most
            using errcode = 'PE009',
            hint = 'Search with a part of it. Of most models'' inputs no more than the first thousand words count.';
    end if;
    if coalesce(p_query, '') !~ '[^[:space:]]' then
        raise exception 'the query is empty' using errcode = 'PE009',
            hint = 'Give some words. Where you have a vector, vector_search takes it: query_embedding => ...';
    end if;
    return p_query;
end
$$;
comment on function pgembed._check_query(text) is 'The query; PE009 for one without words, or too long.';

create or replace function pgembed._check_asked(p_query text, p_image bytea, p_model pgembed.model) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant int := 10 * 1024 * 1024;    -- bytes
begin
    if p_image is null then
        perform pgembed._check_query(p_query);
    elsif p_query is not null then
        raise exception 'words and an image are given to search with' using errcode = 'PE009',
            detail = format('The words: %s.', left(p_query, 100)), hint = 'Give one of them: they are two queries.';
    elsif not p_model.images then
        raise exception 'model "%" encodes no images', p_model.name using errcode = 'PE009',
            hint = 'Ask with words, or search an embedding of a model of images and texts.';
    elsif octet_length(p_image) not between 1 and most then
        raise exception 'the image that is searched with has % bytes, and may have 1 to %', octet_length(p_image), most
            using errcode = 'PE009', hint = 'Make it smaller: models look at some hundred pixels each way.';
    end if;
end
$$;
comment on function pgembed._check_asked(text, bytea, pgembed.model) is
    'PE009 for a query without words or too long; for an image that is empty or too large, or where the model is known to encode none.';

create or replace function pgembed._query_hash(p_query text, p_image bytea) returns bytea
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- No text has a zero byte, so none has the digest of an image.
    select case when p_image is null then pgembed._hash(p_query) else sha256('\x00'::bytea || p_image) end
$$;
comment on function pgembed._query_hash(text, bytea) is 'Digest by which the vector of a query is found again: of its text, or of its image.';

create or replace function pgembed._vector(p_text text) returns vector
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_text;
end
$$;
comment on function pgembed._vector(text) is 'A vector by its text: for drivers that do not know the type, or only objects of it.';

create or replace function pgembed._cached_query(p_query text, p_model_id int, p_image bytea default null, out embedding vector, out error text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    stored constant pgembed.token_encoder := pgembed._stored_model(p_model_id);
begin
    if stored.encoder_id is not null and p_image is null then
        perform pgembed._check_query(p_query);
        embedding := pgembed._token_embedding(
            stored, concat((select m.query_prompt from pgembed.model as m where m.model_id = p_model_id), p_query));
        return;
    end if;
    select q.embedding, q.error into embedding, error
    from pgembed.query_embedding as q
    where q.model_id = p_model_id and q.query_hash = pgembed._query_hash(p_query, p_image) and q.role = current_user
      and q.answered_at is not null;
end
$$;
comment on function pgembed._cached_query(text, int, bytea) is
    'Vector of a query that needs no service now: of a model that is stored here, else the answer of a service to a query of the '
    'caller (nobody learns what others have asked).';

create or replace function pgembed._request_query(p_query text, p_model text, p_timeout float8 default 10, p_image bytea default null)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model := pgembed._model(p_model);
    wanted constant timestamptz := clock_timestamp() + make_interval(secs => p_timeout);
begin
    perform pgembed._check_asked(p_query, p_image, m);
    if exists (select from pgembed._cached_query(p_query, m.model_id, p_image) as c where c.embedding is not null) then
        return null;
    end if;
    if not pgembed._service_alive_public() then
        raise exception 'no encoder service is running, so the query cannot be encoded'
            using errcode = 'PE010',
            hint = 'Start one (pgembed serve), or encode the query in the application and pass '
                   'query_embedding => ...';
    end if;
    -- Who asks again for what is being encoded waits for that.
    insert into pgembed.query_embedding as q (model_id, query_hash, query, image, wanted_until)
    values (m.model_id, pgembed._query_hash(p_query, p_image), case when p_image is null then p_query end, p_image, wanted)
    on conflict (model_id, query_hash, role) do update
        set query = excluded.query, image = excluded.image, error = null, answered_at = null,
            wanted_until = greatest(q.wanted_until, excluded.wanted_until),
            requested_at = case when q.answered_at is null then q.requested_at else clock_timestamp() end,
            claimed_until = case when q.answered_at is null then q.claimed_until end
        where q.embedding is null;
    perform pgembed._wake('query');
    return m.model_id;
end
$$;
comment on function pgembed._request_query(text, text, float8, bytea) is
    'Asks the services for the vector of a query, for as many seconds; NULL when it is in the cache '
    'already. Takes effect at commit.';

create or replace function pgembed._models_beside(p_model_id int, out now int[], out soon int[])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(distinct other.model_id) filter (where other.generation = 'current'), '{}'),
           coalesce(array_agg(distinct other.model_id) filter (where other.generation = 'next'), '{}')
    from pgembed.embedding as e
    join pgembed.embedding as other on other.current_id = e.embedding_id and other.generation = 'next' and other.backfill_state = 'done'
                                    or e.current_id = other.embedding_id and e.generation = 'previous'
    where e.model_id = p_model_id and other.model_id <> p_model_id
$$;
comment on function pgembed._models_beside(int) is
    'Models that searches use in the place of a model, as an embedding was switched, or soon will.';

create or replace function pgembed._check_cached(p_query text, p_models int[], p_image bytea) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from unnest(p_models) as w(model_id) where (pgembed._cached_query(p_query, w.model_id, p_image)).embedding is null) then
        raise exception 'this server is a standby, from which no encoder service can be asked for the vector of a query' using errcode = 'PE010',
            hint = 'Call pgembed.encode(...) on the primary; in Python pass primary_dsn => its connection string. Or pass query_embedding => ..., '
                   'or have a query encoder trained (query_encoder => ''auto''), which needs no service.';
    end if;
end
$$;
comment on function pgembed._check_cached(text, int[], bytea) is 'Nothing, or PE010 where the vector of a query is not in the cache: of a standby.';

create or replace procedure pgembed.encode(
    query text default null, model text default 'all-MiniLM-L6-v2', timeout float8 default 10, image bytea default null
)
language plpgsql
as $$
declare
    wanted_models int[];
    beside pg_catalog.record;
    asked bigint;
    there_since pg_catalog.timestamptz;
    has_written constant boolean := pg_catalog.pg_current_xact_id_if_assigned() is not null;
    deadline constant pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) pgembed._check_timeout(timeout);
    answer pg_catalog.record;
    pause pg_catalog.float8 := 0.001;    -- seconds
begin
    -- It commits, so it can have no search_path of its own: every name is qualified.
    wanted_models := array[(pgembed._model(model)).model_id];
    select * into beside from pgembed._models_beside(wanted_models[1]);
    wanted_models := wanted_models operator(pg_catalog.||) beside.now;
    if pg_catalog.pg_is_in_recovery() then
        perform pgembed._check_cached(query, wanted_models, image);
        return;
    end if;
    asked := pg_catalog.count(pgembed._request_query(query, m.name, timeout, image)) from pgembed.model as m
             where m.model_id operator(pg_catalog.=) any (wanted_models);
    if asked operator(pg_catalog.=) 0 then
        return;
    end if;
    perform pgembed._request_query(query, m.name, timeout, image) from pgembed.model as m where m.model_id operator(pg_catalog.=) any (beside.soon);
    call pgembed._check_may_commit('pgembed.encode()', has_written,
        'Call it in autocommit mode, before BEGIN: the vector stays in the cache for the transactions after it. '
        'Or encode the query in the application and pass query_embedding => ...');
    -- The request goes out with the first COMMIT.
    loop
        commit;    -- each look has a new snapshot
        select pg_catalog.bool_and(c.embedding is not null) as is_there, pg_catalog.min(c.error) as error into answer
        from pg_catalog.unnest(wanted_models) as w(model_id) cross join lateral pgembed._cached_query(query, w.model_id, image) as c;
        if answer.is_there then
            -- A search that comes after a switch shall find its vector too, if that is no matter of waiting.
            there_since := coalesce(there_since, pg_catalog.clock_timestamp());
            exit when pg_catalog.clock_timestamp() operator(pg_catalog.>) (there_since operator(pg_catalog.+) pg_catalog.make_interval(secs => 0.2))
                or not exists (select from pg_catalog.unnest(beside.soon) as b(model_id) cross join lateral pgembed._cached_query(query, b.model_id, image) as c
                               where c.embedding is null and c.error is null);
        elsif answer.error is not null then
            raise exception 'the encoder service could not encode the query: %', answer.error
                using errcode = 'PE014', hint = 'See the service''s log and pgembed doctor.';
        elsif pg_catalog.clock_timestamp() operator(pg_catalog.>) deadline then
            raise exception 'no encoder service answered within % seconds', timeout
                using errcode = 'PE010',
                detail = pg_catalog.format('Model: %s.', model),
                hint = 'See pgembed.workers and the service''s log; the service may still be '
                       'loading the model.';
        end if;
        perform pg_catalog.pg_sleep(pause);
        pause := least(pause operator(pg_catalog.*) 1.5::pg_catalog.float8, 0.02::pg_catalog.float8);
    end loop;
end
$$;
comment on procedure pgembed.encode(text, text, float8, bytea) is
    'Has a service encode a query (its text, or the bytes of an image file) and waits for it, timeout in seconds; from then on it can '
    'be searched for in plain SQL. Cannot run inside a transaction block. Example: CALL pgembed.encode(''cheap flights'');';

create or replace procedure pgembed._encode_and_read(query text, model text, inout embedding text default null, image bytea default null)
language plpgsql
as $$
begin
    call pgembed.encode(query, model, image => image);
    embedding := (pgembed._cached_query(query, (pgembed._model(model)).model_id, image)).embedding::pg_catalog.text;
end
$$;
comment on procedure pgembed._encode_and_read(text, text, text, bytea) is
    'Has a service encode a query and gives the vector: all that embed() wants of its second session, in one round trip.';

create or replace function pgembed.embed(query text default null, model text default 'all-MiniLM-L6-v2', image bytea default null)
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
    perform pgembed._check_asked(query, image, m);
    select * into answer from pgembed._cached_query(query, m.model_id, image);
    if answer.embedding is not null then
        return answer.embedding;
    end if;
    select quote_ident(n.nspname) into dblink_schema
    from pg_catalog.pg_extension as x
    join pg_catalog.pg_namespace as n on n.oid = x.extnamespace
    where x.extname = 'dblink'
      and exists (select from pg_catalog.pg_foreign_server where srvname = 'pgembed_loopback');
    if dblink_schema is not null then
        -- A second session asks and waits; this one's snapshot would not see the answer. It is not
        -- kept: whatever runs in a session can use its connections, whoever opened them.
        execute format('select v from %s.dblink(%L, %L) as t(v text)', dblink_schema, 'pgembed_loopback',
                       format('call pgembed._encode_and_read(%L, %L, null, %L)', query, m.name, image)) into encoded;
        return encoded;
    end if;
    raise exception 'the vector of this query is not at hand'
        using errcode = 'PE010',
        detail = case when pgembed._service_alive_public() then 'An encoder service is running.'
                      else 'No encoder service is running: start one with pgembed serve.' end,
        hint = format('Outside a transaction block: CALL pgembed.encode(%s%s); then search again. '
                      'Or pass query_embedding => ..., or set up dblink with a server '
                      'pgembed_loopback so that this happens by itself.',
                      case when image is null then quote_literal(left(query, 200)) else 'image => ...' end,
                      case when image is not null then ', model => ' || quote_literal(m.name)
                           when m.name <> 'all-MiniLM-L6-v2' then ', ' || quote_literal(m.name) end);
end
$$;
comment on function pgembed.embed(text, text, bytea) is
    'Vector of a query, or of an image by the bytes of its file: of a model that pgembed model import has put here in plain SQL, of others from the cache, else through dblink where that is set up (a foreign server '
    'pgembed_loopback that leads back to this database), else PE010 with the ways out. Example: '
    'SELECT pgembed.embed(''cheap flights'');';

create or replace function pgembed._service_alive_public() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._service_alive()
$$;
comment on function pgembed._service_alive_public() is
    'Whether an encoder service is running, for callers who may not read pgembed.worker.';

create or replace function pgembed._service_awake() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    -- The session of a service that was killed is gone long before its heartbeat is old. From a standby no service can be asked.
    select not pg_is_in_recovery() and exists (
        select from pgembed.worker as w
        where w.heartbeat_at > clock_timestamp() - interval '30 seconds'
          and (w.session is null or exists (select from pg_stat_get_activity(w.session))))
$$;
comment on function pgembed._service_awake() is
    'Whether a query that is asked now would be answered, as far as can be told: what query_encoder => ''auto'' goes by.';

create or replace function pgembed._needs_no_service(p_embedding_id int, p_query text, p_query_encoder text, p_image bytea default null) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    e pgembed.embedding;
    wanted text;
begin
    select * into e from pgembed.embedding where embedding_id = p_embedding_id;
    wanted := coalesce(p_query_encoder, e.query_encoder);
    return wanted = 'static'
        or (pgembed._cached_query(p_query, e.model_id, p_image)).embedding is not null
        or p_image is null and wanted <> 'model' and not pgembed._service_awake() and pgembed._has_query_encoder(p_embedding_id);
end
$$;
comment on function pgembed._needs_no_service(int, text, text, bytea) is
    'Whether a search finds the vector of its query without a service: for clients, which else ask one. What it says of '
    'query_encoder comes before what the embedding says.';

create or replace function pgembed._may_be_static(p_embedding_id int, p_query_encoder text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(p_query_encoder, e.query_encoder) <> 'model' and pgembed._has_query_encoder(p_embedding_id)
    from pgembed.embedding as e where e.embedding_id = p_embedding_id
$$;
comment on function pgembed._may_be_static(int, text) is
    'Whether a search may go on with the query encoder of an embedding, where no service has answered.';

create or replace function pgembed._query_claim_v1(p_n int, p_lease interval, p_busy int[] default '{}', p_models text[] default null)
returns table (model_id int, role name, query_hash bytea, query text, attempts smallint, is_image boolean)
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- Each role's oldest one, then each one's second, and so on: the index is walked from role to role.
    with recursive asking(role) as (
        (select q.role from pgembed.query_embedding as q
         where q.answered_at is null
         order by q.role limit 1)
        union all
        select (select q.role from pgembed.query_embedding as q
                where q.answered_at is null and q.role > a.role
                order by q.role limit 1)
        from asking as a
        where a.role is not null),
    turns as (
        select w.*, row_number() over (partition by w.role order by w.requested_at) as turn
        from asking as a
        cross join lateral (
            select q.model_id, q.query_hash, q.role, q.requested_at, q.attempts
            from pgembed.query_embedding as q
            where q.answered_at is null and q.role = a.role
              and (q.claimed_until is null or q.claimed_until <= clock_timestamp())
              and q.wanted_until > clock_timestamp() and q.model_id <> all (p_busy)
              and (p_models is null or q.model_id in (select m.model_id from pgembed.model as m where m.name = any (p_models)))
            order by q.requested_at
            limit p_n) as w),
    -- What was claimed before may be what killed the service: it goes by itself.
    next as (
        select t.*, row_number() over in_order as place, first_value(t.attempts) over in_order as leading
        from turns as t
        window in_order as (order by t.turn, t.requested_at)
        order by place
        limit p_n),
    ready as materialized (
        select q.model_id, q.query_hash, q.role
        from next as n
        join pgembed.query_embedding as q using (model_id, query_hash, role)
        where coalesce(q.answered_at, 'infinity') = 'infinity'
          and (q.claimed_until is null or q.claimed_until <= clock_timestamp())
          and case when n.leading > 0 then n.place = 1 else n.attempts = 0 end
        for update of q skip locked)
    update pgembed.query_embedding as q
    set claimed_until = clock_timestamp() + p_lease, attempts = q.attempts + 1
    from ready as r
    where q.model_id = r.model_id and q.query_hash = r.query_hash and q.role = r.role
    returning q.model_id, q.role, q.query_hash, coalesce(q.query, encode(q.image, 'base64')), q.attempts, q.image is not null
$$;
comment on function pgembed._query_claim_v1(int, interval, int[], text[]) is
    'Leases queries that somebody waits for: the roles take turns, each with its oldest first. One that was claimed '
    'before comes by itself. None of models that are busy, or that a service does not serve. An image comes in base64.';

create or replace function pgembed._query_extend_v1(
    p_model_ids int[], p_roles name[], p_query_hashes bytea[], p_lease interval
) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.query_embedding as q
    set claimed_until = clock_timestamp() + p_lease
    from unnest(p_model_ids, p_roles, p_query_hashes) as held(model_id, role, query_hash)
    where q.model_id = held.model_id and q.role = held.role and q.query_hash = held.query_hash
      and coalesce(q.answered_at, 'infinity') = 'infinity' and q.claimed_until is not null
$$;
comment on function pgembed._query_extend_v1(int[], name[], bytea[], interval) is
    'Renews the leases of queries, while their model is loaded or busy.';

create or replace function pgembed._query_answer_v1(
    p_model_id int, p_role name, p_query_hash bytea, p_embedding vector, p_error text
) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- coalesce: IS NULL would have the planner walk the index of all open ones.
    update pgembed.query_embedding
    set embedding = p_embedding, error = p_error, query = null, image = null, answered_at = clock_timestamp(),
        attempts = greatest(attempts - 1, 0)
    where model_id = p_model_id and role = p_role and query_hash = p_query_hash
      and coalesce(answered_at, 'infinity') = 'infinity'
$$;
comment on function pgembed._query_answer_v1(int, name, bytea, vector, text) is
    'Answers a query with its vector, or with the error; its text or image is then forgotten.';
