-- What a score is made of, for an explanation: of callers who may see all rows, as top().
create or replace function pgembed._bm25_0_weights(terms text[], prefix text default null) returns pgembed._bm25_weights
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
as $$
declare
    q _bm25_query;
begin
    perform _bm25_require_open(source) from bm25 where bm25_id = 0;
    q := _bm25_0_statistics(case when prefix is null then terms
                                 else array(select distinct term from unnest(terms || _bm25_0_prefix_terms(prefix)) as term) end);
    return row (q.terms, q.df, q.rows, q.avgdl)::_bm25_weights;
end
$$;
comment on function pgembed._bm25_0_weights(text[], text) is
    'Terms of a query that the index knows, in how many documents each is, how many documents there are, and their average length.';
