-- How many rows match, and what they have in their columns. As searches, with the rights of
-- the caller.

create or replace function pgembed._bm25_matching_keys_sql(b pgembed.bm25, p_restricted boolean, p_path text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- $1: the parsed query, $2: handles.
    select case when p_restricted then pgembed._bm25_restricted_sql(b, 'true', 'select distinct h.key from hit as h where h.matches', p_path)
    else format(
        'select d.key from %s as d where d.slot operator(pg_catalog.=) any (array('
        'select h.handle::pg_catalog.int4 from pg_catalog.unnest($2) as h(handle) where h.handle operator(pg_catalog.>=) 0::pg_catalog.int8)) '
        'union all '
        'select r.key from %s as r where (operator(pg_catalog.-) r.version) operator(pg_catalog.=) any (select h.handle from pg_catalog.unnest($2) as h(handle))',
        pgembed._bm25_part((b).bm25_id, 'doc'), pgembed._bm25_part((b).bm25_id, 'recent')) end
$$;
comment on function pgembed._bm25_matching_keys_sql(pgembed.bm25, boolean, text) is
    'Query for the keys of matching documents: of those that the caller sees, by their words ($1, parsed), or of handles ($2).';

create or replace function pgembed._bm25_matching_sql(
    b pgembed.bm25, p_query pgembed._bm25_words, p_restricted boolean, p_columns text, p_condition text, p_path text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    row_of_key constant text := pgembed._key_sql(b.source, null, 's.%2$I %7$s %5$s::%4$s', ' and ', 'hit.key');
    condition text := p_condition;
begin
    if p_query.required is not null and not p_restricted then
        condition := format('(%s) and %s operator(pg_catalog.@@) %L::pg_catalog.tsquery', p_condition, pgembed._pinned_sql(p_path, 'lexemes', pgembed._row_lexemes_sql(
            b, pgembed._row_config_sql(b, 's.*'), pgembed._compose_sql(b.text_id, 's.*'), 's')), p_query.required);
    end if;
    if not p_restricted and cardinality(pgembed._key_columns(b.source)) = 1 then
        -- An array goes through the index in the order of the keys, and so of many tables.
        return format('select %s from %s as s where %s and (%s)', p_columns, pgembed._table_sql(b.source),
                      pgembed._key_sql(b.source, null, format('s.%%2$I %%7$s any (array(%s)::%%4$s[])', pgembed._bm25_matching_keys_sql(b, false, p_path)), ''),
                      condition);
    end if;
    return format('select s.* from (%s) as hit cross join lateral (select %s from %s as s where %s and (%s)) as s',
                  pgembed._bm25_matching_keys_sql(b, p_restricted, p_path), p_columns, pgembed._table_sql(b.source), row_of_key, condition);
end
$$;
comment on function pgembed._bm25_matching_sql(pgembed.bm25, pgembed._bm25_words, boolean, text, text, text) is
    'Query for columns of the rows that match a query and meet a condition (alias s).';

create or replace function pgembed._bm25_matching_handles(
    b pgembed.bm25, p_query pgembed._bm25_words, p_counted boolean, out matching bigint, out handles bigint[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('select * from pgembed._bm25_%s_matches($1, $2, $3)', b.bm25_id)
    into matching, handles using p_query.terms, p_query.prefix, p_counted;
exception when undefined_table or undefined_function then
    perform pgembed._bm25_require_parts(b);
    raise;
end
$$;
comment on function pgembed._bm25_matching_handles(pgembed.bm25, pgembed._bm25_words, boolean) is
    'How many documents have a word of a query, and which.';

create or replace function pgembed._count_words(b pgembed.bm25, p_query pgembed._bm25_words, p_condition text, p_path text) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    restricted constant boolean := pgembed._bm25_ranking(b) <> 'top';
    handles bigint[];
    matching bigint;
begin
    if not restricted and p_condition = 'true' and p_query.required is null then
        execute format('select from %s limit 0', pgembed._table_sql(b.source));    -- who may not read it, may not count it
        return (pgembed._bm25_matching_handles(b, p_query, true)).matching;
    end if;
    if not restricted then
        handles := (pgembed._bm25_matching_handles(b, p_query, false)).handles;
    end if;
    perform pgembed._at_path(p_path);
    execute pg_catalog.format('select pg_catalog.count(*) from (%s) as s', pgembed._bm25_matching_sql(b, p_query, restricted, '', p_condition, p_path))
    into matching using p_query, handles;
    perform pgembed._at_path('pg_catalog, pg_temp');
    return matching;
end
$$;
comment on function pgembed._count_words(pgembed.bm25, pgembed._bm25_words, text, text) is
    'How many rows match a parsed query and meet a condition.';

create or replace function pgembed._count_near(e pgembed.embedding, p_query vector, p_min_similarity float8, p_condition text, p_path text)
returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    names record;
    matching bigint;
    statement text;
begin
    select * into names from pgembed._search_names(e);
    statement := format(
        'select pg_catalog.count(*) from %1$s as s where (%2$s) and exists (select from '
        '(select %3$s, (%4$s) operator(pg_catalog.+) 0::pg_catalog.float8 as distance from %5$s as c where c.%6$s is not null) as c '
        'where %7$s and %8$s operator(pg_catalog.>=) $2 and %8$s operator(pg_catalog.<>) ''NaN''::pg_catalog.float8)',
        pgembed._table_sql(e.source), p_condition, names.chunk_keys, names.distance, names.vectors, names.vector, names.chunk_of_row,
        pgembed._similarity_sql(e.distance));
    perform pgembed._at_path(p_path);
    execute statement into matching using p_query, p_min_similarity;
    perform pgembed._at_path('pg_catalog, pg_temp');
    return matching;
end
$$;
comment on function pgembed._count_near(pgembed.embedding, vector, float8, text, text) is
    'How many rows that meet a condition have a chunk that is as similar to a vector. Compares all.';

create or replace function pgembed.search_count(
    source anyelement,
    query text default null,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    syntax text default 'words',
    prefix boolean default false,
    config text default null,
    min_similarity float8 default null,
    query_embedding anycompatible default null,
    query_model text default null,
    fuzzy boolean default false,
    query_encoder text default null
)
returns bigint
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    where_path constant pg_catalog.text := case when where_sql is not null then path end;
    e pgembed.embedding;
    b pgembed.bm25;
    q pgembed.query_embedding.embedding%type;
    words pgembed._bm25_words;
    matching bigint;
begin
    if min_similarity is null and (query_embedding is not null or query_model is not null or query_encoder is not null) then
        raise exception 'min_similarity is missing' using errcode = 'PE007',
            detail = 'A vector alone has all rows for neighbours, so what is to be counted is those within a similarity.',
            hint = 'Give min_similarity; without a vector, rows with the words of the query are counted.';
    end if;
    if min_similarity is null then
        b := pgembed._bm25_target(source, embedding);
        perform pgembed._at_path('pg_catalog, pg_temp');
        words := pgembed._bm25_parse(b, query, syntax, prefix, config, path);
        if fuzzy then
            words := pgembed._bm25_read_as(b, words);
        end if;
        matching := pgembed._count_words(b, words, pgembed._search_condition(b.source, filter, where_sql, path),
                                         where_path);
    else
        e := pgembed._search_target(source, embedding);
        perform pgembed._at_path('pg_catalog, pg_temp');
        perform pgembed._check_min_similarity(min_similarity, e.distance);
        q := (pgembed._query_vector(e, query, pgembed._vector_given(query_embedding), query_model, query_encoder)).q;
        matching := pgembed._count_near(e, q, min_similarity, pgembed._search_condition(e.source, filter, where_sql, path),
                                        where_path);
    end if;
    perform pgembed._at_path(path);
    return matching;
end
$$;
comment on function pgembed.search_count(anyelement, text, jsonb, text, text, text, boolean, text, float8, anycompatible, text, boolean, text) is
    'How many rows of a table match: by the words of a query, all that bm25_search would give; with min_similarity those that are '
    'at least as similar to the query, or to query_embedding, exactly. filter and where_sql as in searches; of rows that the caller '
    'does not see, none is counted. Example: '
    'SELECT pgembed.search_count(NULL::article, ''cheap flights'');';

create or replace function pgembed._facet_sql(p_source regclass, p_column text, p_place int, out read text, out counted text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target record;
    of_array oid;     -- what it is an array of
    value_type oid;
begin
    select * into target from pgembed._filter_target(p_source, 's', p_column);
    if target.value is null then
        raise exception 'facets: table % has no column "%"', p_source, coalesce(p_column, 'NULL') using errcode = 'PE007',
            hint = pgembed._columns_hint(p_source);
    end if;
    select typelem into of_array from pg_type where oid = target.type and typcategory = 'A';
    value_type := coalesce(of_array, target.type);
    read := pgembed._filter_sql_of(target.value, target.path);
    begin
        if (select typtype from pg_type where oid = value_type) in ('c', 'p') then
            raise undefined_function using message = 'a row is no value';
        end if;
        -- As it will be grouped.
        execute format('select from %s as s, lateral (select %s as v) as u group by v order by v limit 0', pgembed._table_sql(p_source),
                       case when of_array is not null then format('unnest(%s)', read) else read end);
    exception when undefined_function then
        raise exception 'facets: values of column "%", of type %, cannot be compared', p_column, format_type(target.type, null)
            using errcode = 'PE007', detail = sqlerrm,
            hint = 'Make a column of the part that is of interest, for example brand text GENERATED ALWAYS AS (attrs ->> ''brand'') STORED.';
    end;
    -- A row counts once for each value of an array. A cast to json may be anybody's.
    counted := format(
        'select %1$s as place, pg_catalog.row_number() over (order by g.count desc, g.v) as nth, %2$s as value, g.count '
        'from (select u.v, pg_catalog.count(*) as count from pgembed_hit as h cross join lateral (%3$s) as u '
        'where h.m%1$s group by u.v order by count desc, u.v limit %%s) as g',
        p_place,
        case when value_type = 'jsonb'::regtype then 'case when pg_catalog.jsonb_typeof(g.v) operator(pg_catalog.<>) ''null'' then g.v end'
             when value_type < 16384 then 'pg_catalog.to_jsonb(g.v)'
             else 'case when g.v is not null then pg_catalog.to_jsonb(pg_catalog.concat(g.v)) end' end,
        format(case when of_array is not null then 'select distinct x.v from pg_catalog.unnest(h.f%s) as x(v)'
                    when target.type = 'jsonb'::regtype
                    then 'select distinct x.v from pg_catalog.jsonb_array_elements(case when pg_catalog.jsonb_typeof(h.f%1$s) '
                         'operator(pg_catalog.=) ''array'' then h.f%1$s else pg_catalog.jsonb_build_array(h.f%1$s) end) as x(v)'
                    else 'select h.f%s as v' end, p_place));
end
$$;
comment on function pgembed._facet_sql(regclass, text, int) is
    'What is read of a row (alias s) for a facet, and the query for its values (%s at most), and how many of the matching rows '
    '(pgembed_hit, where it is f1, f2 ..., and m1, m2 ... whether the row is to be counted) have them; PE007 for a column that has no such values.';

create or replace function pgembed.search_facets(
    source anyelement,
    query text,
    columns text[],
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    syntax text default 'words',
    prefix boolean default false,
    config text default null,
    max_values bigint default 20,
    exclude_own_filter boolean default false,
    fuzzy boolean default false
)
returns table (facet text, value jsonb, count bigint)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    b constant pgembed.bm25 := pgembed._bm25_target(source, embedding);
    where_path constant pg_catalog.text := case when where_sql is not null then path end;
    restricted boolean;
    words pgembed._bm25_words;
    condition pg_catalog.text;      -- of the filter as a whole
    conditions pg_catalog.text[];   -- of each column: without its own part
    columns_sql pg_catalog.text;
    facets_sql pg_catalog.text;
    handles bigint[];
    statement pg_catalog.text;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_facets(columns, max_values);
    filter := pgembed._filter_given(filter);
    words := pgembed._bm25_parse(b, query, syntax, prefix, config, path);
    if fuzzy then
        words := pgembed._bm25_read_as(b, words);
    end if;
    condition := pgembed._search_condition(b.source, filter, where_sql, path);
    conditions := array(select case when exclude_own_filter
                                    then pgembed._search_condition(b.source, pgembed._filter_without(b.source, filter, name), where_sql, path)
                                    else condition end
                        from unnest(columns) with ordinality as c(name, place) order by place);
    select string_agg(format('%s as f%s, (%s) as m%s', f.read, place, conditions[place], place), ', ' order by place),
           string_agg(format('(%s)', format(f.counted, max_values)), ' union all ')
    into columns_sql, facets_sql
    from unnest(columns) with ordinality as c(name, place)
    cross join lateral pgembed._facet_sql(b.source, name, place::int) as f;
    restricted := pgembed._bm25_ranking(b) <> 'top';
    if not restricted then
        handles := (pgembed._bm25_matching_handles(b, words, false)).handles;
    end if;
    statement := format('with pgembed_hit as materialized (%s) select ($3)[f.place], f.value, f.count from (%s) as f order by f.place, f.nth',
        pgembed._bm25_matching_sql(b, words, restricted, columns_sql,
                                   (select string_agg(distinct format('(%s)', c), ' or ') from unnest(conditions) as c), where_path), facets_sql);
    perform pgembed._at_path(where_path);
    return query execute statement using words, handles, columns;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.search_facets(anyelement, text, text[], jsonb, text, text, text, boolean, text, bigint, boolean, boolean) is
    'For columns, which values the rows have that match the words of a query, and how many rows each: the max_values most frequent. '
    'Of an array its elements count. filter and where_sql as in searches; exclude_own_filter leaves a column''s own condition in the '
    'filter out for that column, so that its other values are counted too. Of rows that the caller does not see, none is counted. Example: '
    'SELECT * FROM pgembed.search_facets(NULL::article, ''cheap flights'', columns => ''{category}'');';

create or replace function pgembed._check_facets(p_columns text[], p_max_values bigint) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(cardinality(p_columns), 0) not between 1 and 100 or array_position(p_columns, null) is not null then
        raise exception 'facets: columns are missing, or more than 100' using errcode = 'PE007',
            hint = 'Name the columns whose values are counted: columns => ''{category,year}''.';
    end if;
    if p_max_values is null or p_max_values not between 1 and 10000 then
        raise exception 'max_values must be between 1 and 10000, not %', coalesce(p_max_values::text, 'NULL')
            using errcode = 'PE007', hint = 'It is the number of values of each column; the default is 20.';
    end if;
end
$$;
comment on function pgembed._check_facets(text[], bigint) is 'PE007 for columns or a number of values that are out of range.';
