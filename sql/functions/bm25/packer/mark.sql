create or replace function pgembed._bm25_0_mark(mark "char", truncated oid default null) returns void
language plpgsql
as $$
begin
    -- To be read again: one a transaction. That of another would not do: it may be acted
    -- upon, and be gone, before the rows of this one are there to be read.
    insert into pgembed._bm25_0_dead (op, key, partition)
    select mark, pg_catalog.pg_current_xact_id()::text, case mark when 'P' then truncated end
    where mark <> 'R' or not exists (select from pgembed._bm25_0_dead
                                    where op = mark and key = pg_catalog.pg_current_xact_id()::text);
end
$$;
comment on function pgembed._bm25_0_mark("char", oid) is
    'Notes that the table (T) or a partition (P) was truncated, or that all must be read again (R).';
