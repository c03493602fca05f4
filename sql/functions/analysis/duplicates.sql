-- Duplicates: pairs of rows that say nearly the same, and groups of them.

create or replace function pgembed._largest_distance(p_min_similarity float8, p_distance text) returns float8
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_min_similarity is null then
        raise exception 'min_similarity is missing' using errcode = 'PE007', hint = 'Rows that are at least as similar are duplicates; the default is 0.95.';
    end if;
    perform pgembed._check_min_similarity(p_min_similarity, p_distance);
    -- A little more, as distances of equal vectors are not always 0.
    return 1e-6 + case p_distance when 'cosine' then 1 - p_min_similarity when 'inner_product' then - p_min_similarity
                                  else 1 / greatest(p_min_similarity, 1e-300) - 1 end;
end
$$;
comment on function pgembed._largest_distance(float8, text) is 'The distance at which rows are as similar as asked for, or PE007.';

create or replace function pgembed.duplicates(
    source anyelement,
    min_similarity float8 default 0.95,
    neighbours bigint default 10,
    since timestamptz default null,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null
)
returns table (key_a jsonb, key_b jsonb, similarity float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    asked pg_catalog.text := 'true';
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    if since is not null then
        asked := format('exists (select from %s as t where %s and t.embedded_at operator(pg_catalog.>=) %L::pg_catalog.timestamptz)',
                        pgembed._held_name(e.side_table), pgembed._key_sql(e.source, e.side_table, 's.%2$I %7$s t.%3$I', ' and '), to_json(since) #>> '{}');
    end if;
    -- Each pair once: with the row that was asked about first, else in the order of the keys.
    return query execute format(
        'select c.key_a, c.key_b, %1$s from ('
        'select distinct on (least(n.key_a, n.key_b), greatest(n.key_a, n.key_b)) %2$s, n.distance '
        'from pgembed._neighbours($1, $2, $3, $4, $5, $6) as n order by least(n.key_a, n.key_b), greatest(n.key_a, n.key_b), n.key_a) as c '
        'order by c.distance, c.key_a, c.key_b', pgembed._similarity_sql(e.distance),
        case when since is null then 'least(n.key_a, n.key_b) as key_a, greatest(n.key_a, n.key_b) as key_b' else 'n.key_a, n.key_b' end)
    using e, pgembed._search_condition(e.source, filter, where_sql, path), asked, pgembed._check_neighbours(neighbours),
          pgembed._largest_distance(min_similarity, e.distance), case when where_sql is not null then path end;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.duplicates(anyelement, float8, bigint, timestamptz, jsonb, text, text) is
    'Pairs of rows whose vectors are at least as similar as min_similarity, the most similar first. Each row is looked up in the index '
    'for as many neighbours; no row is compared with all. since: only pairs of a row that was embedded since then, as key_a. filter and '
    'where_sql: only pairs of rows that both meet them. Example: SELECT * FROM pgembed.duplicates(NULL::article, min_similarity => 0.95);';

create or replace function pgembed._components(p_from int[], p_to int[], p_nodes int) returns int[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    parent int[] := array(select generate_series(1, p_nodes));
    a int;
    b int;
begin
    for i in 1 .. coalesce(cardinality(p_from), 0) loop
        a := p_from[i];
        while parent[a] <> a loop
            parent[a] := parent[parent[a]];    -- halves the way of who comes after
            a := parent[a];
        end loop;
        b := p_to[i];
        while parent[b] <> b loop
            parent[b] := parent[parent[b]];
            b := parent[b];
        end loop;
        parent[greatest(a, b)] := least(a, b);
    end loop;
    for i in 1 .. p_nodes loop    -- parents have smaller numbers
        parent[i] := parent[parent[i]];
    end loop;
    return parent;
end
$$;
comment on function pgembed._components(int[], int[], int) is
    'The connected component of each node of a graph, 1 to p_nodes, called by its first node. Union-find with path halving (Tarjan and van Leeuwen, 1984).';

create or replace function pgembed.duplicate_groups(
    source anyelement,
    min_similarity float8 default 0.95,
    neighbours bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null
)
returns table (group_id bigint, group_size bigint, key jsonb)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    keys pg_catalog.jsonb[];
    keys_a pg_catalog.jsonb[];
    keys_b pg_catalog.jsonb[];
    groups pg_catalog.int4[];
begin
    select pg_catalog.array_agg(d.key_a), pg_catalog.array_agg(d.key_b) into keys_a, keys_b
    from pgembed.duplicates(source, min_similarity, neighbours, null, filter, where_sql, embedding) as d;
    perform pgembed._at_path('pg_catalog, pg_temp');
    keys := array(select distinct k from unnest(keys_a || keys_b) as k order by k);
    groups := (
        with node as materialized (select k, id::int from unnest(keys) with ordinality as n(k, id))
        select pgembed._components(array_agg(a.id order by d.place), array_agg(b.id order by d.place), cardinality(keys))
        from unnest(keys_a, keys_b) with ordinality as d(a, b, place) join node as a on a.k = d.a join node as b on b.k = d.b);
    return query
    select dense_rank() over (order by m.size desc, m.component), m.size, m.k
    from (select n.k, n.component, count(*) over (partition by n.component) as size from unnest(keys, groups) as n(k, component)) as m
    order by m.size desc, m.component, m.k;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.duplicate_groups(anyelement, float8, bigint, jsonb, text, text) is
    'Groups of duplicates, the largest first: rows that are connected by the pairs that duplicates gives, a row only in one group. Rows of '
    'a group need not all be as similar: a may be like b, and b like c. Example: '
    'SELECT group_id, array_agg(key) FROM pgembed.duplicate_groups(NULL::article) GROUP BY group_id;';

create or replace function pgembed.duplicates_of(
    source anyelement,
    query text default null,
    min_similarity float8 default 0.95,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    query_embedding vector default null,
    query_model text default null
)
returns table (key jsonb, doc anyelement, score float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    q pgembed.query_embedding.embedding%type;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_k(k), pgembed._largest_distance(min_similarity, e.distance);
    min_similarity := min_similarity - 1e-6;    -- as duplicates
    q := (pgembed._query_vector(e, query, query_embedding, query_model, 'model')).q;
    return query
    select * from pgembed._rows_near(source, array[source], e, q, '{}', k::int, 0, filter, where_sql, min_similarity, 0, path);
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.duplicates_of(anyelement, text, float8, bigint, jsonb, text, text, vector, text) is
    'Rows that are at least as similar to a text as min_similarity, before it is inserted; score is the similarity, the largest first. The text is encoded as '
    'a query is: with a model that puts different prompts before queries and documents, give query_embedding, the vector of the text as a '
    'document. Example: SELECT key, score FROM pgembed.duplicates_of(NULL::article, ''cheap flights'');';
