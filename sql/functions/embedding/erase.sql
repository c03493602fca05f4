-- Erasure: nothing of a deleted row, or of an earlier text, is left in any table.

create or replace function pgembed._erase_vectors(e pgembed.embedding) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t constant pgembed.captured_text := pgembed._text(e.text_id);
    waiting constant text[] := array(
        select key from pgembed.queue where embedding_id = e.embedding_id and key is not null
        union select key from pgembed.dead_letter where embedding_id = e.embedding_id and key is not null);
    gone text[];
    texts record;
begin
    perform pgembed._sweep(e);
    gone := pgembed._missing_keys(t, waiting);
    delete from pgembed.queue where embedding_id = e.embedding_id and key = any (gone);
    delete from pgembed.dead_letter where embedding_id = e.embedding_id and key = any (gone);
    -- Chunks of a text that the row has no more; the job that waits makes the new ones.
    texts := pgembed._read_texts(t, waiting, 0);
    execute format('delete from %s as s using unnest($1, $2) as pgembed_key(key, hash) where %s and s.text_hash is distinct from pgembed_key.hash',
                   pgembed._table_sql(e.side_table), pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and '))
    using waiting, texts.hashes;
    -- It names a key, which may be of a row that is gone: the walk begins anew.
    delete from pgembed.backfill where embedding_id = e.embedding_id;
end
$$;
comment on function pgembed._erase_vectors(pgembed.embedding) is
    'Removes what an embedding still holds of deleted rows and of earlier texts.';

create or replace function pgembed._erase_words(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    page text[];
    gone text[] := '{}';
    after text := '';
begin
    perform pgembed._bm25_maintain(b, 1);
    -- Rows that were deleted while triggers did not fire have no tombstone.
    loop
        execute format('select array_agg(d.key order by d.key) from (select distinct key from %s where key > $1 order by key limit 10000) as d',
                       pgembed._bm25_part(b.bm25_id, 'doc')) into page using after;
        exit when page is null;
        gone := pgembed._missing_keys(pgembed._text(b.text_id), page);
        exit when gone <> '{}';
        after := page[cardinality(page)];
    end loop;
    if gone <> '{}' then
        perform pgembed._bm25_mark(b.bm25_id);
    end if;
    perform pgembed._bm25_maintain(b, 1);    -- the first may have been a step of its own
end
$$;
comment on function pgembed._erase_words(pgembed.bm25) is
    'Removes what a BM25 index still holds of deleted rows and of earlier texts.';

create or replace function pgembed.erase(name text default null) returns void
language plpgsql
as $$
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    wanted int;
    own int;
    one pg_catalog.record;
begin
    perform pgembed._require_owner();
    wanted := pgembed._named('embedding', erase.name);
    own := pgembed._named('BM25 index', erase.name);
    if erase.name is not null and wanted is null and own is null then
        perform pgembed._embedding(erase.name);    -- PE001
    end if;
    perform pgembed._back_inside();
    for one in
        select e as embedding, null::pgembed.bm25 as bm25, e.source, e.name from pgembed.embedding as e
        where erase.name is null or e.embedding_id = wanted
        union all
        select null, x, x.source, x.name from pgembed.bm25 as x
        where erase.name is null or x.bm25_id = own or x.embedding_id = wanted
    loop
        continue when pgembed._table_sql(one.source) is null;
        begin
            if pgembed._key_columns(one.source) = '{}' then
                raise exception 'table % has no primary key any more', one.source::regclass using errcode = 'PE016',
                    hint = 'Restore it: nothing else says which rows are there.';
            end if;
            if (one.embedding).embedding_id is not null then
                perform pgembed._erase_vectors(one.embedding);
            else
                perform pgembed._erase_words(one.bm25);
            end if;
            perform pgembed._mark_judgements(pgembed._text(coalesce((one.embedding).text_id, (one.bm25).text_id)));
            perform pgembed._drop_judgements('0', one.source);
        exception when others or assert_failure then
            if erase.name is not null then
                raise;
            end if;
            -- One that is broken does not keep the others from it.
            raise warning '% could not be erased: %', pgembed._qualified_name(one.source, one.name), sqlerrm
                using hint = 'SELECT * FROM pgembed.doctor();';
        end;
    end loop;
    if erase.name is null then    -- those of tables that are gone
        perform pgembed._drop_judgements('0');
    end if;
    perform set_config('search_path', path, true);
end
$$;
comment on function pgembed.erase(text) is
    'Removes at once what pgembed still holds of deleted rows and earlier texts: vectors, chunks, words, judgements, keys in '
    'the queue (NULL: of all). A running service does it within an hour. Space on disk is free after VACUUM.';
