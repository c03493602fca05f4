-- The nearest rows of each row: what duplicates and outliers are found by. Through the index, a search
-- for each row, so that a large table is never compared with itself; a few rows are, exactly.
--
-- The nearest chunks of each chunk are candidates; what is compared then are rows, by the means of their
-- chunks. Where rows that the caller does not see, or that do not meet the condition, took the places of
-- others, those rows are looked at again, deeper.

create or replace function pgembed._check_neighbours(p_neighbours bigint) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_neighbours is null or p_neighbours not between 1 and 100 then
        raise exception 'neighbours must be between 1 and 100, not %', coalesce(p_neighbours::text, 'NULL') using errcode = 'PE007',
            hint = 'It is how many of the nearest rows of each row are looked at; the default is 10.';
    end if;
    return p_neighbours;
end
$$;
comment on function pgembed._check_neighbours(bigint) is 'The number of neighbours; PE007 for one out of range.';

create or replace function pgembed._all_pairs_sql(e pgembed.embedding, p_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'with pgembed_row as materialized (%s) '
        'select a.key, b.key, b.distance from pgembed_row as a cross join lateral ('
        'select n.* from (select b.key, %s as distance from pgembed_row as b where b.key operator(pg_catalog.<>) a.key) as n '
        'where n.distance operator(pg_catalog.<>) ''NaN''::pg_catalog.float8 and ($2 is null or n.distance operator(pg_catalog.<=) $2) '
        'order by n.distance, n.key limit $1) as b '
        'where a.asked and ($3 is null or a.key operator(pg_catalog.=) any ($3))',
        p_rows, pgembed._distance_sql(e.distance, 'a.vector', 'b.vector'))
$$;
comment on function pgembed._all_pairs_sql(pgembed.embedding, text) is
    'Statement that compares rows with all others. $1: neighbours wanted of each, $2: the largest distance or NULL, $3: keys of those '
    'that are asked about, or NULL.';

create or replace function pgembed._index_pairs_sql(e pgembed.embedding, p_rows text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    n constant record := pgembed._search_names(e);
    chunked constant boolean := e.chunking <> 'none';
    distance constant text := pgembed._distance_sql(e.distance, format('c.%s', n.vector), 'a.vector');
    nearest text := format('select %s, %s as distance from %s as c order by distance limit $4', n.chunk_keys, distance, n.vectors);
begin
    if n.binary_distance is not null then    -- signs find them, whole vectors rank them
        nearest := format(
            'select * from (select %1$s, %2$s as distance from (select * from %3$s as c order by '
            '%4$s.binary_quantize(c.%5$s)::pg_catalog.bit(%6$s) operator(%4$s.<~>) %4$s.binary_quantize(a.vector)::pg_catalog.bit(%6$s) '
            'limit 8 operator(pg_catalog.*) $4) as c) as c order by c.distance limit $4',
            n.chunk_keys, distance, n.vectors, pgembed._vector_schema(), n.vector, e.dimensions);
    end if;
    return format(
        'with pgembed_row as materialized (select r.key, r.asked, %1$s from (%2$s) as r), '
        -- The chunks near a chunk of a row, and how far the last one is.
        'pgembed_near as materialized (select r.key as key_a, c.* '
        'from (select %3$s, c.%4$s as vector from %5$s as c where c.%4$s is not null) as a join pgembed_row as r on %6$s '
        'cross join lateral (select c.*, pg_catalog.max(c.distance) over () as farthest from (%7$s) as c) as c '
        'where r.asked and ($3 is null or r.key operator(pg_catalog.=) any ($3))), '
        'pgembed_pair as materialized (select p.*, pg_catalog.row_number() over (partition by p.key_a order by p.distance, p.key_b) as nth '
        'from (%8$s) as p '
        'where p.distance operator(pg_catalog.<>) ''NaN''::pg_catalog.float8 and ($2 is null or p.distance operator(pg_catalog.<=) $2)), '
        -- Rows of which the search ended before it had given enough: whatever else it met took the places.
        'pgembed_open as materialized (select n.key_a from (select n.key_a, '
        'pg_catalog.bool_or($2 is null or n.farthest operator(pg_catalog.<=) $2) as cut '
        'from pgembed_near as n group by n.key_a) as n '
        'left join (select p.key_a, pg_catalog.count(*) as many from pgembed_pair as p group by p.key_a) as p on p.key_a operator(pg_catalog.=) n.key_a '
        'where n.cut and coalesce(p.many, 0) operator(pg_catalog.<) $1) '
        'select o.key_a, null, null from pgembed_open as o '
        'union all select p.key_a, p.key_b, p.distance from pgembed_pair as p '
        'where p.nth operator(pg_catalog.<=) $1 and not exists (select from pgembed_open as o where o.key_a operator(pg_catalog.=) p.key_a)',
        n.keys || case when chunked then ', r.vector' else '' end, p_rows, n.chunk_keys, n.vector, n.vectors,
        pgembed._key_sql(e.source, null, 'r.k%1$s %7$s a.k%1$s', ' and '), nearest,
        format(case when chunked then
                   'select n.key_a, b.key as key_b, %1$s as distance from (select distinct c.key_a, %2$s from pgembed_near as c) as n '
                   'join pgembed_row as a on a.key operator(pg_catalog.=) n.key_a join pgembed_row as b on %3$s where b.key operator(pg_catalog.<>) n.key_a'
               else 'select n.key_a, b.key as key_b, n.distance from pgembed_near as n join pgembed_row as b on %3$s where b.key operator(pg_catalog.<>) n.key_a' end,
               pgembed._distance_sql(e.distance, 'a.vector', 'b.vector'), pgembed._key_sql(e.source, null, 'c.k%1$s', ', '),
               pgembed._key_sql(e.source, null, 'b.k%1$s %7$s n.k%1$s', ' and ')));
end
$$;
comment on function pgembed._index_pairs_sql(pgembed.embedding, text) is
    'Statement that compares rows with those that the index has near them. $1 to $3: as in _all_pairs_sql, $4: how many chunks are '
    'looked at for each. A row of which these are too few comes alone, without neighbours.';

create or replace function pgembed._neighbours(
    e pgembed.embedding, p_condition text, p_asked text, p_wanted int, p_max_distance float8, p_path text
)
returns table (key_a jsonb, key_b jsonb, distance float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    rows_sql constant text := pgembed._rows_sql(e, p_condition, p_asked);
    few constant int := 1000;      -- rows that are compared with each other at once
    most constant int := 20000;    -- chunks that are taken from the index for one
    restricted constant boolean := p_condition <> 'true' or row_security_active(e.source);
    many float8;                   -- rows to compare with; how many more than few does not matter where all are
    candidates int;
    deeper jsonb[];                -- rows that have to be looked at again; NULL: all of them, for the first time
    again jsonb[];
    effort int;
    old_effort text;
    old_scan text;
    old_sort text;
    effort_name constant text := case e.index_kind when 'ivfflat' then 'ivfflat.probes' else 'hnsw.ef_search' end;
    scan_name constant text := e.index_kind || '.iterative_scan';
begin
    perform pgembed._at_path(p_path);
    execute pg_catalog.format('select pg_catalog.count(*) from (select from %s as s where %s limit %L) as s',
                              pgembed._table_sql(e.source), p_condition, case when not restricted then few operator(pg_catalog.+) 1 end)
    into many;
    perform pgembed._at_path('pg_catalog, pg_temp');
    if many > few then
        if not (pgembed._search_names(e)).index_valid then
            raise exception 'embedding "%" has no index that is ready', e.name using errcode = 'PE007',
                detail = 'Without one, each row would be compared with all others.',
                hint = 'Wait until pgembed.status says that it is ready, or have one built: alter_embedding(..., index => ''hnsw''). '
                       'Or narrow the rows down with a filter: 1000 are compared without an index.';
        end if;
        candidates := ceil((p_wanted + 1) / case when restricted
            then greatest(pgembed._estimated_share(e.source, p_condition, p_path), 0.02) / 1.3 else 1 end);
        old_sort := pgembed._setting('enable_sort', 'off');    -- never all of them, in place of the index
        loop
            candidates := least(candidates, most);
            effort := case e.index_kind when 'ivfflat' then ceil(sqrt((pgembed._search_names(e)).lists))
                                        else pgembed._effort_each(least(1000, greatest(40, candidates)), e.partitions) end;
            old_effort := coalesce(old_effort, pgembed._setting(effort_name, effort::text), case e.index_kind when 'ivfflat' then '1' else '40' end);
            perform pgembed._setting(effort_name, effort::text);
            if old_scan is null and (e.index_kind = 'ivfflat' or candidates > effort or deeper is not null) then
                old_scan := coalesce(pgembed._setting(scan_name, case e.index_kind when 'hnsw' then 'strict_order' else 'relaxed_order' end), 'off');
            end if;
            again := '{}';
            perform pgembed._at_path(p_path);
            for key_a, key_b, distance in execute pgembed._index_pairs_sql(e, rows_sql) using p_wanted, p_max_distance, deeper, candidates loop
                if key_b is null then
                    again := again || key_a;
                else
                    return next;
                end if;
            end loop;
            perform pgembed._at_path('pg_catalog, pg_temp');
            deeper := again;
            candidates := candidates * 4;
            -- A row costs the index about fifty times what comparing it with another one costs.
            exit when deeper = '{}' or candidates > most or restricted and many <= 50.0 * candidates;
        end loop;
        perform pgembed._setting('enable_sort', old_sort), pgembed._setting(effort_name, old_effort);
        if old_scan is not null then
            perform pgembed._setting(scan_name, old_scan);
        end if;
    end if;
    if many <= few or deeper <> '{}' then
        perform pgembed._at_path(p_path);
        return query execute pgembed._all_pairs_sql(e, rows_sql) using p_wanted, p_max_distance, deeper;
        perform pgembed._at_path('pg_catalog, pg_temp');
    end if;
end
$$;
comment on function pgembed._neighbours(pgembed.embedding, text, text, int, float8, text) is
    'The nearest rows (key_b) of each row (key_a) that meets p_asked, among those that meet p_condition; both are conditions over the '
    'source (alias s). At most p_wanted of each, none that is farther than p_max_distance.';
