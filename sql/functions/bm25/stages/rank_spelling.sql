-- What the words of a query that no document has, and the beginning of one, may have been meant
-- to be. terms are those of the query's that may be misspelt. For those whom no row security restricts.
create or replace function pgembed._bm25_0_rank_spelling(
    query pgembed._bm25_words, terms text[],
    out absent text[], out meant text[], out beginning text
)
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
    missing text[] := _bm25_0_absent(terms);
    misspelt record;
    word record;
    part record;
begin
    if missing <> '{}' then
        for misspelt in select * from _bm25_misspelt(query, missing) loop
            word := _bm25_0_near(misspelt.lexeme, misspelt.variants, misspelt.likely, false);
            if word.term is not null then
                absent := absent || misspelt.lexeme;
                meant := meant || word.term;
            end if;
        end loop;
    end if;
    if (query).prefix is not null and _typing_errors_allowed((query).prefix) > 0
       and 0 = all (_bm25_0_frequencies(_bm25_0_prefix_terms((query).prefix))) then
        select array_agg(e.edit) as edits, array_agg(e.edit) filter (where e.likely) as likely into misspelt
        from _typing_edits((query).prefix) as e;
        part := _bm25_0_near_beginning((query).prefix, misspelt.edits, misspelt.likely);
        -- Or the word is complete.
        select * into misspelt from _bm25_misspelt(query, array[(query).prefix]);
        word := _bm25_0_near(misspelt.lexeme, misspelt.variants, misspelt.likely, part.beginning is not null);
        beginning := _typing_likelier(word.term, word.term = any (misspelt.variants), word.df, part.beginning, part.df);
    end if;
end
$$;
comment on function pgembed._bm25_0_rank_spelling(pgembed._bm25_words, text[]) is
    'Terms of a query that no document has, with what each was meant to be, and what the beginning of a word was.';
