-- Recommendation: what is like the rows that somebody liked, and unlike those disliked.

create or replace function pgembed._check_weight(p_weight float8, p_name text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_weight is null or p_weight not between 0 and 1 then
        raise exception '% must be between 0 and 1, not %', p_name, coalesce(p_weight::text, 'NULL') using errcode = 'PE007',
            hint = '0 leaves it without effect.';
    end if;
end
$$;
comment on function pgembed._check_weight(float8, text) is 'PE007 for a weight that is not between 0 and 1.';

create or replace function pgembed._rows_near(
    source anyelement, docs anyarray, p_embedding pgembed.embedding, p_query vector, p_without text[], p_k int, p_offset int,
    p_filter jsonb, p_where_sql text, p_min_similarity float8, p_diversity float8, p_path text
)
returns table (key jsonb, doc anyelement, score float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    keys jsonb[];
    scores float8[];
begin
    perform pgembed._check_direction(p_embedding, p_query);
    select array_agg(h.doc), array_agg(h.similarity) into docs, scores
    from pgembed._search_diverse(
        source, docs, p_embedding, p_query, p_k, p_offset, p_min_similarity,
        pgembed._search_condition((p_embedding).source, p_filter, p_where_sql, p_path), pgembed._not_key_sql((p_embedding).source, p_without),
        null, false, case when p_where_sql is not null then p_path end, p_diversity) as h;
    keys := pgembed._row_keys_json(docs, (p_embedding).source);
    return query select keys[i], docs[i], scores[i] from generate_subscripts(keys, 1) as i order by i;
end
$$;
comment on function pgembed._rows_near(anyelement, anyarray, pgembed.embedding, vector, text[], int, int, jsonb, text, float8, float8, text) is
    'The rows nearest to a vector, without those of some keys, as recommend gives them.';

create or replace function pgembed.recommend(
    source anyelement,
    likes jsonb,
    dislikes jsonb default null,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    "offset" bigint default 0,
    min_similarity float8 default null,
    dislike_weight float8 default 0.2,
    diversity float8 default 0
)
returns table (key jsonb, doc anyelement, score float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    liked pg_catalog.text[];
    disliked pg_catalog.text[];
    q pgembed.query_embedding.embedding%type;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_similarity(min_similarity, e.distance),
            pgembed._check_weight(dislike_weight, 'dislike_weight'), pgembed._check_diversity(diversity, k, "offset");
    liked := pgembed._keys_given(likes, 'likes');
    disliked := pgembed._keys_given(dislikes, 'dislikes');
    if liked = '{}' then
        raise exception 'likes names no row' using errcode = 'PE009',
            hint = 'Give the keys of rows that were liked: likes => ''[1, 2]''. Of whom nothing is known yet, offer what most people like.';
    end if;
    q := pgembed._centroid(e, liked);
    if disliked <> '{}' then
        q := pgembed._weighted_sum(array[q, pgembed._centroid(e, disliked)], array[1, - dislike_weight]);
    end if;
    return query
    select * from pgembed._rows_near(source, array[source], e, q, liked || disliked, k::int, "offset"::int, filter, where_sql,
                                     min_similarity, diversity, path);
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.recommend(anyelement, jsonb, jsonb, bigint, jsonb, text, text, bigint, float8, float8, float8) is
    'The k rows most like those that somebody likes, and unlike those disliked, by their keys; these are left out. The query is the '
    'mean vector of the liked rows less dislike_weight times that of the disliked (Rocchio, 1971; Manning, Raghavan, Schuetze: '
    'Introduction to Information Retrieval, 9.1.1). score is the similarity to it. diversity: as in vector_search. Example: '
    'SELECT key, (doc).title, score FROM pgembed.recommend(NULL::article, likes => ''[1, 2]'', dislikes => ''[3]'');';

create or replace function pgembed.row_analogy(
    source anyelement,
    a anycompatible,
    b anycompatible,
    c anycompatible,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    "offset" bigint default 0,
    min_similarity float8 default null
)
returns table (key jsonb, doc anyelement, score float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    keys pg_catalog.text[];
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_similarity(min_similarity, e.distance);
    keys := array[pgembed._key_given(a), pgembed._key_given(b), pgembed._key_given(c)];
    return query
    select * from pgembed._rows_near(source, array[source], e, pgembed._analogy(pgembed._row_vectors(e, keys)), keys, k::int, "offset"::int,
                                     filter, where_sql, min_similarity, 0, path);
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.row_analogy(anyelement, anycompatible, anycompatible, anycompatible, bigint, jsonb, text, text, bigint, float8) is
    'The k rows that are to row c as row a is to row b, by their keys: nearest to a - b + c, each vector at unit length. These three '
    'are left out. Example: SELECT key, (doc).title, score FROM pgembed.row_analogy(NULL::article, 1, 2, 3);';
