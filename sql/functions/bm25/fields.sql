-- Fields: words that count apart, as those of a title. BM25F with one length (Robertson, Zaragoza and
-- Taylor, "Simple BM25 extension to multiple weighted fields", CIKM 2004): as if the text of a field
-- stood there as many times as it weighs. Term frequencies and lengths so stay whole
-- numbers, and the stages need not know. Up to four fields, as the positions of a tsvector have
-- the weights A to D.

create or replace function pgembed._bm25_apply_fields(b pgembed.bm25, p_fields jsonb) returns pgembed.bm25
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unknown text;
begin
    b.field_columns := null;
    b.field_weights := null;
    if coalesce(jsonb_typeof(p_fields), 'null') = 'null' then
        return b;
    end if;
    if jsonb_typeof(p_fields) <> 'object' or (select count(*) from jsonb_object_keys(p_fields)) not between 1 and 4
       or exists (select from jsonb_each(p_fields) as f
                  where case when jsonb_typeof(f.value) = 'number'
                             then f.value::numeric not between 1 and 100 or f.value::numeric % 1 <> 0 else true end) then
        raise exception 'these are no fields: %', p_fields using errcode = 'PE007',
            hint = 'One to four columns, each with a whole number from 1 to 100: {"title": 3, "body": 1}.';
    end if;
    select f.key into unknown
    from jsonb_each(p_fields) as f
    left join pg_attribute as a on a.attrelid = b.source and a.attname = f.key and a.attnum > 0 and not a.attisdropped
    left join pg_type as t on t.oid = a.atttypid
    where a.attname is null or t.typcategory <> 'S' or pgembed._foreign_type(t.oid)
    limit 1;
    if unknown is not null then
        raise exception 'field "%" is no column of type text of table %', unknown, b.source using errcode = 'PE007',
            hint = concat('Columns of type text: ', (
                select string_agg(a.attname, ', ' order by a.attnum)
                from pg_attribute as a join pg_type as t on t.oid = a.atttypid
                where a.attrelid = b.source and a.attnum > 0 and not a.attisdropped
                  and t.typcategory = 'S' and not pgembed._foreign_type(t.oid)), '. For an expression, make a generated column.');
    end if;
    select array_agg(a.attnum order by f.weight desc, a.attnum), array_agg(f.weight order by f.weight desc, a.attnum)
    into b.field_columns, b.field_weights
    from (select key, value::int as weight from jsonb_each(p_fields)) as f
    join pg_attribute as a on a.attrelid = b.source and a.attname = f.key;
    return b;
end
$$;
comment on function pgembed._bm25_apply_fields(pgembed.bm25, jsonb) is
    'A BM25 index with other fields, or with none; PE007 says what is wrong.';

create or replace function pgembed._field_names(b pgembed.bm25) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(case when not a.attisdropped then a.attname end order by f.place)
    from unnest((b).field_columns) with ordinality as f(attnum, place)
    left join pg_attribute as a on a.attrelid = (b).source and a.attnum = f.attnum
$$;
comment on function pgembed._field_names(pgembed.bm25) is
    'Names of the fields of a BM25 index, the heaviest first; NULL in place of one whose column is gone.';

create or replace function pgembed._bm25_fields(b pgembed.bm25) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_object_agg(f.name, f.weight) from unnest(pgembed._field_names(b), (b).field_weights) as f(name, weight) where f.name is not null
$$;
comment on function pgembed._bm25_fields(pgembed.bm25) is 'Fields of a BM25 index as they are declared; NULL: it has none.';

create or replace function pgembed._fields_text(b pgembed.bm25) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(format('coalesce(%I, '''')', name), ' || E''\n'' || ' order by place)
    from unnest(pgembed._field_names(b)) with ordinality as f(name, place)
$$;
comment on function pgembed._fields_text(pgembed.bm25) is 'Expression for the text that is all fields, one after the other.';

create or replace function pgembed._bm25_check_fields(b pgembed.bm25, t pgembed.captured_text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    names constant text[] := pgembed._field_names(b);
begin
    if array_position(names, null) is not null then
        raise exception 'a column that is a field of BM25 index "%" has been dropped', b.name using errcode = 'PE004',
            hint = format('SELECT pgembed.alter_bm25(%L, options => ''{"fields": ...}'').', b.name);
    end if;
    if not names <@ t.source_columns then
        raise exception 'the text of BM25 index "%" does not read its field %', b.name,
            (select quote_ident(name) from unnest(names) as name where name <> all (t.source_columns) limit 1) using errcode = 'PE004',
            detail = format('Text: %s.', t.text_expression),
            hint = 'Fields are parts of the text: what changes elsewhere would not be noticed. Name the column in the text expression.';
    end if;
end
$$;
comment on function pgembed._bm25_check_fields(pgembed.bm25, pgembed.captured_text) is
    'PE004 for fields that are gone, or that the text of the index does not read.';

create or replace function pgembed._bm25_lexemes(p_config regconfig, p_fields text[], p_analyzer jsonb) returns tsvector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lexemes tsvector := '';
begin
    for i in 1 .. cardinality(p_fields) loop
        begin
            lexemes := lexemes || setweight(pgembed._bm25_lexemes(p_config, coalesce(p_fields[i], ''), p_analyzer), chr(ascii('A') + i - 1)::"char");
        exception when program_limit_exceeded then    -- a tsvector holds 1 MB: no more of them
            exit;
        end;
    end loop;
    return lexemes;
end
$$;
comment on function pgembed._bm25_lexemes(regconfig, text[], jsonb) is
    'Lexemes of the fields of a document, those of the first with weight A and so on.';

create or replace function pgembed._row_lexemes_sql(b pgembed.bm25, p_config text, p_content text, p_row text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('pgembed._bm25_lexemes(%s, %s, %L)', p_config, case when (b).field_columns is null then p_content else (
        select format('array[%s]::pg_catalog.text[]', string_agg(format('%s.%I::pg_catalog.text', p_row, name), ', ' order by place))
        from unnest(pgembed._field_names(b)) with ordinality as f(name, place)) end, (b).analyzer)
$$;
comment on function pgembed._row_lexemes_sql(pgembed.bm25, text, text, text) is
    'Expression for the lexemes of a row, given those for its configuration and its text.';

create or replace function pgembed._bm25_tf(p_labels text[], p_weights int[]) returns bigint
language sql immutable parallel safe
return (select sum(p_weights[ascii(label) - ascii('A') + 1]) from unnest(p_labels) as label);
comment on function pgembed._bm25_tf(text[], int[]) is
    'How many times a lexeme counts, given the weights of its positions as unnest(tsvector) gives them, and those of the fields.';

create or replace function pgembed._bm25_tf(p_lexemes tsvector, p_query tsquery, p_weights int[]) returns bigint
language sql immutable parallel safe
return (select sum(pgembed._bm25_tf(u.weights, p_weights)) from unnest(p_lexemes) as u
        where array_to_tsvector(array[u.lexeme]) @@ p_query);
comment on function pgembed._bm25_tf(tsvector, tsquery, int[]) is
    'How many times the lexeme of a query counts in a document, given the weights of the fields.';

create or replace function pgembed._tf_sql(b pgembed.bm25) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when (b).field_weights is null then 'pg_catalog.cardinality(u.positions)'
                else format('pgembed._bm25_tf(u.weights, %L)', (b).field_weights) end
$$;
comment on function pgembed._tf_sql(pgembed.bm25) is 'Expression for how many times a lexeme counts, unnested from a tsvector as u.';

create or replace function pgembed._length_sql(b pgembed.bm25, p_lexemes text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('(select pg_catalog.sum(%s) from pg_catalog.unnest(%s) as u)', pgembed._tf_sql(b), p_lexemes)
$$;
comment on function pgembed._length_sql(pgembed.bm25, text) is
    'Expression for the length of a document in lexemes, each as many times as its field weighs; NULL without any.';
