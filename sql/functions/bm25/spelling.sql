-- Typing errors: what a word that no document has may have been meant to be.
--
-- Documents are known by their lexemes, mostly stems, and one wrong letter may make quite
-- another stem: informtaion keeps its ending, and is far from inform. So first the word itself
-- is put right in each possible way, at one place, and what comes of it becomes lexemes, as
-- words of queries do. Where none of these is there, lexemes that begin with the same letter are
-- compared with the word's own.

create or replace function pgembed._typing_errors_allowed(p_word text) returns int
language sql immutable parallel safe
-- As Lucene's and Elasticsearch's AUTO. A word with a digit is a code, which one character
-- makes another, and nobody types a word of more than 64 letters.
return case when p_word ~ '[0-9]' or length(p_word) not between 3 and 64 then 0 when length(p_word) < 6 then 1 else 2 end;
comment on function pgembed._typing_errors_allowed(text) is
    'Edits by which a word may be wrong: none up to 2 characters, above 64, or with a digit; 1 up to 5 characters; 2 above.';

create or replace function pgembed._typing_errors(p_word text, p_other text, p_most int) returns int
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    a constant text[] := string_to_array(p_word, null);
    b constant text[] := string_to_array(p_other, null);
    width constant int := cardinality(b) + 1;
    last_row int[];
    row int[];    -- row[j + 1]: edits from the first i characters of a to the first j of b
    edits int;
    fewest int;
begin
    if abs(cardinality(a) - cardinality(b)) > p_most then
        return null;
    end if;
    row := array(select least(j, p_most + 1) from generate_series(0, cardinality(b)) as j);
    declare
        row_before int[];
    begin
        for i in 1 .. cardinality(a) loop
            row_before := last_row;
            last_row := row;
            row := array_fill(p_most + 1, array[width]);
            row[1] := least(i, p_most + 1);
            fewest := row[1];
            for j in greatest(1, i - p_most) .. least(cardinality(b), i + p_most) loop    -- outside are more edits
                if a[i] = b[j] then
                    edits := last_row[j];
                else
                    edits := least(last_row[j], last_row[j + 1], row[j]) + 1;
                    if i > 1 and j > 1 and a[i] = b[j - 1] and a[i - 1] = b[j] then
                        edits := least(edits, row_before[j - 1] + 1);
                    end if;
                end if;
                row[j + 1] := edits;
                fewest := least(fewest, edits);
            end loop;
            if fewest > p_most then
                return null;
            end if;
        end loop;
    end;
    return case when row[width] <= p_most then row[width] end;
end
$$;
comment on function pgembed._typing_errors(text, text, int) is
    'Edits from one word to another: characters inserted, left out, replaced, and neighbours swapped (Damerau-Levenshtein '
    'distance, as optimal string alignment); NULL for more than p_most.';

create or replace function pgembed._typing_letters_fit(p_word text, p_other text, p_most int) returns boolean
language sql immutable parallel safe
return length(translate(p_other, p_word, '')) <= p_most and length(translate(p_word, p_other, '')) <= p_most;
comment on function pgembed._typing_letters_fit(text, text, int) is
    'Whether two words can be p_most edits apart, by the letters that one has and the other has not: many times faster than to count edits.';

create or replace function pgembed._typing_alphabet(p_word text) returns text[]
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- Unicode has the letters of an alphabet side by side. Other encodings number them otherwise.
    -- What is a letter, and not the end of a word, the parser says.
    with candidate as (
        select distinct lower(chr(block * 32 + place)) as letter
        from (select ascii(letter) / 32 from unnest(string_to_array(p_word, null)) as letter
              union
              select 3 from unnest(string_to_array(p_word, null)) as letter
              where ascii(letter) between 192 and 591) as b(block)    -- a to z, where accents are
        cross join generate_series(0, 31) as place
        where case block when 3 then place between 1 and 26 else block > 5 and getdatabaseencoding() = 'UTF8' end)
    select array(
        select substr(token, 2, 1)
        from ts_parse('default', (select string_agg('x' || letter || 'x', ' ') from candidate))
        where token ~ '^x.x$')
$$;
comment on function pgembed._typing_alphabet(text) is
    'Letters that can stand in the place of those of a word: those of the 32 code points around each, a to z for ASCII and beside '
    'letters with accents.';

create or replace function pgembed._typing_edits(p_word text) returns table (edit text, likely boolean)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with alphabet as materialized (select unnest(pgembed._typing_alphabet(p_word)) as other),
    place as materialized (
        select left(p_word, i) as head, substr(p_word, i + 1) as tail,
               substr(p_word, i + 1, 1) as letter, right(left(p_word, i), 1) as before
        from generate_series(0, length(p_word)) as i),
    edit as (
        select head || substr(tail, 2), letter = before from place    -- a letter too many
        union all
        select head || substr(tail, 2, 1) || letter || substr(tail, 3), true from place    -- two swapped
        union all
        select head || other || tail, other = before
        from place cross join alphabet    -- one missing
        union all
        select head || other || substr(tail, 2), false
        from place cross join alphabet)    -- one wrong
    select * from edit
$$;
comment on function pgembed._typing_edits(text) is
    'All that is one edit away from a word; likely are those where two letters are swapped, or one is doubled that should not be, '
    'or the reverse.';

create or replace function pgembed._typing_variants(p_config text, p_word text, out variants text[], out likely text[])
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select tsvector_to_array(to_tsvector(p_config::regconfig, string_agg(e.edit, ' '))),
           tsvector_to_array(to_tsvector(p_config::regconfig, string_agg(e.edit, ' ') filter (where e.likely)))
    from pgembed._typing_edits(lower(p_word)) as e
$$;
comment on function pgembed._typing_variants(text, text) is 'Lexemes of all that is one edit away from a word, and the likely ones.';

create or replace function pgembed._typing_choices(p_lexeme text, p_variants text[], p_likely text[], p_terms text[], p_df bigint[])
returns setof text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with term as materialized (
        select t.term, t.df, t.term in (select unnest(p_variants)) as varies
        from (select u.term, sum(u.df) as df from unnest(p_terms, p_df) as u(term, df) where u.term !~ '[0-9]' group by u.term) as t)
    select t.term
    from term as t
    cross join lateral (select case when t.varies then 1 else pgembed._typing_errors(
                                   p_lexeme, t.term, pgembed._typing_errors_allowed(p_lexeme)) end offset 0) as e(errors)
    where e.errors > 0 and (t.varies or not exists (select from term as x where x.varies))
    order by e.errors, t.term = any (p_likely) desc, starts_with(t.term, left(p_lexeme, 1)) desc, t.df desc, t.term collate "C"
    limit 20
$$;
comment on function pgembed._typing_choices(text, text[], text[], text[], bigint[]) is
    'Which of some terms a lexeme may have been meant to be, the likeliest first. Variants, and where there are none, others by '
    'their edits; then likely ones, then those with the same first letter, then those of most documents.';

create or replace function pgembed._typing_begins(p_term text, p_length int, p_edits text[]) returns boolean
language sql immutable parallel safe
return left(p_term, p_length) in (select unnest(p_edits)) or left(p_term, p_length - 1) in (select unnest(p_edits))
       or left(p_term, p_length + 1) in (select unnest(p_edits));
comment on function pgembed._typing_begins(text, int, text[]) is
    'Whether a term begins with what is one edit away from something of a length.';

create or replace function pgembed._typing_beginnings(p_prefix text, p_edits text[], p_likely text[], p_terms text[], p_df bigint[])
returns table (beginning text, term text)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- A beginning has more words than a longer one, so it is the most frequent word that counts.
    -- And left out, the last letter would always be one error only.
    select b.beginning, b.term
    from (select distinct on (beginning) left(t.term, size) as beginning, t.term, t.df
          from unnest(p_terms, p_df) as t(term, df)
          cross join generate_series(length(p_prefix) - 1, least(length(p_prefix) + 1, length(t.term))) as size
          where t.term !~ '[0-9]' and left(t.term, size) in (select unnest(p_edits))
          order by beginning, t.df desc, t.term collate "C") as b
    order by b.beginning = any (p_likely) desc, right(b.beginning, 1) = right(p_prefix, 1) desc,
             length(b.beginning) < length(p_prefix), b.df desc, b.beginning collate "C"
    limit 20
$$;
comment on function pgembed._typing_beginnings(text, text[], text[], text[], bigint[]) is
    'With which beginnings of some terms what was typed may have been meant, the likeliest first, each with its most frequent term.';

create or replace function pgembed._typing_likelier(p_word text, p_varies boolean, p_df bigint, p_beginning text, p_beginning_df bigint)
returns text
language sql immutable parallel safe
return case when p_beginning is null or p_varies and p_df > p_beginning_df then p_word else p_beginning end;
comment on function pgembed._typing_likelier(text, boolean, bigint, text, bigint) is
    'What the last word of a query was meant to be: a complete word (one of the variants, or not), or the beginning of one.';

create or replace function pgembed._typing_text(p_config regconfig, p_query text, p_analyzer jsonb) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A joined word by its parts, and none of one with a digit: it is a code.
    select replace(regexp_replace(
        pgembed._analyzed(pgembed._query_folded(p_config, p_query, p_analyzer), p_analyzer, false, '_'),
        format('(?:%1$s|[-./+@&_~])*[0-9](?:%1$s|[-./+@&_~])*', pgembed._letter()), ' ', 'g'), '_', ' ')
$$;
comment on function pgembed._typing_text(regconfig, text, jsonb) is 'A query as the parser is given it, without what is a code.';

create or replace function pgembed._bm25_written(p_query pgembed._bm25_words) returns table (word text, lexeme text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select d.token, l.lexeme
    from ts_debug((p_query).config::regconfig, (p_query).query) as d
    cross join unnest(d.lexemes) as l(lexeme)
$$;
comment on function pgembed._bm25_written(pgembed._bm25_words) is 'The words of a query as they are written, but for the analyzer, with their lexemes.';

create or replace function pgembed._bm25_misspelt(p_query pgembed._bm25_words, p_absent text[])
returns table (lexeme text, variants text[], likely text[])
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A word that a dictionary gives several lexemes is there if any of them is. The parts of a
    -- compound word are words themselves.
    select m.lexeme, v.variants, v.likely
    from (select distinct on (w.lexeme) w.lexeme, w.word
          from (select w.word, w.lexeme, bool_and(w.lexeme in (select unnest(p_absent))) over (partition by w.word) as absent
                from pgembed._bm25_written(p_query) as w) as w
          where w.absent and pgembed._typing_errors_allowed(w.word) > 0 and lower(w.word) !~ '[\x01-\x60\x7b-\x7f]'
          order by w.lexeme, w.word
          limit 10) as m
    cross join lateral pgembed._typing_variants((p_query).config, m.word) as v
$$;
comment on function pgembed._bm25_misspelt(pgembed._bm25_words, text[]) is
    'Words of a query of which no lexeme is in any document, with what is one edit away from each: the first ten.';

create or replace function pgembed._bm25_visible_terms(
    b pgembed.bm25, p_terms text[], p_first text[], p_prefix text, p_beginnings text[], out terms text[], out df bigint[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format(
        'select array_agg(t.lexeme), array_agg(t.df) '
        'from (select u.lexeme, count(*) as df from (%s) as d cross join lateral (select u.lexeme from unnest(d.lexemes) as u offset 0) as u '
        'where u.lexeme in (select unnest($1)) or left(u.lexeme, 1) in (select unnest($2)) or starts_with(u.lexeme, $3) '
        'or pgembed._typing_begins(u.lexeme, length($3), $4) group by u.lexeme) as t',
        pgembed._bm25_visible_sql(b, 'true', null))
    into terms, df using p_terms, p_first, p_prefix, p_beginnings;
end
$$;
comment on function pgembed._bm25_visible_terms(pgembed.bm25, text[], text[], text, text[]) is
    'Terms of the documents that the caller sees, and how many have each: given ones, those with given first letters, with a prefix, '
    'or with beginnings that are an edit away from it.';

create or replace function pgembed._bm25_restricted_spelling(
    b pgembed.bm25, p_query pgembed._bm25_words, p_terms text[],
    out absent text[], out meant text[], out beginning text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    seen record;
    missing text[];
    misspelt record;
    word record;
    part record;
    edits text[];
    likely text[];
    typed text := case when pgembed._typing_errors_allowed(p_query.prefix) > 0 then p_query.prefix end;
begin
    seen := pgembed._bm25_visible_terms(b, p_terms, null, typed, null);
    missing := array(select t from unnest(p_terms) as t where t <> all (coalesce(seen.terms, '{}')));
    if exists (select from unnest(seen.terms) as t where starts_with(t, typed)) then
        typed := null;
    end if;
    if missing = '{}' and typed is null then
        return;
    end if;
    missing := array_remove(missing || typed, null);
    select array_agg(e.edit), array_agg(e.edit) filter (where e.likely) into edits, likely from pgembed._typing_edits(typed) as e;
    seen := pgembed._bm25_visible_terms(
        b, array(select unnest(m.variants) from pgembed._bm25_misspelt(p_query, missing) as m),
        array(select left(m, 1) from unnest(missing) as m), typed, edits);
    if typed is not null then
        select n.beginning, k.df into part
        from (select * from pgembed._typing_beginnings(typed, edits, likely, seen.terms, seen.df) limit 1) as n
        join unnest(seen.terms, seen.df) as k(term, df) on k.term = n.term;
        beginning := part.beginning;
    end if;
    for misspelt in select * from pgembed._bm25_misspelt(p_query, missing) loop
        select n.term, k.df into word
        from (select * from pgembed._typing_choices(misspelt.lexeme, misspelt.variants, misspelt.likely, seen.terms, seen.df) limit 1) as n(term)
        join unnest(seen.terms, seen.df) as k(term, df) on k.term = n.term;
        if misspelt.lexeme = typed then    -- or the word is complete
            beginning := pgembed._typing_likelier(
                word.term, word.term = any (misspelt.variants), word.df, part.beginning, part.df);
        elsif word.term is not null then
            absent := absent || misspelt.lexeme;
            meant := meant || word.term;
        end if;
    end loop;
end
$$;
comment on function pgembed._bm25_restricted_spelling(pgembed.bm25, pgembed._bm25_words, text[]) is
    'As rank_spelling, for whom policies restrict: by the words of the rows that the caller sees.';

create or replace function pgembed._tsquery_excluded(p_query tsquery) returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array(
        select distinct unnest(pgembed._tsquery_lexemes(excluded[1]::tsquery))
        from regexp_matches(
            p_query::text, '!(''(?:[^'']|'''')*''|\( ''(?:[^'']|'''')*''(?: <[-0-9]+> ''(?:[^'']|'''')*'')* \))', 'g') as excluded)
$$;
comment on function pgembed._tsquery_excluded(tsquery) is 'Lexemes that a tsquery excludes.';

create or replace function pgembed._bm25_read_as(b pgembed.bm25, p_query pgembed._bm25_words) returns pgembed._bm25_words
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    asked pgembed._bm25_words := p_query;
    ranking text;
    excluded constant text[] := pgembed._tsquery_excluded(p_query.required);
    terms constant text[] := array(
        select t from unnest(p_query.terms) as t where pgembed._typing_errors_allowed(t) > 0 and t <> all (excluded));
    words pgembed._bm25_words := p_query;
    spelling record;
begin
    asked.query := pgembed._typing_text(p_query.config::regconfig, p_query.query, b.analyzer);
    begin
        ranking := pgembed._bm25_ranking(b);
        if ranking = 'restricted' then
            spelling := pgembed._bm25_restricted_spelling(b, asked, terms);
        else
            execute format('select * from pgembed._bm25_%s_%s_spelling($1, $2)', b.bm25_id, ranking) into spelling using asked, terms;
        end if;
    exception when undefined_table or undefined_function then
        perform pgembed._bm25_require_parts(b);
        raise;
    end;
    if spelling.absent is null and spelling.beginning is null then
        return words;
    end if;
    words.terms := array(
        select distinct coalesce(f.meant, t.term)
        from unnest(p_query.terms) as t(term) left join unnest(spelling.absent, spelling.meant) as f(absent, meant) on f.absent = t.term);
    for i in 1 .. coalesce(cardinality(spelling.absent), 0) loop
        words.required := ts_rewrite(words.required, pgembed._bm25_lexeme_query(spelling.absent[i]), pgembed._bm25_lexeme_query(spelling.meant[i]));
    end loop;
    if spelling.beginning is not null then
        words.prefix := spelling.beginning;
        words.required := ts_rewrite(words.required, pgembed._bm25_prefix_query(p_query.prefix), pgembed._bm25_prefix_query(spelling.beginning));
    end if;
    select jsonb_object_agg(w.word, f.meant) into words.read_as
    from pgembed._bm25_written(asked) as w
    join unnest(spelling.absent || p_query.prefix, spelling.meant || spelling.beginning) as f(absent, meant) on f.absent = w.lexeme
    where f.meant is not null;
    return words;
end
$$;
comment on function pgembed._bm25_read_as(pgembed.bm25, pgembed._bm25_words) is
    'A parsed query, with words that no document has read as others.';
