-- A captured text as a thing: declared, found again by what is declared over it,
-- followed through changes of its table, made again, dropped.

create or replace function pgembed._lock_declarations() returns void
language sql
as $$
    -- One declaration at a time: so that of four workers that make the same one, one does.
    -- The mode conflicts with itself, not with reading or with what the service writes.
    lock table pgembed.captured_text in share update exclusive mode
$$;
comment on function pgembed._lock_declarations() is
    'Waits until no other session declares, alters, repairs or drops; until the end of the transaction.';

create or replace function pgembed._text(p_text_id int) returns pgembed.captured_text
language sql stable
as $$
    select t from pgembed.captured_text as t where t.text_id operator(pg_catalog.=) p_text_id
$$;
comment on function pgembed._text(int) is 'The catalog row of a captured text.';

create or replace function pgembed._declare_text(p_source regclass, p_expression text, p_words boolean, p_path text)
returns pgembed.captured_text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text;
begin
    -- One that is there serves again; of words it has one set.
    select x.* into t from pgembed.captured_text as x
    where x.source = p_source and x.text_expression = p_expression and x.state = 'active' and x.capture
      and not (p_words and exists (select from pgembed.bm25 as b where b.text_id = x.text_id))
    order by x.text_id limit 1;
    if found then
        return t;
    end if;
    insert into pgembed.captured_text (source, text_expression, canonical_expression, source_columns, volatility, foreign_code)
    values (p_source, coalesce(p_expression, ''), '', '{}', 'immutable', false)
    returning * into t;
    perform pgembed._install_fence(t);
    return pgembed._store_analysis(pgembed._analyze_expression(t.text_id, p_source, p_expression, p_path));
end
$$;
comment on function pgembed._declare_text(regclass, text, boolean, text) is
    'The captured text of an expression over a table, analyzed; PE004 or PE013 where it cannot be. Capture is '
    'installed once something is declared over it.';

create or replace function pgembed._store_analysis(t pgembed.captured_text) returns pgembed.captured_text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pgembed.captured_text as x
    set canonical_expression = t.canonical_expression, source_columns = t.source_columns, volatility = t.volatility,
        foreign_code = t.foreign_code, code_functions = t.code_functions, code_digest = t.code_digest, kind = t.kind
    where x.text_id = t.text_id
    returning x.* into t;
    return t;
end
$$;
comment on function pgembed._store_analysis(pgembed.captured_text) is 'Keeps what an analysis has found.';

create or replace function pgembed._warn_of_text(t pgembed.captured_text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if t.volatility <> 'immutable' then
        raise notice 'the text of "%" may change without its row: %', p_name,
            case t.volatility when 'time' then 'it depends on the time or the session'
                              else 'it calls a STABLE function of yours' end
            using hint = format('pgembed sees changes of rows only. After others: SELECT pgembed.reembed(%L), '
                                'or, from a trigger on the other table, an UPDATE of a column that the text reads.', p_name);
    end if;
end
$$;
comment on function pgembed._warn_of_text(pgembed.captured_text, text) is
    'Says at the declaration what cannot be noticed later.';

create or replace function pgembed._of_row_function_sql(
    t pgembed.captured_text, p_name text, p_arguments text, p_type text, p_expression text,
    p_foreign boolean default true, p_on_error text default 'raise'
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return format('create or replace function pgembed.%1$I(%2$s) returns %3$s language plpgsql stable security definer '
                  'set search_path = pg_catalog, pg_temp %5$s as %4$L; revoke all on function pgembed.%1$I(%2$s) from public; ',
                  format('_text_%s_%s', t.text_id, p_name), p_arguments, p_type, format($body$
declare
    given %1$s;
    done boolean := false;%5$s
begin
    %3$s
    given := %2$s;
    done := true;%6$s
    return given;
exception when others or assert_failure then%7$s
    if not done then
        %4$s;
    end if;
    return given;
end
$body$, p_type, p_expression, pgembed._guard_sql(format('_text_%s_%s', t.text_id, p_name)), p_on_error,
                  -- What code of users may have done is not to stay in the session of who asks.
                  case when p_foreign then E'\n    statements constant text[] := pgembed._foreign_statements(null);' else '' end,
                  case when p_foreign then E'\n    raise sqlstate ''PE000'';    -- undoes it' else '' end,
                  case when p_foreign then E'\n    perform pgembed._foreign_statements(statements);' else '' end),
        pgembed._key_settings_sql());
end
$$;
comment on function pgembed._of_row_function_sql(pgembed.captured_text, text, text, text, text, boolean, text) is
    'Statement for a function that evaluates an expression over a row r that the caller has found, as the owner of the table.';

create or replace function pgembed._search_functions_sql(t pgembed.captured_text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    b pgembed.bm25;
    content constant text := pgembed._row_expression(t.text_id, t.source, t.canonical_expression, 'r');
begin
    select * into b from pgembed.bm25 where text_id = t.text_id;
    -- Called by a policy for the whole row and not for its columns: over these it would forbid
    -- to change them.
    return case when t.volatility = 'immutable' then pgembed._of_row_function_sql(
               t, 'current', 'r anyelement, hash bytea', 'boolean',
               format('pg_catalog.sha256(pg_catalog.convert_to((%s)::pg_catalog.text, ''utf8'')) operator(pg_catalog.=) hash', content),
               t.foreign_code, 'return false') else '' end
        || case when t.foreign_code then pgembed._of_row_function_sql(t, 'compose', 'r anyelement', 'text', content) else '' end
        || case when b.config_foreign then pgembed._of_row_function_sql(
               t, 'config', 'r anyelement', 'regconfig', pgembed._bm25_config_sql(
                   b.config, pgembed._row_expression(t.text_id, t.source, b.config_expression, 'r'), t.source)) else '' end;
end
$$;
comment on function pgembed._search_functions_sql(pgembed.captured_text) is
    'Statements for the functions that say whether a row still has the text of a hash, and through which searches evaluate '
    'code of users; to be run as the owner of the table.';

create or replace function pgembed._reads_foreign_type(p_source oid, p_columns text[]) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from pg_attribute where attrelid = p_source and attname = any (p_columns) and attnum > 0 and pgembed._foreign_type(atttypid))
$$;
comment on function pgembed._reads_foreign_type(oid, text[]) is
    'Whether a column has a type by now that its owner can have call functions.';

create or replace function pgembed._types_changed(p_text_id int) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'columns of "%" have other types than when it was declared', pgembed._name_of_text(p_text_id) using errcode = 'PE016',
        detail = 'What the owner of a type has defined would run with the rights of whoever searches.',
        hint = format('SELECT pgembed.repair(%L).', pgembed._name_of_text(p_text_id));
end
$$;
comment on function pgembed._types_changed(int) is 'PE016 for a text whose columns have become types of users.';

create or replace function pgembed._compose_sql(p_text_id int, p_row text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Names in a plain expression mean columns of the one row that is in reach. The row is s.*: s alone
    -- would be a column of that name.
    select case when kind <> 'text' then 'null::pg_catalog.text'    -- which is not shown
                when foreign_code then format('pgembed._text_%s_compose(%s)', text_id, p_row)
                when pgembed._reads_foreign_type(source, source_columns) then pgembed._types_changed(text_id)
                else format('(%s)::pg_catalog.text', canonical_expression) end
    from pgembed.captured_text where text_id = p_text_id
$$;
comment on function pgembed._compose_sql(int, text) is
    'Expression for the text of a found row, evaluated as who searches only where it calls nothing but PostgreSQL''s own.';

create or replace function pgembed._pinned_text(p_row anyelement, p_expression text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    content text;
begin
    execute format('select %s from unnest(array[$1]) as s', p_expression) into content using p_row;
    return content;
end
$$;
comment on function pgembed._pinned_text(anyelement, text) is
    'Value of an expression over a row s, whose names mean PostgreSQL''s own and not what the caller''s path has besides.';

create or replace function pgembed._pinned_lexemes(p_row anyelement, p_expression text) returns tsvector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lexemes tsvector;
begin
    execute format('select %s from unnest(array[$1]) as s', p_expression) into lexemes using p_row;
    return lexemes;
end
$$;
comment on function pgembed._pinned_lexemes(anyelement, text) is 'As _pinned_text, for the lexemes of a row.';

create or replace function pgembed._pinned_sql(p_path text, p_function text, p_expression text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when p_path is null then p_expression else format('pgembed._pinned_%s(s.*, %L)', p_function, p_expression) end
$$;
comment on function pgembed._pinned_sql(text, text, text) is
    'An expression over a found row s, for a statement that runs under a path of the caller: there it is pinned.';

create or replace function pgembed._must_be_read_again(p_text_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._restart_backfill(embedding_id) from pgembed.embedding where text_id = p_text_id;
    perform pgembed._bm25_mark(bm25_id) from pgembed.bm25 where text_id = p_text_id;
end
$$;
comment on function pgembed._must_be_read_again(int) is
    'Has the whole table compared with its vectors, and its words read anew.';

create or replace function pgembed._triggers_off(t pgembed.captured_text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(distinct x.event, ', ')
    from pgembed._capture_triggers(t) as x
    where not exists (select from pg_trigger as g
                      where g.tgrelid = (t).source and g.tgname = pgembed._trigger_name((t).text_id, x.name)
                        and g.tgenabled in ('O', 'A'))
$$;
comment on function pgembed._triggers_off(pgembed.captured_text) is
    'Events whose trigger is missing or disabled: such changes are not seen. NULL: all is well.';

create or replace function pgembed._parts_missing(p_text_id int) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(part, ', ') from (
        select 'its side table' as part from pgembed.embedding as e
        where e.text_id = p_text_id and pgembed._table_sql(e.side_table) is null
        union all
        select 'a partition of its side table' from pgembed.embedding as e where e.text_id = p_text_id and pgembed._lacks_partition(e)
        union all
        select format('%s pgembed._bm25_%s_%s', r.kind, b.bm25_id, r.part)
        from pgembed.bm25 as b cross join pgembed._bm25_relations() as r
        where b.text_id = p_text_id and to_regclass(pgembed._bm25_part(b.bm25_id, r.part)) is null
        union all
        select format('function pgembed._text_%s_%s', p_text_id, part)
        from unnest(array(select x.name from pgembed.captured_text as c cross join pgembed._capture_triggers(c) as x
                          where c.text_id = p_text_id and c.capture) || '{change, queue, mark}'
                    || array(select 'document' from pgembed.bm25 where text_id = p_text_id)
                    || array(select 'current' from pgembed.captured_text where text_id = p_text_id and volatility = 'immutable')
                    || array(select 'compose' from pgembed.captured_text where text_id = p_text_id and foreign_code)
                    || array(select 'config' from pgembed.bm25 where text_id = p_text_id and config_foreign)) as part
        where not exists (select from pg_proc where pronamespace = 'pgembed'::regnamespace
                                                and proname = format('_text_%s_%s', p_text_id, part))
        union all
        select format('function pgembed._bm25_%s_%s', b.bm25_id, f.part)
        from pgembed.bm25 as b cross join pgembed._bm25_functions() as f
        where b.text_id = p_text_id
          and not exists (select from pg_proc where pronamespace = 'pgembed'::regnamespace
                                                and proname = format('_bm25_%s_%s', b.bm25_id, f.part))) as parts
$$;
comment on function pgembed._parts_missing(int) is
    'What somebody has dropped of what was made for a captured text; NULL: nothing.';

create or replace function pgembed._unfit_reason(t pgembed.captured_text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := pgembed._name_of_text(t.text_id);
    code text;
begin
    -- What no one but the user can mend; NULL: nothing.
    if pgembed._table_sql(t.source) is null then
        return format('The source table has been dropped. SELECT pgembed.%s(%L) removes what is left.',
                      case when exists (select from pgembed.embedding where text_id = t.text_id) then 'drop_embedding' else 'drop_bm25' end, name);
    end if;
    begin
        perform pgembed._check_source(t.source);
        perform pgembed._install_fence(t);
    exception when sqlstate 'PE003' or sqlstate 'PE013' then
        return sqlerrm;
    end;
    begin
        -- Planned, as the owner; no row is read.
        perform pgembed._keys_as_owner(t.text_id, format('select 1::int8, (%s)::text from %s limit 0',
                                                         t.canonical_expression, pgembed._table_sql(t.source)));
    exception when sqlstate 'PE018' then
        get stacked diagnostics code = pg_datatype_name;
        if pgembed._may_pass(code) then    -- it was cancelled, say: nobody knows
            raise;
        end if;
        return case when code similar to '(42|3F)%'    -- a name or a right is missing; a function of theirs may say so, too
                    then format('The text expression no longer fits the table: %s. Mend the table, or give another text: '
                                'text_expression => ... of pgembed.alter_embedding or alter_bm25.', sqlerrm)
                    else format('The text expression fails whatever the row: %s', sqlerrm) end;
    end;
    return null;
end
$$;
comment on function pgembed._unfit_reason(pgembed.captured_text) is
    'Why a captured text cannot be read at all now; NULL when it can.';

create or replace function pgembed._capture_differs(t pgembed.captured_text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (t).capture_digest is distinct from pgembed._capture_digest(t)
        or pgembed._parts_missing((t).text_id) is not null
        or (t).capture and not pgembed._triggers_fit(t) and pgembed._triggers_off(t) is null
$$;
comment on function pgembed._capture_differs(pgembed.captured_text) is
    'Whether what captures a text must be made again, because its table has changed or something was dropped. Triggers '
    'that somebody has dropped or disabled are not made again unasked.';

create or replace function pgembed._vectors_lost(t pgembed.captured_text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- To encode all rows again may be dear, so nobody does it unasked.
    select format(case when pgembed._table_sql(e.side_table) is null
                       then 'Somebody has dropped the side table of "%1$s". SELECT pgembed.repair(%2$L) makes it again and encodes all rows; '
                       when pgembed._key_fits(e)
                       then 'Somebody has dropped or detached a partition of the side table of "%1$s". SELECT pgembed.repair(%2$L) makes it again and encodes its rows; '
                       else 'The primary key of the table is not what it was. Restore it, or SELECT pgembed.repair(%2$L) encodes all rows again; ' end
                  || 'SELECT pgembed.drop_embedding(%2$L) removes what is left.', e.name, pgembed._qualified_name(e.source, e.name))
    from pgembed.embedding as e
    where e.text_id = (t).text_id and (pgembed._table_sql(e.side_table) is null or not pgembed._key_fits(e) or pgembed._lacks_partition(e))
    limit 1
$$;
comment on function pgembed._vectors_lost(pgembed.captured_text) is
    'Why the vectors over a captured text cannot be kept any more; NULL: they can.';

create or replace function pgembed._follow(t pgembed.captured_text, p_repair boolean) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    reason constant text := coalesce(pgembed._unfit_reason(t), case when not p_repair then pgembed._vectors_lost(t) end);
    again boolean := p_repair;
begin
    if reason is not null then
        update pgembed.captured_text set state = 'broken', state_reason = reason
        where text_id = t.text_id and (state, state_reason) is distinct from ('broken', reason);
        return false;
    end if;
    if t.state = 'broken' or p_repair or t.code_digest is distinct from pgembed._code_digest(t.code_functions)
       or not t.foreign_code and pgembed._reads_foreign_type(t.source, t.source_columns) then
        -- The canonical form reads the same under every search_path.
        begin
            t := pgembed._store_analysis(pgembed._reanalyzed(t));
        exception when sqlstate 'PE004' then
            if p_repair then
                raise;
            end if;
            update pgembed.captured_text set state = 'broken', state_reason = sqlerrm where text_id = t.text_id;
            return false;
        end;
        again := true;
    end if;
    if p_repair or pgembed._capture_differs(t) then
        perform pgembed._follow_parts(t);
        -- Open writers have written keys as they were; else they mark what they cannot.
        perform pgembed._install_capture(t, p_repair or t.key_columns is distinct from pgembed._key_columns(t.source));
        again := true;
    end if;
    if not p_repair and t.capture and pgembed._triggers_off(t) is not null then
        update pgembed.captured_text set unseen = true where text_id = t.text_id and not unseen;
    elsif t.unseen then
        again := true;
    end if;
    if pgembed._follow_partitions(t) then
        again := true;
    end if;
    perform pgembed._sync_privileges(t);
    if t.state = 'broken' or again and t.unseen then
        update pgembed.captured_text set state = 'active', state_reason = null,
                                         unseen = t.capture and pgembed._triggers_off(t) is not null where text_id = t.text_id;
    end if;
    if again then
        perform pgembed._must_be_read_again(t.text_id);
    end if;
    return again;
end
$$;
comment on function pgembed._follow(pgembed.captured_text, boolean) is
    'Brings what was made for a captured text up to what its table is now: owner, key, columns, partitions, '
    'privileges, row security, changed functions, dropped parts. A broken state that has healed is left. Whether the '
    'table must be read again for it.';

create or replace function pgembed._require_fit(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    reason text;
begin
    perform pgembed._check_source(t.source);
    reason := pgembed._unfit_reason(t);
    if reason is not null then
        raise exception 'the text of "%" cannot be captured', pgembed._name_of_text(t.text_id)
            using errcode = 'PE004', detail = reason, hint = 'Mend the table, or give another text: text_expression => ....';
    end if;
end
$$;
comment on function pgembed._require_fit(pgembed.captured_text) is 'PE003, PE004 or PE013 for a text that cannot be captured as it is.';

create or replace function pgembed._reanalyzed(t pgembed.captured_text) returns pgembed.captured_text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    now pgembed.captured_text;
begin
    now := pgembed._analyze_expression(t.text_id, t.source, t.canonical_expression, 'pg_catalog, pg_temp');
    t.canonical_expression := now.canonical_expression;
    t.source_columns := now.source_columns;
    t.volatility := now.volatility;
    t.foreign_code := now.foreign_code;
    t.code_functions := now.code_functions;
    t.code_digest := now.code_digest;
    return t;
end
$$;
comment on function pgembed._reanalyzed(pgembed.captured_text) is 'A captured text with its expression looked at again.';

create or replace function pgembed._drop_text_unless_used(p_text_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text := pgembed._text(p_text_id);
begin
    if not exists (select from pgembed.embedding where text_id = p_text_id
                   union all select from pgembed.bm25 where text_id = p_text_id) then
        perform pgembed._remove_capture(p_text_id);
        delete from pgembed.captured_text where text_id = p_text_id;
    elsif pgembed._table_sql(t.source) is not null and pgembed._fence_holds(t) then
        begin
            perform pgembed._install_capture(t);    -- for what is left
        exception when syntax_error_or_access_rule_violation then
            null;    -- the table is not what it was: no reason not to drop
        end;
    end if;
end
$$;
comment on function pgembed._drop_text_unless_used(int) is
    'Removes a captured text when nothing is declared over it any more; else captures for what is left.';
