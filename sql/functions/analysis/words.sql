-- Texts and words without a table: how alike two texts are, and the words of a static model that is
-- stored here (pgembed model import).

create or replace function pgembed._similarity_of(p_a vector, p_b vector, p_distance text) returns float8
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    similarity float8;
begin
    execute format('select %s from (select %s as distance) as c', pgembed._similarity_sql(p_distance), pgembed._distance_sql(p_distance, '$1', '$2'))
    into similarity using p_a, p_b;
    return similarity;
end
$$;
comment on function pgembed._similarity_of(vector, vector, text) is 'Similarity of two vectors in a distance.';

create or replace function pgembed._text_vector(p_text text, p_model text) returns vector
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    made constant pgembed.query_embedding.embedding%type := pgembed.embed(p_text, p_model);
begin
    if 0 = all (made::real[]) then
        raise exception 'model "%" knows no word of "%"', p_model, left(p_text, 100) using errcode = 'PE009',
            hint = 'It has a vector for each of the words of its vocabulary only: write the text in others.';
    end if;
    return made;
end
$$;
comment on function pgembed._text_vector(text, text) is 'Vector of a text by a model; PE009 for zeros, which have no direction.';

create or replace function pgembed.similarity(a text, b text, model text default 'all-MiniLM-L6-v2') returns float8
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return pgembed._similarity_of(pgembed._text_vector(a, model), pgembed._text_vector(b, model), (pgembed._model(model)).distance);
end
$$;
comment on function pgembed.similarity(text, text, text) is
    'How alike two texts are by a model: the similarity of their vectors, as in searches (cosine: -1 to 1). Vectors as embed() gives '
    'them. Example: SELECT pgembed.similarity(''cheap flights'', ''low-cost air travel'');';

create or replace function pgembed._static_model(p_model text) returns pgembed.token_encoder
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    stored constant text[] := array(
        select m.name from pgembed.model as m where (pgembed._stored_model(m.model_id)).encoder_id is not null order by m.name);
    found_row pgembed.token_encoder;
begin
    if p_model is null and cardinality(stored) <> 1 then
        raise exception 'model is missing' using errcode = 'PE005',
            hint = case cardinality(stored) when 0 then 'Put the words of a static model here: pgembed model import FOLDER --name NAME.'
                                            else format('Name one of those that are stored here: %s.', array_to_string(stored, ', ')) end;
    end if;
    found_row := pgembed._stored_model((pgembed._model(coalesce(p_model, stored[1]))).model_id);
    if found_row.encoder_id is null then
        raise exception 'the words of model "%" are not stored here', p_model using errcode = 'PE005',
            hint = case cardinality(stored) when 0 then 'A static model has a vector for each word: pgembed model import puts it here.'
                                            else format('These are: %s.', array_to_string(stored, ', ')) end;
    end if;
    return found_row;
end
$$;
comment on function pgembed._static_model(text) is 'A model whose token vectors are stored here, by its name or as the only one; or PE005.';

create or replace function pgembed._word_vectors(e pgembed.token_encoder, p_words text[], out vectors vector[], out tokens text[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    t pgembed.tokenizer;
    word text;
    made pgembed.query_embedding.embedding%type;
begin
    select * into t from pgembed.tokenizer where tokenizer_id = e.tokenizer_id;
    foreach word in array p_words loop
        perform pgembed._check_query(word);
        made := pgembed._token_embedding(e, word);
        if 0 = all (made::real[]) then
            raise exception 'the model does not know the word "%"', left(word, 100) using errcode = 'PE009',
                hint = 'Only words of its vocabulary have a vector.';
        end if;
        vectors := vectors || array[pgembed._unit(made)];
        tokens := tokens || pgembed._token_words(t, word);
    end loop;
end
$$;
comment on function pgembed._word_vectors(pgembed.token_encoder, text[]) is
    'Vectors of words by a static model, at unit length, and the words as it cuts them. PE009 for one that it does not know.';

create or replace function pgembed._words_near(e pgembed.token_encoder, p_query vector, p_without text[], p_k int)
returns table (word text, similarity float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Whole words: no pieces of words, none that stand for something, and none of punctuation.
    return query execute format(
        'select n.token::text, 1 - n.distance from (select k.token, coalesce(v."full" operator(%1$s.<=>) $1, v.half operator(%1$s.<=>) $1::%1$s.halfvec) as distance '
        'from pgembed.token_vector as v join pgembed.token as k on k.token_id = v.token_id '
        'join pgembed.tokenizer as t using (tokenizer_id) '
        'where v.encoder_id = $2 and t.tokenizer_id = $3 and k.token <> all ($4) and k.token !~ ''^([[:punct:]]+|\[.+\])$'' '
        'and (t.continuing_prefix = '''' or not starts_with(k.token, t.continuing_prefix))) as n '
        'where n.distance <> ''NaN'' order by n.distance, n.token limit $5', pgembed._vector_schema())
    using p_query, e.encoder_id, e.tokenizer_id, p_without, p_k;
end
$$;
comment on function pgembed._words_near(pgembed.token_encoder, vector, text[], int) is
    'Words of a static model by the cosine of their vectors and one.';

create or replace function pgembed._analogy(p_vectors vector[]) returns vector
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._weighted_sum(array[pgembed._unit(p_vectors[1]), pgembed._unit(p_vectors[2]), pgembed._unit(p_vectors[3])], array[1, -1, 1])
$$;
comment on function pgembed._analogy(vector[]) is 'a - b + c of three vectors, each at unit length.';

create or replace function pgembed.nearest_words(query text, k bigint default 10, model text default null)
returns table (word text, similarity float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    e constant pgembed.token_encoder := pgembed._static_model(model);
    given record;
begin
    perform pgembed._check_k(k);
    given := pgembed._word_vectors(e, array[query]);
    return query select * from pgembed._words_near(e, given.vectors[1], given.tokens, k::int);
end
$$;
comment on function pgembed.nearest_words(text, bigint, text) is
    'The k words of a static model that are most like a word, by the cosine of their vectors. model: one that pgembed model import '
    'has put here; not needed where there is one only. Example: SELECT * FROM pgembed.nearest_words(''coffee'');';

create or replace function pgembed.analogy(a text, b text, c text, k bigint default 10, model text default null)
returns table (word text, similarity float8)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    e constant pgembed.token_encoder := pgembed._static_model(model);
    given record;
begin
    perform pgembed._check_k(k);
    given := pgembed._word_vectors(e, array[a, b, c]);
    return query select * from pgembed._words_near(e, pgembed._analogy(given.vectors), given.tokens, k::int);
end
$$;
comment on function pgembed.analogy(text, text, text, bigint, text) is
    'The k words that are to c as a is to b: nearest to the vector a - b + c, each at unit length (Mikolov, Yih, Zweig, NAACL 2013). The '
    'three words are left out. model: as in nearest_words. Example: SELECT * FROM pgembed.analogy(''king'', ''man'', ''woman'');';
