-- What all searches have in common: which part of the ranking is wanted, and how what callers
-- send is read. Their numbers are bigint: many drivers send no other.

create or replace function pgembed._check_k(p_k bigint) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_k is null or p_k not between 1 and 10000 then
        raise exception 'k must be between 1 and 10000, not %', coalesce(p_k::text, 'NULL')
            using errcode = 'PE007', hint = 'k is the number of rows wanted; the default is 10.';
    end if;
    return p_k;
end
$$;
comment on function pgembed._check_k(bigint) is 'k; PE007 for one out of range.';

create or replace function pgembed._check_page(p_k bigint, p_offset bigint) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._check_k(p_k);
    if p_offset is null or p_offset not between 0 and 10000 then
        raise exception 'offset must be between 0 and 10000, not %', coalesce(p_offset::text, 'NULL')
            using errcode = 'PE007',
            detail = 'It is the number of rows of the ranking that come before the page.',
            hint = case when p_offset > 10000 then 'Nobody reads that far: narrow the search down with a filter or more words, or '
                                                   'read all matching rows with a query of your own, by their key.'
                        else 'The first page has offset 0, the next one k.' end;
    end if;
    return p_k + p_offset;
end
$$;
comment on function pgembed._check_page(bigint, bigint) is 'Where a page ends in the ranking; PE007 for k or offset out of range.';

create or replace function pgembed._check_min_score(p_min_score float8) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_min_score in ('NaN', 'Infinity', '-Infinity') then
        raise exception 'min_score must be a finite number, not %', p_min_score using errcode = 'PE007',
            hint = 'Rows with a lower score are left out; without it, none is.';
    end if;
end
$$;
comment on function pgembed._check_min_score(float8) is 'PE007 for a threshold of scores that is no number; NULL is none.';

create or replace function pgembed._check_min_similarity(p_min_similarity float8, p_distance text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    lowest constant float8 := case p_distance when 'cosine' then -1 when 'l2' then 0 else -1e300 end;
    highest constant float8 := case p_distance when 'inner_product' then 1e300 else 1 end;
begin
    if p_min_similarity not between lowest and highest then    -- 'NaN' is greater than all numbers
        raise exception 'min_similarity is out of range: %', p_min_similarity using errcode = 'PE007',
            detail = case p_distance when 'inner_product' then 'It is compared with inner products.'
                                     else format('Similarities by %s distance are %s to 1.', p_distance, lowest) end,
            hint = 'Rows that are less similar are left out; without it, none is.';
    end if;
end
$$;
comment on function pgembed._check_min_similarity(float8, text) is
    'PE007 for a threshold of similarities that is none for a kind of distance; NULL is no threshold.';

create or replace function pgembed._as_int(p_value bigint, p_name text) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_value::int;
exception when numeric_value_out_of_range then
    raise exception '% is out of range: %', p_name, p_value using errcode = 'PE007', hint = 'Give a smaller number.';
end
$$;
comment on function pgembed._as_int(bigint, text) is 'A number that a caller gave, or PE007.';

create or replace function pgembed._filter_given(p_filter jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_filter) = 'string' then    -- what a driver makes of a string for a jsonb parameter
        return nullif((p_filter #>> '{}')::jsonb, 'null');
    end if;
    return nullif(p_filter, 'null');
exception when invalid_text_representation then
    raise exception 'a filter is a JSON object, not %', p_filter using errcode = 'PE008', detail = sqlerrm,
        hint = 'For example {"category": "books", "price": {"$lt": 20}}.';
end
$$;
comment on function pgembed._filter_given(jsonb) is
    'A filter as the caller means it: a JSON string stands for the JSON that it holds, JSON null for none.';

create or replace function pgembed._vector_given(p_vector anycompatible) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    kind constant "char" := (select typcategory from pg_type where oid = pg_typeof(p_vector));
    given pgembed.query_embedding.embedding%type;    -- pgvector may be anywhere
begin
    if p_vector is null then
        return null;
    -- An array may come as text, from drivers that know no type.
    elsif kind = 'A' or kind = 'S' and ltrim(format('%s', p_vector)) like '{%' then
        given := format('%s', p_vector)::float4[];    -- a cast may be anybody's
    else
        given := p_vector;
    end if;
    return given;
exception when data_exception or program_limit_exceeded then
    raise exception 'query_embedding is not a vector: %', left(format('%s', p_vector), 100) using errcode = 'PE009',
        detail = sqlerrm, hint = 'Give an array of numbers, or text such as [0.1, -0.2].';
end
$$;
comment on function pgembed._vector_given(anycompatible) is
    'A vector that a caller gave: of a type of pgvector''s, an array of numbers, or the text of either. (Not for functions '
    'whose result has the type of an argument: of these PostgreSQL cannot tell it then.)';

create or replace function pgembed._key_given(p_key anycompatible) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    given jsonb;
begin
    if pg_typeof(p_key) not in ('jsonb'::regtype, 'json'::regtype) then
        return case when p_key is not distinct from null then null
                    when pg_typeof(p_key) = 'bpchar'::regtype then rtrim(format('%s', p_key))
                    else format('%s', p_key) end;    -- a cast may be anybody's
    end if;
    given := p_key::text;
    return case jsonb_typeof(given) when 'array' then array(select jsonb_array_elements_text(given))::text else given #>> '{}' end;
end
$$;
comment on function pgembed._key_given(anycompatible) is
    'Text of a key that a caller gave: a value of any type, an array for a composite key, or either as JSON, as search gives it.';

create or replace function pgembed._table_named(p_source text, p_path text) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    named regclass;
begin
    perform pgembed._at_path(p_path);
    begin
        named := pg_catalog.to_regclass(p_source);
    exception when invalid_name or syntax_error or feature_not_supported then
        null;
    end;
    perform pgembed._at_path('pg_catalog, pg_temp');
    if named is null then
        raise exception 'there is no table %', coalesce(p_source, 'NULL') using errcode = 'PE003',
            hint = 'Write the name as in a query, quoted where needed: ''shop.article'', '
                   '''"My Table"''. The search_path is ' || p_path || '.';
    end if;
    return named;
end
$$;
comment on function pgembed._table_named(text, text) is 'A table by its name under a search_path, or PE003.';
