-- What a text expression reads, and whether it may be one. PostgreSQL itself parses
-- it: a view over it is made, looked at and dropped. All of that happens as the owner
-- of the table (fence.sql): parsing a literal may call a domain's check, planning a
-- call of an immutable function calls it.

create or replace function pgembed._foreign_type(p_type oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive part(oid) as (
        select p_type
        union
        select t.typelem from part join pg_type as t using (oid) where t.typelem <> 0)
    -- Who made an extension may add types to it: those stay theirs. The extension's own
    -- belong to a superuser, also where a user has made it.
    select bool_or(part.oid >= 16384 and not exists (
        select from pg_depend as d
        join pg_type as t on t.oid = d.objid
        join pg_roles as r on r.oid = t.typowner
        where d.classid = 'pg_type'::regclass and d.objid = part.oid and d.deptype = 'e' and r.rolsuper))
    from part
$$;
comment on function pgembed._foreign_type(oid) is
    'Whether a type, or what an array is made of, is neither PostgreSQL''s nor an extension''s: its owner can '
    'have it call functions.';

create or replace function pgembed._base_type(p_type oid) returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive base(oid) as (
        select p_type
        union
        select t.typbasetype from base join pg_type as t using (oid) where t.typtype = 'd')
    select t.oid from base join pg_type as t using (oid) where t.typtype <> 'd'
$$;
comment on function pgembed._base_type(oid) is 'What a domain is over, in the end; other types are themselves.';

create or replace function pgembed._requalified(p_sql text, p_prefix text, p_new text) returns text
language sql immutable strict
set search_path = pg_catalog, pg_temp
as $$
    -- String literals are left as they are; everything between them gets the other prefix.
    select coalesce(string_agg(
        case when m[1] is not null then m[1]
             else regexp_replace(m[2], '(^|[^[:alnum:]_$."])' || regexp_replace(p_prefix, '([][\\^$.|?*+(){}])', '\\\1', 'g')
                                       || '\.', '\1' || p_new, 'g') end, '' order by place), '')
    from regexp_matches(p_sql, '(''(?:[^'']|'''')*'')|([^'']+)', 'g') with ordinality as t(m, place)
$$;
comment on function pgembed._requalified(text, text, text) is
    'SQL that the server has printed, with something else before its columns than the name of their table.';

create or replace function pgembed._view_expression(p_view oid, p_source oid) returns text
language plpgsql
set search_path = pg_catalog, pg_temp    -- printed under it, all else comes out qualified
as $$
declare
    printed constant text := pg_get_viewdef(p_view);
begin
    if substring(printed from '\s+FROM ([^\n]*?);?\s*$') is distinct from pgembed._table_sql(p_source) then
        return null;    -- a query of its own
    end if;
    return btrim(substring(printed from '^\s*SELECT\s+(.*) AS pgembed_text\s+FROM '), E' \n');
end
$$;
comment on function pgembed._view_expression(oid, oid) is
    'The one expression of a view over a table, every name qualified but for the columns; NULL for another query.';

create or replace function pgembed._code_digest(p_functions text[]) returns bytea
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._hash(string_agg(concat_ws(' ', f.signature, p.prosrc, p.prosqlbody::text, p.proconfig::text), E'\n'
                                    order by f.signature collate "C"))
    from unnest(p_functions) as f(signature) left join pg_proc as p on p.oid = to_regprocedure(f.signature)
$$;
comment on function pgembed._code_digest(text[]) is
    'Digest of what functions of users say; NULL where there are none.';

create or replace function pgembed._analyze_expression(p_text_id int, p_source regclass, p_expression text, p_path text)
returns pgembed.captured_text
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    t pgembed.captured_text;
    name constant text := format('_text_%s_', p_text_id);
    statements constant text[] := pgembed._foreign_statements(null);
    view oid;
    message text;
    code text;
begin
    if coalesce(btrim(p_expression), '') = '' then
        raise exception 'the text expression of an embedding is empty' using errcode = 'PE004',
            hint = 'Give a SQL expression over the columns of the table, such as '
                   '$$ title || E''\n\n'' || body $$.';
    end if;
    begin
        perform pgembed._lend_schema(pgembed._owner_of(p_source), true);
        -- Two statements that cannot both be made by closing a parenthesis: "title) from
        -- article; drop ..." is a syntax error in one of them. The line breaks keep a
        -- trailing comment from eating what follows.
        perform set_config('search_path', p_path, true);
        execute pg_catalog.format('select from pgembed.%I($1, null) as r(pgembed_text pg_catalog.text)', pg_catalog.concat(name, 'read'))
        using pg_catalog.format(E'select pgembed_text::pg_catalog.text from (select (\n%s\n) from %s) as pgembed_probe(pgembed_text) limit 0',
                                p_expression, pgembed._table_sql(p_source));
        perform pg_catalog.set_config('search_path', p_path, true);
        execute pg_catalog.format('select pgembed.%I($1, null)', pg_catalog.concat(name, 'run'))
        using pg_catalog.format(E'create view pgembed.%I as select (\n%s\n) as pgembed_text from %s',
                                pg_catalog.concat(name, 'probe'), p_expression, pgembed._table_sql(p_source));
        perform pgembed._back_inside();
        view := (select c.oid from pg_catalog.pg_class as c
                 where c.relnamespace operator(pg_catalog.=) 'pgembed'::pg_catalog.regnamespace::pg_catalog.oid
                   and c.relname::pg_catalog.text operator(pg_catalog.=) pg_catalog.concat(name, 'probe'));
        t := pgembed._inspect_expression(p_text_id, p_source, p_expression, view);
        raise sqlstate 'PE000';    -- the view, and what the owner's code may have done, is undone
    exception
        when sqlstate 'PE000' then
            if t.text_id is null then
                raise;
            end if;
        -- All of their classes, 42 and 22.
        when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
             or invalid_schema_name then
            perform pgembed._foreign_statements(statements);
            get stacked diagnostics message = message_text, code = returned_sqlstate;
            if code = '42501' then
                raise;
            end if;
            raise exception 'the text expression does not fit table %: %', p_source,
                case when message like '%at or near ";"%' or code = '42P10' then 'it must be one value of one row' else message end
                using errcode = 'PE004',
                detail = format('Expression: %s', p_expression),
                hint = format('Columns of %s: %s.', p_source, (
                    select string_agg(quote_ident(attname), ', ' order by attnum)
                    from pg_attribute where attrelid = p_source and attnum > 0 and not attisdropped));
        when others or assert_failure then
            perform pgembed._foreign_statements(statements);
            raise;
    end;
    perform pgembed._foreign_statements(statements);
    return t;
end
$function$;
comment on function pgembed._analyze_expression(int, regclass, text, text) is
    'Checks a text expression against a table, as the owner of the table and under a search_path: its canonical '
    'form, the columns it reads, what it calls. PE004 says what is wrong.';

create or replace function pgembed.image_at(location text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select location
$$;
comment on function pgembed.image_at(text) is
    'As the expression of an embedding: what is encoded is the image at this path or address, which services read where they '
    'are allowed to (pgembed serve --image-root). Example: '
    'SELECT pgembed.create_embedding(''product'', ''pgembed.image_at(photo_path)'', model => ''clip-ViT-B-32'');';

create or replace function pgembed._inspect_expression(p_text_id int, p_source regclass, p_expression text, p_view regclass)
returns pgembed.captured_text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.captured_text;
    rule_oid oid;
    tree text;
    column_type regtype;
    offender text;
    functions oid[];
begin
    select r.oid, r.ev_action::text into rule_oid, tree from pg_rewrite as r where r.ev_class = p_view;
    t.text_id := p_text_id;
    t.source := p_source;
    t.text_expression := p_expression;

    if (select count(*) from pg_attribute where attrelid = p_view and attnum > 0) <> 1
       or tree ~ '\{SUBLINK|\{AGGREF|\{WINDOWFUNC|:hasTargetSRFs true' then
        raise exception 'the text expression must be one value of one row'
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'Subqueries, aggregates, window functions and set-returning functions are not '
                   'possible: pgembed could not tell when their result changes.';
    end if;

    select atttypid into column_type from pg_attribute where attrelid = p_view and attnum = 1;
    t.kind := case when pgembed._base_type(column_type) = 'bytea'::regtype then 'image'
                   when tree ~ format('TARGETENTRY :expr \{FUNCEXPR :funcid %s ', 'pgembed.image_at(text)'::regprocedure::oid) then 'location'
                   else 'text' end;
    if t.kind <> 'location' and tree ~ format(':funcid %s ', 'pgembed.image_at(text)'::regprocedure::oid) then
        raise exception 'image_at() is a part of the text expression only' using errcode = 'PE004',
            detail = format('Expression: %s', p_expression),
            hint = 'Let it be all of it: pgembed.image_at(coalesce(photo, thumbnail)).';
    end if;
    if t.kind = 'text' and (select typcategory from pg_type where oid = column_type) <> 'S' then
        raise exception 'the text expression is of type %, not text', column_type
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = format('Cast it: (%s)::text. An expression of type bytea gives the bytes of image files.', btrim(p_expression));
    end if;

    -- Functions, operators and casts in the parse tree, those of PostgreSQL too
    -- (pg_depend leaves these out).
    select array_agg(distinct m[1]::oid) into functions
    from regexp_matches(tree, ':(?:funcid|opfuncid) (\d+)', 'g') as m
    where m[1] <> '0';
    select string_agg(p.oid::regprocedure::text, ', ') into offender
    from pg_proc as p where p.oid = any (functions) and p.provolatile = 'v';
    if offender is not null or tree ~ '\{NEXTVALUEEXPR' then
        raise exception 'the text expression calls a volatile function: %',
            coalesce(offender, 'nextval')
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'The text must depend on the row alone and have no side effect. If the function '
                   'is in truth STABLE or IMMUTABLE, declare it so (ALTER FUNCTION ... STABLE).';
    end if;

    t.canonical_expression := pgembed._view_expression(p_view, p_source);
    if t.canonical_expression is null then
        raise exception 'the text expression must be one value of one row'
            using errcode = 'PE004', detail = format('Expression: %s', p_expression),
            hint = 'Give one expression over the columns of the table, no query.';
    end if;
    if t.kind = 'image' then    -- from here on a text like any other: one that only an image model reads
        t.canonical_expression := format('encode(%s, ''base64''::text)', t.canonical_expression);
    end if;
    if tree ~ ':varattno 0 ' then    -- a whole row: every column is read
        select array_agg(attname::text order by attnum) into t.source_columns
        from pg_attribute
        where attrelid = p_source and attnum > 0 and not attisdropped;
    else
        select coalesce(array_agg(distinct a.attname::text), '{}') into t.source_columns
        from pg_depend as d
        join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_rewrite'::regclass and d.objid = rule_oid
          and d.refobjid = p_source and d.refobjsubid > 0;
    end if;

    -- FirstNormalObjectId is 16384: what comes before is PostgreSQL's own.
    t.foreign_code := tree ~ '\{COERCETODOMAIN '
        or coalesce((select bool_or(f >= 16384) from unnest(functions) as f), false)
        or exists (    -- of a domain's value the text is its base type's
            select from pg_attribute as a
            cross join lateral pgembed._base_type(a.atttypid) as base
            where a.attrelid = p_source and a.attname = any (t.source_columns) and not a.attisdropped
              and (a.attgenerated = 'v' or pgembed._foreign_type(base)))
        or exists (    -- types that the expression names
            select from regexp_matches(tree, ':(?!vartype )[a-z_]*type(?:id)? (\d+)', 'g') as m
            where pgembed._foreign_type(m[1]::oid));
    t.volatility := case
        -- SQLVALUEFUNCTION: current_date, current_user and the like.
        when tree ~ '\{SQLVALUEFUNCTION ' or exists (
            select from pg_proc as p
            where p.oid = any (functions) and p.oid < 16384 and p.provolatile = 's'
              and (p.proname in ('now', 'transaction_timestamp', 'statement_timestamp', 'current_setting', 'txid_current')
                   or p.proname = 'age' and p.pronargs = 1 or p.pronargs = 0)) then 'time'
        when exists (select from pg_proc as p
                     where p.oid = any (functions) and p.oid >= 16384 and p.provolatile = 's') then 'stable'
        else 'immutable' end;
    t.code_functions := array(select oid::regprocedure::text from pg_proc where oid = any (functions) and oid >= 16384);
    t.code_digest := pgembed._code_digest(t.code_functions);
    return t;
end
$$;
comment on function pgembed._inspect_expression(int, regclass, text, regclass) is
    'What a view over an expression tells of it.';

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

create or replace function pgembed._row_expression(p_text_id int, p_source regclass, p_canonical text, p_row text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := format('_text_%s_probe', p_text_id);
    table_name constant text := (select quote_ident(relname) from pg_class where oid = p_source);    -- of a whole row: article.*
    printed text;
begin
    -- The server prints columns with the name of their table when there are two tables.
    begin
        perform pgembed._lend_schema(pgembed._owner_of(p_source), true);
        perform pgembed._run_as_owner(p_text_id, format(
            'create view pgembed.%I as select %s as pgembed_text from %s as %s cross join (select 1) as pgembed_other(pgembed_one)',
            name, p_canonical, pgembed._table_sql(p_source), table_name));
        printed := substring(pg_get_viewdef(format('pgembed.%I', name)::regclass) from '^\s*SELECT\s+(.*) AS pgembed_text\s+FROM ');
        raise sqlstate 'PE000';
    exception when sqlstate 'PE000' then
        if printed is null then
            raise;
        end if;
    end;
    return pgembed._row_columns(p_source, pgembed._requalified(printed, table_name, p_row || '.'), p_row);
end
$$;
comment on function pgembed._row_expression(int, regclass, text, text) is
    'A canonical expression over a row variable, such as old or new in a trigger.';
