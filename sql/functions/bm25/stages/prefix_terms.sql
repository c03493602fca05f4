-- The terms that begin with a prefix, those of most documents first.
create or replace function pgembed._bm25_0_prefix_terms(prefix text) returns text[]
language plpgsql stable
as $$
#variable_conflict use_column
declare
    after constant text := _bm25_0_after(prefix);
begin
    return array(
        select term
        from (select term, df from _bm25_0_term
              where term >= prefix collate "C" and term < after collate "C" and starts_with(term, prefix)
              union all
              select u.lexeme, count(*)
              from _bm25_0_recent as r
              cross join lateral (select lexeme from unnest(r.lexemes) offset 0) as u
              where r.lexemes @@ _bm25_prefix_query(prefix)
                and starts_with(u.lexeme, prefix)
              group by u.lexeme) as found
        group by term order by sum(df) desc, term limit _bm25_prefix_most());
end
$$;
comment on function pgembed._bm25_0_prefix_terms(text) is
    'The terms of most documents that begin with a prefix, as many as it stands for.';
