-- All documents that have any of the terms, not only the best: for counts and facets. Of a
-- block the terms' places are laid over each other as bits, so that counting looks at no
-- document by itself. For callers who may see all rows, as top.
create or replace function pgembed._bm25_0_matches(
    terms text[], prefix text default null, counted boolean default false, out matching bigint, out handles bigint[]
)
language plpgsql stable security definer
set search_path = pg_catalog, pgembed, pg_temp
set jit = off
set enable_nestloop = off
as $$
#variable_conflict use_column
declare
    q _bm25_query;
    sparse int[];      -- slots in postings
    blocks int[];
    places bit varying[];    -- of each block: those that have a term
    gone int[];
begin
    perform _bm25_require_open(source) from bm25 where bm25_id = 0;
    if prefix is not null then
        terms := array(select distinct term from unnest(terms || _bm25_0_prefix_terms(prefix)) as term);
    end if;
    q := _bm25_0_statistics(terms);
    if q.has_sparse then
        sparse := array(select distinct unnest(p.slots) from _bm25_0_posting as p where p.term = any (q.terms));
    end if;
    if q.dense is not null then
        select array_agg(block), array_agg(of_block) into blocks, places
        from (select block, bit_or(_bm25_places(_bm25_unpack(impacts))) as of_block
              from _bm25_0_block where term = any (q.dense) group by block) as b;
    end if;
    gone := array(select distinct unnest(q.dead));
    if counted then
        with block as materialized (select * from unnest(blocks, places) as b(block, places)),
        sparse_slot as materialized (select unnest(sparse) as slot)
        select coalesce((select sum(bit_count(places)) from block), 0)
               + (select count(*) from sparse_slot as s left join block as b on b.block = _bm25_block_of(s.slot)
                  where coalesce(get_bit(b.places::bit varying, _bm25_place_of(s.slot) - 1), 0) = 0)
               - (select count(*) from unnest(gone) as d(slot)
                  left join sparse_slot as s using (slot) left join block as b on b.block = _bm25_block_of(d.slot)
                  where s.slot is not null or get_bit(b.places::bit varying, _bm25_place_of(d.slot) - 1) = 1)
               + coalesce(cardinality(q.recent), 0)
        into matching;
        return;
    end if;
    with slot as (
        select unnest(sparse) as slot
        union
        select _bm25_slot(b.block, p.place)
        from unnest(blocks, places) as b(block, places)
        cross join lateral (    -- as in dense
            select (sum(length(piece) + 1) over (order by n))::int as place
            from string_to_table(b.places::text, '1') with ordinality as p(piece, n)) as p
        where p.place <= _bm25_block_size())
    select array(select s.slot::bigint from slot as s where s.slot not in (select unnest(gone))
                 union all select -version from unnest(q.recent) as version)
    into handles;
    matching := cardinality(handles);
end
$$;
comment on function pgembed._bm25_0_matches(text[], text, boolean) is
    'How many documents have any of the terms; and their handles, unless they are only counted. PE013 where the table has row security.';
