-- The fence between a table's owner and pgembed.
--
-- What the owner of a table can define (functions and types in the text, triggers,
-- policies, index expressions, domains) is evaluated with the owner's rights and
-- no others. So pgembed never reads, plans or writes a user's table by itself: it
-- hands the statement to one of two functions of the captured text, which belong to
-- the table's owner and run as that role (SECURITY DEFINER; inside one, SET ROLE and
-- SET SESSION AUTHORIZATION are refused):
--
--   _text_7_read(sql, work)    statements that give rows, in the caller's snapshot
--   _text_7_run(sql, work)     statements that change something
--
-- Only pgembed's owner may call them. The other way, triggers run as the table's
-- owner and append to pgembed's tables through functions that belong to pgembed's
-- owner, take nothing but keys, lengths and lexemes, and may be called by the table's
-- owner only (triggers.sql).
--
-- Rights are one half. What foreign code leaves in the session (a search_path, temporary
-- views, deferred triggers, cursors that are evaluated at commit) would run with the
-- rights of whoever the session belongs to. So a read is undone: it happens in a
-- subtransaction that is rolled back, and only what was read, in variables, is kept. What
-- must stay (the UPDATE of column storage) is done by the service alone, which cleans its
-- session before it uses that for anything else.
--
-- Errors too are fenced. Foreign code may raise any SQLSTATE: those of pgembed, of a lock
-- that was not granted, of a lost connection. So the table is locked first, where an error
-- is what it says; and whatever is raised after that comes out as PE018, with the SQLSTATE
-- that it had in the field DATATYPE. No other code of an error is ever foreign.

create or replace function pgembed._owner_of(p_relation oid) returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select relowner from pg_class where oid = p_relation
$$;
comment on function pgembed._owner_of(oid) is 'Owner of a table; NULL when it is gone.';

create or replace function pgembed._own() returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select nspowner from pg_namespace where nspname = 'pgembed'
$$;
comment on function pgembed._own() is 'The role that owns pgembed.';

create or replace function pgembed._back_inside() returns void
language sql
as $$
    select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)
$$;
comment on function pgembed._back_inside() is
    'Said after each call through the fence: foreign code may have left any search_path.';

create or replace function pgembed._lend_schema(p_owner oid, p_lend boolean) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Who owns functions in this schema must be allowed to create there, for as long as
    -- these are made: within one transaction, so that nobody ever sees it.
    if p_owner <> pgembed._own() and not (select rolsuper from pg_roles where oid = p_owner) then
        if p_lend then
            execute format('grant usage, create on schema pgembed to %s', p_owner::regrole);
        else
            execute format('revoke create on schema pgembed from %s', p_owner::regrole);
        end if;
    end if;
end
$$;
comment on function pgembed._lend_schema(oid, boolean) is
    'Lets the owner of a table have functions in schema pgembed made for it, and ends that.';

create or replace function pgembed._guard_sql(p_function text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- The owner may not replace the body of its function here, but may change whose rights it
    -- runs with.
    select format(
$guard$if current_user operator(pg_catalog.<>) (
        select pg_catalog.pg_get_userbyid(p.proowner) from pg_catalog.pg_proc as p
        where p.oid operator(pg_catalog.=) %L::pg_catalog.regproc::pg_catalog.oid) then
        raise exception 'function %s does not run as its owner any more' using errcode = '42501',
            hint = 'SELECT pgembed.repair(...) makes it again.';
    end if;$guard$, 'pgembed.' || p_function, p_function)
$$;
comment on function pgembed._guard_sql(text) is 'How a function of a table''s owner begins that others call.';

create or replace function pgembed._fence_body(p_function text, p_statement text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($body$
declare
    keys pg_catalog.text[];
    held pg_catalog.text;
begin
    %s
    %s
end
$body$, pgembed._guard_sql(p_function), p_statement)
$$;
comment on function pgembed._fence_body(text, text) is 'Body of a function of the fence.';

create or replace function pgembed._fence_holds(t pgembed.captured_text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*) = 2 from pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace and p.prosecdef and p.proowner = pgembed._owner_of(t.source)
      and p.proconfig @> '{row_security=off}' and cardinality(p.proconfig) = 6
      and p.proname in (format('_text_%s_read', t.text_id), format('_text_%s_run', t.text_id))
$$;
comment on function pgembed._fence_holds(pgembed.captured_text) is
    'Whether both functions of the fence are there and run as the owner that the table has now.';

create or replace function pgembed._install_fence(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner constant oid := pgembed._owner_of(t.source);
    name text;
    part record;
begin
    if pgembed._fence_holds(t) then
        return;
    end if;
    if not pg_has_role(pgembed._own(), owner, 'SET') then    -- else it may not give functions to that role
        raise exception 'role "%", which owns pgembed, cannot work as role "%", which owns table %',
            pg_get_userbyid(pgembed._own()), pg_get_userbyid(owner), t.source using errcode = 'PE013',
            detail = 'The text is read, and triggers run, with the rights of the table''s owner and no others.',
            hint = case when (select rolsuper from pg_roles where oid = owner)
                then format('A superuser''s table needs a superuser''s pgembed: ALTER TABLE %s OWNER TO a role '
                            'that "%s" is a member of.', t.source, pg_get_userbyid(pgembed._own()))
                else format('GRANT %s TO %s;', owner::regrole, pgembed._own()::regrole) end;
    end if;
    perform pgembed._lend_schema(owner, true);
    for part in select * from (values
        ('read', 'setof record', 'stable', 'return query execute p_sql using p_work;'),
        -- Deferred triggers and held cursors are evaluated at commit, by whoever commits: here
        -- they fire, or are closed, before the owner's rights end.
        ('run', 'text[]', 'volatile', $run$
    if p_work is null then
        execute p_sql;
        return null;
    end if;
    if p_sql operator(pg_catalog.~~) 'select %' then
        execute p_sql into keys using p_work;
    else
        execute p_sql using p_work;
    end if;
    set constraints all immediate;
    for held in select c.name from pg_catalog.pg_cursors as c where c.is_holdable loop
        execute pg_catalog.format('close %I', held);
    end loop;
    return keys;$run$))
        as parts(name, returns, volatility, statement)
    loop
        name := format('_text_%s_%s', t.text_id, part.name);
        if exists (select from pg_proc where pronamespace = 'pgembed'::regnamespace and proname = name) then
            execute format('drop function pgembed.%I(text, pgembed._work)', name);
        end if;
        execute format(
            'create function pgembed.%1$I(p_sql text, p_work pgembed._work) returns %2$s language plpgsql %3$s security definer '
            -- Rows that a policy hides look deleted, so hiding is an error here. Keys are
            -- written as the triggers write them.
            'set row_security = off %4$s as %5$L',
            name, part.returns, part.volatility, pgembed._key_settings_sql(), pgembed._fence_body(name, part.statement));
        name := format('pgembed.%I(text, pgembed._work)', name);
        perform pgembed._close('function', name);
        execute format('grant execute on function %s to %s', name, pgembed._own()::regrole);
        execute format('comment on function %s is %L', name,
                       format('Generated: what pgembed does with captured text %s, with the rights of the table''s owner.', t.text_id));
        execute format('alter function %s owner to %s', name, owner::regrole);
    end loop;
    perform pgembed._lend_schema(owner, false);
end
$$;
comment on function pgembed._install_fence(pgembed.captured_text) is
    'Makes the two functions through which pgembed reaches the table of a captured text, as its owner; '
    'PE013 where it cannot.';

create or replace function pgembed._fence(p_text_id int, p_part text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text;
begin
    select * into t from pgembed.captured_text where text_id = p_text_id;
    if pgembed._table_sql(t.source) is null then
        raise exception 'the table of captured text % has been dropped', p_text_id using errcode = 'PE016',
            hint = 'Drop the embedding or BM25 index: pgembed.drop_embedding, pgembed.drop_bm25.';
    end if;
    if not pgembed._fence_holds(t) then
        raise exception 'the functions that reach table % as its owner are missing, or the owner has changed', t.source
            using errcode = 'PE016', hint = format('SELECT pgembed.repair(%L).', pgembed._name_of_text(p_text_id));
    end if;
    return format('pgembed._text_%s_%s', p_text_id, p_part);
end
$$;
comment on function pgembed._fence(int, text) is
    'Name of a function of the fence (read or run), or PE016 where it does not hold.';

create or replace function pgembed._lock_source_sql(p_source oid, p_mode text default 'access share') returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('lock table %s in %s mode', pgembed._table_sql(p_source), p_mode)
$$;
comment on function pgembed._lock_source_sql(oid, text) is
    'What a statement of the owner''s does first, so that waiting for the table is no error of foreign code.';

create or replace function pgembed._raise_foreign(p_state text, p_error text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'PE018', message = p_error, datatype = p_state;
end
$$;
comment on function pgembed._raise_foreign(text, text) is
    'PE018 in place of what code of a table''s owner has raised, whose SQLSTATE says nothing.';

create or replace function pgembed._may_pass(p_state text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select p_state similar to '(40|53|55|57|58)%|25006'
$$;
comment on function pgembed._may_pass(text) is
    'Whether an SQLSTATE claims to be of a moment: cancelled, timed out, locked, out of a resource, a standby. Foreign '
    'code may claim it of itself, so no row is spared for it; but nothing is called broken because of it.';

create or replace function pgembed._run_as_owner(p_text_id int, p_sql text, p_work pgembed._work default null) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    fence constant text := pgembed._fence(p_text_id, 'run');
    statements constant text[] := pgembed._foreign_statements(null);
    keys text[];
begin
    if p_work is null then    -- DDL: evaluates nothing of the owner's
        execute format('select %s($1, null)', fence) using p_sql;
    else
        execute format('select %s($1, null)', fence) using pgembed._lock_source_sql((pgembed._text(p_text_id)).source, 'row exclusive');
        begin
            execute format('select %s($1, $2)', fence) into keys using p_sql, p_work;
        exception when others or assert_failure or query_canceled then
            perform pgembed._raise_foreign(sqlstate, sqlerrm);
        end;
    end if;
    perform pgembed._back_inside();
    perform pgembed._foreign_statements(statements);
    return keys;
end
$$;
comment on function pgembed._run_as_owner(int, text, pgembed._work) is
    'Runs a statement over the table of a captured text as its owner. Work is $1 in it; a select gives one array of keys.';

create or replace function pgembed._foreign_statements(p_known text[]) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    present constant text[] := array(select concat_ws(' ', quote_ident(name), prepare_time, statement) from pg_prepared_statements);
    stranger text;
begin
    -- Prepared statements outlive a rollback. One that has come, or was put in the place of
    -- the session's own, goes.
    if p_known is not null and not present <@ p_known then
        for stranger in select quote_ident(name) from pg_prepared_statements
                        where concat_ws(' ', quote_ident(name), prepare_time, statement) <> all (p_known) loop
            execute format('deallocate %s', stranger);
        end loop;
    end if;
    return present;
end
$$;
comment on function pgembed._foreign_statements(text[]) is
    'Prepared statements of the session; those that are not among the known ones are removed.';

create or replace function pgembed._keys_as_owner(p_text_id int, p_sql text, p_work pgembed._work default null) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    fence constant text := pgembed._fence(p_text_id, 'read');
    statements constant text[] := pgembed._foreign_statements(null);
    keys text[];
    locked boolean := false;
    done boolean := false;
begin
    begin
        perform pgembed._run_as_owner(p_text_id, pgembed._lock_source_sql((pgembed._text(p_text_id)).source));
        locked := true;
        execute format('select pg_catalog.array_agg(r.key order by r.place) from %s($1, $2) as r(place bigint, key text)', fence)
        into keys using p_sql, p_work;
        done := true;
        raise sqlstate 'PE000';    -- what has been read stays in keys, all else is undone
    exception when others or assert_failure or query_canceled then
        perform pgembed._foreign_statements(statements);
        if locked and not done then
            perform pgembed._raise_foreign(sqlstate, sqlerrm);
        elsif not done then
            raise;
        end if;
    end;
    return coalesce(keys, '{}');
end
$$;
comment on function pgembed._keys_as_owner(int, text, pgembed._work) is
    'What a statement over the table of a captured text gives as (place, key), in order, read as its owner.';

create or replace function pgembed._read_texts(
    t pgembed.captured_text, p_keys text[], p_max_bytes bigint,
    out present boolean[], out contents text[], out hashes bytea[], out bytes bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    statement constant text := format(
        'select coalesce(array_agg(r.present order by r.place), ''{}''), array_agg(r.content order by r.place), '
        'array_agg(r.hash order by r.place), array_agg(r.bytes order by r.place) '
        'from %s($1, $2) as r(place bigint, present boolean, content text, hash bytea, bytes bigint)', pgembed._fence(t.text_id, 'read'));
    statements constant text[] := pgembed._foreign_statements(null);
    locked boolean := false;
    done boolean := false;
begin
    begin
        perform pgembed._run_as_owner(t.text_id, pgembed._lock_source_sql(t.source));
        locked := true;
        execute statement into present, contents, hashes, bytes
        using format(
            'select r.place, r.present is not null, case when r.bytes operator(pg_catalog.<=) ($1).n then r.content end, '
            'pg_catalog.sha256(pg_catalog.convert_to(r.content, ''utf8'')), r.bytes '
            'from (select k.place, s.present, s.content, '
            'pg_catalog.sum(pg_catalog.octet_length(s.content)) over (order by k.place rows unbounded preceding)::pg_catalog.int8 as bytes '
            'from pg_catalog.unnest(($1).keys) with ordinality as k(key, place) '
            'left join lateral (select true as present, s.content from (select k.key) as pgembed_key cross join lateral (%s) as s) as s on true) as r',
            pgembed._source_rows_sql(t.source, t.canonical_expression)), row(p_keys, null, null, p_max_bytes)::pgembed._work;
        done := true;
        raise sqlstate 'PE000';
    exception when others or assert_failure or query_canceled then
        perform pgembed._foreign_statements(statements);
        if locked and not done then
            perform pgembed._raise_foreign(sqlstate, sqlerrm);
        elsif not done then
            raise;
        end if;
    end;
end
$$;
comment on function pgembed._read_texts(pgembed.captured_text, text[], bigint) is
    'For each key, in order: whether its row is there, the SHA-256 of its text, the bytes of the texts up to there, and, '
    'as long as these are not more than max_bytes, the text.';

create or replace function pgembed._page_of_documents(
    t pgembed.captured_text, p_rows text, p_work pgembed._work,
    out keys text[], out lengths int[], out words tsvector[], out errors text[], out partitions oid[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    statement constant text := format(
        'select array_agg(r.key order by r.place), array_agg(r.length order by r.place), array_agg(r.lexemes order by r.place), '
        'array_agg(r.error order by r.place), array_agg(r.partition order by r.place) '
        'from %s($1, $2) as r(place bigint, key text, length int, lexemes tsvector, error text, partition oid)',
        pgembed._fence(t.text_id, 'read'));
    statements constant text[] := pgembed._foreign_statements(null);
    locked boolean := false;
    done boolean := false;
begin
    perform pgembed._run_as_owner(t.text_id, pgembed._lock_source_sql(t.source));
    locked := true;
    execute statement into keys, lengths, words, errors, partitions using p_rows, p_work;
    done := true;
    raise sqlstate 'PE000';
exception when others or assert_failure or query_canceled then
    perform pgembed._foreign_statements(statements);
    if locked and not done then
        perform pgembed._raise_foreign(sqlstate, sqlerrm);
    elsif not done then
        raise;
    end if;
end
$$;
comment on function pgembed._page_of_documents(pgembed.captured_text, text, pgembed._work) is
    'What a statement over the table of a captured text gives as (place, key, length, lexemes, error, partition), in order, read as its owner.';

create or replace function pgembed._documents(t pgembed.captured_text)
returns table (key text, length int, lexemes tsvector, error text, partition regclass)
language plpgsql stable    -- so all pages are of one snapshot, that of the statement that asks
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    columns constant text := pgembed._key_sql(t.source, null, 's.%2$I', ', ');
    page constant text := format(
        'select s.place, %%s from (select (s.*)::%2$s as pgembed_row, s.tableoid, pg_catalog.row_number() over (order by %1$s) as place '
        'from %2$s as s where %%s order by %1$s limit 500) as s %%s', replace(columns, '%', '%%'), replace(pgembed._table_sql(t.source), '%', '%%'));
    document constant text := format('pgembed._text_%s_document', t.text_id);
    given constant text := format('d.key, d.length, d.lexemes, d.error, %s',
                                  case when pgembed._is_partitioned(t.source) then 's.tableoid' else 'null::pg_catalog.oid' end);
    further constant text := pgembed._keys_after_sql(t.source);
    work pgembed._work;
    part text;
    rows record;
    one record;
    code text;
    refused boolean;
    total int := 0;
begin
    loop
        part := case when work.after is null then 'true' else further end;
        begin
            rows := pgembed._page_of_documents(t, format(page, given, part,
                                                         format('cross join lateral %s(s.pgembed_row) as d', document)), work);
            return query select d.key, d.length, d.lexemes, d.error, d.partition::regclass
                         from unnest(rows.keys, rows.lengths, rows.words, rows.errors, rows.partitions) as d(key, length, lexemes, error, partition);
        exception when sqlstate 'PE018' then
            get stacked diagnostics code = pg_datatype_name;
            if code <> '57014' then
                raise;
            end if;
            -- The document of a row never fails, but for this, which may also be meant for us. By
            -- one and one it shows.
            refused := false;
            rows := pgembed._page_of_documents(t, format(page, format('%s, null::pg_catalog.int4, null::pg_catalog.tsvector, null::pg_catalog.text, null::pg_catalog.oid',
                pgembed._key_text_sql(t.source, '(s.pgembed_row)')), part, ''), work);
            foreach key in array rows.keys loop
                begin
                    one := pgembed._page_of_documents(t, format(
                        'select 1::pg_catalog.int8, %1$s from pg_catalog.unnest(($1).keys) as k(key) '
                        'cross join lateral (select k.key) as pgembed_key cross join lateral (select (s.*)::%2$s as pgembed_row, s.tableoid from %2$s as s where %3$s) as s '
                        'cross join lateral %4$s(s.pgembed_row) as d', given, pgembed._table_sql(t.source),
                        pgembed._key_sql(t.source, null, 's.%2$I %7$s %5$s::%4$s', ' and '), document), row(array[key], null, null, null)::pgembed._work);
                    return query select d.key, d.length, d.lexemes, d.error, d.partition::regclass
                                 from unnest(one.keys, one.lengths, one.words, one.errors, one.partitions) as d(key, length, lexemes, error, partition);
                exception when sqlstate 'PE018' then
                    refused := true;
                    return query select key, null::int, null::tsvector, sqlerrm, null::regclass;
                end;
            end loop;
            if not refused then
                raise;
            end if;
        end;
        total := total + coalesce(cardinality(rows.keys), 0);
        if total > 10000 then    -- status shows it: of what is not committed, others see only this
            perform set_config('application_name', format('pgembed bm25 %s: %s', t.text_id, total), true);
        end if;
        exit when coalesce(cardinality(rows.keys), 0) < 500;
        work.after := rows.keys[500];
    end loop;
end
$$;
comment on function pgembed._documents(pgembed.captured_text) is
    'Key, length and words of all rows of a table, read as its owner, or the error of a row that cannot be read.';

create or replace function pgembed._keys_of_rows(t pgembed.captured_text, p_keys text[], p_condition text default 'true') returns text[]
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._keys_as_owner((t).text_id, format(
        'select k.place, k.key from unnest(($1).keys) with ordinality as k(key, place) cross join lateral (select k.key) as pgembed_key '
        'where exists (select from %s as s where %s and (%s))',
        pgembed._table_sql((t).source), pgembed._key_sql((t).source, null, 's.%2$I %7$s %5$s::%4$s', ' and '), p_condition),
        row(p_keys, null, null, null)::pgembed._work)
$$;
comment on function pgembed._keys_of_rows(pgembed.captured_text, text[], text) is
    'Those of the keys whose row (alias s) is there and meets a condition, as the owner of the table sees it.';

create or replace function pgembed._missing_keys(t pgembed.captured_text, p_keys text[]) returns text[]
language sql
set search_path = pg_catalog, pg_temp
as $$
    select array(select unnest(p_keys) except select unnest(pgembed._keys_of_rows(t, p_keys)))
$$;
comment on function pgembed._missing_keys(pgembed.captured_text, text[]) is 'Those of the keys that no row has.';

create or replace function pgembed._source_is_empty(t pgembed.captured_text) returns boolean
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.cardinality(pgembed._keys_as_owner((t).text_id, pg_catalog.format(
        'select 1::pg_catalog.int8, null::pg_catalog.text from %s limit 1', pgembed._table_sql((t).source)))) operator(pg_catalog.=) 0
$$;
comment on function pgembed._source_is_empty(pgembed.captured_text) is 'Whether the table of a captured text has no rows.';
