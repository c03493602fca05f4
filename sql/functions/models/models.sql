-- Models: what a service must load, and what a declaration may name.

create or replace function pgembed._model(p_name text) returns pgembed.model
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row pgembed.model;
begin
    -- Users write both forms for the models of the sentence-transformers organisation.
    select * into found_row from pgembed.model
    where name in (p_name, regexp_replace(p_name, '^sentence-transformers/', ''))
    order by name = p_name desc limit 1;
    if not found then
        raise exception 'unknown model "%"', coalesce(p_name, 'NULL')
            using errcode = 'PE005',
                  detail = 'Registered models: '
                      || (select string_agg(name, ', ' order by name) from pgembed.model) || '.',
                  hint = format('Register it: SELECT pgembed.register_model(%L, dimensions => ...), '
                                'or `pgembed model add %s`, which asks the model itself.',
                                p_name, p_name);
    end if;
    return found_row;
end
$$;
comment on function pgembed._model(text) is 'The catalog row of a model, or PE005.';

create or replace function pgembed.register_model(
    name text,
    dimensions bigint,
    provider text default 'sentence-transformers',
    distance text default 'cosine',
    normalized boolean default true,
    query_prompt text default null,
    document_prompt text default null,
    max_tokens bigint default null,
    revision text default null
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform pgembed._require_owner();
    if coalesce(register_model.name, '') = '' then
        raise exception 'a model needs a name' using errcode = 'PE007',
            hint = 'Give a hub name, a path, or a name of your own for provider ''hashing''.';
    end if;
    if register_model.dimensions is null or register_model.dimensions not between 1 and 16000 then
        raise exception 'dimensions must be between 1 and 16000, not %',
            coalesce(register_model.dimensions::text, 'NULL') using errcode = 'PE007',
            hint = 'Give the length of the model''s vectors, as on its model card.';
    end if;
    if register_model.provider is null
       or register_model.provider not in ('sentence-transformers', 'static', 'hashing', 'litellm') then
        raise exception 'unknown provider "%"', coalesce(register_model.provider, 'NULL')
            using errcode = 'PE007',
            hint = 'Providers are sentence-transformers, static, hashing and litellm.';
    end if;
    if register_model.distance is null
       or register_model.distance not in ('cosine', 'inner_product', 'l2') then
        raise exception 'unknown distance "%"', coalesce(register_model.distance, 'NULL')
            using errcode = 'PE007',
            hint = 'Distances are cosine, inner_product and l2.';
    end if;
    if register_model.max_tokens < 1 then
        raise exception 'max_tokens must be at least 1, not %', register_model.max_tokens using errcode = 'PE007',
            hint = 'Leave it out: a service that loads the model tells it.';
    end if;
    if exists (select from pgembed.model as m
               join pgembed.embedding as e using (model_id)
               where m.name = register_model.name
                 and m.dimensions <> register_model.dimensions) then
        raise exception 'model "%" is in use with other dimensions than %',
            register_model.name, register_model.dimensions using errcode = 'PE006',
            hint = 'Register the changed model under a name of its own.';
    end if;
    insert into pgembed.model (name, provider, dimensions, distance, normalized,
                               query_prompt, document_prompt, max_tokens, revision)
    values (register_model.name, register_model.provider, register_model.dimensions,
            register_model.distance, register_model.normalized, register_model.query_prompt,
            register_model.document_prompt, pgembed._as_int(register_model.max_tokens, 'max_tokens'), register_model.revision)
    on conflict (name) do update
        set provider = excluded.provider, dimensions = excluded.dimensions,
            distance = excluded.distance, normalized = excluded.normalized,
            query_prompt = excluded.query_prompt,
            document_prompt = excluded.document_prompt, max_tokens = excluded.max_tokens,
            revision = excluded.revision;
    return register_model.name;
end
$$;
comment on function pgembed.register_model(text, bigint, text, text, boolean, text, text, bigint, text) is
    'Makes a model known, or changes what is known of it. revision pins a model of the hub to a commit. Nothing is loaded: the encoder '
    'service does that. Endpoints and keys are the service''s configuration, never SQL''s. Example: '
    'SELECT pgembed.register_model(''intfloat/e5-base-v2'', 768, query_prompt => ''query: '', document_prompt => ''passage: '');';

create or replace function pgembed.drop_model(name text, if_exists boolean default false) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    m pgembed.model;
    used text;
begin
    perform pgembed._require_owner();
    if coalesce(drop_model.if_exists, false) and not exists (select from pgembed.model where name = drop_model.name) then
        return;
    end if;
    m := pgembed._model(drop_model.name);
    -- Waits for embeddings that are being declared with it.
    perform from pgembed.model where model_id = m.model_id for update;
    select string_agg(pgembed._qualified_name(e.source, e.name), ', ' order by e.name) into used
    from pgembed.embedding as e where e.model_id = m.model_id;
    if used is not null then
        raise exception 'model "%" is in use', m.name using errcode = 'PE007',
            detail = format('By: %s.', used), hint = 'Give these another model, or drop them.';
    end if;
    delete from pgembed.model where model_id = m.model_id;
exception when foreign_key_violation then    -- by what this transaction cannot see yet
    raise exception 'model "%" is in use', m.name using errcode = 'PE007', hint = 'An embedding with it was declared meanwhile.';
end
$$;
comment on function pgembed.drop_model(text, boolean) is
    'Removes a model that no embedding uses, with what is stored of it: tokens and their vectors, cached queries, what it was sent. '
    'Example: SELECT pgembed.drop_model(''potion-base-8M'');';

create or replace function pgembed.accept_weights(name text, fingerprint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    m pgembed.model := pgembed._model(accept_weights.name);
    e pgembed.embedding;
begin
    perform pgembed._require_owner();
    if nullif(accept_weights.fingerprint, '') is null then
        raise exception 'the fingerprint of the new weights is missing' using errcode = 'PE007',
            hint = 'The error of the service that loaded them names it (PE011; in its log, and in pgembed.doctor()).';
    end if;
    if m.fingerprint = accept_weights.fingerprint then
        return;    -- all vectors are of these
    end if;
    perform pgembed._check_weights_projected(m.model_id);
    update pgembed.model set fingerprint = accept_weights.fingerprint where model_id = m.model_id;
    delete from pgembed.query_embedding where model_id = m.model_id;
    for e in select * from pgembed.embedding where model_id = m.model_id order by embedding_id loop
        perform pgembed._drop_index(e);
        perform pgembed._clear_vectors(e);
        perform pgembed.reembed(pgembed._qualified_name(e.source, e.name));
    end loop;
end
$$;
comment on function pgembed.accept_weights(text, text) is
    'Says that a model''s weights were changed on purpose: all its vectors are removed, and made again by the services '
    'that have loaded weights with this fingerprint. Others stand aside. Example: '
    'SELECT pgembed.accept_weights(''all-MiniLM-L6-v2'', ''3f1c2a'');';

create or replace function pgembed._model_seen_v1(
    p_model_id int, p_dimensions int, p_max_tokens int, p_normalized boolean, p_fingerprint text, p_images boolean default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    m pgembed.model;
begin
    select * into m from pgembed.model where model_id = p_model_id for no key update;
    if not found then
        return;
    end if;
    if m.dimensions <> p_dimensions then
        raise exception 'model "%" has % dimensions, but is registered with %',
            m.name, p_dimensions, m.dimensions using errcode = 'PE006',
            hint = 'Register it with the right dimensions under another name, and '
                   'alter_embedding(..., model => ...) to that.';
    end if;
    if m.fingerprint is not null and m.fingerprint <> p_fingerprint then
        raise exception 'model "%" has other weights than those that made the stored vectors', m.name
            using errcode = 'PE011',
            detail = format('Stored fingerprint %s, loaded %s.', m.fingerprint, p_fingerprint),
            hint = format('Load the earlier weights, or make all vectors again: '
                          'SELECT pgembed.accept_weights(%L, %L).', m.name, p_fingerprint);
    end if;
    if m.fingerprint is null or m.max_tokens is distinct from p_max_tokens
       or m.normalized is distinct from p_normalized or m.images <> p_images or m.images is null and p_images is not null then
        update pgembed.model
        set max_tokens = p_max_tokens, normalized = p_normalized, fingerprint = p_fingerprint, images = coalesce(p_images, images)
        where model_id = p_model_id;
    end if;
end
$$;
comment on function pgembed._model_seen_v1(int, int, int, boolean, text, boolean) is
    'A service tells what it has loaded: PE006 or PE011 when that is not the registered model.';

create or replace function pgembed._spend_v1(p_model_id int, p_tokens bigint, p_most bigint default null) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    today constant date := (clock_timestamp() at time zone 'UTC')::date;
    spent bigint;
begin
    insert into pgembed.model_usage as u (model_id, day, tokens)
    select m.model_id, today, greatest(p_tokens, 0) from pgembed.model as m
    where m.model_id = p_model_id and (p_most is null or p_tokens <= p_most)
    on conflict (model_id, day) do update set tokens = greatest(u.tokens + p_tokens, 0)
    where p_most is null or u.tokens + p_tokens <= p_most
    returning u.tokens into spent;
    return spent;
end
$$;
comment on function pgembed._spend_v1(int, bigint, bigint) is
    'Counts tokens that a hosted model is about to be sent, or corrects that afterwards: the sum of the day, '
    'NULL where it would be more than the most, and is not counted.';
