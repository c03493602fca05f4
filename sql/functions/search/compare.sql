-- Two embeddings of a table side by side.

create or replace function pgembed._rows_with_vector_sql(e pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('exists (select from (select %s from %s as c where c.%s is not null) as c where %s)',
                  n.chunk_keys, n.vectors, n.vector, n.chunk_of_row)
    from pgembed._search_names(e) as n
$$;
comment on function pgembed._rows_with_vector_sql(pgembed.embedding) is 'Condition that a row s has a vector of an embedding.';

create or replace function pgembed._similar_keys_sql(e pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('array(select %s from (select (doc).* from pgembed.similar(null::%s, r.key, $2, embedding => %L)) as s)',
                  pgembed._key_text_sql((e).source, 's'), (e).source, pgembed._qualified_name((e).source, (e).name))
$$;
comment on function pgembed._similar_keys_sql(pgembed.embedding) is 'Keys of the $2 rows that are most like the row r by an embedding.';

create or replace function pgembed.compare_embeddings(name text, other text default null, k bigint default 10, sample bigint default 100)
returns table (compared bigint, overlap float8, lowest float8)
language plpgsql volatile    -- another sample each time
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._embedding(name);
    o pgembed.embedding := case when other is not null then pgembed._embedding(other) end;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_k(k);
    if sample is null or sample not between 1 and 10000 then
        raise exception 'sample must be between 1 and 10000, not %', coalesce(sample::text, 'NULL')
            using errcode = 'PE007', hint = 'sample is the number of rows that stand for queries; the default is 100.';
    end if;
    if other is null then
        select x.* into o from pgembed.embedding as x
        where x.current_id = e.embedding_id order by x.generation = 'next' desc limit 1;
        if not found then
            raise exception 'embedding "%" has no other generation', e.name using errcode = 'PE001',
                hint = 'Name the embedding that it is compared with: other => ''...''.';
        end if;
    end if;
    if o.source <> e.source then
        raise exception 'embedding "%" is declared on %, not on %', o.name, o.source, e.source using errcode = 'PE001',
            hint = 'Embeddings are compared by which rows of one table they find.';
    end if;
    return query execute format(
        'select count(*), avg(m.share), min(m.share) from ('
        'select (select count(*) from (select unnest(h.its) intersect select unnest(h.others)) as b)::float8'
        ' / greatest(cardinality(h.its), cardinality(h.others), 1) as share '
        'from (select %1$s as key from %2$s as s where %3$s and %4$s order by random() limit $1) as r '
        'cross join lateral (select %5$s, %6$s) as h(its, others)) as m',
        pgembed._key_text_sql(e.source, 's'), pgembed._held_name(e.source),
        pgembed._rows_with_vector_sql(e), pgembed._rows_with_vector_sql(o),
        pgembed._similar_keys_sql(e), pgembed._similar_keys_sql(o))
    using sample, k;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.compare_embeddings(text, text, bigint, bigint) is
    'How far two embeddings of a table find the same rows: for each of a sample of rows that have both, which share of the k rows '
    'most like it are the same. overlap is their mean, lowest that of the worst row. Without other: the next generation, or the '
    'previous one. Encodes nothing. Example: SELECT * FROM pgembed.compare_embeddings(''article_embedding'');';
