-- Change capture: one set of triggers a captured text, whatever is made of it.
--
-- For vectors, INSERT and DELETE are seen by statement (transition tables: cheap in bulk).
-- Words are of one row, and partitions and logical subscribers fire row triggers only.
-- UPDATE is always by row, for all that is made of the text, with a WHEN over the columns
-- that count, so that an update of another column costs nothing. The triggers are ENABLE ALWAYS: sessions that replay
-- changes (session_replication_role = replica) are seen too.
--
-- Two kinds of generated functions, one set a text, with all names in place (dynamic SQL
-- would halve an application's insert rate):
--
--   belong to the owner of the table, run as that role, evaluate the text
--     _text_7_insert, _update, ...    the triggers (_capture_triggers)
--     _text_7_document    key, text and words of a row (where there is BM25)
--   belong to pgembed's owner, may be called by the owner of the table, append only
--     _text_7_change      one row; its words before and after
--     _text_7_queue       keys of a statement
--     _text_7_mark        something must be read again, or a row cannot be read
--
-- A trigger never fails a write, and never gives up in silence: what it cannot do, it
-- marks.

create or replace function pgembed._wake_sql(p_wake text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- NOTIFY takes a cluster-wide lock at commit, so it is sent only when a service
    -- sleeps: a sleeping service holds this advisory lock exclusively. Whoever else takes
    -- it makes writers notify, or the service poll: no more. And a full queue of
    -- notifications would fail the commit.
    select case when p_wake = 'poll' then '' else
$body$
    if not pg_catalog.pg_try_advisory_xact_lock_shared(1885824365, 1)
       and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5::pg_catalog.float8 then
        perform pg_catalog.pg_notify('pgembed', '');
    end if;$body$ end
$$;
comment on function pgembed._wake_sql(text) is 'The wake-up at the end of what a trigger calls.';

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

create or replace function pgembed._is_partitioned(p_table oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select relkind = 'p' from pg_class where oid = p_table
$$;
comment on function pgembed._is_partitioned(oid) is 'Whether a table is a partitioned parent.';

create or replace function pgembed._captures_by_row(p_text_id int) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A write to a partition does not fire the statement triggers of its parent, nor a
    -- write to the parent those of the partition; a subscription fires row triggers only.
    select c.relkind = 'p' or c.relispartition
        or exists (select from pg_subscription_rel as s where s.srrelid = c.oid)
    from pgembed.captured_text as t join pg_class as c on c.oid = t.source
    where t.text_id = p_text_id
$$;
comment on function pgembed._captures_by_row(int) is
    'Whether nothing of a text can be captured by statement.';

create or replace function pgembed._capture_triggers(t pgembed.captured_text)
returns table (name text, event text, by_row boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with made as (
        select pgembed._captures_by_row((t).text_id) as by_row,
               exists (select from pgembed.embedding as e where e.text_id = (t).text_id) as vectors,
               exists (select from pgembed.bm25 as b where b.text_id = (t).text_id) as words)
    select x.name, x.event, x.by_row
    from made cross join lateral (values
        -- Keys for the queue: a statement's all at once, unless there are only row triggers.
        ('insert', 'insert', made.by_row, made.vectors and not (made.by_row and made.words)),
        ('delete', 'delete', made.by_row, made.vectors and not (made.by_row and made.words)),
        -- Words are of one row.
        ('words_insert', 'insert', true, made.words),
        ('words_delete', 'delete', true, made.words),
        ('update', 'update', true, true),
        ('truncate', 'truncate', false, true)) as x(name, event, by_row, there)
    where x.there
$$;
comment on function pgembed._capture_triggers(pgembed.captured_text) is
    'The triggers that capture a text, given what is made of it and what its table is.';

create or replace function pgembed._compares(t pgembed.captured_text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Over a whole row a session that has compared once would not notice a column that
    -- is added later; functions of users may be slow, as is an image twice in base64, and the
    -- service compares anyway.
    select (t).kind = 'text' and (t).volatility = 'immutable' and not (t).foreign_code and (t).canonical_expression !~ '\.\*'
$$;
comment on function pgembed._compares(pgembed.captured_text) is
    'Whether the update trigger compares the texts themselves, where only vectors hang on them.';

create or replace function pgembed._captured_columns(t pgembed.captured_text) returns int2[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array(
        select a.attnum from pg_attribute as a
        where a.attrelid = (t).source and a.attnum > 0 and not a.attisdropped
          and (a.attname = any ((t).source_columns)
               or a.attname = any ((select b.config_columns from pgembed.bm25 as b where b.text_id = (t).text_id)::text[])
               or a.attnum = any (array(select unnest(i.indkey::int2[]) from pg_index as i
                                        where i.indrelid = (t).source and i.indisprimary)))
        order by a.attnum)
$$;
comment on function pgembed._captured_columns(pgembed.captured_text) is
    'Columns that a text, the configuration of its words or the key is made of.';

create or replace function pgembed._update_guard_sql(t pgembed.captured_text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Where equal values have equal texts, columns are compared by value, which is
    -- cheapest. The others by image: 1.0 and 1.00 are equal numbers with different
    -- texts, and json and xml know no equality at all. An expression over the whole
    -- row (to_jsonb(article.*)) reads columns, too, that are added later.
    select case when (t).canonical_expression ~ '\.\*'
                then 'pg_catalog.record_image_ne(old.*, new.*)'
                else concat_ws(' or ',
                    string_agg(format('old.%1$I is distinct from new.%1$I', a.attname), ' or ' order by a.attnum)
                        filter (where plain.by_value),
                    'pg_catalog.record_image_ne(row('
                    || string_agg(format('old.%I', a.attname), ', ' order by a.attnum)
                           filter (where not plain.by_value)
                    || '), row('
                    || string_agg(format('new.%I', a.attname), ', ' order by a.attnum)
                           filter (where not plain.by_value)
                    || '))') end
    from pg_attribute as a
    left join pg_collation as c on c.oid = a.attcollation
    cross join lateral (
        select a.atttypid = any (array['text', 'varchar', 'bool', 'int2', 'int4', 'int8', 'uuid', 'date',
                                       'timestamp', 'timestamptz', 'oid', 'name']::regtype[])
               and coalesce(c.collisdeterministic, true) as by_value) as plain
    where a.attrelid = (t).source and a.attnum = any (pgembed._captured_columns(t))
$$;
comment on function pgembed._update_guard_sql(pgembed.captured_text) is
    'WHEN condition of the update trigger: a column that the text, its words or the key is made of changed.';

create or replace function pgembed._trigger_name(p_text_id int, p_event text) returns name
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- ALTER TABLE ... TYPE is refused over a column that a trigger watches, with the
    -- name of the trigger: it says where to read on.
    select format('pgembed_text_%s_%s', p_text_id, case p_event when 'update' then 'update_see_pgembed_pause' else p_event end)::name
$$;
comment on function pgembed._trigger_name(int, text) is 'Name of a capture trigger.';

create or replace function pgembed._triggers_fit(t pgembed.captured_text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A trigger follows a column that is renamed, the expression follows the name: they
    -- part when a new column takes the old one's name. An ordinary one (O) was made ALWAYS,
    -- and has been disabled and enabled again: what was written in between was not seen.
    select not exists (
        select from pgembed._capture_triggers(t) as x
        left join pg_trigger as g on g.tgrelid = (t).source and g.tgname = pgembed._trigger_name((t).text_id, x.name)
        where g.oid is null or g.tgenabled = 'O' or (g.tgtype & 1 = 1) <> x.by_row
           or x.name = 'update' and (t).canonical_expression !~ '\.\*' and not pgembed._captured_columns(t) <@ array(
               select d.refobjsubid::int2 from pg_depend as d
               where d.classid = 'pg_trigger'::regclass and d.objid = g.oid
                 and d.refclassid = 'pg_class'::regclass and d.refobjid = (t).source))
       and not exists (
        select from pg_trigger as g
        where g.tgrelid = (t).source and g.tgname ~ format('^pgembed_text_%s_', (t).text_id)
          and g.tgname not in (select pgembed._trigger_name((t).text_id, x.name) from pgembed._capture_triggers(t) as x))
$$;
comment on function pgembed._triggers_fit(pgembed.captured_text) is
    'Whether the triggers that are there watch what the text is made of, in the way that its table needs, and '
    'always have. Whether they are enabled is another thing: people disable triggers for a while.';

create or replace function pgembed._key_columns(p_source oid) returns int2[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array(select k.attnum from pg_index as i cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, place)
                 where i.indrelid = p_source and i.indisprimary and k.place <= i.indnkeyatts order by k.place)
$$;
comment on function pgembed._key_columns(oid) is 'Numbers of the columns of a table''s primary key.';

create or replace function pgembed._capture_digest(t pgembed.captured_text) returns bytea
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- All that the generated functions and the triggers are made from.
    select pgembed._hash(concat_ws(E'\n',
        (t).canonical_expression, pgembed._table_sql((t).source), pgembed._owner_of((t).source)::regrole,
        pgembed._key_text_sql((t).source, 'r'), pgembed._changed_keys_sql((t).source),
        (select string_agg(x::text, ',' order by x.name) from pgembed._capture_triggers(t) as x), pgembed._captured_columns(t)::text, pgembed._update_guard_sql(t),
        (select string_agg(concat_ws(' ', e.embedding_id, e.wake), ',' order by e.embedding_id)
         from pgembed.embedding as e where e.text_id = (t).text_id),
        (select concat_ws(' ', x.bm25_id, x.config, x.config_expression, x.analyzer, x.field_columns, x.field_weights, pgembed._field_names(x))
         from pgembed.bm25 as x where x.text_id = (t).text_id)))
$$;
comment on function pgembed._capture_digest(pgembed.captured_text) is
    'Digest of what capture is generated from; another one means that it must be generated again.';

create or replace function pgembed._own_function(
    p_text_id int, p_name text, p_arguments text, p_body text, p_settings text default ''
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    signature text := format('pgembed.%I(%s)', format('_text_%s_%s', p_text_id, p_name), p_arguments);
    source constant oid := (select c.source from pgembed.captured_text as c where c.text_id = p_text_id);
begin
    execute format('create or replace function %s returns void language plpgsql security definer %s as %L', signature, p_settings, p_body);
    signature := (select p.oid::regprocedure from pg_proc as p
                  where p.pronamespace = 'pgembed'::regnamespace and p.proname = format('_text_%s_%s', p_text_id, p_name));
    perform pgembed._give_to_owner('function', signature);
    perform pgembed._close('function', signature);    -- an earlier owner of the table is nobody any more
    execute format('grant execute on function %s to %s', signature, pgembed._owner_of(source)::regrole);
    execute format('comment on function %s is %L', signature,
                   format('Generated: appends for captured text %s; takes keys and words, evaluates nothing.', p_text_id));
end
$$;
comment on function pgembed._own_function(int, text, text, text, text) is
    'Makes a function of a captured text that appends to pgembed''s tables with the rights of pgembed''s owner.';

create or replace function pgembed._install_append_functions(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b constant int := (select bm25_id from pgembed.bm25 where text_id = t.text_id);
    wake text := coalesce((select pgembed._wake_sql(min(wake)) from pgembed.embedding where text_id = t.text_id), '');
    ids constant text := coalesce((select string_agg(embedding_id::text, ', ' order by embedding_id)
                                   from pgembed.embedding where text_id = t.text_id), '');
    jobs text := '';
begin
    if ids <> '' then
        jobs := format($body$
    if p_encode then
        if p_old_key is not null and (p_new_key is null or p_old_key operator(pg_catalog.<>) p_new_key) then
            insert into pgembed.queue (embedding_id, key, op) %1$s;
        end if;
        if p_new_key is not null then
            insert into pgembed.queue (embedding_id, key, op) %2$s;
        end if;%3$s
    end if;$body$,
            (select format('values %s', string_agg(format('(%s, p_old_key, ''D'')', id), ', ')) from unnest(string_to_array(ids, ', ')) as id),
            (select format('values %s', string_agg(format('(%s, p_new_key, ''U'')', id), ', ')) from unnest(string_to_array(ids, ', ')) as id),
            replace(wake, E'\n', E'\n    '));
    end if;
    perform pgembed._own_function(t.text_id, 'change',
        'p_old_key text, p_new_key text, p_encode boolean, p_old_length int, p_old_lexemes tsvector, '
        'p_new_length int, p_new_lexemes tsvector, p_partition oid default null',
        format(E'begin%s%s\nend\n', jobs, case when b is not null then format($body$
    if p_old_lexemes is not null then
        insert into pgembed._bm25_%1$s_dead (key, length, lexemes, partition) values (p_old_key, p_old_length, p_old_lexemes, p_partition);
    end if;
    if p_new_lexemes is not null then
        insert into pgembed._bm25_%1$s_recent (key, length, lexemes, partition) values (p_new_key, p_new_length, p_new_lexemes, p_partition);
    end if;$body$, b) else '' end));

    perform pgembed._own_function(t.text_id, 'queue', 'p_op "char", p_keys text[]', format($body$
begin
    insert into pgembed.queue (embedding_id, key, op, priority)
    select e.id, k.key, p_op, case when pg_catalog.cardinality(p_keys) operator(pg_catalog.>) 1000 then 1 else 0 end    -- 1: bulk
    from pg_catalog.unnest(p_keys) as k(key) cross join pg_catalog.unnest('{%s}'::pg_catalog.int4[]) as e(id);%s
end
$body$, ids, wake));

    perform pgembed._own_function(t.text_id, 'mark', 'p_op "char", p_key text, p_error text, p_partition oid default null', format($body$
begin%s
    if p_op operator(pg_catalog.=) 'F' then%s
        return;
    end if;
    insert into pgembed.queue (embedding_id, op, priority)
    select e.id, case p_op when 'P' then 'T' else p_op end, case p_op when 'R' then 1 else 0 end
    from pg_catalog.unnest('{%s}'::pg_catalog.int4[]) as e(id)
    where p_op operator(pg_catalog.<>) 'R' or not exists (
        select from pgembed.queue as q where q.embedding_id operator(pg_catalog.=) e.id
           and q.priority operator(pg_catalog.=) 1::pg_catalog.int2 and q.op operator(pg_catalog.=) 'R');%s%s
end
$body$,
        case when b is not null then format($configuration$
    if p_op operator(pg_catalog.=) 'C' then    -- the configuration of a row is none
        p_op := case when pgembed._config_differs(%s) then 'R' when p_error is not null then 'F' end;
        if p_op is null then
            return;
        end if;
    end if;$configuration$, b) else '' end,
        case when b is not null then format(
            E'\n        insert into pgembed.bm25_failed (bm25_id, key, error) values (%s, p_key, pg_catalog.left(p_error, 10000));', b) else '' end,
        ids,
        case when b is not null then format(E'\n    perform pgembed._bm25_%s_mark(p_op, p_partition);', b) else '' end,
        wake), 'set search_path = pg_catalog, pg_temp');
end
$$;
comment on function pgembed._install_append_functions(pgembed.captured_text) is
    'Makes, or makes again, the functions through which the triggers of a text append.';

create or replace function pgembed._trigger_function_sql(t pgembed.captured_text, p_event text, p_declare text, p_body text, p_settings text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('create or replace function pgembed.%1$I() returns trigger language plpgsql security definer '
                  'set search_path = pg_catalog, pg_temp %2$s as %3$L; revoke all on function pgembed.%1$I() from public; ',
                  format('_text_%s_%s', (t).text_id, p_event), p_settings,
                  format(E'%s\nbegin\n%s\n    return null;\nend\n', p_declare, p_body))
$$;
comment on function pgembed._trigger_function_sql(pgembed.captured_text, text, text, text, text) is
    'Statement for one trigger function of a captured text, to be run as the owner of the table.';

create or replace function pgembed._document_function_sql(t pgembed.captured_text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
    foreign_code boolean;
begin
    select * into b from pgembed.bm25 where text_id = t.text_id;
    foreign_code := t.foreign_code or coalesce(b.config_foreign, false);
    -- Called with old, with new, and for the rows of the table: anyelement, because a
    -- parameter of the row type would forbid DROP TABLE. The names of its results are
    -- columns of none, so that an expression over r means r's.
    return format(
        'create or replace function pgembed.%1$I(r anyelement, out key text, out content text, out length int, out lexemes tsvector, '
        'out error text, out unfit boolean) language plpgsql %2$s as %3$L; revoke all on function pgembed.%1$I(anyelement) from public; ',
        format('_text_%s_document', t.text_id), '',
        format($body$
declare
    composed boolean := false;
    done boolean := false;%4$s
begin
    unfit := false;
    key := %1$s;
    content := nullif((%2$s)::pg_catalog.text, '');
    composed := true;
    if pg_catalog.octet_length(key) operator(pg_catalog.>) 2600 then    -- an index of documents has no longer ones
        raise exception 'the key of the row has %% bytes as text', pg_catalog.octet_length(key) using errcode = 'PE007';
    end if;
    if content is not null then
        lexemes := nullif(%3$s, '');
        length := %7$s;
    end if;
    done := true;%5$s
exception when others or assert_failure then%6$s
    if done then
        return;
    end if;
    -- A row's own fault, or that of the table's shape, of a right, of the configuration:
    -- then no row can be read, and all must be read again. NULL: the configuration that the row
    -- names is none, and may have been one when its words were read; mark() knows.
    error := sqlerrm;
    unfit := composed or key is null or sqlstate like '42%%' or sqlstate like '3F%%';
    if composed and sqlstate operator(pg_catalog.=) 'PE007' then
        unfit := null;
    end if;
    lexemes := null;
end
$body$, pgembed._row_columns(t.source, pgembed._key_text_sql(t.source, 'r'), 'r'),
        pgembed._row_expression(t.text_id, t.source, t.canonical_expression, 'r'),
        pgembed._row_columns(t.source, pgembed._row_lexemes_sql(b, pgembed._bm25_config_sql(b.config, case when b.config_expression is not null
            then pgembed._row_expression(t.text_id, t.source, b.config_expression, 'r') end, t.source, true), 'content', 'r'), 'r'),
        -- What code of users may have done is not to stay in the session of who writes.
        case when foreign_code then E'\n    statements constant text[] := pgembed._foreign_statements(null);' else '' end,
        case when foreign_code then E'\n    raise sqlstate ''PE000'';    -- undoes it' else '' end,
        case when foreign_code then E'\n    perform pgembed._foreign_statements(statements);' else '' end, pgembed._length_sql(b, 'lexemes')));
end
$$;
comment on function pgembed._document_function_sql(pgembed.captured_text) is
    'Statement for the function that gives key, text and words of a row, and never fails.';

create or replace function pgembed._trigger_functions_sql(t pgembed.captured_text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    words constant boolean := exists (select from pgembed.bm25 where text_id = t.text_id);
    call constant text := format('pgembed._text_%s_', t.text_id);
    settings constant text := case when words or pgembed._key_text_varies(t.source) then pgembed._key_settings_sql() else '' end;
    new_key constant text := pgembed._row_columns(t.source, pgembed._key_text_sql(t.source, 'new'), 'new');
    old_key constant text := pgembed._row_columns(t.source, pgembed._key_text_sql(t.source, 'old'), 'old');
    statement_body constant text := $body$    select pg_catalog.array_agg(changed.key) into keys from %3$s;
    if keys is not null then
        perform %1$squeue(%2$L, keys);
    elsif exists (select from changed_rows) then
        perform %1$smark('R', null, null);
    end if;$body$;
    row_body constant text := $body$    begin
        row_key := %2$s;
    exception when others then
        perform %1$smark('R', null, null);
        return null;
    end;
    perform %1$schange(%3$s, true, null, null, null, null);$body$;
    word_end constant text := $body$
    if (%2$s) is not false then
        perform %1$smark((case when %2$s then 'R' else 'C' end)::"char", now.key, now.error);
    elsif now.error is not null then
        perform %1$smark('F', now.key, now.error);
    end if;$body$;
    by_row constant boolean := pgembed._captures_by_row(t.text_id);
    -- Which may be truncated alone.
    relation constant text := case when pgembed._is_partitioned(t.source) then 'tg_relid' else 'null' end;
    made record;
    sql text := '';
    compare text := '';
begin
    for made in select * from pgembed._capture_triggers(t) loop
        sql := sql || case
            when made.name = 'words_insert' then pgembed._trigger_function_sql(t, made.name, E'declare\n    now record;', format(
                E'    now := %1$sdocument(new);\n    perform %1$schange(null, now.key, %2$s, null, null, now.length, now.lexemes, %3$s);', call, by_row::text, relation)
                || format(word_end, call, 'now.unfit'), settings)
            when made.name = 'words_delete' then pgembed._trigger_function_sql(t, made.name, E'declare\n    was record;', format(
$body$    was := %1$sdocument(old);
    perform %1$schange(was.key, null, %2$s, was.length, was.lexemes, null, null, %3$s);
    if was.unfit is not false then
        perform %1$smark((case when was.unfit then 'R' else 'C' end)::"char", null, null);
    end if;$body$, call, by_row::text, relation), settings)
            when made.name in ('insert', 'delete') and made.by_row then pgembed._trigger_function_sql(t, made.name, E'declare\n    row_key text;',
                format(row_body, call, case made.name when 'insert' then new_key else old_key end,
                       case made.name when 'insert' then 'null, row_key' else 'row_key, null' end), settings)
            when made.name in ('insert', 'delete') then pgembed._trigger_function_sql(t, made.name, E'#variable_conflict use_column\ndeclare\n    keys text[];',
                format(statement_body, call, case made.name when 'insert' then 'U' else 'D' end, pgembed._changed_keys_sql(t.source)), settings)
            else '' end;
    end loop;
    if words then
        sql := pgembed._document_function_sql(t) || sql || pgembed._trigger_function_sql(t, 'update', E'declare\n    was record;\n    now record;', format(
$body$    was := %1$sdocument(old);
    now := %1$sdocument(new);
    if was.error is null and now.error is null and was.key = now.key and was.lexemes is not distinct from now.lexemes then
        if was.content collate "C" is not distinct from now.content then
            return null;
        end if;
        perform %1$schange(was.key, now.key, true, null, null, null, null);    -- other capitals, the same words
        return null;
    end if;
    perform %1$schange(was.key, now.key, was.error is not null or now.error is not null or was.key <> now.key
                       or was.content is distinct from now.content collate "C",
                       was.length, was.lexemes, now.length, now.lexemes, %2$s);$body$, call, relation)
            || format(word_end, call, 'was.unfit or now.unfit'), settings);
    end if;
    if not words then
        -- WHEN lets a change of any column through that the expression reads; here the
        -- texts themselves are compared (attrs->>'summary' reads one value of many). An
        -- expression that fails on this row is the service's to report.
        if pgembed._compares(t) then
            compare := format($body$
        if new_key = old_key and
           (%s)::text collate "C" is not distinct from
           (%s)::text collate "C" then
            return null;
        end if;$body$, pgembed._row_expression(t.text_id, t.source, t.canonical_expression, 'new'),
                       pgembed._row_expression(t.text_id, t.source, t.canonical_expression, 'old'));
        end if;
        sql := sql || pgembed._trigger_function_sql(t, 'update', E'declare\n    new_key text;\n    old_key text;', format(
$body$    begin
        new_key := %2$s;
        old_key := %3$s;%4$s
    exception when others then
        if old_key is null then
            perform %1$smark('R', null, null);
            return null;
        end if;
    end;
    perform %1$schange(old_key, new_key, true, null, null, null, null);$body$, call, new_key, old_key, compare), settings);
    end if;
    return sql || pgembed._trigger_function_sql(t, 'truncate', '', format(
        $body$    perform %smark(case when tg_argv[0] = 'partition' then 'P' else 'T' end::"char", null, null, tg_relid);$body$, call), '');
end
$$;
comment on function pgembed._trigger_functions_sql(pgembed.captured_text) is
    'Statements for the trigger functions of a captured text, to be run as the owner of the table.';

create or replace function pgembed._partition_trigger_sql(t pgembed.captured_text, p_partition oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('create or replace trigger %1$I after truncate on %2$s for each statement '
                  'execute function pgembed.%3$I(''partition''); alter table %2$s enable always trigger %1$I; ',
                  pgembed._trigger_name((t).text_id, 'truncate'), pgembed._table_sql(p_partition),
                  format('_text_%s_truncate', (t).text_id))
$$;
comment on function pgembed._partition_trigger_sql(pgembed.captured_text, oid) is
    'Statement for the one trigger that a partition does not inherit: TRUNCATE of it fires its own triggers only.';

create or replace function pgembed._triggers_sql(t pgembed.captured_text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    source constant text := pgembed._table_sql(t.source);
    sql text := '';
    made record;
begin
    for made in select * from pgembed._capture_triggers(t) loop
        sql := sql || format(
            'create or replace trigger %1$I after %2$s on %3$s %4$s execute function pgembed.%5$I(); '
            'alter table %3$s enable always trigger %1$I; ',
            pgembed._trigger_name(t.text_id, made.name), made.event, source,
            case
                when made.event = 'truncate' then 'for each statement'
                when made.event = 'update' then format('for each row when (%s)', pgembed._update_guard_sql(t))
                when made.by_row then 'for each row'
                when made.event = 'insert' then 'referencing new table as changed_rows for each statement'
                else 'referencing old table as changed_rows for each statement'
            end,
            format('_text_%s_%s', t.text_id, made.name));
    end loop;
    return sql;
end
$$;
comment on function pgembed._triggers_sql(pgembed.captured_text) is
    'Statements for the triggers of a captured text, to be run as the owner of the table.';

create or replace function pgembed._install_functions(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner constant oid := pgembed._owner_of(t.source);
    strange record;
    old_level text;
    functions text;
begin
    perform pgembed._install_fence(t);
    perform pgembed._install_append_functions(t);
    -- Those of an earlier owner go, and their triggers with them, which is no news.
    old_level := pgembed._setting('client_min_messages', 'warning');
    for strange in
        select p.oid::regprocedure as routine from pg_proc as p
        where p.pronamespace = 'pgembed'::regnamespace and p.proowner <> owner
          and p.proname ~ format('^_text_%s_((words_)?(insert|delete)|update|truncate|document|current|compose|config)$', t.text_id)
    loop
        execute format('drop function %s cascade', strange.routine);
    end loop;
    perform pgembed._setting('client_min_messages', old_level);
    functions := pgembed._trigger_functions_sql(t) || pgembed._search_functions_sql(t);
    perform pgembed._lend_schema(owner, true);
    perform pgembed._run_as_owner(t.text_id, functions);
    perform pgembed._lend_schema(owner, false);
end
$$;
comment on function pgembed._install_functions(pgembed.captured_text) is
    'Makes, or makes again, all functions of a captured text; takes no lock on the source.';

create or replace function pgembed._install_capture(t pgembed.captured_text, p_triggers boolean default false) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    stale text;
begin
    perform pgembed._install_functions(t);
    if t.capture and (p_triggers or not pgembed._triggers_fit(t)) then
        -- A trigger changes from statement to row only by being made anew.
        select string_agg(format('drop trigger %I on %s; ', g.tgname, pgembed._table_sql(t.source)), '') into stale
        from pg_trigger as g
        left join pgembed._capture_triggers(t) as x on g.tgname = pgembed._trigger_name(t.text_id, x.name)
        where g.tgrelid = t.source and g.tgparentid = 0
          and g.tgfoid in (select oid from pg_proc where pronamespace = 'pgembed'::regnamespace and proname ~ format('^_text_%s_', t.text_id))
          and (x.name is null or (g.tgtype & 1 = 1) <> x.by_row);
        perform pgembed._run_as_owner(t.text_id, coalesce(stale, '') || pgembed._triggers_sql(t) || coalesce((
            select string_agg(pgembed._partition_trigger_sql(t, p.relid), '')
            from pg_partition_tree(t.source) as p where p.level > 0), ''));
    end if;
    update pgembed.captured_text set capture_digest = pgembed._capture_digest(t), key_columns = pgembed._key_columns(t.source)
    where text_id = t.text_id;
end
$$;
comment on function pgembed._install_capture(pgembed.captured_text, boolean) is
    'Makes, or makes again, functions and triggers of a captured text. Where triggers do not fit, or p_triggers says so, '
    'it waits for open writers of the source (SHARE ROW EXCLUSIVE), as any CREATE TRIGGER does.';

create or replace function pgembed._remove_capture(p_text_id int, p_pattern text default '') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    routine regprocedure;
    old_level constant text := pgembed._setting('client_min_messages', 'warning');
begin
    -- The functions' triggers go with them, on partitions too.
    for routine in select oid from pg_proc
                   where pronamespace = 'pgembed'::regnamespace
                     and proname ~ format('^_text_%s_%s', p_text_id, p_pattern)
    loop
        execute format('drop function %s cascade', routine);
    end loop;
    perform pgembed._setting('client_min_messages', old_level);
end
$$;
comment on function pgembed._remove_capture(int, text) is
    'Removes the functions of a captured text and, with them, its triggers; or those of a pattern.';
