-- The terms that no document has. What more documents have than are deleted is there, whatever
-- was deleted: mostly the look at the terms is all.
create or replace function pgembed._bm25_0_absent(terms text[]) returns text[]
language plpgsql stable
as $$
#variable_conflict use_column
declare
    query_terms alias for terms;
    deleted constant bigint := (select case when bool_or(op in ('T', 'P')) then 2147483647 else count(*) end from _bm25_0_dead);
    doubtful constant text[] := array(
        select w.term from unnest(query_terms) as w(term)
        where coalesce((select p.df from _bm25_0_term as p where p.term = w.term collate "C"), 0) <= deleted);
begin
    if doubtful = '{}' then
        return doubtful;
    end if;
    return array(select d.term from unnest(doubtful, _bm25_0_frequencies(doubtful)) as d(term, df) where d.df <= 0);
end
$$;
comment on function pgembed._bm25_0_absent(text[]) is 'Those of some terms that no document has.';
