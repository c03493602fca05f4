-- Terms that a misspelt one may have been meant to be: what one edit makes of the word
-- (variants), and those with the same first letter. Letters are compared first, and what is
-- left, some hundred terms of a hundred thousand, edit by edit.
create or replace function pgembed._bm25_0_near(
    lexeme text, variants text[], likely text[],
    out term text, out errors int, out df bigint
)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    misspelt alias for lexeme;
    most constant int := _typing_errors_allowed(misspelt);
    first constant text := left(misspelt, 1);
    after constant text := _bm25_0_after(first);
    shortest constant int := length(misspelt) - most;
    longest constant int := length(misspelt) + most;
    terms text[];
    term_df bigint[];
begin
    select array_agg(f.term), array_agg(f.df)
    into terms, term_df
    from (select t.term, t.df from _bm25_0_term as t where t.term = any (variants collate "C")
          union all
          select t.term, t.df from _bm25_0_term as t
          where t.term >= first collate "C" and t.term < after collate "C" and starts_with(t.term, first)
            and length(t.term) between shortest and longest and _typing_letters_fit(misspelt, t.term, most) and t.term not in (select unnest(variants))
          union all
          select u.lexeme, count(*)
          from _bm25_0_recent as r
          cross join lateral (select u.lexeme from unnest(r.lexemes) as u offset 0) as u
          where u.lexeme in (select unnest(variants))
             or starts_with(u.lexeme, first) and length(u.lexeme) between shortest and longest
                and _typing_letters_fit(misspelt, u.lexeme, most)
          group by u.lexeme) as f;
    if terms is not null then
        terms := array(select n.term from _typing_choices(misspelt, variants, likely, terms, term_df) as n);
        term_df := _bm25_0_frequencies(terms);    -- those of now: some documents may be deleted
        select n.term, n.errors, f.df into term, errors, df
        from _typing_choices(misspelt, variants, likely, terms, term_df) with ordinality as n(term, errors, place)
        join unnest(terms, term_df) as f(term, df) on f.term = n.term
        where f.df > 0 order by n.place limit 1;
    end if;
end
$$;
comment on function pgembed._bm25_0_near(text, text[], text[]) is
    'The likeliest term that a misspelt one was meant to be, by how many errors, and how many documents have it; NULL for none.';
