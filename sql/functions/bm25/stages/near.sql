-- Terms that a misspelt one may have been meant to be: what one edit makes of the word
-- (variants); where there is none, those with the same first letter, unless the variants are all
-- that is asked for. Of these letters are compared first, and what is left, some hundred terms of
-- a hundred thousand, edit by edit.
create or replace function pgembed._bm25_0_near(
    lexeme text, variants text[], likely text[], variants_only boolean,
    out term text, out df bigint
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
    for step in 1 .. case when variants_only then 1 else 2 end loop
        if step = 1 then
            select array_agg(f.term), array_agg(f.df)
            into terms, term_df
            from (select t.term, t.df from _bm25_0_term as t where t.term = any (variants collate "C")
                  union all
                  select u.lexeme, count(*)
                  from _bm25_0_recent as r
                  cross join lateral (select u.lexeme from unnest(r.lexemes) as u offset 0) as u
                  where u.lexeme in (select unnest(variants))
                  group by u.lexeme) as f;
        else
            select array_agg(f.term), array_agg(f.df)
            into terms, term_df
            from (select t.term, t.df from _bm25_0_term as t
                  where t.term >= first collate "C" and t.term < after collate "C" and starts_with(t.term, first)
                    and length(t.term) between shortest and longest and _typing_letters_fit(misspelt, t.term, most)
                  union all
                  select u.lexeme, count(*)
                  from _bm25_0_recent as r
                  cross join lateral (select u.lexeme from unnest(r.lexemes) as u offset 0) as u
                  where starts_with(u.lexeme, first) and length(u.lexeme) between shortest and longest
                    and _typing_letters_fit(misspelt, u.lexeme, most)
                  group by u.lexeme) as f
            where f.term not in (select unnest(variants));
        end if;
        if terms is not null then
            terms := array(select _typing_choices(misspelt, variants, likely, terms, term_df));
            term_df := _bm25_0_frequencies(terms);    -- those of now: some documents may be deleted
            select n.term, f.df into term, df
            from _typing_choices(misspelt, variants, likely, terms, term_df) with ordinality as n(term, place)
            join unnest(terms, term_df) as f(term, df) on f.term = n.term
            where f.df > 0 order by n.place limit 1;
            exit when found;
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_0_near(text, text[], text[], boolean) is
    'The likeliest term that a misspelt one was meant to be, and how many documents have it; NULL for none.';
