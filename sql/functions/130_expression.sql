-- What a text expression reads, and whether it may be one. PostgreSQL itself
-- parses it: a temporary view over it is made, looked at and dropped.

create or replace function pgembed._trusted_type(p_type oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive part(oid) as (
        select p_type
        union
        select case when t.typtype = 'd' then t.typbasetype else t.typelem end
        from part join pg_type as t using (oid)
        where t.typtype = 'd' or t.typcategory = 'A' and t.typelem <> 0)
    select bool_and(t.oid < 16384 or exists (
        select from pg_depend
        where classid = 'pg_type'::regclass and objid = t.oid and deptype = 'e'))
    from part join pg_type as t using (oid)
    where t.typtype <> 'd' and t.typcategory <> 'A'
$$;
comment on function pgembed._trusted_type(oid) is
    'Whether a type is PostgreSQL''s or an extension''s, or a domain or array of one: nobody else can give it casts.';

create or replace function pgembed._analyze_expression(
    p_source regclass,
    p_expression text,
    out canonical text,
    out source_columns text[],
    out compare_in_trigger boolean
)
language plpgsql
as $function$
declare
    view_oid oid;
    rule_oid oid;
    tree text;
    view_text text;
    column_type regtype;
    old_path text := current_setting('search_path');
    message text;
    offender text;
    functions oid[];
    probe refcursor;
begin
    if coalesce(btrim(p_expression), '') = '' then
        raise exception 'the text expression of an embedding is empty' using errcode = 'PE004',
            hint = 'Give a SQL expression over the columns of the table, such as '
                   '$$ title || E''\n\n'' || body $$.';
    end if;
    begin
        -- A cursor takes one statement: "title) from article; drop ..." ends here,
        -- unexecuted. The line breaks keep a trailing comment from eating what follows.
        open probe for execute format(E'select (\n%s\n) from %s', p_expression, pgembed._table_sql(p_source));
        close probe;
        execute format(E'create temporary view pgembed_expression_probe as select (\n%s\n) as pgembed_text from %s',
                       p_expression, pgembed._table_sql(p_source));
    exception
        when insufficient_privilege then
            raise;
        -- All of their classes, 42 and 22.
        when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
             or invalid_schema_name then
            get stacked diagnostics message = message_text;
            message := case sqlstate when '42P11' then 'it must be one value of one row' else message end;
            raise exception 'the text expression does not fit table %: %', p_source, message
                using errcode = 'PE004',
                detail = format('Expression: %s', p_expression),
                hint = 'Columns of ' || p_source || ': ' || (
                    select string_agg(quote_ident(attname), ', ' order by attnum)
                    from pg_catalog.pg_attribute
                    where attrelid = p_source and attnum > 0 and not attisdropped) || '.';
    end;
    view_oid := 'pg_temp.pgembed_expression_probe'::regclass;
    select r.oid, r.ev_action::text into rule_oid, tree
    from pg_catalog.pg_rewrite as r where r.ev_class = view_oid;

    if (select count(*) from pg_catalog.pg_attribute where attrelid = view_oid and attnum > 0) <> 1
       or tree ~ '\{SUBLINK|\{AGGREF|\{WINDOWFUNC|:hasTargetSRFs true' then
        raise exception 'the text expression must be one value of one row'
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'Subqueries, aggregates, window functions and set-returning functions are not '
                   'possible: pgembed could not tell when their result changes.';
    end if;

    select atttypid into column_type
    from pg_catalog.pg_attribute where attrelid = view_oid and attnum = 1;
    if (select typcategory from pg_catalog.pg_type where oid = column_type) <> 'S' then
        raise exception 'the text expression is of type %, not text', column_type
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = format('Cast it: (%s)::text.', btrim(p_expression));
    end if;

    -- Functions, operators and casts in the parse tree, those of PostgreSQL too
    -- (pg_depend leaves these out).
    select array_agg(distinct m[1]::oid) into functions
    from regexp_matches(tree, ':(?:funcid|opfuncid) (\d+)', 'g') as m
    where m[1] <> '0';
    select string_agg(p.oid::regprocedure::text, ', ') into offender
    from pg_catalog.pg_proc as p where p.oid = any (functions) and p.provolatile = 'v';
    if offender is not null or tree ~ '\{NEXTVALUEEXPR' then
        raise exception 'the text expression calls a volatile function: %',
            coalesce(offender, 'nextval')
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'The text must depend on the row alone and have no side effect. If the function '
                   'is in truth STABLE or IMMUTABLE, declare it so (ALTER FUNCTION ... STABLE).';
    end if;

    -- Printed under a search_path of pg_catalog alone, all else comes out qualified.
    perform set_config('search_path', 'pg_catalog', true);
    view_text := pg_catalog.pg_get_viewdef(view_oid);
    perform set_config('search_path', old_path, true);
    canonical := btrim(substring(view_text from '^\s*SELECT\s+(.*) AS pgembed_text\s+FROM '), E' \n');

    if tree ~ ':varattno 0 ' then    -- a whole row: every column is read
        select array_agg(attname::text order by attnum) into source_columns
        from pg_catalog.pg_attribute
        where attrelid = p_source and attnum > 0 and not attisdropped;
    else
        select coalesce(array_agg(distinct a.attname::text), '{}') into source_columns
        from pg_catalog.pg_depend as d
        join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = rule_oid
          and d.refobjid = p_source and d.refobjsubid > 0;
    end if;
    -- FirstNormalObjectId is 16384: what comes before is PostgreSQL's own. Over a
    -- whole row (varattno 0) a session that has compared once would not notice a
    -- column that is added later. Types of users may have casts of theirs, and
    -- domains checks: triggers would run them with the rights of pgembed's owner.
    compare_in_trigger := tree !~ ':varattno 0 |\{COERCETODOMAIN '
        and not coalesce((select bool_or(f >= 16384) from unnest(functions) as f), false)
        and not exists (
            select from pg_catalog.pg_attribute
            where attrelid = p_source and attname = any (source_columns) and not attisdropped
              and (attgenerated = 'v' or not pgembed._trusted_type(atttypid)));
    drop view pg_temp.pgembed_expression_probe;
    if canonical is null
       or substring(view_text from '\s+FROM ([^\n]*?);?\s*$') <> pgembed._table_sql(p_source) then
        raise exception 'the text expression must be one value of one row'
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'Give one expression over the columns of the table, no query.';
    end if;
end
$function$;
comment on function pgembed._analyze_expression(regclass, text) is
    'Checks a text expression against a table: its canonical form, the columns it reads, and '
    'whether the update trigger may evaluate it; PE004 says what is wrong.';

create or replace function pgembed._row_columns(p_source regclass, p_sql text, p_row text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    column_name text;
begin
    -- Words of PL/pgSQL that are none of SQL: quote_ident leaves them as they are.
    for column_name in
        select attname from pg_attribute
        where attrelid = p_source and attnum > 0
          and attname in ('begin', 'by', 'declare', 'execute', 'foreach', 'if', 'loop', 'strict', 'while')
    loop
        p_sql := regexp_replace(p_sql, format('\m%s\.%s\M', p_row, column_name),
                                format('%s."%s"', p_row, column_name), 'g');
    end loop;
    return p_sql;
end
$$;
comment on function pgembed._row_columns(regclass, text, text) is
    'An expression over a row variable of PL/pgSQL, with columns quoted that are named like its keywords.';

create or replace function pgembed._row_types(p_source regclass, p_columns text[], p_row text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._row_columns(p_source, coalesce(string_agg(
        format('pg_catalog.pg_typeof(%s.%I) = %L::pg_catalog.regtype', p_row, attname, atttypid::regtype), ' and '
        order by attnum), 'true'), p_row)
    from pg_attribute
    where attrelid = p_source and attnum > 0 and attname = any (p_columns) and not attisdropped
$$;
comment on function pgembed._row_types(regclass, text[], text) is
    'Condition over a row variable of PL/pgSQL: its columns have the types that they have now, so that an '
    'expression over them calls what it was checked to call.';

create or replace function pgembed._row_expression(p_source regclass, p_canonical text, p_row text) returns text
language plpgsql
as $$
declare
    old_path text := current_setting('search_path');
    view_text text;
begin
    -- The server prints columns with the name of their table when there are two
    -- tables; called old or new, that is how a trigger function names them.
    execute format('create temporary view pgembed_row_probe as select %s as pgembed_text '
                   'from %s as %I cross join (select 1) as pgembed_other(pgembed_one)',
                   p_canonical, pgembed._table_sql(p_source), p_row);
    perform set_config('search_path', 'pg_catalog', true);
    view_text := pg_catalog.pg_get_viewdef('pg_temp.pgembed_row_probe'::regclass);
    perform set_config('search_path', old_path, true);
    drop view pg_temp.pgembed_row_probe;
    return pgembed._row_columns(p_source, substring(view_text from '^\s*SELECT\s+(.*) AS pgembed_text\s+FROM '), p_row);
end
$$;
comment on function pgembed._row_expression(regclass, text, text) is
    'A canonical expression over a trigger''s row, old or new.';
