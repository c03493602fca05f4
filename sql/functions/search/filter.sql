-- Filters: conditions as data, safe to build from what a user sent.
--   {"category": "books", "price": {"$lt": 20}, "tag": {"$in": ["a", "b"]}}
-- Column names are looked up in the table, values become literals of the
-- column's own type; nothing of the filter reaches the statement unquoted.

create or replace function pgembed._filter_literal(
    p_value jsonb, p_type text, p_column text, p_operator text default 'operator(pg_catalog.=)'
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    literal text := case when jsonb_typeof(p_value) in ('object', 'array') and p_type not in ('json', 'jsonb')
                         then null else p_value #>> '{}' end;
begin
    if p_type in ('json', 'jsonb') then
        return format('%L::pg_catalog.jsonb', p_value);
    end if;
    if literal is null then
        raise exception 'filter on %: % is not a value of type %', p_column, p_value, p_type
            using errcode = 'PE008', hint = 'Give a string, number or boolean; for several, {"$in": [...]}.';
    end if;
    begin
        -- The value is read, and compared with itself, as the search will do it.
        execute format('select %1$L::%2$s %3$s %1$L::%2$s', literal, p_type, p_operator);
    exception
        when data_exception or check_violation then
            raise exception 'filter on %: % is not a value of type %', p_column, p_value, p_type
                using errcode = 'PE008', detail = sqlerrm, hint = 'Give a value of the column''s type.';
        when undefined_function then
            raise exception 'filter on %: values of type % cannot be compared', p_column, p_type
                using errcode = 'PE008', detail = sqlerrm, hint = 'Use $exists here, or where_sql.';
    end;
    return format('%L::%s', literal, p_type);
end
$$;
comment on function pgembed._filter_literal(jsonb, text, text, text) is
    'A JSON value as a literal of a column''s type that has the operator, or PE008.';

create or replace function pgembed._filter_type(p_type oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when t.typcategory = 'A' and t.typelem <> 0 then format_type(pgembed._base_type(t.typelem), -1) || '[]'
                else format_type(t.oid, -1) end
    from pg_type as t where t.oid = pgembed._base_type(p_type)
$$;
comment on function pgembed._filter_type(oid) is 'Type that values of a filter on a column are read as: no domain.';

create or replace function pgembed._filter_condition(
    p_column text, p_type text, p_operator text, p_operand jsonb
) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    label constant text := regexp_replace(p_column, '^s[.]', '');    -- for messages
    symbol text;
    condition text;
    literals text;
    scalar_type text := case p_type when 'json' then 'jsonb' else p_type end;
    operand_column text := p_column || case p_type when 'json' then '::pg_catalog.jsonb' else '' end;
begin
    if p_operator in ('$eq', '$ne') and jsonb_typeof(p_operand) = 'null' then
        return format('%s is %s null', p_column, case p_operator when '$ne' then 'not' else '' end);
    end if;
    symbol := case p_operator when '$eq' then '=' when '$ne' then '<>' when '$lt' then '<'
        when '$lte' then '<=' when '$gt' then '>' when '$gte' then '>=' end;
    symbol := format('operator(pg_catalog.%s)', symbol);    -- whatever the caller's path has besides
    if symbol <> 'operator(pg_catalog.)' then
        return case p_operator when '$ne' then format('(%1$s is null or %1$s %2$s %3$s)', operand_column, symbol,
                                                      pgembed._filter_literal(p_operand, scalar_type, label, symbol))
            else format('%s %s %s', operand_column, symbol,
                        pgembed._filter_literal(p_operand, scalar_type, label, symbol)) end;
    end if;
    if p_operator in ('$in', '$nin') then
        if jsonb_typeof(p_operand) <> 'array' then
            raise exception 'filter on %: % takes an array, not %', label, p_operator, p_operand
                using errcode = 'PE008', hint = 'For example {"tag": {"$in": ["a", "b"]}}.';
        end if;
        select case when right(scalar_type, 2) = '[]' then string_agg(format('%s operator(pg_catalog.=) %s', operand_column, literal), ' or ')
                    else format('%s operator(pg_catalog.=) any (array[%s])', operand_column, string_agg(literal, ', ')) end into literals
        from (select pgembed._filter_literal(v, scalar_type, label) as literal
              from jsonb_array_elements(p_operand) as v where jsonb_typeof(v) <> 'null') as l
        having count(*) > 0;
        -- NULL is a value here as it is for $eq and $ne, and every condition true or false.
        condition := format('(%s%s%s)',
            case when literals is null then 'false'
                 else format('%s is not null and (%s)', operand_column, literals) end,
            case when p_operand @> 'null' then ' or ' end,
            case when p_operand @> 'null' then p_column || ' is null' end);
        return case p_operator when '$in' then condition else 'not ' || condition end;
    end if;
    if p_operator in ('$like', '$ilike') then
        if jsonb_typeof(p_operand) <> 'string' then
            raise exception 'filter on %: % takes a string, not %', label, p_operator, p_operand
                using errcode = 'PE008', hint = 'For example {"title": {"$ilike": "%flight%"}}.';
        end if;
        if length(p_operand #>> '{}') % 2 <> length(rtrim(p_operand #>> '{}', chr(92))) % 2 then    -- an odd number
            raise exception 'filter on %: the pattern % ends with a backslash', label, p_operand
                using errcode = 'PE008', hint = 'A backslash takes the next character literally; double it.';
        end if;
        return format('%s::pg_catalog.text operator(pg_catalog.%s) %L', p_column, case p_operator when '$like' then '~~' else '~~*' end,
                      p_operand #>> '{}');
    end if;
    if p_operator = '$contains' then
        if p_type not in ('json', 'jsonb') and right(p_type, 2) <> '[]' then
            raise exception 'filter on %: $contains needs a jsonb or array column, not %', label, p_type
                using errcode = 'PE008', hint = 'For text use {"$ilike": "%...%"}.';
        end if;
        if p_type in ('json', 'jsonb') then
            return format('%s operator(pg_catalog.@>) %L::pg_catalog.jsonb', operand_column, p_operand);
        end if;
        select array_agg(v)::text into literals
        from jsonb_array_elements_text(case jsonb_typeof(p_operand) when 'array' then p_operand
                                            else jsonb_build_array(p_operand) end) as v;
        return format('%s operator(pg_catalog.@>) %s', p_column, pgembed._filter_literal(
            to_jsonb(coalesce(literals, '{}')), p_type, label, 'operator(pg_catalog.@>)'));
    end if;
    if p_operator = '$exists' then
        if jsonb_typeof(p_operand) <> 'boolean' then
            raise exception 'filter on %: $exists takes true or false, not %', label, p_operand
                using errcode = 'PE008', hint = 'For example {"author": {"$exists": true}}.';
        end if;
        return format('%s is %s null', p_column, case p_operand when 'true' then 'not' else '' end);
    end if;
    raise exception 'filter on %: there is no operator "%"', label, p_operator using errcode = 'PE008',
        hint = 'Operators: $eq $ne $lt $lte $gt $gte $in $nin $like $ilike $contains $exists, and '
               '$and $or $not around conditions.';
end
$$;
comment on function pgembed._filter_condition(text, text, text, jsonb) is
    'One condition of a filter as SQL, or PE008. The column comes quoted.';

create or replace function pgembed._filter_sql(p_source regclass, p_filter jsonb, p_alias text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    conditions text[] := '{}';
    field text;
    operand jsonb;
    column_sql text;
    column_type text;
    operator text;
    value jsonb;
    parts text[];
begin
    if p_filter is null then
        return 'true';
    end if;
    if jsonb_typeof(p_filter) <> 'object' then
        raise exception 'a filter is a JSON object, not %', p_filter using errcode = 'PE008',
            hint = 'For example {"category": "books", "price": {"$lt": 20}}.';
    end if;
    for field, operand in select * from jsonb_each(p_filter) loop
        if field in ('$and', '$or') then
            if jsonb_typeof(operand) <> 'array' or jsonb_array_length(operand) = 0 then
                raise exception 'filter: % takes an array of filters, not %', field, operand
                    using errcode = 'PE008', hint = 'For example {"$or": [{"a": 1}, {"b": 2}]}.';
            end if;
            select array_agg(pgembed._filter_sql(p_source, f, p_alias)) into parts
            from jsonb_array_elements(operand) as f;
            conditions := conditions
                || ('(' || array_to_string(parts, case field when '$and' then ' and ' else ' or ' end) || ')');
            continue;
        elsif field = '$not' then
            conditions := conditions || format('(%s) is not true', pgembed._filter_sql(p_source, operand, p_alias));
            continue;
        end if;
        -- Of a domain what it is over: its CHECK may be anybody's code. -1, not NULL: that is character(1).
        select format('%s.%I', p_alias, attname) || case when type <> format_type(pgembed._base_type(atttypid), -1) then '::' || type else '' end, type
        into column_sql, column_type
        from pg_catalog.pg_attribute
        cross join lateral pgembed._filter_type(atttypid) as t(type)
        where attrelid = p_source and attname = field and attnum > 0 and not attisdropped;
        if not found then
            raise exception 'filter: table % has no column "%"', p_source, field using errcode = 'PE008',
                hint = 'Columns: ' || (
                    select string_agg(attname, ', ' order by attnum) from pg_catalog.pg_attribute
                    where attrelid = p_source and attnum > 0 and not attisdropped) || '.';
        end if;
        if jsonb_typeof(operand) = 'object' and operand <> '{}' then
            for operator, value in select * from jsonb_each(operand) loop
                conditions := conditions || pgembed._filter_condition(column_sql, column_type, operator, value);
            end loop;
        else
            conditions := conditions || pgembed._filter_condition(column_sql, column_type, '$eq', operand);
        end if;
    end loop;
    return coalesce('(' || nullif(array_to_string(conditions, ' and '), '') || ')', 'true');
end
$$;
comment on function pgembed._filter_sql(regclass, jsonb, text) is
    'A filter as a SQL condition over the columns of a source, or PE008.';
