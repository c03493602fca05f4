-- Why a row has its score: the parts of BM25, word by word.

create or replace function pgembed._bm25_weights(b pgembed.bm25, p_query pgembed._bm25_words) returns pgembed._bm25_weights
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    weights pgembed._bm25_weights;
begin
    if pgembed._bm25_ranking(b) <> 'top' then
        return pgembed._bm25_restricted_weights(b, p_query);
    end if;
    execute format('select * from pgembed._bm25_%s_weights($1, $2)', b.bm25_id) into weights using p_query.terms, p_query.prefix;
    return weights;
exception when undefined_table or undefined_function then
    perform pgembed._bm25_require_parts(b);
    raise;
end
$$;
comment on function pgembed._bm25_weights(pgembed.bm25, pgembed._bm25_words) is
    'What scores are made of besides the documents: by the rows that the caller sees.';

create or replace function pgembed._bm25_explanations(docs anyarray, b pgembed.bm25, p_weights pgembed._bm25_weights) returns jsonb[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    weights alias for p_weights;
    lengths float8[];
    tfs jsonb[];    -- of each document: lexeme -> tf
begin
    -- Read from the rows themselves, whose words are those that are stored.
    execute format(
        'select pg_catalog.array_agg(w.length), pg_catalog.array_agg(w.tfs) from pg_catalog.unnest($1) as s '
        'cross join lateral (select %s as lexemes) as d '
        'cross join lateral (select %s as length, (select pg_catalog.jsonb_object_agg(u.lexeme, %s) from pg_catalog.unnest(d.lexemes) as u '
        'where u.lexeme operator(pg_catalog.=) any ($2)) as tfs) as w',
        pgembed._row_lexemes_sql(b, pgembed._row_config_sql(b, 's.*'), pgembed._compose_sql(b.text_id, 's.*'), 's'),
        pgembed._length_sql(b, 'd.lexemes'), pgembed._tf_sql(b))
    into lengths, tfs using docs, weights.terms;
    return array(
        select jsonb_build_object(
            'k1', b.k1, 'b', b.b, 'documents', weights.rows, 'average_length', weights.avgdl, 'length', d.length,
            'words', (select jsonb_agg(jsonb_build_object(
                                 'word', w.lexeme, 'documents', w.df, 'idf', ln(1 + (weights.rows - w.df + 0.5) / (w.df + 0.5)), 'tf', t.tf,
                                 'score', pgembed._bm25_score(t.tf, d.length, w.df, weights.rows, weights.avgdl, b.k1, b.b))
                             order by pgembed._bm25_score(t.tf, d.length, w.df, weights.rows, weights.avgdl, b.k1, b.b) desc, w.lexeme)
                      from unnest(weights.terms, weights.df) as w(lexeme, df)
                      cross join lateral (select (d.tfs ->> w.lexeme)::float8 as tf) as t
                      where t.tf is not null))
        from unnest(lengths, tfs) with ordinality as d(length, tfs, place) order by d.place);
end
$$;
comment on function pgembed._bm25_explanations(anyarray, pgembed.bm25, pgembed._bm25_weights) is
    'For each of some rows, what its BM25 score is the sum of: per word of the query tf, idf and their product by the formula, '
    'with the length of the document and the statistics that the caller may know.';
