-- How many documents have each term now. Those that are deleted, and not purged yet, do not count.
create or replace function pgembed._bm25_0_frequencies(terms text[]) returns bigint[]
language plpgsql stable
as $$
#variable_conflict use_column
declare
    c _bm25_changes;
begin
    if exists (select from _bm25_0_dead) or exists (select from _bm25_0_recent) then
        c := _bm25_0_changes(terms);
    end if;
    return array(
        select coalesce((select p.df from _bm25_0_term as p
                         where p.term = w.term collate "C" and c.truncated is not true), 0) + coalesce(w.recent_df - w.dead_df, 0)
        from unnest(terms, c.recent_df, c.dead_df) with ordinality as w(term, recent_df, dead_df, place) order by w.place);
end
$$;
comment on function pgembed._bm25_0_frequencies(text[]) is 'Documents that have each of some terms now.';
