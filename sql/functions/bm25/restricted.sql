-- BM25 under row security. Whom policies restrict is ranked over the rows that they see, by
-- statistics of these rows: N, df and average length of anything else would tell of rows
-- that are hidden. Everything here runs as the caller; the words of documents stand in doc
-- and recent, whose policy follows the source. Slower than the postings, by about the
-- number of visible rows.

create or replace function pgembed._bm25_visible_sql(b pgembed.bm25, p_condition text, p_path text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- One row for each visible document. Stored words count where nothing has happened to the
    -- row since; else, and before they are stored (row security was just switched on), they
    -- are read from the row itself. Names in condition and text mean columns of the row: they are
    -- evaluated where nothing else is in reach.
    select format(
        'select k.key, w.length, w.lexemes, (%1$s) as matches '
        'from %2$s as s cross join lateral (select %3$s as key) as k %4$s'
        'cross join lateral (select coalesce(%5$s%6$s, '''') as lexemes) as l '
        'cross join lateral (select l.lexemes, coalesce(%7$s%8$s)::pg_catalog.float8 as length) as w '
        'where l.lexemes operator(pg_catalog.<>) ''''::pg_catalog.tsvector',
        case when p_condition = 'true' then 'true' else format(alone, p_condition) end, pgembed._table_sql((b).source), pgembed._bm25_key_text_sql(b, 's'),
        case when c.relrowsecurity then format(
            'left join lateral (select d.version, d.lexemes, d.length from %s as d where d.key operator(pg_catalog.=) k.key '
            'order by d.version desc limit 1) as p on true '
            'left join (select distinct on (r.key) r.key, r.version, r.lexemes, r.length from %s as r order by r.key, r.version desc) as r '
            'on r.key operator(pg_catalog.=) k.key '
            'left join (select d.key, pg_catalog.max(d.version) as version from %s as d where d.op operator(pg_catalog.=) ''D'' group by d.key) as gone '
            'on gone.key operator(pg_catalog.=) k.key ',
            pgembed._bm25_part((b).bm25_id, 'doc'), pgembed._bm25_part((b).bm25_id, 'recent'), pgembed._bm25_part((b).bm25_id, 'dead')) else '' end,
        case when c.relrowsecurity then format(stored, 'lexemes') else '' end,
        format(alone, pgembed._pinned_sql(p_path, 'lexemes', pgembed._row_lexemes_sql(
            b, pgembed._row_config_sql(b, 's.*'), pgembed._compose_sql((b).text_id, 's.*'), 's'))),
        case when c.relrowsecurity then format(stored, 'length') else '' end, pgembed._length_sql(b, 'l.lexemes'))
    from pg_class as c
    cross join (select 'case when r.version operator(pg_catalog.>) coalesce(gone.version, 0::pg_catalog.int8) then r.%1$s '
                       'when r.version is null and gone.version is null and p.lexemes is not null then p.%1$s end, ', '(select %s from pg_catalog.unnest(array[s.*]) as s)') as x(stored, alone)
    where c.oid = pgembed._bm25_part((b).bm25_id, 'doc')::regclass
$$;
comment on function pgembed._bm25_visible_sql(pgembed.bm25, text, text) is
    'Query for the documents that the caller sees: key, length, words, and whether the row meets a condition.';

create or replace function pgembed._bm25_restricted_sql(b pgembed.bm25, p_condition text, p_result text, p_path text default null) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'with document as materialized (%s), '
        'prefixed as materialized (select u.lexeme from document as d cross join lateral pg_catalog.unnest(d.lexemes) as u '
        'where ($1).prefix is not null and pg_catalog.starts_with(u.lexeme, ($1).prefix) group by u.lexeme order by pg_catalog.count(*) desc, u.lexeme limit pgembed._bm25_prefix_most()), '
        'term as materialized (select t.lexeme, pgembed._bm25_lexeme_query(t.lexeme) as query '
        'from (select pg_catalog.unnest(($1).terms) as lexeme union select p.lexeme from prefixed as p) as t), '
        'total as materialized (select pg_catalog.count(*)::pg_catalog.float8 as n, pg_catalog.avg(d.length) as avgdl from document as d), '
        'hit as materialized (select d.key, d.length, d.matches and (($1).required is null or d.lexemes operator(pg_catalog.@@) ($1).required) as matches, t.lexeme, '
        '(%s)::pg_catalog.float8 as tf '
        'from document as d join term as t on d.lexemes operator(pg_catalog.@@) t.query cross join pgembed._bm25_tf_bounds() as bounds), '
        'df as materialized (select h.lexeme, pg_catalog.count(*)::pg_catalog.float8 as df from hit as h group by h.lexeme) %s',
        pgembed._bm25_visible_sql(b, p_condition, p_path),
        case when (b).field_weights is null
             then 'pg_catalog.width_bucket(pg_catalog.ts_rank(''{1,1,1,1}''::pg_catalog.float4[], d.lexemes, t.query), bounds)'
             else format('pgembed._bm25_tf(d.lexemes, t.query, %L)', (b).field_weights) end,
        p_result)
$$;
comment on function pgembed._bm25_restricted_sql(pgembed.bm25, text, text, text) is
    'Query over the documents that the caller sees, their hits and statistics; $1 is the parsed query.';

create or replace function pgembed._bm25_restricted_keys(
    b pgembed.bm25, p_query pgembed._bm25_words, p_k int, p_condition text, p_path text, out keys text[], out scores float8[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    statement constant text := pgembed._bm25_restricted_sql(b, p_condition,
        ', best as (select h.key, pgembed._bm25_rounded(pg_catalog.sum(pgembed._bm25_score(h.tf, h.length, df.df, total.n, total.avgdl, $2, $3))) as score '
        'from hit as h join df on df.lexeme operator(pg_catalog.=) h.lexeme cross join total where h.matches group by h.key '
        'order by score desc, h.key collate pg_catalog."C" limit $4) '
        'select pg_catalog.array_agg(b.key order by b.score desc, b.key collate pg_catalog."C"), '
        'pg_catalog.array_agg(b.score order by b.score desc, b.key collate pg_catalog."C") from best as b', p_path);
begin
    perform pgembed._at_path(p_path);
    execute statement into keys, scores using p_query, b.k1, b.b, p_k;
    perform pgembed._at_path('pg_catalog, pg_temp');
end
$$;
comment on function pgembed._bm25_restricted_keys(pgembed.bm25, pgembed._bm25_words, int, text, text) is
    'Keys and scores of the k best of the rows that the caller sees, by their statistics.';

create or replace function pgembed._bm25_restricted_weights(b pgembed.bm25, p_query pgembed._bm25_words) returns pgembed._bm25_weights
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    weights pgembed._bm25_weights;
begin
    execute pgembed._bm25_restricted_sql(b, 'true',
        'select pg_catalog.array_agg(df.lexeme), pg_catalog.array_agg(df.df), pg_catalog.max(total.n), pg_catalog.max(total.avgdl) from df cross join total')
    into weights.terms, weights.df, weights.rows, weights.avgdl using p_query;
    return weights;
end
$$;
comment on function pgembed._bm25_restricted_weights(pgembed.bm25, pgembed._bm25_words) is
    'What scores of the rows that the caller sees are made of, as the stage weights gives it for all rows.';

create or replace function pgembed._bm25_score(
    p_tf float8, p_length float8, p_df float8, p_n float8, p_avgdl float8, p_k1 float8, p_b float8
) returns float8
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select ln(1 + (p_n - p_df + 0.5) / (p_df + 0.5)) * p_tf * (p_k1 + 1) / (p_tf + p_k1 * (1 - p_b + p_b * p_length / p_avgdl))
$$;
comment on function pgembed._bm25_score(float8, float8, float8, float8, float8, float8, float8) is
    'BM25 of one term in one document, with Lucene''s idf (Robertson and Zaragoza, 2009; Lucene''s BM25Similarity).';
