-- Runs as the caller, so under the row security of doc and recent: the key of
-- each handle, NULL where the caller may not see it. And on the caller's path,
-- where somebody may have put an unnest(bigint[]).
create or replace function pgembed._bm25_0_keys(handles bigint[]) returns text[]
language plpgsql stable
as $$
begin
    if 0 operator(pg_catalog.>) any (handles) then
        return array(
            select coalesce(d.key, r.key)
            from pg_catalog.unnest(handles) with ordinality as h(handle, place)
            left join pgembed._bm25_0_doc as d on d.slot operator(pg_catalog.=) h.handle and h.handle operator(pg_catalog.>=) 0
            left join pgembed._bm25_0_recent as r on r.version operator(pg_catalog.=) (operator(pg_catalog.-) h.handle)
            order by h.place);
    end if;
    return array(
        select (select d.key from pgembed._bm25_0_doc as d where d.slot operator(pg_catalog.=) h.handle)
        from pg_catalog.unnest(handles) with ordinality as h(handle, place) order by h.place);
end
$$;
comment on function pgembed._bm25_0_keys(bigint[]) is
    'Keys of handles, in their order; NULL for those that the caller may not see.';
