create or replace function pgembed._bm25_0_statistics(terms text[]) returns pgembed._bm25_query
language plpgsql stable
as $$
#variable_conflict use_column
declare
    q _bm25_query;
    c _bm25_changes;
    query_terms alias for terms;
    rows float8;
    total float8;
    changed boolean;
    new_avgdl float8;
    old_avgdl float8;
    weighed_to text;
begin
    select packed_rows, packed_length, k1, b, slots, p.frozen_avgdl, p.old_avgdl, p.weighed_to,
           exists (select from _bm25_0_dead) or exists (select from _bm25_0_recent)
    into rows, total, q.k1, q.b, q.slots, new_avgdl, old_avgdl, weighed_to, changed
    from pgembed.bm25 join pgembed.bm25_pack as p using (bm25_id) where bm25_id = 0;
    if changed then
        c := _bm25_0_changes(query_terms);
        q.dead := c.dead;
        rows := case when c.truncated then 0 else rows end + c.rows;
        total := case when c.truncated then 0 else total end + c.length;
    end if;
    -- At least 1, each: a tombstone of a row that no trigger has seen, until the
    -- packer drops it, hides no row of another.
    select n, l / n into q.rows, q.avgdl
    from (select greatest(rows, 1::float8) as n, greatest(total, rows, 1::float8) as l) as size;
    select array_agg(term), array_agg(df), array_agg(idf), array_agg(frozen_idf), array_agg(frozen_avgdl),
           array_agg(term) filter (where dense_df > 0),
           coalesce(sum(frozen_idf * max_impact) filter (where dense_df > 0), 0::float8) / _bm25_exactness(),
           bool_or(packed_df > dense_df),
           coalesce(least(min(idf / frozen_idf), 1::float8) / greatest(max(idf / frozen_idf), 1::float8), 1::float8)
           * least(min(q.avgdl / frozen_avgdl), 1::float8) / greatest(max(q.avgdl / frozen_avgdl), 1::float8) * _bm25_exactness()
    into q.terms, q.df, q.idf, q.frozen_idf, q.frozen_avgdl, q.dense, q.dense_bound, q.has_sparse, q.margin
    from (
        select term, df, packed_df, dense_df, max_impact, frozen_idf,
               coalesce(case when weighed_to is null or term collate "C" <= weighed_to then new_avgdl else old_avgdl end, q.avgdl) as frozen_avgdl,
               ln(1::float8 + (q.rows - df + 0.5::float8) / (df + 0.5::float8)) as idf
        from (
            select term, (packed).max_impact::float8, (packed).frozen_idf::float8, (packed).dense_df, (packed).df as packed_df,
                   greatest(least((coalesce((packed).df, 0) + coalesce(recent_df - dead_df, 0))::float8, q.rows), 1::float8) as df
            from (
                select w.*, (select p from _bm25_0_term as p
                             where p.term = w.term collate "C" and c.truncated is not true) as packed
                from unnest(query_terms, c.recent_df, c.dead_df) as w(term, recent_df, dead_df) offset 0) as known
            where (packed).df > 0 or recent_df > 0 offset 0) as counted offset 0) as t;
    if c.versions is not null and q.terms is not null then
        select array_agg(version), array_agg(score) into q.recent, q.recent_scores
        from (select h.version,
                     sum(t.idf * h.tf * (q.k1 + 1) / (h.tf + q.k1 * (1 - q.b + q.b * h.length / q.avgdl))) as score
              from unnest(c.versions, c.lengths, c.terms, c.tfs) as h(version, length, term, tf)
              join unnest(q.terms, q.idf) as t(term, idf) on t.term = h.term
              group by h.version) as scored;
    end if;
    return q;
end
$$;
comment on function pgembed._bm25_0_statistics(text[]) is
    'A query''s terms with the statistics of now, and the documents not packed yet that have them, scored.';
