-- search: for every language. No composite type, no row type to name: the table is text, a
-- row and its key are JSON. It makes the call of hybrid_search, vector_search or bm25_search
-- that one would write by hand, and that runs with the rights and the search_path of the caller.

create or replace function pgembed._json_number(p_value numeric) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when length(p_value::text) <= 15 then to_jsonb(p_value) else to_jsonb(p_value::text) end
$$;
comment on function pgembed._json_number(numeric) is
    'A number as JSON; as a string where it may not fit a double, as which many languages read JSON''s numbers.';

create or replace function pgembed._key_json_sql(p_source oid, p_alias text) returns text
language plpgsql stable    -- whose plans are kept, where a SQL function's are made at every call
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant text[] := array(
        select format(case when a.atttypid in ('int8'::regtype, 'numeric'::regtype) then 'pgembed._json_number(%s.%I)'
                           when a.atttypid = 'bpchar'::regtype then 'pg_catalog.to_jsonb(pg_catalog.rtrim(%s.%I))'
                           when a.atttypid < 16384 then 'pg_catalog.to_jsonb(%s.%I)'
                           else 'pg_catalog.to_jsonb(pg_catalog.concat(%s.%I))' end, p_alias, a.attname)
        from pg_index as i
        cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, place)
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = p_source and i.indisprimary and k.place <= i.indnkeyatts
        order by k.place);
begin
    return case cardinality(parts) when 0 then 'null::pg_catalog.jsonb' when 1 then parts[1]
                                   else format('pg_catalog.jsonb_build_array(%s)', array_to_string(parts, ', ')) end;
end
$$;
comment on function pgembed._key_json_sql(oid, text) is
    'Expression for the key of a row as JSON: its value, or an array of the values of a composite key.';

create or replace function pgembed._row_json_sql(p_source oid, p_alias text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    columns text;
begin
    -- to_jsonb() uses a cast to json where a type has one, and that may be anybody's: what is of
    -- a type of a user is written by its output function, as a SELECT writes it.
    select string_agg(case when a.atttypid < 16384 or not pgembed._foreign_type(t.oid) then format('%s.%I', p_alias, a.attname)
                           else format('case when %1$s.%2$I is distinct from null then pg_catalog.concat(%1$s.%2$I)%3$s end as %2$I', p_alias, a.attname,
                                       case t.typcategory when 'A' then '::pg_catalog.text[]' else '' end) end, ', ' order by a.attnum)
    into columns
    from pg_attribute as a
    join pg_type as t on t.oid = case when a.atttypid < 16384 then a.atttypid else pgembed._base_type(a.atttypid) end
    where a.attrelid = p_source and a.attnum > 0 and not a.attisdropped
      and not exists (select from pgembed.embedding as e where e.source = p_source and e.column_name = a.attname);
    return format('(select pg_catalog.to_jsonb(r.*) from (select %s) as r)', columns);
end
$$;
comment on function pgembed._row_json_sql(oid, text) is
    'Expression for a row of a table as a JSON object, without the vectors that an embedding keeps in it.';

create or replace function pgembed._search_arms(p_source regclass, p_name text, p_vector boolean, p_words boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    vectors constant boolean := exists (select from pgembed.embedding as e where e.source = p_source
                                        and (p_name is null and e.generation = 'current' or pgembed._name_matches(e.source, e.name, p_name)));
    words constant boolean := exists (select from pgembed.bm25 as b where b.source = p_source
                                      and (vectors or p_name is null or pgembed._name_matches(b.source, b.name, p_name)));
begin
    if not vectors and not words and p_name is null then
        raise exception 'table % has neither an embedding nor a BM25 index', p_source using errcode = 'PE001',
            hint = 'Declare one with pgembed.create_embedding or pgembed.create_bm25; of a partitioned table name the parent.';
    elsif words and not vectors and not p_vector then
        return 'bm25_search';
    elsif words and vectors and p_words then
        return 'hybrid_search';
    end if;
    return 'vector_search';    -- which says what is wrong with the name, or with a vector where there is none
end
$$;
comment on function pgembed._search_arms(regclass, text, boolean, boolean) is
    'Which search of a table, or of what has the name, is meant: by words, by vectors, or both.';

create or replace function pgembed._search_call_sql(p_source regclass, p_function text, p_image boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    place constant text := '(h.ordinality operator(pg_catalog.+) $4)::pg_catalog.int4';
    vectors constant boolean := p_function <> 'bm25_search';
    words constant boolean := p_function <> 'vector_search';
    result constant text := case p_function
        when 'hybrid_search' then 'h.score, h.vector_rank, h.bm25_rank, h.content, h.snippet, h.encoded_by'
        when 'vector_search' then format('h.similarity, %s, null::pg_catalog.int4, h.content, null::pg_catalog.text, h.encoded_by', place)
        else format('h.score, null::pg_catalog.int4, %s, null::pg_catalog.text, h.snippet, null::pg_catalog.text', place) end;
begin
    return format(
        'select %s, %s, %s from pgembed.%I(null::%s, $1, k => $2, filter => $3, "offset" => $4, embedding => $5%s%s%s) with ordinality as h '
        'cross join lateral (select (h.doc).*) as s where %s order by h.ordinality',
        pgembed._key_json_sql(p_source, 's'), pgembed._row_json_sql(p_source, 's'), result, p_function, pgembed._table_sql(p_source),
        case when vectors then ', min_similarity => $7, query_embedding => $8, query_model => $9, query_encoder => $18, diversity => $20' end
            || case when p_image then ', query_image => $19' else '' end,
        case when words then ', min_score => $6, syntax => $10, prefix => $11, fuzzy => $12, config => $13, snippets => $14' end,
        case when vectors and words then ', vector_weight => $15, bm25_weight => $16, on_missing_query_embedding => $17' end,
        case when words then 'true' else '$6 is null or h.similarity operator(pg_catalog.>=) $6' end);
end
$$;
comment on function pgembed._search_call_sql(regclass, text, boolean) is
    'Statement that searches a table and gives what search returns; its parameters are those of search, in that order.';

create or replace function pgembed.search(
    source text,
    query text default null,
    k bigint default 10,
    filter jsonb default null,
    "offset" bigint default 0,
    min_score float8 default null,
    min_similarity float8 default null,
    embedding text default null,
    query_embedding anycompatible default null,
    query_model text default null,
    syntax text default 'words',
    prefix boolean default false,
    fuzzy boolean default false,
    config text default null,
    snippets boolean default false,
    vector_weight float8 default 1,
    bm25_weight float8 default 1,
    on_missing_query_embedding text default 'error',
    query_encoder text default null,
    query_image bytea default null,
    diversity float8 default 0
)
returns table (key jsonb, doc jsonb, score float8, vector_rank int, bm25_rank int, content text, snippet text, encoded_by text)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    searched constant pg_catalog.regclass := pgembed._table_named(source, path);
    q pgembed.query_embedding.embedding%type;
    call pg_catalog.text;
    statement pg_catalog.text;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_score(min_score);
    q := pgembed._vector_given(query_embedding);
    call := case when query_image is not null then 'vector_search'
                 else pgembed._search_arms(searched, embedding, q is not null, q is null or query is not null) end;
    statement := pgembed._search_call_sql(searched, call, query_image is not null);
    perform pgembed._at_path(path);
    return query execute statement
    using query, k, filter, "offset", embedding, min_score, min_similarity, q, query_model, syntax, prefix, fuzzy, config, snippets,
          vector_weight, bm25_weight, on_missing_query_embedding, query_encoder, query_image, diversity;
end
$$;
comment on function pgembed.search(text, text, bigint, jsonb, bigint, float8, float8, text, anycompatible, text, text, boolean, boolean, text, boolean, float8, float8, text, text, bytea, float8) is
    'The k best rows of a table, for any language: key and row as JSON, score, both ranks, the best chunk. source is the name of the '
    'table as in a query. By words and by meaning where the table has both (hybrid_search), else by what it has; by the vector '
    'alone where only query_embedding is given, or query_image, the bytes of an image file. filter is data, an object or a string that holds one. The other arguments are those of '
    'hybrid_search. Example: SELECT key, doc, score FROM pgembed.search(''article'', ''cheap flights'', k => 5, filter => ''{"price": {"$lt": 300}}'');';
