-- Query encoders: token vectors trained for one embedding (pgembed/query_encoder), which encode its
-- queries where no service does. Services train them, and again when the table has drifted from what
-- they were trained on: see service/trainer.py.

create or replace function pgembed._query_encoder(p_embedding pgembed.embedding) returns pgembed.token_encoder
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row pgembed.token_encoder;
begin
    select e.* into found_row
    from pgembed.token_encoder as e
    join pgembed.model as m using (model_id)
    join pgembed.captured_text as t on t.text_id = p_embedding.text_id
    where e.embedding_id = p_embedding.embedding_id and e.model_id = p_embedding.model_id
      and e.dimensions = p_embedding.dimensions and e.fingerprint is not distinct from m.fingerprint
      and e.learnt_from = t.canonical_expression and (e.unit_length or p_embedding.distance = 'cosine');
    return found_row;
end
$$;
comment on function pgembed._query_encoder(pgembed.embedding) is
    'The query encoder that was trained for an embedding, if it is of the vectors that are stored now; else NULL.';

create or replace function pgembed._check_query_encoder(p_query_encoder text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_query_encoder not in ('auto', 'model', 'static') then
        raise exception 'unknown query encoder "%"', p_query_encoder using errcode = 'PE007',
            hint = 'It is model, static (token vectors that were trained for the embedding), or auto: the model where a service answers, else static.';
    end if;
    return p_query_encoder;
end
$$;
comment on function pgembed._check_query_encoder(text) is 'What is to encode queries, or PE007.';

create or replace function pgembed._has_query_encoder(p_embedding_id int) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (pgembed._query_encoder(e)).encoder_id is not null from pgembed.embedding as e where e.embedding_id = p_embedding_id
$$;
comment on function pgembed._has_query_encoder(int) is
    'Whether the caller may use a query encoder that was trained for an embedding.';

create or replace function pgembed._query_encoder_stale(t pgembed.token_encoder) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- What these are worth is measured in docs/query-encoder.md.
    select coalesce((t).new_share >= 0.02 and (t).new_agreement < (t).agreement - 0.1, false)
           or coalesce((t).new_share >= 0.5 and (t).trained_on < 100000, false)
$$;
comment on function pgembed._query_encoder_stale(pgembed.token_encoder) is
    'Whether a query encoder should be trained again: it does worse on what is new, or most of the table is.';

create or replace function pgembed._query_encoder_look(e pgembed.embedding, t pgembed.token_encoder) returns pgembed.token_encoder
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
    most_blocks constant int := 500;    -- of the side table are read
    most_texts constant int := 50;      -- are encoded
    blocks constant float8 := pgembed._relation_bytes(e.side_table, false) / current_setting('block_size')::int;
begin
    execute format(
        'with sample as materialized (
             select s.content, s.embedding, s.embedded_at >= $1 as is_new
             from %1$s as s tablesample system ($2) where s.model_id = $3),
         chosen as (select s.content, s.embedding::%2$s.vector as stored from sample as s where s.is_new order by random() limit $4)
         select (select avg(s.is_new::int) from sample as s),
                (select avg(coalesce(1 - nullif(pgembed._token_embedding($5, c.content) operator(%2$s.<=>) c.stored, ''NaN''), 0)) from chosen as c)',
        pgembed._table_sql(e.side_table), pgembed._vector_schema())
    into t.new_share, t.new_agreement
    using t.read_at, least(100, 100 * most_blocks / greatest(blocks, 1)), e.model_id, most_texts, t;
    update pgembed.token_encoder as k
    set looked_at = clock_timestamp(), new_share = t.new_share, new_agreement = t.new_agreement
    where k.encoder_id = t.encoder_id;
    return t;
end
$$;
comment on function pgembed._query_encoder_look(pgembed.embedding, pgembed.token_encoder) is
    'Finds by samples how much of a table a query encoder has not been trained on, and how well it does on that; and writes it down.';

create or replace function pgembed._query_encoders_due_v1(p_skip int[] default '{}')
returns table (embedding_id int, name text, model_id int, why text)
language plpgsql
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
#variable_conflict use_column
declare
    least_chunks constant int := 1000;
    look_after constant interval := '5 minutes';
    e pgembed.embedding;
    t pgembed.token_encoder;
    many boolean;
begin
    if (select r.ready from pgembed._ready_v1(p_skip) as r) or current_setting('server_encoding') <> 'UTF8' then
        return;    -- rows come first
    end if;
    for e in
        select x.* from pgembed.embedding as x
        join pgembed._standing as s on s.kind = 'embedding' and s.id = x.embedding_id and s.state = 'active'
        join pgembed.model as m using (model_id)
        join pgembed.captured_text as t using (text_id)
        join pg_class as c on c.oid = x.source::oid
        where x.query_encoder <> 'model' and t.kind = 'text' and x.generation <> 'previous' and x.storage = 'table' and x.backfill_state = 'done' and not c.relrowsecurity
          and m.fingerprint is not null and x.embedding_id <> all (p_skip)
        order by x.embedding_id
    loop
        continue when (pgembed._stored_model(e.model_id)).encoder_id is not null;    -- it runs here already
        t := pgembed._query_encoder(e);
        begin
            if t.encoder_id is null then
                execute format('select count(*) = $1 from (select from %s where model_id = $2 limit $1) as s', pgembed._table_sql(e.side_table))
                    into many using least_chunks, e.model_id;
                continue when not many;
                why := 'none';
            else
                if t.looked_at is null or t.looked_at < clock_timestamp() - look_after then
                    t := pgembed._query_encoder_look(e, t);
                end if;
                continue when not pgembed._query_encoder_stale(t);
                why := 'stale';
            end if;
        exception when lock_not_available or undefined_table then
            continue;    -- another time
        end;
        embedding_id := e.embedding_id;
        name := pgembed._qualified_name(e.source, e.name);
        model_id := e.model_id;
        return next;
    end loop;
end
$$;
comment on function pgembed._query_encoders_due_v1(int[]) is
    'Embeddings whose query encoder a service should train now: with chunks enough, without row security, where none was trained or it is stale; none while rows wait. why: none or stale.';
