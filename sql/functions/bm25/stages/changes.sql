-- Every document that was written counts, and every tombstone takes one away: the
-- statistics are sums, whichever documents the tombstones mean. Which ones matters
-- only of those with a word of the query, as others are not found.
create or replace function pgembed._bm25_0_changes(terms text[]) returns pgembed._bm25_changes
language plpgsql stable
as $$
#variable_conflict use_column
declare
    c _bm25_changes;
    query_terms alias for terms;
    term_queries constant tsquery[] := array(select _bm25_lexeme_query(term) from unnest(query_terms) as term);
    any_term constant tsquery := nullif(array_to_string(term_queries, '|'), '')::tsquery;
    weights constant int[] := (select field_weights from pgembed.bm25 where bm25_id = 0);
    since bigint;
    stale boolean;
    emptied regclass[];    -- partitions that were truncated, and when
    emptied_at bigint[];
    gone_rows bigint;    -- packed, of these
    gone_length bigint;
    gone int[];
    dead_rows bigint;
    dead_length bigint;
    dead_keys text[];
    dead_versions bigint[];
    dead_lexemes tsvector[];
begin
    select coalesce(max(version) filter (where op = 'T'), 0), bool_or(op = 'R'), array_agg(distinct partition) filter (where op = 'P')
    into since, stale, emptied from _bm25_0_dead;
    c.truncated := since > 0;    -- what is packed was written before
    emptied_at := array(select (select max(version) from _bm25_0_dead where op = 'P' and partition = p)
                        from unnest(emptied) with ordinality as e(p, place) order by place);
    with hit as materialized (
        select key, version, slot, lexemes from _bm25_0_dead
        where op = 'D' and version > greatest(since, emptied_at[array_position(emptied, partition)]) and lexemes @@ any_term)
    select g.rows, g.length,
           array(select (select count(*) from hit as h where h.lexemes @@ t.query)
                 from unnest(term_queries) with ordinality as t(query, place) order by t.place),
           g.slots,
           (select array_agg(key order by version) from hit where slot is null),
           (select array_agg(version order by version) from hit where slot is null),
           (select array_agg(lexemes order by version) from hit where slot is null)
    into dead_rows, dead_length, c.dead_df, c.dead, dead_keys, dead_versions, dead_lexemes
    from (select count(*) as rows, coalesce(sum(length), 0) as length,
                 array_agg(slot) filter (where slot is not null) as slots
          from _bm25_0_dead
          where op = 'D' and version > greatest(since, emptied_at[array_position(emptied, partition)])) as g;
    if emptied is not null and not c.truncated then
        select array_agg(slot), count(*), coalesce(sum(length), 0) into gone, gone_rows, gone_length
        from _bm25_0_doc where version < emptied_at[array_position(emptied, partition)];
        c.dead := c.dead || gone;
        dead_rows := dead_rows + gone_rows;
        dead_length := dead_length + gone_length;
        with mask as materialized (    -- bits of a block: which of its documents are gone
            select b.block, _bm25_places(_bm25_vector(array_agg(case when g.slot is null then 0 else 1 end order by place)::real[])) as bits
            from (select distinct _bm25_block_of(slot) as block from unnest(gone) as slot) as b
            cross join generate_series(1, _bm25_block_size()) as place
            left join unnest(gone) as g(slot) on g.slot = _bm25_slot(b.block, place)
            group by b.block)
        select array_agg(w.df + (
                   select coalesce(sum(bit_count(_bm25_places(_bm25_unpack(b.impacts)) & m.bits)), 0)
                   from _bm25_0_block as b join mask as m using (block) where b.term = w.term collate "C") + (
                   select count(*) from _bm25_0_posting as p cross join unnest(p.slots) as slot
                   where p.term = w.term collate "C" and slot in (select unnest(gone))) order by w.place)
        into c.dead_df
        from unnest(query_terms, c.dead_df) with ordinality as w(term, df, place);
    end if;
    if stale then    -- rows went without a tombstone, and their keys may have come back
        c.dead := c.dead || array(select p.slot from _bm25_0_recent as r
                                  join _bm25_0_doc as p on p.key = r.key and p.version < r.version);
    end if;

    -- Documents not packed yet, the caller's own uncommitted ones included. A tombstone
    -- kills one of the same key and words, else the packed one of its key before it.
    with hit as materialized (
        select key, version, length, lexemes from _bm25_0_recent
        where version > greatest(since, emptied_at[array_position(emptied, partition)]) and lexemes @@ any_term),
    killed as materialized (
        select d.key, d.version as dead_version, h.version
        from (select key, version, lexemes, row_number() over (partition by key, lexemes order by version) as nth
              from unnest(dead_keys, dead_versions, dead_lexemes) as d(key, version, lexemes)) as d
        left join (select version, key, lexemes, row_number() over (partition by key, lexemes order by version) as nth
                   from hit where key = any (dead_keys)) as h using (key, lexemes, nth)),
    hit_of_term as materialized (
        select t.place, t.term, h.version, h.length,
               h.version not in (select k.version from killed as k where k.version is not null) as alive,
               case when weights is null then width_bucket(ts_rank('{1,1,1,1}', h.lexemes, t.query), (select _bm25_tf_bounds()))
                    else _bm25_tf(h.lexemes, t.query, weights) end as tf
        from hit as h
        join unnest(query_terms, term_queries) with ordinality as t(term, query, place) on h.lexemes @@ t.query)
    select c.dead || array(select p.slot
                           from killed as k
                           cross join lateral (select p.slot from _bm25_0_doc as p
                                               where p.key = k.key and p.version < k.dead_version
                                                 and p.slot <> all (coalesce(c.dead, '{}'))    -- these are dead already
                                               order by p.version desc limit 1) as p
                           where k.version is null),
           r.rows - dead_rows, r.length - dead_length,
           array(select count(h.place) from generate_subscripts(query_terms, 1) as place
                 left join hit_of_term as h using (place) group by place order by place),
           h.*
    into c.dead, c.rows, c.length, c.recent_df, c.versions, c.lengths, c.terms, c.tfs
    from (select count(*) as rows, coalesce(sum(length), 0) as length
          from _bm25_0_recent
          where version > greatest(since, emptied_at[array_position(emptied, partition)])) as r
    cross join (select array_agg(version), array_agg(length), array_agg(term), array_agg(tf)
                from hit_of_term where alive) as h;
    return c;
end
$$;
comment on function pgembed._bm25_0_changes(text[]) is
    'What writers appended since the last packing, as far as it concerns the terms of a query.';
