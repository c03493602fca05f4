-- Classes: which of some labels a row, or a text, is most like. A label is what it is called and a text
-- about it, or its vector, or rows that are examples of it.

create or replace function pgembed._labels_given(p_labels jsonb, p_name text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant int := 1000;
    given constant jsonb := pgembed._json_given(
        p_labels, p_name, 'object',
        case p_name when 'labels' then 'Give each label with a text about it: labels => ''{"sport": "a text about sport"}''.'
                    else 'Give each label with the keys of rows that have it: examples => ''{"sport": [1, 2]}''.' end);
    many bigint;
    twice text[];
begin
    many := count(*) from jsonb_object_keys(given);
    if many not between 1 and most then
        raise exception '% has % labels, and may have 1 to %', p_name, many, most using errcode = 'PE007',
            hint = 'Classify by a few labels first, and what has one of them by finer ones.';
    end if;
    select array_agg(x.key order by x.key) into twice from jsonb_each(given) as x group by x.value having count(*) > 1 limit 1;
    if twice is not null then
        raise exception 'labels "%" and "%" mean the same', twice[1], twice[2] using errcode = 'PE009',
            hint = 'Nothing tells them apart: leave one out, or describe them differently.';
    end if;
    return given;
end
$$;
comment on function pgembed._labels_given(jsonb, text) is 'Labels that a caller gave as a JSON object, or PE007 or PE009.';

create or replace function pgembed._label_given(p_label text, p_value jsonb, out query text, out vector vector)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_value) = 'string' then
        query := p_value #>> '{}';
    elsif jsonb_typeof(p_value) = 'array' and p_value <> '[]'
          and not exists (select from jsonb_array_elements(p_value) as x where jsonb_typeof(x) <> 'number') then
        vector := pgembed._vector_given(p_value::text);
    else
        raise exception 'label "%" has neither a text nor a vector: %', p_label, left(p_value::text, 100) using errcode = 'PE009',
            hint = 'Give a text about it, or its vector as an array of numbers.';
    end if;
end
$$;
comment on function pgembed._label_given(text, jsonb) is 'The text about a label, or its vector, or PE009.';

create or replace function pgembed._label_vector(e pgembed.embedding, p_label text, p_value jsonb, p_query_encoder text) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    given constant record := pgembed._label_given(p_label, p_value);
    made constant pgembed.query_embedding.embedding%type := (pgembed._query_vector(e, given.query, given.vector, null, p_query_encoder)).q;
begin
    return case when e.distance = 'cosine' then pgembed._unit(made) else made end;
end
$$;
comment on function pgembed._label_vector(pgembed.embedding, text, jsonb, text) is 'Vector of a label, as a search by its text would have it.';

create or replace function pgembed._label_vectors(e pgembed.embedding, p_labels jsonb, p_query_encoder text, out labels text[], out vectors vector[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    label record;
    missing text[] := '{}';
    why text;
begin
    for label in select * from jsonb_each(pgembed._labels_given(p_labels, 'labels')) loop
        begin
            vectors := vectors || array[pgembed._label_vector(e, label.key, label.value, p_query_encoder)];
            labels := labels || label.key;
        exception when sqlstate 'PE010' then
            missing := missing || (label.value #>> '{}');
            why := sqlerrm;
        end;
    end loop;
    if missing <> '{}' then
        raise exception 'the vectors of % labels are not at hand', cardinality(missing) using errcode = 'PE010', detail = why,
            hint = 'Outside a transaction block: ' || array_to_string(array(
                select format('CALL pgembed.encode(%L, %L);', t, (select m.name from pgembed.model as m where m.model_id = e.model_id))
                from unnest(missing[:100]) as t), ' ')
                || ' Then classify again. Or give vectors in place of texts.';
    end if;
end
$$;
comment on function pgembed._label_vectors(pgembed.embedding, jsonb, text) is 'Labels and their vectors; PE010 that says how to have those encoded that are not at hand.';

create or replace function pgembed._example_vectors(e pgembed.embedding, p_examples jsonb, out labels text[], out vectors vector[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    label record;
    keys text[];
begin
    for label in select * from jsonb_each(pgembed._labels_given(p_examples, 'examples')) loop
        keys := pgembed._keys_given(label.value, format('examples of "%s"', label.key));
        if keys = '{}' then
            raise exception 'label "%" has no examples', label.key using errcode = 'PE009', hint = 'Give the keys of rows that have it: "sport": [1, 2].';
        end if;
        vectors := vectors || array[pgembed._centroid(e, keys)];
        labels := labels || label.key;
    end loop;
end
$$;
comment on function pgembed._example_vectors(pgembed.embedding, jsonb) is
    'Labels and their vectors: each the mean of its examples (nearest centroid; Rocchio classification).';

create or replace function pgembed.classify(
    source anyelement,
    labels jsonb default null,
    examples jsonb default null,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    query_encoder text default null
)
returns table (key jsonb, label text, score float8, margin float8)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    e constant pgembed.embedding := pgembed._search_target(source, embedding);
    classes pg_catalog.record;
    statement pg_catalog.text;
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    if (labels is null) = (examples is null) then
        raise exception 'classes are given by labels, or by examples: by one of them' using errcode = 'PE009',
            hint = 'labels => ''{"sport": "a text about sport"}'', or examples => ''{"sport": [1, 2]}''.';
    elsif labels is not null then
        classes := pgembed._label_vectors(e, labels, query_encoder);
    else
        classes := pgembed._example_vectors(e, examples);
    end if;
    -- The best of the labels, and how far it is before the second.
    statement := format(
        'with pgembed_label as materialized (select l.place, l.vector::%4$s as vector from pg_catalog.unnest($1) with ordinality as l(vector, place)) '
        'select r.key, $2[b.places[1]], b.scores[1], b.scores[1] operator(pg_catalog.-) b.scores[2] from (%1$s) as r cross join lateral ('
        'select pg_catalog.array_agg(c.place order by c.similarity desc, c.place) as places, '
        'pg_catalog.array_agg(c.similarity order by c.similarity desc, c.place) as scores '
        'from (select c.place, %2$s as similarity from (select l.place, %3$s as distance from pgembed_label as l) as c '
        'where c.distance operator(pg_catalog.<>) ''NaN''::pg_catalog.float8) as c) as b where b.places is not null',
        pgembed._rows_sql(e, pgembed._search_condition(e.source, filter, where_sql, path)), pgembed._similarity_sql(e.distance),
        pgembed._distance_sql(e.distance, 'r.vector', 'l.vector'), pgembed._row_vector_type(e));
    perform pgembed._at_path(case when where_sql is not null then path end);
    return query execute statement using classes.vectors, classes.labels;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.classify(anyelement, jsonb, jsonb, jsonb, text, text, text) is
    'For each row of a table the label that it is most like: by a text about each label (zero-shot; or its vector as an array of '
    'numbers), or by rows that are examples of it, whose mean stands for it. score is the similarity, margin how much larger it is than '
    'that of the second label: where it is small, both would do. Rows without a vector, or with one of zeros, are left out. Example: '
    'SELECT key, label, score FROM pgembed.classify(NULL::article, labels => ''{"sport": "a text about sport", "politics": "a text about politics"}'');';

create or replace function pgembed._text_label_vector(m pgembed.model, p_label text, p_value jsonb) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    given constant record := pgembed._label_given(p_label, p_value);
begin
    if given.query is not null then
        return pgembed._text_vector(given.query, m.name);
    elsif array_length(given.vector::real[], 1) <> m.dimensions then
        raise exception 'the vector of label "%" has % dimensions, the model "%" has %', p_label, array_length(given.vector::real[], 1), m.name, m.dimensions
            using errcode = 'PE006', hint = format('Encode it with model "%s".', m.name);
    elsif m.distance = 'cosine' and 0 = all (given.vector::real[]) then
        raise exception 'the vector of label "%" is zero, which has no direction', p_label using errcode = 'PE009',
            hint = 'Give a text about it, or another vector.';
    end if;
    return given.vector;
end
$$;
comment on function pgembed._text_label_vector(pgembed.model, text, jsonb) is 'Vector of a label by a model, for a text that is classified.';

create or replace function pgembed.classify_text(text text, labels jsonb, model text default 'all-MiniLM-L6-v2')
returns table (label text, score float8, margin float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    m constant pgembed.model := pgembed._model(model);
    asked constant pgembed.query_embedding.embedding%type := pgembed._text_vector(text, model);
begin
    return query
    with scored as materialized (
        select x.key, pgembed._similarity_of(asked, pgembed._text_label_vector(m, x.key, x.value), m.distance) as score
        from jsonb_each(pgembed._labels_given(labels, 'labels')) as x)
    select s.key, s.score, s.score - (select max(o.score) from scored as o where o.key <> s.key)
    from scored as s
    order by s.score desc, s.key;
end
$$;
comment on function pgembed.classify_text(text, jsonb, text) is
    'How like each of some labels a text is, the most alike first: by a text about each label, or its vector as an array of numbers. '
    'margin is how much larger the score is than the largest of the other labels. Example: '
    'SELECT * FROM pgembed.classify_text(''the match ended in a draw'', ''{"sport": "a text about sport", "politics": "a text about politics"}'');';
