-- Folds the idf of now into the blocks of terms where it has moved by 10 %. A
-- search is exact without, but the further it has moved, the more documents it
-- has to score anew.
create or replace function pgembed._bm25_0_refreeze() returns void
language plpgsql
as $$
begin
    with moved as materialized (
        select term, idf, _bm25_vector(array_fill(idf / frozen_idf, array[_bm25_block_size()])) as factors
        from (select t.term, t.frozen_idf,
                     ln(1 + (greatest(b.packed_rows - t.df, 0) + 0.5) / (t.df + 0.5))::real as idf
              from _bm25_0_term as t cross join pgembed.bm25_pack as b
              where t.dense_df > 0 and b.bm25_id = 0) as now
        where idf / frozen_idf not between 1 / _bm25_drift() and _bm25_drift()),
    folded as (
        update _bm25_0_block as b
        set impacts = _bm25_pack(_bm25_multiply(_bm25_unpack(b.impacts), m.factors))
        from moved as m where b.term = m.term)
    update _bm25_0_term as t set frozen_idf = m.idf
    from moved as m where t.term = m.term;
end
$$;
comment on function pgembed._bm25_0_refreeze() is
    'Folds the idf of now into the blocks of terms where it has moved.';
