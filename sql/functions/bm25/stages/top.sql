-- What a caller who may see all rows asks. Handles are all that comes back, so a caller
-- who has lost the right to the table since cannot look their keys up. Where the table
-- has row security at all, this way is closed, whoever asks and from the moment on that
-- it is switched on: callers whom no policy restricts have rank() itself.
create or replace function pgembed._bm25_0_top(
    terms text[], k int, prefix text default null, among int[] default null, among_recent bigint[] default null,
    out handles bigint[], out scores float8[]
)
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
as $$
begin
    perform _bm25_require_open(source) from bm25 where bm25_id = 0;
    select r.handles, r.scores into handles, scores from _bm25_0_rank(terms, k, prefix, among, among_recent) as r;
end
$$;
comment on function pgembed._bm25_0_top(text[], int, text, int[], bigint[]) is
    'As rank, for callers who may see all rows of the table; PE013 where it has row security.';
