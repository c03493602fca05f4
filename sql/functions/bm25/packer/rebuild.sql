-- Reads the whole table anew, as its owner, in one statement and so in one snapshot:
-- what recent and dead hold in that snapshot is in the rows too. Later entries have
-- versions above 0, so their tombstones find what they kill.
create or replace function pgembed._bm25_0_rebuild() returns bigint
language plpgsql
set work_mem = '256MB'
as $$
declare
    t constant pgembed.captured_text := pgembed._text((select x.text_id from pgembed.bm25 as x where x.bm25_id = 0));
    rows bigint;
begin
    delete from _bm25_0_block;
    delete from _bm25_0_posting;
    delete from _bm25_0_term;
    delete from _bm25_0_doc;
    create temp table bm25_input (key text, version bigint, length int, lexemes tsvector, partition regclass) on commit drop;
    with recent as (delete from _bm25_0_recent), dead as (delete from _bm25_0_dead),
    failed as (delete from pgembed.bm25_failed where bm25_id = 0),
    document as materialized (select * from pgembed._documents(t)),
    unread as (
        insert into pgembed.bm25_failed (bm25_id, key, error)
        select x.bm25_id, d.key, left(d.error, 10000) from document as d join pgembed.bm25 as x on x.bm25_id = 0 where d.error is not null)
    insert into bm25_input (key, version, length, lexemes, partition)
    select key, 0, length, lexemes, partition from document where lexemes is not null;
    get diagnostics rows = row_count;
    update pgembed.bm25_pack
    set packed_rows = 0, packed_length = 0, slots = 0, segments = '{}', weighed_to = null,
        frozen_avgdl = (select avg(length) from bm25_input)
    where bm25_id = 0;
    loop
        exit when _bm25_0_pack_input(_bm25_pack_size()) = 0;
    end loop;
    drop table bm25_input;
    return rows;
end
$$;
comment on function pgembed._bm25_0_rebuild() is
    'Reads the whole table anew; returns how many documents it has.';
