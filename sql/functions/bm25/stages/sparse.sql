-- Documents of sparse postings that can still be among the k best once the dense
-- terms are added; best first, by what they have so far.
create or replace function pgembed._bm25_0_sparse(
    q pgembed._bm25_query, k int,
    out slots int[], out scores float8[]
)
language plpgsql stable
as $$
#variable_conflict use_column
begin
    with candidate as materialized (
        select slot, sum(score) as score
        from (select unnest(p.slots) as slot,
                     unnest(p.impacts) * (q).idf[array_position((q).terms, p.term collate "C")] as score
              from _bm25_0_posting as p where p.term = any ((q).terms)) as posting
        group by slot
        having (q).dead is null or slot not in (select unnest((q).dead)))
    select array_agg(slot order by score desc), array_agg(score order by score desc)
    into slots, scores
    from candidate
    where score >= coalesce((select score from candidate order by score desc offset k - 1 limit 1), 0) * (q).margin
                   - (q).dense_bound;
end
$$;
comment on function pgembed._bm25_0_sparse(pgembed._bm25_query, int) is
    'Packed documents of sparse postings that can be among the k best once dense terms are added, best first.';
