-- The analyzer: what is done to a text, and to a query, before PostgreSQL's parser makes
-- words of it. Three steps, each an option:
--
--   fold    accents and widths: caf\u00e9 -> cafe, fullwidth letters -> ASCII, sharp s -> ss
--   cjk     runs of Chinese, Japanese and Korean characters -> overlapping pairs
--   parts   TCP/IP -> TCP IP, and TCPIP after the text
--
-- After parts every longest run of letters and digits is a word at a position of its own,
-- so a phrase of neighbours is a phrase. What follows the text (joined words, and the
-- characters of CJK runs one by one) moves no position in it.
--
-- Characters are named by their code, in E'' strings: no result depends on a locale or on
-- a setting. What is beyond ASCII is looked at in databases of encoding UTF8 alone.
-- Everything is qualified, because these functions run under the path of any caller, for
-- every row that is written: to set one would cost more than a short text does.

create or replace function pgembed._letter() returns text
language sql immutable parallel safe
as $$
    select E'[^\\x01-/:-@\\[-`{-\\x7f]'
$$;
comment on function pgembed._letter() is
    'Regular expression for one letter or digit: whatever is beyond ASCII counts, as separators there have become spaces.';

create or replace function pgembed._cjk() returns text
language sql immutable parallel safe
as $$
    -- Jamo; ideographic iteration marks, zero; Hiragana; Katakana; Hangul; Han.
    select E'[\\u1100-\\u11ff\\u3005-\\u3007\\u3041-\\u309f\\u30a1-\\u30fa\\u30fc-\\u30ff\\u31f0-\\u31ff'
           '\\u3400-\\u4dbf\\u4e00-\\u9fff\\uac00-\\ud7a3\\uf900-\\ufaff\\uff66-\\uff9f\\U00020000-\\U0003ffff]'
$$;
comment on function pgembed._cjk() is 'Regular expression for one character of a script that puts no spaces between words.';

create or replace function pgembed._unicode_separator() returns text
language sql immutable parallel safe
as $$
    -- Punctuation, spaces, symbols. In a database with locale C the parser takes them for
    -- letters; and the signs of trade and service marks decompose into letters.
    select E'[\\u0080-\\u00a9\\u00ab-\\u00b1\\u00b4\\u00b6-\\u00b8\\u00bb\\u00bf\\u00d7\\u00f7\\u02c2-\\u02df\\u037e\\u0387'
           '\\u055a-\\u055f\\u0589\\u058a\\u05be\\u05c0\\u05c3\\u05c6\\u05f3\\u05f4\\u0600-\\u060f\\u061b-\\u061f\\u066a-\\u066d\\u06d4'
           '\\u0964\\u0965\\u0e3f\\u0e4f\\u0e5a\\u0e5b\\u104a-\\u104f\\u1360-\\u1368\\u1680\\u2000-\\u206f\\u207a-\\u207e\\u208a-\\u208e'
           '\\u20a0-\\u20ff\\u2117\\u2120\\u2122\\u2190-\\u245f\\u2500-\\u2bff\\u2e00-\\u2e7f\\u3000-\\u3004\\u3008-\\u3020\\u3030'
           '\\u303d-\\u303f\\u309b\\u309c\\u30a0\\u30fb\\ue000-\\uf8ff\\ufd3e\\ufd3f\\ufe10-\\ufe19\\ufe30-\\ufe6b\\ufeff'
           '\\uff01-\\uff0f\\uff1a-\\uff20\\uff3b-\\uff40\\uff5b-\\uff65\\uffe0-\\uffff\\U0001f000-\\U0001faff]'
$$;
comment on function pgembed._unicode_separator() is 'Regular expression for one character beyond ASCII that is neither letter nor digit.';

create or replace function pgembed._beyond_ascii(p_text text) returns boolean
language sql immutable parallel safe
as $$
    select pg_catalog.octet_length(p_text) operator(pg_catalog.<>) pg_catalog.length(p_text)
           and pg_catalog.getdatabaseencoding() operator(pg_catalog.=) 'UTF8'::pg_catalog.name
$$;
comment on function pgembed._beyond_ascii(text) is
    'Whether a text has characters beyond ASCII that the analyzer looks at: in a database of encoding UTF8.';

create or replace function pgembed._space_out(p_text text) returns text
language sql immutable parallel safe
as $$
    -- Hyphens of other kinds join words too; soft hyphens, joiners of width zero and
    -- variation selectors are no characters of a word.
    select pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace(p_text,
        E'[\\u00ad\\u200b-\\u200d\\u2060\\ufe00-\\ufe0f\\ufeff]', '', 'g'), E'[\\u2010\\u2011\\u2212\\ufe63\\uff0d]', '-', 'g'),
        pgembed._unicode_separator(), ' ', 'g')
$$;
comment on function pgembed._space_out(text) is 'A text with spaces for the punctuation and symbols beyond ASCII.';

create or replace function pgembed._fold(p_text text) returns text
language plpgsql immutable parallel safe
as $$
declare
    letter int;
    plain pg_catalog.text;
begin
    -- In Cyrillic only io is the same as ie; short i is another letter than i.
    p_text := pg_catalog.normalize(pg_catalog.replace(pg_catalog.replace(p_text, pg_catalog.chr(1105), pg_catalog.chr(1077)),
                                                      pg_catalog.chr(1025), pg_catalog.chr(1045)), 'NFKD');
    for letter, plain in select * from (values    -- those that have no decomposition
        (223, 'ss'), (7838, 'SS'), (230, 'ae'), (198, 'AE'), (339, 'oe'), (338, 'OE'), (248, 'o'), (216, 'O'), (322, 'l'), (321, 'L'),
        (273, 'd'), (272, 'D'), (240, 'd'), (208, 'D'), (254, 'th'), (222, 'TH'), (295, 'h'), (294, 'H'), (305, 'i')) as letters
        where p_text operator(pg_catalog.~) E'[\\u00c6\\u00d0\\u00d8\\u00de\\u00df\\u00e6\\u00f0\\u00f8\\u00fe\\u0110\\u0111\\u0126\\u0127\\u0131\\u0141\\u0142\\u0152\\u0153\\u1e9e]'
    loop
        p_text := pg_catalog.replace(p_text, pg_catalog.chr(letter), plain);
    end loop;
    -- Latin, Greek and digits lose their marks; all else is put together again.
    return pg_catalog.normalize(pg_catalog.regexp_replace(p_text, E'([0-9A-Za-z\\u0370-\\u03ff])[\\u0300-\\u036f]+', E'\\1', 'g'), 'NFC');
end
$$;
comment on function pgembed._fold(text) is
    'A text with accents of Latin and Greek letters, and differences of width, taken away (Unicode NFKD).';

create or replace function pgembed._pairs(p_text text, p_between text) returns text
language plpgsql immutable parallel safe
as $$
declare
    c constant pg_catalog.text := pgembed._cjk();
begin
    -- A run is a word by itself, beside letters of other scripts: no phrase with these, as
    -- a single character may be a part of a longer run in the text.
    p_text := pg_catalog.regexp_replace(p_text, pg_catalog.format(E'(?<=%1$s)(?!%1$s|\\s|$)|(?<!%1$s|\\s|^)(?=%1$s)', c), ' ', 'g');
    -- abc -> aabbcc -> abbc -> ab bc. A character alone stays.
    p_text := pg_catalog.regexp_replace(p_text, pg_catalog.format(E'(?<=%1$s)(%1$s)|(%1$s)(?=%1$s)', c), E'\\1\\1\\2\\2', 'g');
    p_text := pg_catalog.regexp_replace(p_text, pg_catalog.format('(?<!%1$s)%1$s(?=%1$s{3})', c), '', 'g');
    p_text := pg_catalog.regexp_replace(p_text, pg_catalog.format('(?<=%1$s{2})%1$s(?!%1$s)', c), '', 'g');
    return pg_catalog.regexp_replace(p_text, pg_catalog.format('(%1$s{2})(?=%1$s)', c), pg_catalog.concat(E'\\1', p_between), 'g');
end
$$;
comment on function pgembed._pairs(text, text) is
    'A text with each run of CJK characters as its overlapping pairs, as Lucene''s CJKBigramFilter makes them.';

create or replace function pgembed._characters_of_runs(p_text text) returns text
language sql immutable parallel safe
as $$
    select pg_catalog.btrim(pg_catalog.regexp_replace(pg_catalog.regexp_replace(p_text, pg_catalog.format(
               '(?<!%1$s)%1$s(?!%1$s)|[^%2$s+', pgembed._cjk(), pg_catalog.substr(pgembed._cjk(), 2)), '', 'g'), pgembed._cjk(), E'\\& ', 'g'))
$$;
comment on function pgembed._characters_of_runs(text) is
    'Each character of the CJK runs of a text, so that a query of one character finds it.';

create or replace function pgembed._markup() returns text
language sql immutable parallel safe
as $$
    -- PostgreSQL's parser gives no words for these either, but takes <b or c> for a tag: here
    -- attributes have a value, or are known to need none.
    select E'</?[a-z][a-z0-9:_.-]*(?:\\s+(?:[a-z0-9:_.@-]+\\s*=\\s*(?:[^\\s"''<>]+|''[^'']*''|"[^"]*")|async|autofocus|autoplay|checked|controls'
           '|defer|disabled|hidden|loop|multiple|muted|nowrap|open|readonly|required|selected))*\\s*/?>|<[?!][a-z][^<>]*>|<!--(?:[^-]|-[^-])*-->'
           '|&(?:#[0-9]+|#x[0-9a-f]+|[a-z]{2,8}[0-9]{0,2});'
$$;
comment on function pgembed._markup() is 'Regular expression for a tag, a comment or an entity of HTML.';

create or replace function pgembed._without_markup(p_text text) returns text
language sql immutable parallel safe
as $$
    select pg_catalog.regexp_replace(p_text, pgembed._markup(), ' ', 'gi')
$$;
comment on function pgembed._without_markup(text) is 'A text with spaces for tags and entities of HTML.';

create or replace function pgembed._separated(p_text text, p_between text) returns text
language sql immutable parallel safe
as $$
    -- Many times faster than one regular expression or translate().
    select pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(p_text, '~', p_between), '-', p_between), '/', p_between), '.', p_between), '+', p_between),
           '@', p_between), '&', p_between), '<', p_between), '_', p_between)
$$;
comment on function pgembed._separated(text, text) is
    'A text with something else for each character that PostgreSQL''s parser knows to join, or to begin a word with.';

create or replace function pgembed._joined_words(p_text text) returns text
language plpgsql immutable parallel safe
as $$
declare
    words pg_catalog.text;
begin
    -- A letter, a joiner, a letter, and what follows, a joiner at the end too: it goes.
    words := (select pg_catalog.string_agg(m[1], ' ')
              from pg_catalog.regexp_matches(p_text, pg_catalog.concat(pgembed._letter(), '+[-./+@&_~]', pgembed._letter(),
                                                                       E'[^\\x01-%''-*,:-?\\[-^`{-}\\x7f]*'), 'g') as m
              where pg_catalog.length(m[1]) operator(pg_catalog.<=) 100);
    if words operator(pg_catalog.~) '(^| )[-0-9./+@&_~]+( |$)' then    -- of digits alone: 2.5 is not 25
        words := pg_catalog.regexp_replace(words, '(^| )([0-9]+)[-./+@&_~]([-0-9./+@&_~]+)(?= |$)', E'\\1\\2x\\3', 'g');
    end if;
    return pgembed._separated(words, '');
end
$$;
comment on function pgembed._joined_words(text) is
    'The joined words of a text, each as one: TCPIP for TCP/IP, 2x5 for 2.5, which is not 25. None of more than 100 characters.';

create or replace function pgembed._analyzed(p_text text, p_options jsonb, p_document boolean, p_between text default ' ') returns text
language plpgsql immutable parallel safe
as $$
declare
    parts constant boolean := not p_options operator(pg_catalog.@>) '{"parts": false}';
    fold constant boolean := not p_options operator(pg_catalog.@>) '{"fold": false}';
    cjk constant boolean := not p_options operator(pg_catalog.@>) '{"cjk": false}';
    further pg_catalog.text;
begin
    if parts and (pg_catalog.strpos(p_text, '<') operator(pg_catalog.>) 0 or pg_catalog.strpos(p_text, '&') operator(pg_catalog.>) 0) then
        p_text := pgembed._without_markup(p_text);
    end if;
    if pgembed._beyond_ascii(p_text) then
        if parts or fold or cjk then
            p_text := pgembed._space_out(p_text);
        end if;
        if fold and pgembed._beyond_ascii(p_text) then
            p_text := pgembed._space_out(pgembed._fold(p_text));
        end if;
        if cjk and p_text operator(pg_catalog.~) pgembed._cjk() then
            if p_document then
                further := pgembed._characters_of_runs(p_text);
            end if;
            p_text := pgembed._pairs(p_text, p_between);
        end if;
    end if;
    if parts then
        if p_between operator(pg_catalog.=) ' ' then
            further := nullif(pg_catalog.concat_ws(' ', pgembed._joined_words(p_text), further), '');
        end if;
        p_text := pgembed._separated(p_text, p_between);
    end if;
    return case when further is null then p_text else pg_catalog.concat(p_text, ' ', further) end;
end
$$;
comment on function pgembed._analyzed(text, jsonb, boolean, text) is
    'What PostgreSQL''s parser is given for a text (document) or for the words of a query; what is put between the parts '
    'of a word. The options are checked.';

create or replace function pgembed._analyzer_options(p_options jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    option text;
    value jsonb;
begin
    if jsonb_typeof(p_options) <> 'object' then
        raise exception 'the analyzer of a BM25 index is an object, not %', p_options using errcode = 'PE007',
            hint = 'For example {"parts": true, "fold": true, "cjk": true}, which is the default.';
    end if;
    for option, value in select * from jsonb_each(p_options) loop
        if option not in ('parts', 'fold', 'cjk') then
            raise exception 'unknown analyzer option "%"', option using errcode = 'PE007',
                hint = 'Options are parts (joined words by their parts), fold (accents and widths) and cjk (pairs of characters).';
        elsif jsonb_typeof(value) not in ('boolean', 'null') then
            raise exception 'analyzer option % is true or false, not %', option, value using errcode = 'PE007',
                hint = 'For example {"fold": false}; what is not named is true.';
        end if;
    end loop;
    return '{"parts": true, "fold": true, "cjk": true}' || coalesce(jsonb_strip_nulls(p_options), '{}');
end
$$;
comment on function pgembed._analyzer_options(jsonb) is 'Options of the analyzer, each with its value; PE007 for what is none.';

create or replace function pgembed.analyze(content text, options jsonb default '{}') returns text
language sql immutable parallel safe
as $$
    select pgembed._analyzed(content, pgembed._analyzer_options(options), true)
$$;
comment on function pgembed.analyze(text, jsonb) is
    'The text that PostgreSQL''s parser is given for a text: joined words by their parts (parts), without accents and '
    'differences of width (fold), runs of CJK characters as pairs (cjk); each true unless it is false in options. A BM25 '
    'index has the lexemes of to_tsvector(config, pgembed.analyze(text)). Example: '
    'SELECT pgembed.analyze(''TCP/IP in node_modules'');';
