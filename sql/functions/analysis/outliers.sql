-- Outliers: rows that do not belong, by three measures.

create or replace function pgembed._check_method(p_method text, e pgembed.embedding) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_method is null or p_method not in ('knn', 'lof', 'centroid') then
        raise exception 'there is no method "%" of finding outliers', coalesce(p_method, 'NULL') using errcode = 'PE007',
            hint = 'knn: the mean distance to the nearest rows; lof: how much sparser it is there than around these; centroid: the '
                   'distance to the mean of all rows.';
    elsif p_method = 'lof' and e.distance = 'inner_product' then
        raise exception 'method "lof" needs a distance that is not negative, and "%" has inner products', e.name using errcode = 'PE007',
            hint = 'Use method => ''knn'', or an embedding with cosine distance.';
    end if;
end
$$;
comment on function pgembed._check_method(text, pgembed.embedding) is 'PE007 for a method of outliers that is not known, or that a distance does not allow.';

create or replace function pgembed._centroid_distances_sql(e pgembed.embedding, p_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'with pgembed_row as materialized (%1$s), '
        'pgembed_center as materialized (select pgembed._mean(%2$s)::%3$s as vector from pgembed_row as r) '
        'select r.key, %4$s as score from pgembed_row as r cross join pgembed_center as c',
        p_rows, case when e.distance = 'cosine' then format('pgembed._unit(r.vector::%s.vector)', pgembed._vector_schema()) else 'r.vector' end,
        pgembed._row_vector_type(e), pgembed._distance_sql(e.distance, 'r.vector', 'c.vector'))
$$;
comment on function pgembed._centroid_distances_sql(pgembed.embedding, text) is 'Query for the distances of rows to their mean.';

create or replace function pgembed._neighbour_distances_sql(p_method text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_method
        when 'knn' then
            'select n.key_a as key, pg_catalog.avg(n.distance) as score from pgembed._neighbours($1, $2, ''true'', $3, null, $4) as n group by n.key_a'
        else
            'with pgembed_near as materialized (select * from pgembed._neighbours($1, $2, ''true'', $3, null, $4)), '
            'pgembed_reach as materialized (select n.key_a as key, pg_catalog.max(n.distance) as distance from pgembed_near as n group by n.key_a), '
            -- Local reachability density; 1e-10 as scikit-learn has it, for rows that are equal.
            'pgembed_density as materialized (select n.key_a as key, 1::pg_catalog.float8 operator(pg_catalog./) '
            '(pg_catalog.avg(greatest(n.distance, r.distance)) operator(pg_catalog.+) 1e-10::pg_catalog.float8) as density '
            'from pgembed_near as n join pgembed_reach as r on r.key operator(pg_catalog.=) n.key_b group by n.key_a) '
            'select n.key_a as key, pg_catalog.avg(b.density) operator(pg_catalog./) pg_catalog.min(a.density) as score '
            'from pgembed_near as n join pgembed_density as a on a.key operator(pg_catalog.=) n.key_a '
            'join pgembed_density as b on b.key operator(pg_catalog.=) n.key_b group by n.key_a' end
$$;
comment on function pgembed._neighbour_distances_sql(text) is 'Query for the scores of rows by their neighbours. Parameters: embedding, condition, neighbours, path.';

create or replace function pgembed.outliers(
    source anyelement,
    method text default 'knn',
    k bigint default 100,
    neighbours bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null
)
returns table (key jsonb, score float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    where_path constant pg_catalog.text := case when where_sql is not null then path end;
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    wanted pg_catalog.int4;
    condition pg_catalog.text;
    scores pg_catalog.text;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_method(method, e);
    wanted := pgembed._check_neighbours(neighbours);
    if k is not null then
        perform pgembed._check_k(k);
    end if;
    condition := pgembed._search_condition(e.source, filter, where_sql, path);
    scores := format('select o.key, o.score from (%s) as o where o.score operator(pg_catalog.<>) ''NaN''::pg_catalog.float8 order by o.score desc, o.key limit $5',
                     case method when 'centroid' then pgembed._centroid_distances_sql(e, pgembed._rows_sql(e, condition))
                                 else pgembed._neighbour_distances_sql(method) end);
    perform pgembed._at_path(case method when 'centroid' then where_path end);
    return query execute scores using e, condition, wanted, where_path, k;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.outliers(anyelement, text, bigint, bigint, jsonb, text, text) is
    'The k rows that belong least, with the largest scores first; all with k => NULL, but those whose vector is zero. method knn: score is the mean distance to the nearest '
    'neighbours (Angiulli and Pizzuti, 2002); lof: the local outlier factor, around 1 for a row in a crowd, larger where its neighbours '
    'are closer to each other than to it (Breunig, Kriegel, Ng, Sander, 2000); centroid: the distance to the mean of all rows. Example: '
    'SELECT * FROM pgembed.outliers(NULL::article, k => 20);';
