-- bm25_search: from the caller's words to rows. Runs with the caller's rights.

create or replace function pgembed._bm25_require_parts(b pgembed.bm25) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing constant text := pgembed._parts_missing(b.text_id);
begin
    if missing is not null then
        raise exception 'of the BM25 index "%" somebody has dropped %', b.name, missing using errcode = 'PE016',
            hint = format('SELECT pgembed.repair(%L) makes it again.', pgembed._qualified_name(b.source, b.name));
    end if;
end
$$;
comment on function pgembed._bm25_require_parts(pgembed.bm25) is 'PE016 for a BM25 index that is not whole.';

create or replace function pgembed._bm25_require_open(p_source oid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (select relrowsecurity from pg_class where oid = p_source) then
        raise exception 'the table of this BM25 index has row-level security' using errcode = 'PE013',
            hint = 'Use pgembed.bm25_search, search_count or search_facets.';
    end if;
end
$$;
comment on function pgembed._bm25_require_open(oid) is
    'PE013 where a table has row security: the stages for callers who may see all rows are closed then, whoever calls.';

create or replace function pgembed._bm25_ranking(b pgembed.bm25) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    words constant oid := to_regclass(pgembed._bm25_part(b.bm25_id, 'doc'));
begin
    -- Of both, as one was switched on or off just now and the other has not followed.
    if not (select bool_or(relrowsecurity) from pg_class where oid in (b.source, words)) then
        return 'top';
    end if;
    -- Who is past row security, and not yet let in, is ranked as slowly and as exactly.
    if row_security_active(b.source) or row_security_active(words)
       or not has_function_privilege(pgembed._bm25_part(b.bm25_id, 'rank(text[], int, text, int[], bigint[])'), 'EXECUTE') then
        return 'restricted';
    end if;
    return 'rank';
end
$$;
comment on function pgembed._bm25_ranking(pgembed.bm25) is
    'How the caller is ranked: top where there is no row security, rank who is past it, restricted whom policies restrict.';

create or replace function pgembed._bm25_no_target(source anyelement, p_name text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    searched regclass := pgembed._searched_table(source);
    b pgembed.bm25;
    names text[];
begin
    if p_name is not null then
        select * into b from pgembed.bm25 as x where x.source = searched and pgembed._name_matches(x.source, x.name, p_name);
        if not found then
            b := pgembed._bm25(p_name);
            raise exception 'BM25 index "%" is declared on %, not on %', p_name, b.source, searched
                using errcode = 'PE001', hint = format('Write NULL::%s.', b.source);
        end if;
    else
        select * into b from pgembed.bm25 as x where x.source = searched and x.is_default;
        if not found then
            names := array(select name from pgembed.bm25 where source = searched order by name);
            perform pgembed._no_default(searched, 'bm25', names, 'Declare an embedding with bm25 => true, or pgembed.create_bm25.');
        end if;
    end if;
    perform pgembed._bm25_require_parts(b);
    raise exception 'the BM25 index "%" is %', b.name, case b.state when 'pending' then 'not built yet' else 'broken' end
        using errcode = 'PE017', detail = coalesce(b.state_reason, ''),
        hint = case b.state when 'pending' then 'The encoder service builds it, or: '
                    else 'Mend the table or the expression, then: ' end
               || format('SELECT pgembed.%s(%L).', case b.state when 'pending' then 'bm25_maintain' else 'bm25_rebuild' end,
                         pgembed._qualified_name(b.source, b.name));
end
$$;
comment on function pgembed._bm25_no_target(anyelement, text) is
    'Why a search cannot be: PE001, PE003 where it is not clear which BM25 index is meant, PE017 where that is not ready.';

create or replace function pgembed._bm25_target(source anyelement, p_name text) returns pgembed.bm25
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    b pgembed.bm25;
begin
    -- One statement where all is well: the first search of a session plans each.
    select * into b from pgembed.bm25
    where source::oid = (select typrelid from pg_catalog.pg_type where oid = pg_catalog.pg_typeof(_bm25_target.source)::oid)
      and case when p_name is null then is_default else pgembed._name_matches(source, name, p_name) end;
    if b.state is distinct from 'ready' then
        perform pgembed._bm25_no_target(source, p_name);
    end if;
    return b;
end
$$;
comment on function pgembed._bm25_target(anyelement, text) is
    'The BM25 index that a search is about, ready; or PE001, PE003, PE017.';

create or replace function pgembed._tsquery_lexemes(p_query tsquery) returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- What must not occur is left out: !'a', or !( 'a' <-> 'b' ). A lexeme is printed
    -- in quotes, with quotes and backslashes in it doubled.
    select coalesce(array_agg(distinct replace(replace(m[1], '''''', ''''), '\\', '\')), '{}')
    from regexp_matches(
        regexp_replace(p_query::text, '!(''(?:[^'']|'''')*''|\( ''(?:[^'']|'''')*''(?: <[-0-9]+> ''(?:[^'']|'''')*'')* \))', '', 'g'),
        '''((?:[^'']|'''')*)''', 'g') as m
$$;
comment on function pgembed._tsquery_lexemes(tsquery) is 'Lexemes that a tsquery asks for.';

create or replace function pgembed._bm25_highlight(p_query pgembed._bm25_words) returns tsquery
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(word::text, ' | ')::tsquery
    from (select pgembed._bm25_lexeme_query(t) from unnest((p_query).terms) as t
          union all
          select pgembed._bm25_prefix_query((p_query).prefix)) as words(word)
$$;
comment on function pgembed._bm25_highlight(pgembed._bm25_words) is 'What a snippet marks: any word of a query.';

create or replace function pgembed._bm25_parse(
    b pgembed.bm25, p_query text, p_syntax text, p_prefix boolean, p_config text, p_path text
) returns pgembed._bm25_words
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    w pgembed._bm25_words;
    last_word text;
    head text;         -- what comes before it
    rest tsquery;      -- and what that requires
    beginning tsquery;
    pairs constant boolean := not b.analyzer @> '{"cjk": false}';
begin
    w.query := pgembed._check_query(p_query);
    w.config := case when p_config is null then b.config else pgembed._text_config(p_config, p_path) end;
    p_query := pgembed._query_folded(w.config::regconfig, p_query, b.analyzer);
    if p_syntax = 'words' then
        w.terms := pgembed._query_lexemes(w.config::regconfig, p_query, b.analyzer);
    elsif p_syntax = 'websearch' then
        if p_prefix then    -- as typed so far: the other words are still to come
            p_query := regexp_replace(p_query, '\s+or$', ' ', 'i');
        end if;
        begin
            w.required := websearch_to_tsquery(w.config::regconfig, pgembed._websearch_analyzed(p_query, b.analyzer));
            w.terms := array(select unnest(pgembed._tsquery_lexemes(w.required)) union
                             select unnest(pgembed._joined_lexemes(w.config::regconfig, pgembed._websearch_wanted(p_query), b.analyzer)));
        exception when statement_too_complex then    -- some ten thousand words
            raise exception 'the query is too long: % characters', length(p_query) using errcode = 'PE009',
                hint = 'At most 1000 words are possible: search with the words that matter.';
        end;
    else
        raise exception 'unknown query syntax "%"', coalesce(p_syntax, 'NULL') using errcode = 'PE007',
            hint = 'Syntax is words (any of them, the more the better) or websearch ("phrase", OR, -word).';
    end if;
    if p_prefix then
        -- While a word is being typed; after a space it is complete.
        -- Where the locale is C only ASCII has classes; the parser takes all else for letters.
        last_word := substring(p_query from case
            when (select datctype from pg_catalog.pg_database where datname = current_database()) in ('C', 'POSIX')
            then '(?:[[:alnum:]]|[^\x01-\x7f])+$' else '[[:alnum:]]+$' end);
        head := left(p_query, -length(last_word));
        if p_syntax = 'websearch' and (head ~ '(^|\s)-$' or length(replace(head, '"', '')) % 2 <> length(head) % 2) then
            last_word := null;    -- of a word that must not occur, or in a phrase, nothing less than all counts
        end if;
        if pairs and right(last_word, 2) ~ (pgembed._cjk() || '$') then    -- the last pair is begun
            head := head || left(last_word, -1);
            last_word := case when right(last_word, 2) ~ (pgembed._cjk() || '{2}') then right(last_word, 2) else right(last_word, 1) end;
        end if;
        if last_word is not null then
            w.prefix := coalesce((pg_catalog.tsvector_to_array(to_tsvector(w.config::regconfig, last_word)))[1], lower(last_word));
            if octet_length(w.prefix) > 2046 then    -- a lexeme has no more
                raise exception 'the last word of the query has % bytes', octet_length(w.prefix) using errcode = 'PE009',
                    hint = 'The beginning of a word has at most 2046: longer words are not indexed.';
            end if;
            beginning := pgembed._bm25_prefix_query(w.prefix);
            w.terms := pg_catalog.array_remove(w.terms, w.prefix);
            if w.required is not null then    -- the other words are required as before
                if head ~ '[[:alnum:]]' then
                    rest := websearch_to_tsquery(w.config::regconfig, pgembed._websearch_analyzed(regexp_replace(head, '\mor\s*$', '', 'i'), b.analyzer));
                end if;
                w.required := case when coalesce(numnode(rest), 0) = 0 then beginning
                                   when head ~* '\mor\s*$' then rest || beginning else rest && beginning end;
            end if;
        end if;
    end if;
    if pg_catalog.cardinality(w.terms) > 1000 then
        raise exception 'the query has % different words', pg_catalog.cardinality(w.terms) using errcode = 'PE009',
            hint = 'At most 1000 are possible: search with the words that matter, or with the text''s vector.';
    end if;
    if numnode(w.required) < 2 then
        w.required := null;    -- one word, or none: finding it is enough
    end if;
    return w;
end
$$;
comment on function pgembed._bm25_parse(pgembed.bm25, text, text, boolean, text, text) is
    'The words of a query as lexemes, and what else a document must match.';

create or replace function pgembed._bm25_rank_sql(
    b pgembed.bm25, p_row_type regtype, p_condition text, p_k int, p_offset int, p_min_score float8, p_function text, p_keys text
)
returns text
language plpgsql stable    -- whose plans are kept, where a SQL function's are made at every call
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    row_of_key constant text := pgembed._key_sql(b.source, null, 's.%2$I %7$s %5$s::%4$s', ' and ', 'hit.key');
begin
    if row_of_key is null then
        raise exception 'table % has no primary key any more', b.source using errcode = 'PE017',
            hint = format('ALTER TABLE ... ADD PRIMARY KEY, then SELECT pgembed.bm25_rebuild(%L).', b.name);
    end if;

    -- The row is in a subquery of its own, so that names in the condition mean its
    -- columns; and a table called best is not the best here. The limit of the hits
    -- says nothing new but to the planner.
    return format(
        'with pgembed_best as materialized (%1$s) '
        'select (select pg_catalog.cardinality(handles) from pgembed_best), %9$s, pg_catalog.array_agg(doc), pg_catalog.array_agg(score) '
        'from (select s.doc, hit.score, hit.place '
        'from (select pg_catalog.unnest(%7$s) as key, pg_catalog.unnest(scores) as score, '
        'pg_catalog.generate_subscripts(scores, 1) as place from pgembed_best limit $2) as hit '
        'cross join lateral (select (s.*)::%2$s as doc from %3$s as s where %4$s and (%5$s)) as s '
        'where %10$s order by hit.place offset %8$s limit %6$s) as found',
        p_function, p_row_type, pgembed._table_sql(b.source), row_of_key, p_condition, p_k, p_keys, p_offset,
        case when p_min_score is null then 'false'
             else format('(select scores[pg_catalog.cardinality(scores)] operator(pg_catalog.<) %L::pg_catalog.float8 from pgembed_best)', p_min_score) end,
        case when p_min_score is null then 'true' else format('hit.score operator(pg_catalog.>=) %L::pg_catalog.float8', p_min_score) end);
end
$$;
comment on function pgembed._bm25_rank_sql(pgembed.bm25, regtype, text, int, int, float8, text, text) is
    'Statement that ranks documents by a query for handles and scores ($1 the parsed query, $2 how many, $3 and $4 among which) and gives the first '
    'rows that meet a condition, with their scores, the number of documents ranked, and whether the last of these has too low a score.';

create or replace function pgembed._bm25_hits(
    source anyelement, docs anyarray, b pgembed.bm25, p_query pgembed._bm25_words, p_k int, p_offset int, p_min_score float8,
    p_condition text, p_path text,
    out rows anyarray, out scores float8[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    condition text;
    select_among text;
    rank_sql text;
    ranking text;
    share float8;
    wanted constant int := p_k + p_offset;
    depth bigint := p_k + p_offset;
    given bigint;
    too_low boolean;    -- whether the ranking has come to scores below the least one
    among int[];
    among_recent bigint[];
    restricted record;
    filtered boolean := p_condition <> 'true';
begin
    begin
        ranking := pgembed._bm25_ranking(b);
        if ranking = 'restricted' then
            restricted := pgembed._bm25_restricted_keys(b, p_query, wanted, p_condition, p_path);
            execute pgembed._bm25_rank_sql(b, pg_typeof(source), 'true', p_k, p_offset, p_min_score,
                                           'select $1 as handles, $3 as scores', 'handles')
            into given, too_low, rows, scores using restricted.keys, wanted, restricted.scores;
            return;
        end if;
        if p_query.required is not null then
            condition := format('(%s) and %s operator(pg_catalog.@@) %L::pg_catalog.tsquery', p_condition, pgembed._pinned_sql(p_path, 'lexemes', pgembed._row_lexemes_sql(
                b, pgembed._row_config_sql(b, 's.*'), pgembed._compose_sql(b.text_id, 's.*'), 's')), p_query.required);
        end if;
        rank_sql := pgembed._bm25_rank_sql(
            b, pg_typeof(source), coalesce(condition, p_condition), p_k, p_offset, p_min_score,
            format('select * from pgembed._bm25_%s_%s(($1).terms, $2::pg_catalog.int4, ($1).prefix, $3, $4)', b.bm25_id, ranking),
            format('pgembed._bm25_%s_keys(handles)', b.bm25_id));
        if filtered then
            share := pgembed._estimated_share(b.source, p_condition, p_path);
            depth := ceil(wanted / greatest(share, 0.05) * 1.3);
        end if;
        loop
            if filtered and among is null and (share < 0.05::float8 or depth > 5000) then
                -- Few rows pass, or the best ones do not: rank those that do.
                select_among := format(
                    'select coalesce(pg_catalog.array_agg(d.slot) filter (where d.slot is not null), ''{}''), '
                    'coalesce(pg_catalog.array_agg(r.version) filter (where r.version is not null), ''{}'') '
                    'from (select %1$s as pgembed_key_text from %2$s as s where %3$s) as s '
                    'left join %4$s as d on d.key operator(pg_catalog.=) s.pgembed_key_text '
                    'left join %5$s as r on r.key operator(pg_catalog.=) s.pgembed_key_text',
                    pgembed._bm25_key_text_sql(b, 's'), pgembed._table_sql(b.source), p_condition,
                    pgembed._bm25_part(b.bm25_id, 'doc'), pgembed._bm25_part(b.bm25_id, 'recent'));
                perform pgembed._at_path(p_path);
                execute select_among into among, among_recent;
                perform pgembed._at_path('pg_catalog, pg_temp');
                depth := case when p_query.required is null then wanted else depth end;
            end if;
            perform pgembed._at_path(p_path);
            execute rank_sql into given, too_low, rows, scores using p_query, depth, among, among_recent;
            perform pgembed._at_path(case when p_path is not null then 'pg_catalog, pg_temp' end);
            exit when cardinality(scores) = p_k or coalesce(given, 0) < depth or too_low;
            depth := least(depth * 8, 2000000000);
        end loop;
    exception when undefined_table or undefined_function then
        perform pgembed._bm25_require_parts(b);
        raise;
    end;
end
$$;
comment on function pgembed._bm25_hits(anyelement, anyarray, pgembed.bm25, pgembed._bm25_words, int, int, float8, text, text) is
    'The k best rows, after the first p_offset of them and none below a score, for a parsed query (pgembed._bm25_parse) that meet a condition over the source '
    '(alias s), best first. docs only lends its type: pass array[source]. p_path is the search_path that the condition is '
    'meant under; NULL: it needs none.';

create or replace function pgembed._snippets(docs anyarray, b pgembed.bm25, p_query pgembed._bm25_words) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    snippets text[];
begin
    -- Names in the expression mean columns of the row.
    execute format(
        'select pg_catalog.array_agg(s.snippet order by place) from pg_catalog.generate_subscripts($1, 1) as place '
        'cross join lateral (select pgembed._snippet(%s, %s, %L, $2, ($3).terms) as snippet from pg_catalog.unnest($1[place:place]) as s) as s',
        pgembed._row_config_sql(b, 's.*'), pgembed._compose_sql(b.text_id, 's.*'), b.analyzer)
    into snippets using docs, pgembed._bm25_highlight(p_query), p_query;
    return snippets;
end
$$;
comment on function pgembed._snippets(anyarray, pgembed.bm25, pgembed._bm25_words) is
    'Excerpts of rows with the words of a query between <b> and </b> (ts_headline).';

create or replace function pgembed.bm25_search(
    source anyelement,
    query text,
    k bigint default 10,
    filter jsonb default null,
    where_sql text default null,
    embedding text default null,
    syntax text default 'words',
    prefix boolean default false,
    config text default null,
    snippets boolean default false,
    "offset" bigint default 0,
    min_score float8 default null,
    fuzzy boolean default false,
    explain boolean default false,
    boost text default null
)
returns table (doc anyelement, score float8, snippet text, read_as jsonb, explanation jsonb)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
    path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    where_path constant pg_catalog.text := case when where_sql is not null then path end;
    b constant pgembed.bm25 := pgembed._bm25_target(source, embedding);
    words pgembed._bm25_words;
    hits pg_catalog.record;
    condition pg_catalog.text := 'true';
    excerpts pg_catalog.text[];
    explanations pg_catalog.jsonb[];
begin
    perform pgembed._at_path('pg_catalog, pg_temp');
    perform pgembed._check_page(k, "offset"), pgembed._check_min_score(min_score);
    words := pgembed._bm25_parse(b, query, syntax, prefix, config, path);
    if fuzzy then
        words := pgembed._bm25_read_as(b, words);
    end if;
    if filter is not null or where_sql is not null then
        condition := pgembed._search_condition(b.source, filter, where_sql, path);
    end if;
    if boost is null then
        hits := pgembed._bm25_hits(source, array[source], b, words, k::int, "offset"::int, min_score, condition, where_path);
    else
        perform pgembed._check_boost(b.source, boost, path);
        hits := pgembed._bm25_boosted_hits(source, array[source], b, words, k::int, "offset"::int, min_score, condition, where_path, boost, path);
    end if;
    if snippets and hits.scores is not null then
        excerpts := pgembed._snippets(hits.rows, b, words);
    end if;
    if explain and hits.scores is not null then
        explanations := pgembed._bm25_explanations(hits.rows, b, pgembed._bm25_weights(b, words));
        if boost is not null then
            explanations := array(select e || jsonb_build_object('boost', f) from unnest(explanations, hits.boosts) with ordinality as x(e, f, place) order by place);
        end if;
    end if;
    return query
    select hits.rows[i], hits.scores[i], excerpts[i], words.read_as, explanations[i] from pg_catalog.generate_series(1, pg_catalog.cardinality(hits.scores)) as i;
    perform pgembed._at_path(path);
end
$$;
comment on function pgembed.bm25_search(anyelement, text, bigint, jsonb, text, text, text, boolean, text, boolean, bigint, float8, boolean, boolean, text) is
    'The k rows of a table that fit the words of a query best, by BM25. source names the table: '
    'NULL::article. syntax: words (any of them) or websearch ("phrase", OR, -word). prefix takes the '
    'last word for the beginning of one. filter is data and safe to build from user input; where_sql '
    'is SQL and is not. snippets adds an excerpt with the words between <b> and </b>. offset leaves out the '
    'first rows of the ranking, min_score those with a lower score. fuzzy reads words that no row has '
    'as the likeliest ones that rows have, one or two letters away; read_as says which were read as which. explain tells what each score is made of. boost is SQL over the row s (not for '
    'user input): the scores of the best 1,000 rows are multiplied by it, and give the order. Example: '
    'SELECT (doc).title, score, snippet FROM pgembed.bm25_search(NULL::article, ''cheap flights'', snippets => true);';
