-- Boosts: a factor for each row, such as its age or popularity, that scores are multiplied by.

create or replace function pgembed._check_row_sql(p_source regclass, p_name text, p_sql text, p_statement text, p_hint text, p_path text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._at_path(p_path);
    execute pg_catalog.format(p_statement, p_sql, pgembed._table_sql(p_source));
    perform pgembed._at_path('pg_catalog, pg_temp');
exception
    when syntax_error or undefined_column or undefined_function or datatype_mismatch
         or undefined_table or ambiguous_column or undefined_object or grouping_error
         or windowing_error or feature_not_supported or cannot_coerce then
    perform pgembed._at_path('pg_catalog, pg_temp');
    raise exception '% does not fit table %: %', p_name, p_source, sqlerrm
        using errcode = 'PE008', detail = format('%s: %s', p_name, p_sql), hint = p_hint;
end
$$;
comment on function pgembed._check_row_sql(regclass, text, text, text, text, text) is
    'PE008 for SQL of the caller that is none over a row s of a table; the statement to try takes it, and the table.';

create or replace function pgembed._check_boost(p_source regclass, p_boost text, p_path text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_boost is not null then
        perform pgembed._check_row_sql(
            p_source, 'boost', p_boost, E'select from %2$s as s where (\n%1$s\n)::pg_catalog.float8 is null limit 0',
            'Write a number over its columns, such as 1 + ln(1 + views), or exp(-extract(epoch from now() - published) / 2592000); '
            'the row is called s.', p_path);
    end if;
end
$$;
comment on function pgembed._check_boost(regclass, text, text) is 'PE008 for a boost that is no number over a row of the table.';

create or replace function pgembed._boosts(docs anyarray, p_source regclass, p_boost text, p_path text) returns float8[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    boosts float8[];
    wrong float8;
begin
    perform pgembed._at_path(p_path);
    execute pg_catalog.format(E'select pg_catalog.array_agg(coalesce((\n%s\n)::pg_catalog.float8, 1::pg_catalog.float8)) from pg_catalog.unnest($1) as s', p_boost)
    into boosts using docs;
    perform pgembed._at_path('pg_catalog, pg_temp');
    select b into wrong from unnest(boosts) as b where not b between 0 and 1e100 limit 1;
    if found then
        raise exception 'boost gives % for a row of table %', wrong, p_source using errcode = 'PE008',
            detail = format('boost: %s', p_boost), hint = 'Scores are multiplied by it: 0 or more, 1 changes nothing.';
    end if;
    return boosts;
end
$$;
comment on function pgembed._boosts(anyarray, regclass, text, text) is
    'What the scores of rows are multiplied by: the value of an expression over each; 1 where that is NULL.';

create or replace function pgembed._bm25_boosted_hits(
    source anyelement, docs anyarray, b pgembed.bm25, p_query pgembed._bm25_words, p_k int, p_offset int, p_min_score float8,
    p_condition text, p_where_path text, p_boost text, p_path text,
    out rows anyarray, out scores float8[], out boosts float8[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    first_pool constant int := 1000;    -- the best rows that a boost puts in another order
    pool constant int := case when p_k + p_offset <= first_pool then first_pool else 20000 end;
    hits record;
    factors float8[];
    places int[];
begin
    hits := pgembed._bm25_hits(source, docs, b, p_query, pool, 0, null, p_condition, p_where_path);
    factors := pgembed._boosts(hits.rows, b.source, p_boost, p_path);
    -- What comes after the first pool stays after it, so that a page is a slice of one ranking.
    places := array(select h.place from unnest(hits.scores, factors) with ordinality as h(score, boost, place)
                    where p_min_score is null or h.score * h.boost >= p_min_score
                    order by h.place > first_pool, h.score * h.boost desc, h.place offset p_offset limit p_k);
    if places <> '{}' then
        select array_agg(hits.rows[place] order by n), array_agg(hits.scores[place] * factors[place] order by n), array_agg(factors[place] order by n)
        into rows, scores, boosts
        from unnest(places) with ordinality as p(place, n);
    end if;
end
$$;
comment on function pgembed._bm25_boosted_hits(anyelement, anyarray, pgembed.bm25, pgembed._bm25_words, int, int, float8, text, text, text, text) is
    'As _bm25_hits, with scores multiplied by a boost and in that order: the best 1,000 rows by their words, and then the others.';
