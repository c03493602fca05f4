-- Which of several embeddings, or BM25 indexes, of a table a search means that names only the
-- table: the first, until another is made the default. So a second one breaks no search. Where the
-- default is dropped and one remains, it is that; where several remain, one has to be chosen.

create or replace function pgembed._keep_default(p_source regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pgembed.embedding as e set is_default = true
    where e.source = p_source and e.generation = 'current' and not e.is_default and not exists (
        select from pgembed.embedding as x where x.source = p_source and x.generation = 'current' and x.embedding_id <> e.embedding_id);
    update pgembed.bm25 as b set is_default = true
    where b.source = p_source and not b.is_default and not exists (
        select from pgembed.bm25 as x where x.source = p_source and x.bm25_id <> b.bm25_id);
end
$$;
comment on function pgembed._keep_default(regclass) is
    'The only embedding of a table is its default, and so is its only BM25 index.';

create or replace function pgembed._make_default(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pgembed.bm25 set is_default = false where source = b.source and is_default and bm25_id <> b.bm25_id;
    update pgembed.bm25 set is_default = true where bm25_id = b.bm25_id and not is_default;
end
$$;
comment on function pgembed._make_default(pgembed.bm25) is 'Has searches by words that name only the table use a BM25 index.';

create or replace function pgembed._make_default(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pgembed.embedding set is_default = false where source = e.source and is_default and embedding_id <> e.embedding_id;
    update pgembed.embedding set is_default = true where embedding_id = e.embedding_id and not is_default;
    perform pgembed._make_default(x) from pgembed.bm25 as x where x.embedding_id = e.embedding_id;
end
$$;
comment on function pgembed._make_default(pgembed.embedding) is
    'Has searches that name only the table use an embedding, and its BM25 index where it has one.';

create or replace function pgembed._check_default(p_wanted boolean, p_is boolean, p_source regclass, p_name text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not p_wanted and p_is then
        raise exception '"%" is the default of table %', p_name, p_source using errcode = 'PE007',
            detail = 'Searches that name only the table would have none.', hint = 'Make another one the default: is_default => true.';
    end if;
end
$$;
comment on function pgembed._check_default(boolean, boolean, regclass, text) is 'PE007 where a table would lose its default.';

create or replace function pgembed._no_default(p_source regclass, p_kind text, p_names text[], p_hint text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    kinds constant text := case p_kind when 'bm25' then 'BM25 indexes' else 'embeddings' end;
begin
    raise exception 'table % has % %', p_source, cardinality(p_names),
        kinds || case when p_names <> '{}' then ', none of which is its default' else '' end
        using errcode = 'PE001',
        detail = case when p_names = '{}' then '' else format('Its %s: %s.', kinds, array_to_string(p_names, ', ')) end,
        hint = case when p_names = '{}' then p_hint
                    else format('Say which: embedding => ''...''. Or choose once: SELECT pgembed.alter_%s(%L, is_default => true).',
                                p_kind, p_names[1]) end;
end
$$;
comment on function pgembed._no_default(regclass, text, text[], text) is
    'PE001 for a search that names only a table which has none, or several and no default.';
