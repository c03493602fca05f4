-- Excerpts. ts_headline looks for words as the parser makes them of an analyzed text; what is
-- shown and marked is the text itself.

create or replace function pgembed._snippet(p_config regconfig, p_text text, p_analyzer jsonb, p_query tsquery, p_terms text[]) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select ts_headline(p_config, p_text, p_query)
$$;
