-- Partitions come and go behind the parent's back: attached with rows in them, or
-- detached with theirs. Each needs the one trigger that it does not inherit (TRUNCATE).

create or replace function pgembed._unknown_keys(t pgembed.captured_text, p_table oid, p_most int) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    columns constant text := pgembed._key_sql(t.source, null, 's.%2$I', ', ');
    statement constant text := format(
        'select row_number() over (order by %1$s), %2$s from %3$s as s where %%s order by %1$s limit 10000',
        replace(columns, '%', '%%'), replace(pgembed._key_text_sql(t.source, 's'), '%', '%%'), replace(pgembed._table_sql(p_table), '%', '%%'));
    further constant text := pgembed._keys_after_sql(t.source);
    vectors constant text := (
        select string_agg(format('exists (select from %s as s where %s)', pgembed._table_sql(e.side_table),
                                 pgembed._key_sql(e.source, e.side_table, 's.%3$I %7$s %5$s::%4$s', ' and ')), ' and ')
        from pgembed.embedding as e
        where e.text_id = t.text_id and e.backfill_state = 'done' and pgembed._table_sql(e.side_table) is not null);
    words constant int := (select bm25_id from pgembed.bm25 where text_id = t.text_id and state = 'ready');
    page text[];
    lost text[];
    wordless text[];
    found_keys text[] := '{}';
    after text;
begin
    -- Their keys are read as the owner, and compared here: the owner may not see all that was
    -- made of them.
    loop
        page := pgembed._keys_as_owner(t.text_id, format(statement, case when after is null then 'true' else further end),
                                       row(null, null, after, null)::pgembed._work);
        exit when page = '{}';
        if vectors is not null then
            execute format('select array_agg(pgembed_key.key) from unnest($1) as pgembed_key(key) where not (%s)', vectors)
            into lost using page;
            -- Texts are composed for those alone: of most tables, for none.
            if lost is not null then
                found_keys := found_keys || pgembed._keys_of_rows(
                    t, lost, format('nullif((%s)::text, '''') is not null', t.canonical_expression));
            end if;
        end if;
        if words is not null then
            execute format('select array(select k from unnest($1) as k where not exists (select from %s as d where d.key = k) except select key from %s)',
                           pgembed._bm25_part(words, 'doc'), pgembed._bm25_part(words, 'recent')) into wordless using page;
            -- A text of stop words only has none.
            found_keys := found_keys || pgembed._keys_of_rows(
                t, wordless, format('(pgembed._text_%s_document(s.*)).lexemes is not null', t.text_id));
        end if;
        exit when cardinality(page) < 10000 or cardinality(found_keys) >= p_most;
        after := page[10000];
    end loop;
    return array(select distinct k from unnest(found_keys) as k);
end
$$;
comment on function pgembed._unknown_keys(pgembed.captured_text, oid, int) is
    'Rows of a table, or of one of its partitions, that have a text and no vector or no words; about so many at most.';

create or replace function pgembed._partitions_differ(t pgembed.captured_text, out came oid[], out went oid[])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with part as (
        select p.relid::oid from pg_partition_tree((t).source) as p where p.level > 0),
    watched as (
        select g.tgrelid as relid from pg_trigger as g
        where g.tgname = pgembed._trigger_name((t).text_id, 'truncate') and g.tgrelid <> (t).source)
    select array(select relid from part except select relid from watched),
           array(select relid from watched except select relid from part)
$$;
comment on function pgembed._partitions_differ(pgembed.captured_text) is
    'Partitions that were attached, and tables that were detached, since they were taken in or let go.';

create or replace function pgembed._follow_partitions(t pgembed.captured_text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changes record := pgembed._partitions_differ(t);
    patience constant text := current_setting('lock_timeout');
    part oid;
    again boolean := false;
    parts constant text[] := array(select pgembed._table_sql(p.relid) from pg_partition_tree(t.source) as p where p.level > 0 order by 1);
begin
    if not t.capture then
        return false;
    end if;
    if parts <> t.partitions then
        again := not t.partitions <@ parts;    -- of one that was dropped not even a trigger is left
        update pgembed.captured_text set partitions = parts where text_id = t.text_id;
    end if;
    -- A busy partition has its turn a minute later.
    perform set_config('lock_timeout', '50ms', true);
    foreach part in array changes.came loop
        begin
            begin
                again := again or pgembed._unknown_keys(t, part, 1) <> '{}';
            exception when sqlstate 'PE018' then
                again := true;    -- a row of it cannot be read: the walk over the table finds out which
            end;
            perform pgembed._run_as_owner(t.text_id, pgembed._partition_trigger_sql(t, part));
        exception when lock_not_available or deadlock_detected then
            null;
        end;
    end loop;
    foreach part in array changes.went loop
        begin
            perform pgembed._run_as_owner(t.text_id, format('drop trigger if exists %I on %s',
                pgembed._trigger_name(t.text_id, 'truncate'), pgembed._table_sql(part)));
            again := true;    -- its rows left without a DELETE
        exception when lock_not_available or deadlock_detected or insufficient_privilege then
            null;
        end;
    end loop;
    perform set_config('lock_timeout', patience, true);
    if again then
        perform pgembed._must_be_read_again(t.text_id);
    end if;
    return again;
end
$$;
comment on function pgembed._follow_partitions(pgembed.captured_text) is
    'Takes in partitions that were attached since, and lets detached ones go; whether the table must be read again for it.';
