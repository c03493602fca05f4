-- As rank_spelling, for callers who may see all rows; closed where the table has row security,
-- as top is.
create or replace function pgembed._bm25_0_top_spelling(
    query pgembed._bm25_words, terms text[],
    out absent text[], out meant text[], out beginning text
)
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
as $$
begin
    perform _bm25_require_open(source) from bm25 where bm25_id = 0;
    select s.absent, s.meant, s.beginning into absent, meant, beginning from _bm25_0_rank_spelling(query, terms) as s;
end
$$;
comment on function pgembed._bm25_0_top_spelling(pgembed._bm25_words, text[]) is
    'As rank_spelling, for callers who may see all rows of the table; PE013 where it has row security.';
