-- Change capture. INSERT, DELETE and TRUNCATE are seen by statement (transition
-- tables: cheap in bulk), UPDATE by row with a WHEN over the columns that count
-- (an update of another column costs nothing). Partitioned tables have row
-- triggers only, because a write to a partition does not fire the parent's
-- statement triggers.
--
-- The functions are generated, one set an embedding, with all names in place:
-- dynamic SQL would halve an application's insert rate. They must never fail a
-- write: where a column has been renamed under them they queue a rescan (R).

create or replace function pgembed._wake_sql(p_wake text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- NOTIFY takes a cluster-wide lock at commit, so it is sent only when a
    -- service sleeps: a sleeping service holds this advisory lock exclusively.
    select case when p_wake = 'poll' then '' else
$body$
    if not pg_try_advisory_xact_lock_shared(1885824365, 1) then
        perform pg_notify('pgembed', '');
    end if;$body$ end
$$;
comment on function pgembed._wake_sql(text) is 'The wake-up at the end of a capture function.';

create or replace function pgembed._rescan_sql(p_embedding_id int) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format(
$body$if not exists (select from pgembed.queue
                       where embedding_id = %1$s and priority = 1 and op = 'R') then
            insert into pgembed.queue (embedding_id, op, priority) values (%1$s, 'R', 1);
        end if;$body$, p_embedding_id)
$$;
comment on function pgembed._rescan_sql(int) is
    'What a capture function does when the table no longer has the shape it knows.';

create or replace function pgembed._capture_function(
    p_embedding_id int, p_event text, p_declare text, p_body text, p_settings text
) returns void
language plpgsql
as $$
declare
    name text := format('pgembed.%I()', format('_capture_%s_%s', p_embedding_id, p_event));
begin
    execute format(
        'create or replace function %s returns trigger language plpgsql security definer '
        'set search_path = pg_catalog, pg_temp %s as %L',
        name, p_settings, format(E'%s\nbegin\n%s\n    return null;\nend\n', p_declare, p_body));
    perform pgembed._give_to_owner('function', name);
    execute format('revoke all on function %s from public', name);
    execute format('comment on function %s is %L', name,
                   format('Generated: records %s for embedding %s.', p_event, p_embedding_id));
end
$$;
comment on function pgembed._capture_function(int, text, text, text, text) is
    'Makes one capture function of an embedding.';

create or replace function pgembed._key_known(p_index text, p_columns text[]) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Declared immutable so that it is computed when a capture function's statement
    -- is planned, not at each write. That plan depends on the source (through the
    -- transition table), and is made again after any DDL on it. These functions
    -- read the catalog as it is now, whatever the snapshot of the transaction.
    select array(select pg_get_indexdef(to_regclass(p_index), position, true)
                 from generate_subscripts(p_columns, 1) as position) = p_columns
$$;
comment on function pgembed._key_known(text, text[]) is
    'Whether the columns of a primary key are still called so; NULL or false, not an error, when the '
    'index is gone. Only for capture functions: elsewhere a plan would remember the answer.';

create or replace function pgembed._changed_keys_sql(p_source oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A column of changed_rows that has been renamed is found one level further out,
    -- so the statement never fails; the condition then lets no row through. An
    -- exception block would cost a transaction id for every write. The index is
    -- named, not by oid: an oid does not survive a restore.
    select format('(select %s) as gone cross join lateral (select %s as key from changed_rows) as changed '
                  'where pgembed._key_known(%L, %L)',
                  pgembed._key_sql(p_source, null, 'null as %2$I', ', '),
                  pgembed._key_text_sql(p_source, null),
                  pgembed._table_sql(i.indexrelid),
                  array(select pg_get_indexdef(i.indexrelid, position, true)
                        from generate_series(1, i.indnkeyatts) as position))
    from pg_index as i
    where i.indrelid = p_source and i.indisprimary
$$;
comment on function pgembed._changed_keys_sql(oid) is
    'FROM and WHERE for the keys of a transition table; no rows when the key''s columns are no longer '
    'called as they are now.';

create or replace function pgembed._install_capture_functions(p_embedding pgembed.embedding)
returns void
language plpgsql
as $$
declare
    id int := p_embedding.embedding_id;
    wake text := pgembed._wake_sql(p_embedding.wake);
    rescan text := pgembed._rescan_sql(p_embedding.embedding_id);
    by_row boolean := pgembed._captures_by_row(p_embedding.source);
    changed_keys text := pgembed._changed_keys_sql(p_embedding.source);
    settings text := '';
    statement_body constant text :=
$body$    insert into pgembed.queue (embedding_id, key, op, priority)
    select %1$s, changed.key, %2$L, (exists (select from changed_rows offset 1000))::int    -- 1: bulk
    from %3$s;
    if not found then
        if not exists (select from changed_rows) then
            return null;
        end if;
        %4$s
    end if;%5$s$body$;
    row_body constant text :=
$body$    begin
        row_key := %2$s;
    exception when others then
        %4$s
    end;
    if row_key is not null then
        insert into pgembed.queue (embedding_id, key, op) values (%1$s, row_key, %3$L);
    end if;%5$s$body$;
    compare text;
begin
    if pgembed._key_text_varies(p_embedding.source) then
        settings := 'set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' '
                    'set extra_float_digits = 1 set bytea_output = ''hex''';
    end if;

    if by_row then
        perform pgembed._capture_function(id, 'insert', E'declare\n    row_key text;', format(row_body, id,
            pgembed._row_columns(p_embedding.source, pgembed._key_text_sql(p_embedding.source, 'new'), 'new'), 'U', rescan, wake), settings);
        perform pgembed._capture_function(id, 'delete', E'declare\n    row_key text;', format(row_body, id,
            pgembed._row_columns(p_embedding.source, pgembed._key_text_sql(p_embedding.source, 'old'), 'old'), 'D', rescan, wake), settings);
    else
        perform pgembed._capture_function(id, 'insert', '#variable_conflict use_column',
            format(statement_body, id, 'U', changed_keys, rescan, wake), settings);
        perform pgembed._capture_function(id, 'delete', '#variable_conflict use_column',
            format(statement_body, id, 'D', changed_keys, rescan, wake), settings);
    end if;

    -- WHEN lets a change of any column through that the expression reads; here the
    -- texts themselves are compared (attrs->>'summary' reads one value of many).
    -- An expression that fails on this row must not fail the write: the row is
    -- queued, and the service reports the error. Its columns have the types that it
    -- was checked with: this trigger's own WHEN keeps them from being changed.
    compare := case when p_embedding.compare_in_trigger then format(
$body$
        if new_key = old_key and
           (%s)::text collate "C" is not distinct from
           (%s)::text collate "C" then
            return null;
        end if;$body$,
            pgembed._row_expression(p_embedding.source, p_embedding.canonical_expression, 'new'),
            pgembed._row_expression(p_embedding.source, p_embedding.canonical_expression, 'old'))
        else '' end;
    perform pgembed._capture_function(id, 'update', E'declare\n    new_key text;\n    old_key text;',
        format(
$body$    begin
        new_key := %2$s;
        old_key := %3$s;%4$s
    exception when others then
        if old_key is null then
        %5$s
        end if;
    end;
    if new_key <> old_key then
        insert into pgembed.queue (embedding_id, key, op) values (%1$s, old_key, 'D'), (%1$s, new_key, 'U');
    elsif new_key = old_key then
        insert into pgembed.queue (embedding_id, key, op) values (%1$s, new_key, 'U');
    end if;%6$s$body$, id,
            pgembed._row_columns(p_embedding.source, pgembed._key_text_sql(p_embedding.source, 'new'), 'new'),
            pgembed._row_columns(p_embedding.source, pgembed._key_text_sql(p_embedding.source, 'old'), 'old'), compare, rescan, wake), settings);

    perform pgembed._capture_function(id, 'truncate', '', format(
        E'    insert into pgembed.queue (embedding_id, op) values (%s, ''T'');%s', id, wake), '');
end
$$;
comment on function pgembed._install_capture_functions(pgembed.embedding) is
    'Makes, or makes again, the trigger functions of an embedding; takes no lock on the source.';

create or replace function pgembed._is_partitioned(p_table oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select relkind = 'p' from pg_class where oid = p_table
$$;
comment on function pgembed._is_partitioned(oid) is 'Whether a table is a partitioned parent.';

create or replace function pgembed._captures_by_row(p_table oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A write to a partition does not fire the statement triggers of its parent,
    -- nor a write to the parent those of the partition.
    select relkind = 'p' or relispartition from pg_class where oid = p_table
$$;
comment on function pgembed._captures_by_row(oid) is
    'Whether inserts and deletes of a table must be captured by row.';

create or replace function pgembed._update_guard_sql(p_embedding pgembed.embedding) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Where equal values have equal texts, columns are compared by value, which is
    -- cheapest. The others by image: 1.0 and 1.00 are equal numbers with different
    -- texts, and json and xml know no equality at all. An expression over the whole
    -- row (to_jsonb(article.*)) reads columns, too, that are added later.
    select case when p_embedding.canonical_expression ~ '\.\*'
                then 'record_image_ne(old.*, new.*)'
                else concat_ws(' or ',
                    string_agg(format('old.%1$I is distinct from new.%1$I', a.attname), ' or ' order by a.attnum)
                        filter (where plain.by_value),
                    'record_image_ne(row('
                    || string_agg(format('old.%I', a.attname), ', ' order by a.attnum)
                           filter (where not plain.by_value)
                    || '), row('
                    || string_agg(format('new.%I', a.attname), ', ' order by a.attnum)
                           filter (where not plain.by_value)
                    || '))') end
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_collation as c on c.oid = a.attcollation
    cross join lateral (
        select t.typtype = 'e' or (
            t.oid = any (array['text', 'varchar', 'bool', 'int2', 'int4', 'int8', 'uuid', 'date',
                               'timestamp', 'timestamptz', 'oid', 'name']::regtype[])
            and coalesce(c.collisdeterministic, true)) as by_value) as plain
    where a.attrelid = p_embedding.source and not a.attisdropped
      and (a.attname = any (p_embedding.source_columns)
           or a.attnum = any (array(select unnest(i.indkey::int2[]) from pg_index as i
                                    where i.indrelid = p_embedding.source and i.indisprimary)))
$$;
comment on function pgembed._update_guard_sql(pgembed.embedding) is
    'WHEN condition of the update trigger: a column that the text or the key is made of changed.';

create or replace function pgembed._trigger_name(p_embedding_id int, p_event text) returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('pgembed_%s_%s', p_embedding_id, p_event)::name
$$;
comment on function pgembed._trigger_name(int, text) is 'Name of a capture trigger.';

create or replace function pgembed._install_partition_capture(p_embedding pgembed.embedding, p_partition regclass)
returns void
language plpgsql
as $$
begin
    execute format('create or replace trigger %I after truncate on %s for each statement '
                   'execute function pgembed.%I()',
        pgembed._trigger_name(p_embedding.embedding_id, 'truncate'),
        pgembed._table_sql(p_partition),
        format('_capture_%s_truncate', p_embedding.embedding_id));
end
$$;
comment on function pgembed._install_partition_capture(pgembed.embedding, regclass) is
    'Gives a partition the one trigger that it does not inherit.';

create or replace function pgembed._install_capture(p_embedding pgembed.embedding) returns void
language plpgsql
as $$
declare
    source text := pgembed._table_sql(p_embedding.source);
    by_row boolean := pgembed._captures_by_row(p_embedding.source);
    event text;
    part regclass;
begin
    perform pgembed._install_capture_functions(p_embedding);
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('create or replace trigger %I after %s on %s %s execute function pgembed.%I()',
            pgembed._trigger_name(p_embedding.embedding_id, event), event, source,
            case
                when event = 'truncate' then 'for each statement'
                when event = 'update'
                    then format('for each row when (%s)', pgembed._update_guard_sql(p_embedding))
                when by_row then 'for each row'
                when event = 'insert' then 'referencing new table as changed_rows for each statement'
                else 'referencing old table as changed_rows for each statement'
            end,
            format('_capture_%s_%s', p_embedding.embedding_id, event));
    end loop;
    if by_row then    -- TRUNCATE of one partition fires that partition's triggers only
        for part in select relid from pg_catalog.pg_partition_tree(p_embedding.source) where level > 0 loop
            perform pgembed._install_partition_capture(p_embedding, part);
        end loop;
    end if;
end
$$;
comment on function pgembed._install_capture(pgembed.embedding) is
    'Makes, or makes again, functions and triggers of an embedding. Waits for open writers of the '
    'source (SHARE ROW EXCLUSIVE), as any CREATE TRIGGER does.';

create or replace function pgembed._remove_capture(p_embedding pgembed.embedding) returns void
language plpgsql
as $$
declare
    event text;
begin
    -- The functions' triggers go with them, on partitions too.
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('drop function if exists pgembed.%I() cascade',
                       format('_capture_%s_%s', p_embedding.embedding_id, event));
    end loop;
end
$$;
comment on function pgembed._remove_capture(pgembed.embedding) is
    'Removes the capture functions of an embedding and, with them, its triggers.';
