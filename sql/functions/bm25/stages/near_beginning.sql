-- As near, for the beginning of a word, while it is typed. Looked at are the terms that begin
-- with what one edit makes of it (edits); the most frequent term with each beginning counts.
create or replace function pgembed._bm25_0_near_beginning(
    prefix text, edits text[], likely text[],
    out beginning text, out df bigint
)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    terms text[];
    term_df bigint[];
begin
    select array_agg(f.term), array_agg(f.df)
    into terms, term_df
    from (select t.term, t.df
          from unnest(edits) as e(edit)
          cross join lateral (select t.term, t.df from _bm25_0_term as t
                              where t.term >= e.edit collate "C" and t.term < _bm25_0_after(e.edit) collate "C" and starts_with(t.term, e.edit)
                                and t.term !~ '[0-9]'
                              order by t.df desc, t.term limit 1) as t
          union
          select u.lexeme, count(*)
          from _bm25_0_recent as r
          cross join lateral (select u.lexeme from unnest(r.lexemes) as u offset 0) as u
          where _typing_begins(u.lexeme, length(prefix), edits)
          group by u.lexeme) as f;
    if terms is not null then
        terms := array(select n.term from _typing_beginnings(prefix, edits, likely, terms, term_df) as n);
        term_df := _bm25_0_frequencies(terms);    -- those of now: some documents may be deleted
        select n.beginning, f.df into beginning, df
        from _typing_beginnings(prefix, edits, likely, terms, term_df) with ordinality as n(beginning, term, place)
        join unnest(terms, term_df) as f(term, df) on f.term = n.term
        where f.df > 0 order by n.place limit 1;
    end if;
end
$$;
comment on function pgembed._bm25_0_near_beginning(text, text[], text[]) is
    'The likeliest beginning of terms that what was typed was meant to be, and how many documents have the most frequent of these; '
    'NULL for none.';
