-- Rows by their vectors: what recommendations, classes, duplicates and outliers are made of. A row's
-- vector is the mean of its chunks'. Everything here runs with the caller's rights, as searches do:
-- rows that the caller does not see are neither compared nor counted.

create or replace function pgembed._found_vectors(e pgembed.embedding, p_keys text[], out made vector[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant int := cardinality(pgembed._key_columns(e.source));
begin
    if parts > 1 and exists (select from unnest(p_keys) as k where cardinality(k::text[]) <> parts) then
        raise exception using errcode = 'data_exception', message = format('A key has %s parts.', parts);
    end if;
    -- The vector of a row that the caller does not see is not the caller's to ask with.
    execute format(
        'select coalesce(array_agg(case when exists (select from %s as s where %s) then c.vector end order by pgembed_key.place), ''{}'') '
        'from unnest($1) with ordinality as pgembed_key(key, place) '
        'cross join lateral (select pgembed._mean(c.%I) as vector from %s as c where %s) as c',
        pgembed._table_sql(e.source), pgembed._key_sql(e.source, null, 's.%2$I %7$s %5$s::%4$s', ' and '),
        coalesce(e.column_name, 'embedding'),
        pgembed._held_name(case e.storage when 'table' then e.side_table else e.source end),
        pgembed._key_sql(e.source, e.side_table,
                         case e.storage when 'table' then 'c.%3$I %7$s %5$s::%4$s' else 'c.%2$I %7$s %5$s::%4$s' end, ' and '))
    into made using p_keys;
end
$$;
comment on function pgembed._found_vectors(pgembed.embedding, text[]) is
    'The directions of rows, by the texts of their keys and in their order: the means of their chunks'' vectors. NULL for a row '
    'that is not there, has none, or is not the caller''s to see.';

create or replace function pgembed._row_vectors(e pgembed.embedding, p_keys text[], out made vector[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing int;
begin
    begin
        made := pgembed._found_vectors(e, p_keys);
    exception when data_exception or array_subscript_error then
        raise exception 'not a key of table %: %', e.source, array_to_string(p_keys[:5], ', ', 'NULL') using errcode = 'PE009',
            detail = sqlerrm, hint = 'Give the value of the primary key; for a composite key an array: array[''1'', ''a''].';
    end;
    missing := array_position(made, null);
    if missing is not null then
        raise exception 'there is no vector for key "%" of table %', coalesce(p_keys[missing], 'NULL'), e.source using errcode = 'PE009',
            hint = 'The row does not exist, has no text, or has not been encoded yet.';
    end if;
end
$$;
comment on function pgembed._row_vectors(pgembed.embedding, text[]) is
    'The directions of rows, by the texts of their keys and in their order. PE009 where one is missing.';

create or replace function pgembed._weighted_sum(p_vectors vector[], p_weights float8[]) returns vector
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select sum(x * p_weights[v.place])
                 from unnest(p_vectors) with ordinality as v(vector, place)
                 cross join unnest(v.vector::real[]) with ordinality as x(x, dimension)
                 group by dimension order by dimension)::real[];
end
$$;
comment on function pgembed._weighted_sum(vector[], float8[]) is 'Sum of vectors of the same dimensions, each times its weight.';

create or replace function pgembed._not_key_sql(p_source oid, p_keys text[]) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(string_agg(format('not (%s)', pgembed._key_sql(p_source, null, 's.%2$I %7$s %5$s::%4$s', ' and ', quote_literal(k))), ' and '), 'true')
    from unnest(p_keys) as k
$$;
comment on function pgembed._not_key_sql(oid, text[]) is 'Condition that a row s is none of those with these keys.';

create or replace function pgembed._json_given(p_json jsonb, p_name text, p_type text, p_hint text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    given jsonb;
begin
    begin
        given := pgembed._filter_given(p_json);
    exception when sqlstate 'PE008' then    -- a string that holds no JSON
        given := p_json;
    end;
    if coalesce(jsonb_typeof(given), case p_type when 'array' then p_type else 'null' end) <> p_type then
        raise exception '% is not %: %', p_name, case p_type when 'array' then 'a list of keys' else 'an object of labels' end,
            coalesce(left(given::text, 100), 'NULL')
            using errcode = 'PE009', hint = p_hint;
    end if;
    return given;
end
$$;
comment on function pgembed._json_given(jsonb, text, text, text) is
    'What a caller gave as JSON of a type, or as a string that holds it; of no keys, NULL. PE009 for another type.';

create or replace function pgembed._keys_given(p_keys jsonb, p_name text) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant int := 1000;
    given constant jsonb := pgembed._json_given(
        p_keys, p_name, 'array', 'Give a JSON array of primary keys: ''[1, 2]''; of composite ones ''[[1, "a"], [2, "b"]]''.');
begin
    if jsonb_array_length(given) > most then
        raise exception '% has % keys, and may have %', p_name, jsonb_array_length(given), most using errcode = 'PE007',
            hint = 'Give the newest, or a sample of them: the mean changes little beyond a few hundred.';
    end if;
    return array(select pgembed._key_given(k) from jsonb_array_elements(given) as k);
end
$$;
comment on function pgembed._keys_given(jsonb, text) is 'Texts of the keys in a JSON array that a caller gave, or PE009.';

create or replace function pgembed._check_direction(e pgembed.embedding, p_vector vector) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if e.distance = 'cosine' and 0 = all (p_vector::real[]) then
        raise exception 'the vector of the rows that were named is zero, which has no direction' using errcode = 'PE009',
            hint = 'They cancel each other out, as the same row on both sides does; or none has a word that the model knows.';
    end if;
    return p_vector;
end
$$;
comment on function pgembed._check_direction(pgembed.embedding, vector) is
    'The vector; PE009 for zeros where directions are compared.';

create or replace function pgembed._centroid(e pgembed.embedding, p_keys text[]) returns vector
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._check_direction(e, pgembed._mean(case when (e).distance = 'cosine' then pgembed._unit(v) else v end))
    from unnest(pgembed._row_vectors(e, p_keys)) as v
$$;
comment on function pgembed._centroid(pgembed.embedding, text[]) is
    'The mean of rows'' vectors, where directions count each at unit length; NULL of no row.';

create or replace function pgembed._row_keys_json(docs anyarray, p_source regclass) returns jsonb[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    keys jsonb[];
begin
    execute format('select array_agg(%s) from unnest($1) as s', pgembed._key_json_sql(p_source, 's')) into keys using docs;
    return coalesce(keys, '{}');
end
$$;
comment on function pgembed._row_keys_json(anyarray, regclass) is 'Keys of rows of a table as JSON, in the order of the array.';

create or replace function pgembed.centroid(source anyelement, keys jsonb, embedding text default null) returns vector
language plpgsql stable
as $$
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    made pgembed.query_embedding.embedding%type;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    made := pgembed._centroid(e, pgembed._keys_given(keys, 'keys'));
    if made is null then
        raise exception 'keys names no row' using errcode = 'PE009', hint = 'Give a JSON array of primary keys: ''[1, 2]''.';
    end if;
    perform pgembed._at_path(path);
    return made;
end
$$;
comment on function pgembed.centroid(anyelement, jsonb, text) is
    'The mean of the vectors of rows, by their keys: what a user liked as one vector, to keep, to compare, or to search with. '
    'Example: SELECT (doc).title FROM pgembed.vector_search(NULL::article, query_embedding => pgembed.centroid(NULL::article, ''[1, 2]''));';

create or replace function pgembed._row_vector_type(e pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s.%I', pgembed._vector_schema(), case when e.chunking = 'none' then e.vector_type else 'vector' end)
$$;
comment on function pgembed._row_vector_type(pgembed.embedding) is
    'SQL type of the vectors of rows: that of the stored ones; where a row has several chunks, of their mean.';

create or replace function pgembed._distance_sql(p_distance text, p_left text, p_right text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('(%s operator(%s.%s) %s)', p_left, pgembed._vector_schema(),
                  case p_distance when 'cosine' then '<=>' when 'inner_product' then '<#>' else '<->' end, p_right)
$$;
comment on function pgembed._distance_sql(text, text, text) is 'Expression for the distance of two vectors of one type.';

create or replace function pgembed._rows_sql(e pgembed.embedding, p_condition text, p_asked text default 'true') returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'select %s as key, %s as asked, r.* from (%s) as r cross join lateral (select * from %s as s where %s and (%s)) as s',
        pgembed._key_json_sql(e.source, 's'), p_asked,
        format(case when e.chunking = 'none' then 'select %1$s, c.%2$s as vector from %3$s as c where c.%2$s is not null'
                    else 'select %4$s, pgembed._mean(c.vector) as vector from (select %1$s, c.%2$s as vector from %3$s as c) as c group by %4$s' end,
               n.chunk_keys, n.vector, n.vectors, n.keys),
        pgembed._table_sql(e.source), pgembed._key_sql(e.source, null, 's.%2$I %7$s r.k%1$s', ' and '), p_condition)
    from pgembed._search_names(e) as n
$$;
comment on function pgembed._rows_sql(pgembed.embedding, text, text) is
    'Query for the rows that meet a condition (alias s) and have a vector: key as JSON, whether they meet another one (asked), the '
    'columns of the key (k1 ...), vector.';
