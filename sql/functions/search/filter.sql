-- Filters: conditions as data, safe to build from what a user sent.
--   {"category": "books", "price": {"$lt": 20}, "attrs.size": {"$in": ["s", "m"]}}
-- Names are looked up in the table, values become literals of the column's own type, keys
-- and values of jsonb literals of jsonb; nothing of the filter reaches the statement unquoted.
--
-- A condition is on a value: SQL for it (p_value), its type, and for jsonb the path to what is
-- meant within it. Missing keys and JSON's null are NULL. NULL is a value as any other to $eq,
-- $ne, $in and $nin, and no others' match; $not, $ne and $nin find all that the opposite does not.

create or replace function pgembed._code_within(p_type oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive part(oid) as (
        select p_type
        union
        select x.oid
        from part
        join pg_type as t using (oid)
        left join pg_range as r on part.oid in (r.rngtypid, r.rngmultitypid)
        cross join lateral (
            values (t.typelem), (r.rngsubtype)
            union all select atttypid from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped) as x(oid)
        where x.oid > 0)
    select exists (
        select from part
        join pg_type as t using (oid)
        left join pg_range as r on part.oid in (r.rngtypid, r.rngmultitypid)
        where t.typtype = 'd' or r.rngsubdiff::oid >= 16384 or r.rngcanonical::oid >= 16384)
$$;
comment on function pgembed._code_within(oid) is
    'Whether a type has code of users in it that runs for its values: the CHECK of a domain, where a literal is read; the '
    'functions of a range, where a value is made, or the planner estimates.';

create or replace function pgembed._filter_type(p_type oid) returns oid
language plpgsql stable    -- whose plans are kept, where a SQL function's are made at every call
set search_path = pg_catalog, pg_temp
as $$
declare
    type pg_type;
begin
    select * into type from pg_type as t where t.oid = p_type;
    if type.typtype = 'd' then
        return pgembed._filter_type(type.typbasetype);
    elsif type.oid = 'json'::regtype then
        return 'jsonb'::regtype;
    elsif type.typcategory = 'A' and type.typelem <> 0 then
        return (select e.typarray from pg_type as e where e.oid = pgembed._base_type(type.typelem));
    end if;
    return type.oid;
end
$$;
comment on function pgembed._filter_type(oid) is 'Type that values of a filter on a column are read as: no domain.';

create or replace function pgembed._filter_path(p_keys text) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_keys !~ '^([.]("([^"]|"")*"|[^."][^.]*))+$' then
        return null;
    end if;
    return array(
        select case when left(k[1], 1) = '"' then replace(substr(k[1], 2, length(k[1]) - 2), '""', '"') else k[1] end
        from regexp_matches(p_keys, '[.]("(?:[^"]|"")*"|[^."][^.]*)', 'g') with ordinality as m(k, place)
        order by place);
end
$$;
comment on function pgembed._filter_path(text) is
    'Keys that are written .a."b.c".0; NULL for what is not written so.';

create or replace function pgembed._filter_check_path(p_path text[], p_label text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant int := 100;    -- keys; what is built of them grows with the square
begin
    if cardinality(p_path) > most then
        raise exception 'filter on %...: a path of % keys, and it may have %', left(p_label, 40), cardinality(p_path), most
            using errcode = 'PE008', hint = 'Dots lead from key to key; a key with dots in it is quoted.';
    end if;
end
$$;
comment on function pgembed._filter_check_path(text[], text) is 'PE008 for a path that is too long.';

create or replace function pgembed._filter_target(
    p_source regclass, p_alias text, p_field text, out value text, out type oid, out path text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own record;
begin
    -- A column of that very name comes first, then the longest one that the field goes on from.
    for own in
        select attname, atttypid from pg_attribute
        where attrelid = p_source and attnum > 0 and not attisdropped
          and (attname = p_field or starts_with(p_field, attname || '.'))
        order by length(attname) desc
    loop
        type := pgembed._filter_type(own.atttypid);
        path := case when own.attname = p_field then '{}'
                     when type = 'jsonb'::regtype then pgembed._filter_path(substr(p_field, length(own.attname) + 1)) end;
        if path is not null then
            value := format('%s.%I', p_alias, own.attname);
            -- Casts of a domain are ignored; those of an array of domains are anybody's.
            if type = 'jsonb'::regtype and pgembed._base_type(own.atttypid) = 'json'::regtype then
                value := value || '::pg_catalog.jsonb';
            elsif type <> own.atttypid and type <> pgembed._base_type(own.atttypid) then
                value := format('case when %1$s is not null then pg_catalog.concat(%1$s)::%2$s end', value, pgembed._type_sql(type));
            end if;
            return;
        end if;
    end loop;
end
$$;
comment on function pgembed._filter_target(regclass, text, text) is
    'The column that a field of a filter names, as SQL, the type that it is read as, and the path of a field like attrs.size '
    'within it; NULL where there is no such column.';

create or replace function pgembed._filter_sql_of(p_value text, p_path text[]) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case when p_path = '{}' then p_value
                else format('(%s operator(pg_catalog.#>) %L::pg_catalog.text[])', p_value, p_path) end;
end
$$;
comment on function pgembed._filter_sql_of(text, text[]) is 'A value, or what a path leads to within it.';

create or replace function pgembed._filter_within(p_path text[], p_operand jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A number may be the place in an array, or a key: @> cannot say that.
    if p_path = '{}' or exists (select from unnest(p_path) as key where key ~ '^[[:space:]]*[-+]?[0-9]+$') then
        return null;
    end if;
    for place in reverse cardinality(p_path) .. 1 loop
        p_operand := jsonb_build_object(p_path[place], p_operand);
    end loop;
    return p_operand;
end
$$;
comment on function pgembed._filter_within(text[], jsonb) is
    'What a jsonb value contains that has this at the path; NULL where @> cannot say it.';

create or replace function pgembed._filter_has(p_value text, p_path text[], p_operand jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Of the column as a whole, where that can be said: an index on it may be used.
    whole constant jsonb := pgembed._filter_within(p_path, p_operand);
begin
    return format('%s operator(pg_catalog.@>) %L::pg_catalog.jsonb',
                  case when whole is not null then p_value else pgembed._filter_sql_of(p_value, p_path) end,
                  coalesce(whole, p_operand));
end
$$;
comment on function pgembed._filter_has(text, text[], jsonb) is
    'Condition that what is at a path contains an object, an array or, if the path may be written as an object, equals a scalar.';

create or replace function pgembed._filter_text(p_value jsonb, p_type oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    type pg_type;
    items text[];
begin
    select * into type from pg_type as t where t.oid = p_type;
    if jsonb_typeof(p_value) = 'array' then
        if p_value @? 'strict $[*] ? (@.type() == "array" || @.type() == "object")' and type.typelem <> 'jsonb'::regtype then
            return null;
        end if;
        items := array(select case type.typelem when 'jsonb'::regtype then item::text else item #>> '{}' end
                       from jsonb_array_elements(p_value) with ordinality as i(item, place) order by place);
        if type.typcategory = 'A' then
            return items::text;
        elsif type.typtype in ('r', 'm') and cardinality(items) = 2 then
            return format(case type.typtype when 'm' then '{[%s,%s)}' else '[%s,%s)' end,
                          pgembed._filter_bound(items[1]), pgembed._filter_bound(items[2]));
        end if;
        return null;
    end if;
    return case when jsonb_typeof(p_value) = 'object' then null
                when type.typtype = 'm' and p_value #>> '{}' ~ '^[[:space:]]*[[(]' then '{' || (p_value #>> '{}') || '}'
                else p_value #>> '{}' end;
end
$$;
comment on function pgembed._filter_text(jsonb, oid) is
    'A JSON value as PostgreSQL writes one of a type; NULL for what cannot be one. An array is one, or a range [from, to).';

create or replace function pgembed._filter_bound(p_bound text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce('"' || replace(replace(p_bound, chr(92), repeat(chr(92), 2)), '"', '""') || '"', '')
$$;
comment on function pgembed._filter_bound(text) is 'Bound of a range as PostgreSQL reads it; NULL: none.';

create or replace function pgembed._filter_check_type(p_type oid, p_label text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_type >= 16384 and pgembed._code_within(p_type) then
        raise exception 'filter on %: values of type % cannot be given', p_label, format_type(p_type, -1)
            using errcode = 'PE008', detail = 'A domain is a part of it, or a function of a range.', hint = 'Use $exists here, or where_sql.';
    end if;
end
$$;
comment on function pgembed._filter_check_type(oid, text) is 'PE008 for a type whose values cannot be read without a CHECK of the owner''s.';

create or replace function pgembed._filter_literal(
    p_value jsonb, p_type oid, p_label text, p_operator text default 'operator(pg_catalog.=)'
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    type constant text := format_type(p_type, -1);
    literal constant text := pgembed._filter_text(p_value, p_type);
    type_sql constant text := pgembed._type_sql(p_type);
begin
    if literal is null then
        raise exception 'filter on %: % is not a value of type %', p_label, p_value, type
            using errcode = 'PE008', hint = case right(type, 2) when '[]' then 'Give an array of strings, numbers or booleans.'
                                                 else 'Give a string, number or boolean; for several, {"$in": [...]}.' end;
    end if;
    perform pgembed._filter_check_type(p_type, p_label);
    begin
        -- The value is read, and compared with itself, as the search will do it.
        execute format('select %1$L::%2$s %3$s %1$L::%2$s', literal, type_sql, p_operator);
    exception
        when data_exception or check_violation then
            raise exception 'filter on %: % is not a value of type %', p_label, p_value, type
                using errcode = 'PE008', detail = sqlerrm, hint = 'Give a value of the column''s type.';
        when undefined_function or ambiguous_function then
            raise exception 'filter on %: values of type % cannot be compared', p_label, type
                using errcode = 'PE008', detail = sqlerrm, hint = 'Use $exists here, or where_sql.';
    end;
    return format('%L::%s', literal, type_sql);
end
$$;
comment on function pgembed._filter_literal(jsonb, oid, text, text) is
    'A JSON value as a literal of a type that has the operator, or PE008.';

create or replace function pgembed._filter_null(p_value text, p_type oid, p_path text[], p_null boolean default true) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case when p_type = 'jsonb'::regtype
                then format('coalesce(pg_catalog.jsonb_typeof(%s), ''null'') operator(pg_catalog.%s) ''null''',
                            pgembed._filter_sql_of(p_value, p_path), case when p_null then '=' else '<>' end)
                else format('%s is %s null', p_value, case when p_null then '' else 'not' end) end;
end
$$;
comment on function pgembed._filter_null(text, oid, text[], boolean) is
    'Condition that a value is NULL, or JSON''s null, or not there; or the opposite.';

create or replace function pgembed._filter_equals(p_value text, p_type oid, p_path text[], p_operand jsonb, p_label text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    indexed boolean;
begin
    if jsonb_typeof(p_operand) = 'null' then
        return pgembed._filter_null(p_value, p_type, p_path);
    elsif p_type <> 'jsonb'::regtype then
        return format('%s operator(pg_catalog.=) %s', p_value, pgembed._filter_literal(p_operand, p_type, p_label));
    end if;
    indexed := pgembed._filter_within(p_path, p_operand) is not null;
    if indexed and jsonb_typeof(p_operand) not in ('object', 'array') then
        return pgembed._filter_has(p_value, p_path, p_operand);
    end if;
    return format('(%s%s operator(pg_catalog.=) %L::pg_catalog.jsonb)',
                  case when indexed then pgembed._filter_has(p_value, p_path, p_operand) || ' and ' end,    -- that finds more
                  pgembed._filter_sql_of(p_value, p_path), p_operand);
end
$$;
comment on function pgembed._filter_equals(text, oid, text[], jsonb, text) is 'Condition that a value is this one, or NULL.';

create or replace function pgembed._filter_in(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- One index scan for all values, where the type has that.
    plain constant boolean := p_type <> 'jsonb'::regtype and (select typcategory <> 'A' from pg_type where oid = p_type);
    present text;
begin
    if jsonb_typeof(p_operand) <> 'array' then
        raise exception 'filter on %: % takes an array, not %', p_label, p_operator, p_operand
            using errcode = 'PE008', hint = 'For example {"tag": {"$in": ["a", "b"]}}.';
    end if;
    select case when plain then format('%s operator(pg_catalog.=) any (array[%s])', p_value,
                                       string_agg(pgembed._filter_literal(v, p_type, p_label), ', '))
                else string_agg(pgembed._filter_equals(p_value, p_type, p_path, v, p_label), ' or ') end
    into present
    from jsonb_array_elements(p_operand) as v where jsonb_typeof(v) <> 'null'
    having count(*) > 0;
    return format('(%s)%s', concat_ws(' or ', coalesce(present, 'false'),
                                      case when p_operand @> 'null' then pgembed._filter_null(p_value, p_type, p_path) end),
                  case p_operator when '$nin' then ' is not true' end);
end
$$;
comment on function pgembed._filter_in(text, oid, text[], text, jsonb, text) is
    'Condition that a value is one of several, of which one may be null, or ($nin) none of them.';

create or replace function pgembed._filter_compares(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Whatever the caller's path has besides.
    symbol constant text := format('operator(pg_catalog.%s)',
        case p_operator when '$lt' then '<' when '$lte' then '<=' when '$gt' then '>' when '$gte' then '>=' end);
    type constant text := jsonb_typeof(p_operand);
    place constant text := pgembed._filter_sql_of(p_value, p_path);
begin
    if p_type <> 'jsonb'::regtype then
        return format('%s %s %s', p_value, symbol, pgembed._filter_literal(p_operand, p_type, p_label, symbol));
    elsif type not in ('number', 'string', 'boolean') then
        raise exception 'filter on %: % takes a number, string or boolean, not %', p_label, p_operator, p_operand
            using errcode = 'PE008', hint = 'For example {"attrs.size": {"$gte": 3}}.';
    end if;
    return format('(%s %s %L::pg_catalog.jsonb and pg_catalog.jsonb_typeof(%1$s) operator(pg_catalog.=) %4$L)', place, symbol, p_operand, type);
end
$$;
comment on function pgembed._filter_compares(text, oid, text[], text, jsonb, text) is
    'Condition that a value is less or more than another of its type; of jsonb, what is of another type is neither.';

create or replace function pgembed._filter_like(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    pattern constant text := p_operand #>> '{}';
    subject text;
begin
    if jsonb_typeof(p_operand) <> 'string' then
        raise exception 'filter on %: % takes a string, not %', p_label, p_operator, p_operand
            using errcode = 'PE008', hint = 'For example {"title": {"$ilike": "%flight%"}}.';
    end if;
    if length(pattern) % 2 <> length(rtrim(pattern, chr(92))) % 2 then    -- an odd number
        raise exception 'filter on %: the pattern % ends with a backslash', p_label, p_operand
            using errcode = 'PE008', hint = 'A backslash takes the next character literally; double it.';
    end if;
    subject := case when p_type = 'jsonb'::regtype then format(
                        'case when pg_catalog.jsonb_typeof(%1$s) operator(pg_catalog.=) ''string'' then %1$s operator(pg_catalog.#>>) ''{}'' end',
                        pgembed._filter_sql_of(p_value, p_path))
                    -- A cast may be anybody's.
                    when p_type >= 16384 then format('case when %1$s is not null then pg_catalog.concat(%1$s) end', p_value)
                    else p_value || '::pg_catalog.text' end;
    return format('(%s) operator(pg_catalog.%s) %L', subject, case p_operator when '$like' then '~~' else '~~*' end, pattern);
end
$$;
comment on function pgembed._filter_like(text, oid, text[], text, jsonb, text) is
    'Condition that a value, as text, is like a pattern; of jsonb, only strings are.';

create or replace function pgembed._filter_contains(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    symbol constant text := format('operator(pg_catalog.%s)', case p_operator when '$contains' then '@>' else '&&' end);
    several constant boolean := jsonb_typeof(p_operand) = 'array';
    type pg_type;
    subtype oid;
begin
    select * into type from pg_type as t where t.oid = p_type;
    if type.typtype in ('r', 'm') then
        perform pgembed._filter_check_type(p_type, p_label);
        if p_operator = '$contains' and not several and p_operand #>> '{}' !~ '^[[:space:]]*([[({]|empty[[:space:]]*$)' then
            select rngsubtype into subtype from pg_range where p_type in (rngtypid, rngmultitypid);
            return format('%s %s %s', p_value, symbol, pgembed._filter_literal(p_operand, pgembed._filter_type(subtype), p_label));
        end if;
        return format('%s %s %s', p_value, symbol, pgembed._filter_literal(p_operand, p_type, p_label, symbol));
    elsif p_type <> 'jsonb'::regtype and type.typcategory <> 'A' then
        raise exception 'filter on %: % needs a jsonb, array or range column, not %', p_label, p_operator, format_type(p_type, -1)
            using errcode = 'PE008', hint = 'For text use {"$ilike": "%...%"}, for one of several values {"$in": [...]}.';
    elsif p_operator = '$overlaps' and not several then
        raise exception 'filter on %: % takes an array, not %', p_label, p_operator, p_operand
            using errcode = 'PE008', hint = 'For example {"tags": {"$overlaps": ["a", "b"]}}.';
    elsif p_type = 'jsonb'::regtype and p_operator = '$overlaps' then
        return format('(%s)', coalesce((select string_agg(pgembed._filter_has(p_value, p_path, jsonb_build_array(v)), ' or ')
                                        from jsonb_array_elements(p_operand) as v), 'false'));
    elsif p_type = 'jsonb'::regtype and jsonb_typeof(p_operand) in ('object', 'array') then
        return pgembed._filter_has(p_value, p_path, p_operand);
    elsif p_type = 'jsonb'::regtype then    -- in an array, or alone
        return format('(%s or %s)', pgembed._filter_has(p_value, p_path, jsonb_build_array(p_operand)),
                      pgembed._filter_has(p_value, p_path, p_operand));
    elsif p_operand @> 'null' then
        raise exception 'filter on %: % takes no null', p_label, p_operator
            using errcode = 'PE008', hint = 'For an array with a NULL in it: {"$any": null}.';
    end if;
    return format('%s %s %s', p_value, symbol, pgembed._filter_literal(
        case when several then p_operand else jsonb_build_array(p_operand) end, p_type, p_label, symbol));
end
$$;
comment on function pgembed._filter_contains(text, oid, text[], text, jsonb, text) is
    'Condition that an array, a range or jsonb has all of several values in it, or ($overlaps) one of them.';

create or replace function pgembed._filter_elements(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    place constant text := pgembed._filter_sql_of(p_value, p_path);
    in_jsonb constant boolean := p_type = 'jsonb'::regtype;
    element oid;
    is_array text;
    condition text;
begin
    select case when in_jsonb then p_type else t.typelem end into element
    from pg_type as t where t.oid = p_type and (in_jsonb or t.typcategory = 'A');
    if not found then
        raise exception 'filter on %: % needs a jsonb or array column, not %', p_label, p_operator, format_type(p_type, -1)
            using errcode = 'PE008', hint = 'It is for the elements of an array.';
    elsif jsonb_typeof(p_operand) = 'array' then
        raise exception 'filter on %: % takes one value, or conditions, not %', p_label, p_operator, p_operand
            using errcode = 'PE008', hint = 'All of several values: {"$contains": [...]}; one of them: {"$overlaps": [...]}.';
    elsif p_operator = '$any' and jsonb_typeof(p_operand) not in ('object', 'null') then    -- for which there are indexes
        return pgembed._filter_contains(p_value, p_type, p_path, '$overlaps', jsonb_build_array(p_operand), p_label);
    end if;
    is_array := case when in_jsonb then format('pg_catalog.jsonb_typeof(%s) operator(pg_catalog.=) ''array''', place)
                     else format('%s is not null', place) end;
    condition := pgembed._filter_value('e.v', element, '{}', p_operand, p_label);
    return format(
        case p_operator when '$any' then 'exists (select from (select %1$s as v) as e where %2$s)'
                        else '(%3$s and not exists (select from (select %1$s as v) as e where (%2$s) is not true))' end,
        case when in_jsonb then format('pg_catalog.jsonb_array_elements(case when %s then %s end)', is_array, place)
             else format('pg_catalog.unnest(%s)', place) end, condition, is_array);
end
$$;
comment on function pgembed._filter_elements(text, oid, text[], text, jsonb, text) is
    'Condition that some element of an array, or each, meets conditions.';

create or replace function pgembed._filter_condition(
    p_value text, p_type oid, p_path text[], p_operator text, p_operand jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    case
        when p_operator = '$eq' then
            return pgembed._filter_equals(p_value, p_type, p_path, p_operand, p_label);
        when p_operator = '$ne' and p_operand = 'null' then
            return pgembed._filter_null(p_value, p_type, p_path, false);
        when p_operator = '$ne' then
            return format('(%s) is not true', pgembed._filter_equals(p_value, p_type, p_path, p_operand, p_label));
        when p_operator in ('$lt', '$lte', '$gt', '$gte') then
            return pgembed._filter_compares(p_value, p_type, p_path, p_operator, p_operand, p_label);
        when p_operator in ('$in', '$nin') then
            return pgembed._filter_in(p_value, p_type, p_path, p_operator, p_operand, p_label);
        when p_operator in ('$like', '$ilike') then
            return pgembed._filter_like(p_value, p_type, p_path, p_operator, p_operand, p_label);
        when p_operator in ('$contains', '$overlaps') then
            return pgembed._filter_contains(p_value, p_type, p_path, p_operator, p_operand, p_label);
        when p_operator in ('$any', '$all') then
            return pgembed._filter_elements(p_value, p_type, p_path, p_operator, p_operand, p_label);
        when p_operator = '$exists' then
            if jsonb_typeof(p_operand) <> 'boolean' then
                raise exception 'filter on %: $exists takes true or false, not %', p_label, p_operand
                    using errcode = 'PE008', hint = 'For example {"author": {"$exists": true}}.';
            end if;
            return pgembed._filter_null(p_value, p_type, p_path, p_operand = 'false');
        else
            raise exception 'filter on %: there is no operator "%"', p_label, p_operator using errcode = 'PE008',
                hint = 'Operators: $eq $ne $lt $lte $gt $gte $in $nin $like $ilike $contains $overlaps $any $all $exists, '
                       'and $and $or $not around conditions.';
    end case;
end
$$;
comment on function pgembed._filter_condition(text, oid, text[], text, jsonb, text) is 'One condition on a value as SQL, or PE008.';

create or replace function pgembed._filter_group(
    p_source regclass, p_value text, p_type oid, p_path text[], p_filter jsonb, p_label text
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    conditions text[] := '{}';
    field text;
    operand jsonb;
    target record;
    keys text[];
begin
    if jsonb_typeof(p_filter) <> 'object' then
        raise exception 'a filter is a JSON object, not %', p_filter using errcode = 'PE008',
            hint = 'For example {"category": "books", "price": {"$lt": 20}}.';
    end if;
    for field, operand in select * from jsonb_each(p_filter) loop
        if field in ('$and', '$or') then
            if jsonb_typeof(operand) <> 'array' or operand = '[]' then
                raise exception 'filter: % takes an array of filters, not %', field, operand
                    using errcode = 'PE008', hint = 'For example {"$or": [{"a": 1}, {"b": 2}]}.';
            end if;
            conditions := conditions || (
                select format('(%s)', string_agg(pgembed._filter_group(p_source, p_value, p_type, p_path, f, p_label),
                                                 case field when '$and' then ' and ' else ' or ' end))
                from jsonb_array_elements(operand) as f);
        elsif field = '$not' then
            conditions := conditions || format('(%s) is not true',
                                               pgembed._filter_group(p_source, p_value, p_type, p_path, operand, p_label));
        elsif p_source is not null then
            select * into target from pgembed._filter_target(p_source, p_value, field);
            if target.value is null then
                raise exception 'filter: table % has no column "%"', p_source, field using errcode = 'PE008',
                    hint = pgembed._columns_hint(p_source);
            end if;
            perform pgembed._filter_check_path(target.path, field);
            conditions := conditions || pgembed._filter_value(target.value, target.type, target.path, operand, field);
        else
            keys := case when p_type = 'jsonb'::regtype and not starts_with(field, '$') then pgembed._filter_path('.' || field) end;
            perform pgembed._filter_check_path(p_path || keys, p_label);
            conditions := conditions
                || case when keys is null then pgembed._filter_condition(p_value, p_type, p_path, field, operand, p_label)
                        else pgembed._filter_value(p_value, p_type, p_path || keys, operand, p_label || '.' || field) end;
        end if;
    end loop;
    return coalesce('(' || nullif(array_to_string(conditions, ' and '), '') || ')', 'true');
end
$$;
comment on function pgembed._filter_group(regclass, text, oid, text[], jsonb, text) is
    'Conditions that all hold, as SQL: over the columns of a table (whose alias is p_value), or over one value and the keys in it.';

create or replace function pgembed._filter_value(p_value text, p_type oid, p_path text[], p_operand jsonb, p_label text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case when jsonb_typeof(p_operand) = 'object' and p_operand <> '{}'
                then pgembed._filter_group(null, p_value, p_type, p_path, p_operand, p_label)
                else pgembed._filter_equals(p_value, p_type, p_path, p_operand, p_label) end;
end
$$;
comment on function pgembed._filter_value(text, oid, text[], jsonb, text) is
    'What a filter says of one value, as SQL: conditions, or what it is equal to.';

create or replace function pgembed._columns_hint(p_source regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('Columns: %s.', string_agg(attname, ', ' order by attnum))
        || coalesce(format(' Of what is in jsonb: %1$s.key, %1$s.key.key, %1$s."a key.with dots".',
                           min(attname) filter (where pgembed._filter_type(atttypid) = 'jsonb'::regtype)), '')
    from pg_attribute where attrelid = p_source and attnum > 0 and not attisdropped
$$;
comment on function pgembed._columns_hint(regclass) is 'What can be named in a table, for the hint of an error.';

create or replace function pgembed._filter_sql(p_source regclass, p_filter jsonb, p_alias text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when p_filter is null then 'true' else pgembed._filter_group(p_source, p_alias, null, null, p_filter, null) end
$$;
comment on function pgembed._filter_sql(regclass, jsonb, text) is
    'A filter as a SQL condition over the columns of a source, or PE008.';

create or replace function pgembed._filter_without(p_source regclass, p_filter jsonb, p_column text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when jsonb_typeof(p_filter) = 'object' then (
        select coalesce(jsonb_object_agg(f.key, f.value), '{}')
        from jsonb_each(p_filter) as f
        cross join pgembed._filter_target(p_source, 's', p_column) as own
        cross join pgembed._filter_target(p_source, 's', f.key) as t
        where not coalesce(t.value = own.value and t.path[1:cardinality(own.path)] = own.path, false)) else p_filter end
$$;
comment on function pgembed._filter_without(regclass, jsonb, text) is
    'A filter without its conditions on a column, or on what is at a path within it.';
