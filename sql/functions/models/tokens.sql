-- Encoders that run in PostgreSQL itself: (tokenizer, token vectors) -> vector of a text. Static models
-- are stored so. All of it reads only, so it runs in read-only transactions and on standbys.

create or replace aggregate pgembed._mean(vector) (
    sfunc = vector_accum, stype = float8[], finalfunc = vector_avg, combinefunc = vector_combine, initcond = '{0}', parallel = safe
);
comment on aggregate pgembed._mean(vector) is 'avg() of pgvector''s, found under any search_path.';

create or replace aggregate pgembed._mean(halfvec) (
    sfunc = halfvec_accum, stype = float8[], finalfunc = vector_avg, combinefunc = vector_combine, initcond = '{0}', parallel = safe
);
comment on aggregate pgembed._mean(halfvec) is 'The mean of halfvecs as a vector, not rounded to 16 bits.';

create or replace function pgembed._unit(p_vector vector) returns vector
language sql immutable strict parallel safe
return l2_normalize(p_vector);
comment on function pgembed._unit(vector) is 'l2_normalize() of pgvector''s, found under any search_path.';

create or replace function pgembed._first_dimensions(p_vector vector, p_dimensions int) returns vector
language sql immutable strict parallel safe
return subvector(p_vector, 1, p_dimensions);
comment on function pgembed._first_dimensions(vector, int) is 'The beginning of a vector, under any search_path.';

create or replace function pgembed._token_words(t pgembed.tokenizer, p_text text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    controls constant text := E'\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f';
    spaced text collate "C" := p_text;
begin
    if octet_length(p_text) = length(p_text) then    -- ASCII
        if t.lowercase then
            spaced := lower(spaced);
        end if;
        spaced := translate(spaced, E'\t\n\r\x0b\x0c' || controls, case when t.clean_text then '   ' else '     ' || controls end);
        spaced := regexp_replace(spaced, '([!-/:-@[-`{-~])', ' \1 ', 'g');
    else
        select string_agg(
                case when c.kind in ('s', 'x') then case when c.kind = 'x' and t.clean_text then '' else ' ' end
                     when c.kind = 'c' and t.clean_text or c.kind = 'm' and t.strip_accents then ''
                     when c.kind = 'h' and t.strip_accents then    -- its letters
                         chr(4352 + (c.code - 44032) / 588) || chr(4449 + (c.code - 44032) % 588 / 28)
                         || case when c.code % 28 <> 44032 % 28 then chr(4519 + (c.code - 44032) % 28) else '' end
                     when c.kind = 'p' or c.kind = 'i' and t.split_ideographs then ' ' || coalesce(c.changed, c.char) || ' '
                     else coalesce(c.changed, c.char) end, '' order by c.place)
        into spaced
        from (select s.char, s.place, ascii(s.char) as code, k.kind,
                     case when t.strip_accents then case when t.lowercase then k.stripped_lower else k.stripped end
                          when t.lowercase then k.lower end as changed
              from string_to_table(p_text, null) with ordinality as s(char, place)
              left join lateral (
                  select r.* from (select * from pgembed.character where first <= ascii(s.char) order by first desc limit 1) as r
                  where r.last >= ascii(s.char)) as k on true) as c;
    end if;
    return array_remove(string_to_array(spaced, ' '), '');
end
$$;
comment on function pgembed._token_words(pgembed.tokenizer, text) is
    'A text as BERT''s normalizer and pre-tokenizer cut it.';

create or replace function pgembed._word_tokens(t pgembed.tokenizer, p_words text[]) returns int[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        -- Tokens are looked up one by one, by the index: a join may be planned to read all of them.
        with recursive word as materialized (    -- most words are tokens
            select w.word collate "C" as word, w.place,
                   case when length(w.word) <= t.longest_word then
                       (select k.token_id from pgembed.token as k where k.tokenizer_id = t.tokenizer_id and k.token = w.word) end as token_id
            from unnest(p_words) with ordinality as w(word, place)),
        -- The others are made of tokens, each time the longest that fits.
        piece(word, number, start, token_id) as (
            select distinct w.word, 0, 1, null::int
            from word as w
            where w.token_id is null and t.kind = 'wordpiece' and length(w.word) <= t.longest_word
            union all
            select p.word, p.number + 1, coalesce(p.start + longest.length, length(p.word) + 1), longest.token_id
            from piece as p
            left join lateral (
                select n.length, n.token_id
                from (select n.length,
                             (select k.token_id from pgembed.token as k
                              where k.tokenizer_id = t.tokenizer_id
                                and k.token = case when p.start > 1 then t.continuing_prefix else '' end || substr(p.word, p.start, n.length)) as token_id
                      from generate_series(1, least(length(p.word) - p.start + 1, t.longest_token)) as n(length)) as n
                where n.token_id is not null
                order by n.length desc limit 1) as longest on true
            where p.start <= length(p.word)),
        whole as (    -- NOT IN is looked up by a hash
            select p.word, p.number, p.token_id from piece as p
            where p.number > 0 and p.word not in (select b.word from piece as b where b.number > 0 and b.token_id is null))
        select coalesce(array_agg(coalesce(w.token_id, p.token_id, t.unknown_id) order by w.place, p.number)
                            filter (where coalesce(w.token_id, p.token_id, t.unknown_id) is not null), '{}')
        from word as w
        left join whole as p on w.token_id is null and p.word = w.word);
end
$$;
comment on function pgembed._word_tokens(pgembed.tokenizer, text[]) is
    'Tokens of words, as WordPiece makes them, or of a vocabulary of whole words.';

create or replace function pgembed._tokens(t pgembed.tokenizer, p_text text) returns int[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    part text[];
    tokens int[] := '{}';
begin
    if t.special_pattern is null or p_text collate "C" !~ t.special_pattern then
        return pgembed._word_tokens(t, pgembed._token_words(t, p_text collate "C"));
    end if;
    -- What comes before each special token, and that one.
    for part in select regexp_matches(p_text collate "C", format('(.*?)(%s|$)', t.special_pattern), 'g') loop
        tokens := tokens || pgembed._word_tokens(t, pgembed._token_words(t, part[1] collate "C"))
            || array(select k.token_id from pgembed.token as k where k.tokenizer_id = t.tokenizer_id and k.token = part[2] collate "C");
    end loop;
    return tokens;
end
$$;
comment on function pgembed._tokens(pgembed.tokenizer, text) is
    'Tokens of a text, as the tokenizers library gives them without special tokens around.';

create or replace function pgembed._token_embedding(e pgembed.token_encoder, p_text text) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    t pgembed.tokenizer;
    tokens int[];
    made pgembed.token_vector."full"%type;
begin
    select * into t from pgembed.tokenizer where tokenizer_id = e.tokenizer_id;
    tokens := pgembed._tokens(t, p_text);
    if e.max_tokens is not null then
        tokens := tokens[:e.max_tokens];
    end if;
    select coalesce(pgembed._mean(v."full"), pgembed._mean(v.half))
    into made
    from unnest(tokens) as k(token_id)
    join pgembed.token_vector as v on v.encoder_id = e.encoder_id and v.token_id = k.token_id;
    if made is null then
        return array_fill(0::float4, array[e.dimensions]);    -- no token is known
    end if;
    return case when e.normalized then pgembed._unit(made) else made end;
end
$$;
comment on function pgembed._token_embedding(pgembed.token_encoder, text) is
    'Vector of a text by an encoder of token vectors; zeros where it knows none of the tokens.';

create or replace function pgembed._stored_model(p_model_id int) returns pgembed.token_encoder
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row pgembed.token_encoder;
begin
    select e.* into found_row
    from pgembed.token_encoder as e
    join pgembed.model as m using (model_id)
    where m.model_id = p_model_id and e.embedding_id is null and e.fingerprint = m.fingerprint and e.dimensions = m.dimensions;
    return found_row;
end
$$;
comment on function pgembed._stored_model(int) is
    'The encoder of token vectors that is a model itself, as it is registered now; NULL: the model runs in services only.';

create or replace function pgembed._stored_model_v1(p_model_id int)
returns table (encoder_id int, tokenizer_id int, kind text, clean_text boolean, split_ideographs boolean, strip_accents boolean,
               lowercase boolean, special_pattern text, unknown_id int, continuing_prefix text, longest_word int,
               normalized boolean, max_tokens int, fingerprint text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select e.encoder_id, t.tokenizer_id, t.kind, t.clean_text, t.split_ideographs, t.strip_accents, t.lowercase,
           t.special_pattern, t.unknown_id, t.continuing_prefix, t.longest_word, e.normalized, e.max_tokens, e.fingerprint
    from pgembed._stored_model(p_model_id) as e
    join pgembed.tokenizer as t using (tokenizer_id)
$$;
comment on function pgembed._stored_model_v1(int) is
    'A static model that is stored here, for a service that encodes documents with it; no row where there is none.';

create or replace function pgembed._stored_tokens_v1(p_tokenizer_id int) returns table (token text, token_id int)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select k.token, k.token_id from pgembed.token as k where k.tokenizer_id = p_tokenizer_id
$$;
comment on function pgembed._stored_tokens_v1(int) is 'The vocabulary of a tokenizer.';

create or replace function pgembed._stored_vectors_v1(p_encoder_id int, p_after int, p_n int)
returns table (token_id int, is_half boolean, sent bytea)
language sql stable
begin atomic
    select v.token_id, v.half is not null, coalesce(vector_send(v."full"), halfvec_send(v.half))
    from pgembed.token_vector as v
    where v.encoder_id = p_encoder_id and v.token_id > p_after
    order by v.token_id
    limit p_n;
end;
comment on function pgembed._stored_vectors_v1(int, int, int) is
    'Vectors of tokens behind one, as pgvector sends them in binary: the number of dimensions and an unused number of 16 bits each, then '
    'the numbers, of 32 or 16 bits, the highest byte first.';

create or replace function pgembed._forget_tokenizers() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from pgembed.tokenizer as t
    where not exists (select from pgembed.token_encoder as e where e.tokenizer_id = t.tokenizer_id);
    return null;
end
$$;
comment on function pgembed._forget_tokenizers() is
    'Deletes the vocabularies of encoders that are gone: they may be words of a table.';

create or replace trigger forget_tokenizers after delete on pgembed.token_encoder
for each statement execute function pgembed._forget_tokenizers();
