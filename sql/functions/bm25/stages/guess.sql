-- A threshold to begin with where no sparse term gives one: from two blocks, the
-- score that some more documents than needed would reach if all were like them.
create or replace function pgembed._bm25_0_guess(q pgembed._bm25_query, k int) returns float8
language plpgsql stable
as $$
#variable_conflict use_column
declare
    expected constant float8 := k::float8 * 2::float8 * _bm25_block_size() / (q).slots::float8;
begin
    return (
        select score
        from (select unnest(_bm25_numbers(impacts)) as score
              from (select _bm25_sum(_bm25_unpack(impacts)) as impacts
                    from _bm25_0_block
                    where term = any ((q).dense) and block in (_bm25_block_of((q).slots / 3), _bm25_block_of((q).slots / 3 * 2))
                    group by block) as s) as scores
        order by score desc offset (expected + 3::float8 * sqrt(expected))::int + 1 limit 1);
end
$$;
comment on function pgembed._bm25_0_guess(pgembed._bm25_query, int) is
    'A score that the k-th best probably reaches.';
