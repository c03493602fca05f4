-- From a text to its words: the text search configuration, and the tsvector.

create or replace function pgembed._config_of_language(p_code text) returns regconfig
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- ISO 639-1, 639-3 and, where that is another, 639-2/B. Chinese, Japanese and Korean have
    -- no stems: the analyzer makes their words.
    select c.oid::regconfig
    from (values
        ('arabic', '{ar,ara}'), ('armenian', '{hy,hye,arm}'), ('basque', '{eu,eus,baq}'), ('catalan', '{ca,cat}'), ('danish', '{da,dan}'),
        ('dutch', '{nl,nld,dut}'), ('english', '{en,eng}'), ('esperanto', '{eo,epo}'), ('estonian', '{et,est}'), ('finnish', '{fi,fin}'),
        ('french', '{fr,fra,fre}'), ('german', '{de,deu,ger}'), ('greek', '{el,ell,gre}'), ('hindi', '{hi,hin}'), ('hungarian', '{hu,hun}'),
        ('indonesian', '{id,ind}'), ('irish', '{ga,gle}'), ('italian', '{it,ita}'), ('lithuanian', '{lt,lit}'), ('nepali', '{ne,nep}'),
        ('norwegian', '{no,nor,nb,nob,nn,nno}'), ('polish', '{pl,pol}'), ('portuguese', '{pt,por}'), ('romanian', '{ro,ron,rum}'),
        ('russian', '{ru,rus}'), ('serbian', '{sr,srp}'), ('simple', '{zh,zho,chi,ja,jpn,ko,kor}'), ('spanish', '{es,spa}'),
        ('swedish', '{sv,swe}'), ('tamil', '{ta,tam}'), ('turkish', '{tr,tur}'), ('yiddish', '{yi,yid}')) as l(name, codes)
    join pg_ts_config as c on c.cfgname = l.name
    where c.cfgnamespace = 'pg_catalog'::regnamespace
      and lower(substring(p_code from '^([A-Za-z]{2,3})(?:[-_][-_A-Za-z0-9]+)?$')) = any (l.codes::text[])
$$;
comment on function pgembed._config_of_language(text) is
    'PostgreSQL''s configuration for the ISO code of a language, whatever follows it (pt-BR, de_AT); NULL for none that this server has.';

create or replace function pgembed._no_config(p_config text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'there is no text search configuration "%"', p_config using errcode = 'PE007',
        detail = 'It is the name of none, and the ISO code of no language that this server has one for.',
        hint = 'There are: ' || (select string_agg(c.oid::regconfig::text, ', ' order by cfgname)
                                 from pg_ts_config as c) || '. Or the code of a language: de, pt-BR, deu.';
end
$$;
comment on function pgembed._no_config(text) is 'PE007 for a text search configuration that is none.';

create or replace function pgembed._config_is_meant(p_schema name, p_owner oid, p_source oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Whoever may create anything could else take the name of a language over, for all.
    select p_schema = 'pg_catalog'
           or p_schema !~ '^pg_(toast_)?temp_'
              and (p_owner in ((select relowner from pg_class where oid = p_source), pgembed._own())
                   or exists (select from pg_roles as r where r.oid = p_owner and r.rolsuper))
$$;
comment on function pgembed._config_is_meant(name, oid, oid) is
    'Whether a row that gives the bare name of a text search configuration may mean one: PostgreSQL''s own, or one of the table''s owner, '
    'of pgembed''s or of a superuser.';

create or replace function pgembed._row_config(p_name text, p_default text, p_must boolean, p_source oid) returns regconfig
language plpgsql stable
as $$
declare
    config regconfig;
begin
    if p_name is null then
        return p_default::pg_catalog.regconfig;
    end if;
    -- Looked up by name each time: one that was dropped and made again has another oid,
    -- which a session that lives on would not know.
    config := (select c.oid::pg_catalog.regconfig from pg_catalog.pg_ts_config as c
               join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.cfgnamespace
               where p_name operator(pg_catalog.=) pg_catalog.concat(n.nspname, '.', c.cfgname)
                  or p_name operator(pg_catalog.=) c.cfgname::pg_catalog.text and pgembed._config_is_meant(n.nspname, c.cfgowner, p_source)
               order by n.nspname operator(pg_catalog.<>) 'pg_catalog' limit 1);
    if config is null then
        config := pgembed._config_of_language(p_name);
    end if;
    if config is null and p_must then
        perform pgembed._no_config(p_name);
    end if;
    return config;
end
$$;
comment on function pgembed._row_config(text, text, boolean, oid) is
    'Text search configuration that a row names, or whose language it does; NULL means the default. For what is neither, PE007 or NULL.';

create or replace function pgembed._bm25_config_sql(p_config text, p_expression text, p_source oid, p_must boolean default false) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when p_expression is null then format('%L::pg_catalog.text::pg_catalog.regconfig', p_config)
                else format('pgembed._row_config((%s)::pg_catalog.text, %L, %s, %s::pg_catalog.oid)', p_expression, p_config, p_must::text, p_source) end
$$;
comment on function pgembed._bm25_config_sql(text, text, oid, boolean) is
    'Expression for the text search configuration of a row; where it names none, it fails, or is NULL.';

create or replace function pgembed._row_config_sql(b pgembed.bm25, p_row text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when (b).config_foreign then format('pgembed._text_%s_config(%s)', (b).text_id, p_row)
                when pgembed._reads_foreign_type((b).source, (b).config_columns) then pgembed._types_changed((b).text_id)
                else pgembed._bm25_config_sql((b).config, (b).config_expression, (b).source) end
$$;
comment on function pgembed._row_config_sql(pgembed.bm25, text) is
    'Expression for the text search configuration of a found row, evaluated as who searches only where it calls nothing '
    'but PostgreSQL''s own.';

create or replace function pgembed._stop_words_left_out(p_config regconfig, p_text text) returns text
language plpgsql stable
as $$
declare
    letters constant pg_catalog.text := E'A-Za-z\\u00c0-\\u024f\\u0370-\\u03ff';
    stop_words pg_catalog.text;
begin
    -- A stop word is one as it is written: without its accents German "fuer", with u umlaut,
    -- would be fur, which is none.
    stop_words := (select pg_catalog.string_agg(distinct m[1], '|')
                   from pg_catalog.regexp_matches(p_text, pg_catalog.format('[%1$s]*[%2$s][%1$s]*', letters, pg_catalog.substr(letters, 7)), 'g') as m
                   where pg_catalog.length(m[1]) operator(pg_catalog.<=) 12
                     and pg_catalog.to_tsvector(p_config, m[1]) operator(pg_catalog.=) ''::pg_catalog.tsvector);
    return case when stop_words is null then p_text
                else pg_catalog.regexp_replace(p_text, pg_catalog.format('(?<![%1$s])(?:%2$s)(?![%1$s])', letters, stop_words), ' ', 'g') end;
end
$$;
comment on function pgembed._stop_words_left_out(regconfig, text) is
    'A text without the stop words of a configuration that have accents.';

create or replace function pgembed._bm25_lexemes(p_config regconfig, p_text text, p_analyzer jsonb) returns tsvector
language plpgsql stable
as $$
begin
    if pgembed._beyond_ascii(p_text) and not p_analyzer operator(pg_catalog.@>) '{"fold": false}' then
        p_text := pgembed._stop_words_left_out(p_config, pg_catalog.normalize(p_text, 'NFC'));    -- before accents go
    end if;
    return pg_catalog.to_tsvector(p_config, pgembed._analyzed(p_text, p_analyzer, true));
exception when program_limit_exceeded then    -- a tsvector holds 1 MB
    return pgembed._bm25_lexemes(p_config, pg_catalog.left(p_text, least(200000, pg_catalog.length(p_text) operator(pg_catalog./) 2)), p_analyzer);
end
$$;
comment on function pgembed._bm25_lexemes(regconfig, text, jsonb) is
    'Lexemes of a text; of one that is too long for a tsvector, those of its first 200,000 characters, or as many as fit.';

create or replace function pgembed._query_lexemes(p_config regconfig, p_query text, p_analyzer jsonb) returns text[]
language sql stable
as $$
    select pg_catalog.tsvector_to_array(pg_catalog.to_tsvector(p_config, pgembed._analyzed(p_query, p_analyzer, false)))
$$;
comment on function pgembed._query_lexemes(regconfig, text, jsonb) is 'Lexemes of the words of a query, folded.';

create or replace function pgembed._joined_lexemes(p_config regconfig, p_query text, p_analyzer jsonb) returns text[]
language sql stable
as $$
    select case when p_analyzer operator(pg_catalog.@>) '{"parts": false}' then '{}'
        else coalesce(pg_catalog.tsvector_to_array(pg_catalog.to_tsvector(p_config, pgembed._joined_words(
            pgembed._analyzed(p_query, pg_catalog.jsonb_set(p_analyzer, '{parts}', 'false'), false)))), '{}') end
$$;
comment on function pgembed._joined_lexemes(regconfig, text, jsonb) is 'Lexemes of the joined words of a query, each as one.';

create or replace function pgembed._query_folded(p_config regconfig, p_query text, p_analyzer jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pgembed._beyond_ascii(p_query) and not p_analyzer @> '{"fold": false}' then
        p_query := pgembed._stop_words_left_out(p_config, pg_catalog.normalize(p_query, 'NFC'));
        p_query := translate(p_query, concat(chr(8220), chr(8221), chr(8222), chr(65282)), '""""');
        p_query := pgembed._fold(pgembed._space_out(p_query));
    end if;
    return p_query;
end
$$;
comment on function pgembed._query_folded(regconfig, text, jsonb) is
    'A query folded before its syntax is looked at: typographic quotes, and those and the minus of full width, are as good as others.';

create or replace function pgembed._websearch_analyzed(p_query text, p_analyzer jsonb) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Outside quotes the parts of a word are joined by what websearch_to_tsquery makes a
    -- phrase of. A minus before a word (here kept as a control character) is one that
    -- excludes; inside a word, or alone, it is none.
    select string_agg(case when place % 2 = 0 then replace(pgembed._analyzed(part, p_analyzer, false, '_'), '_', ' ')
        else replace(pgembed._analyzed(regexp_replace(part, E'(^|[\\s(])-(?=\\S|$)', E'\\1\x01', 'g'), p_analyzer, false, '_'), E'\x01', '-') end,
        '"' order by place)
    from unnest(string_to_array(p_query, '"')) with ordinality as p(part, place)
$$;
comment on function pgembed._websearch_analyzed(text, jsonb) is
    'What websearch_to_tsquery is given for a query: a joined word, or a CJK run, is the phrase of its parts.';

create or replace function pgembed._websearch_wanted(p_query text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(p_query, E'(^|[\\s(])-("[^"]*"?|\\S+)', ' ', 'g')
$$;
comment on function pgembed._websearch_wanted(text) is 'A query without the words that must not occur.';

create or replace function pgembed._config_differs(p_bm25_id int) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select x.config_digest is distinct from pgembed._bm25_config_digest(x) from pgembed.bm25 as x where x.bm25_id = p_bm25_id
$$;
comment on function pgembed._config_differs(int) is
    'Whether the words of an index were made with other configurations, or another analyzer, than there are now.';

create or replace function pgembed._bm25_config_digest(b pgembed.bm25) returns bytea
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Analyzer; parser, dictionaries and their options, by name; where rows name their
    -- configuration, those of all.
    select pgembed._hash((b).analyzer::text || E'\n' || string_agg(concat_ws(' ', n.nspname, c.cfgname, c.cfgparser, m.maptokentype, m.mapseqno, d.dictname,
                                              d.dicttemplate, d.dictinitoption, case when d.oid >= 16384 then d.oid end), E'\n'
                                    order by n.nspname, c.cfgname, m.maptokentype, m.mapseqno))
    from pg_ts_config as c
    join pg_namespace as n on n.oid = c.cfgnamespace
    left join pg_ts_config_map as m on m.mapcfg = c.oid
    left join pg_ts_dict as d on d.oid = m.mapdict
    where case when (b).config_expression is null then format('%I.%I', n.nspname, c.cfgname) = (b).config
               else pgembed._config_is_meant(n.nspname, c.cfgowner, (b).source) end
$$;
comment on function pgembed._bm25_config_digest(pgembed.bm25) is
    'Digest of the analyzer and the text search configurations of an index: another one means that words may be others now.';

create or replace function pgembed._bm25_lexeme_query(p_lexeme text) returns tsquery
language sql immutable
as $$
    select pg_catalog.concat('''', pg_catalog.replace(pg_catalog.replace(p_lexeme, '\', '\\'), '''', ''''''), '''')::pg_catalog.tsquery
$$;
comment on function pgembed._bm25_lexeme_query(text) is 'A tsquery that one lexeme matches.';

create or replace function pgembed._bm25_prefix_query(p_prefix text) returns tsquery
language sql immutable
as $$
    select case when p_prefix is not null then
        pg_catalog.concat(pgembed._bm25_lexeme_query(p_prefix)::pg_catalog.text, ':*')::pg_catalog.tsquery end
$$;
comment on function pgembed._bm25_prefix_query(text) is 'A tsquery that lexemes with a prefix match; NULL for none.';
