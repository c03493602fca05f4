-- From a text to its words: the text search configuration, and the tsvector.

create or replace function pgembed._bm25_config_sql(p_config text, p_expression text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- A configuration is looked up by name each time: one that was dropped and made again
    -- has another oid, which a session that lives on would not know. A row's name that is
    -- none must not fail the write, so it means the default.
    select case when p_expression is null then format('%L::pg_catalog.text::pg_catalog.regconfig', p_config) else format(
        'coalesce((select c.oid::pg_catalog.regconfig from pg_catalog.pg_ts_config as c '
        'join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.cfgnamespace '
        'where (%1$s)::pg_catalog.text in (c.cfgname::pg_catalog.text, pg_catalog.concat(n.nspname, ''.'', c.cfgname)) '
        'order by n.nspname operator(pg_catalog.<>) ''pg_catalog'' limit 1), %2$L::pg_catalog.text::pg_catalog.regconfig)', p_expression, p_config) end
$$;
comment on function pgembed._bm25_config_sql(text, text) is
    'Expression for the text search configuration of a row.';

create or replace function pgembed._row_config_sql(b pgembed.bm25, p_row text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when (b).config_foreign then format('pgembed._text_%s_config(%s)', (b).text_id, p_row)
                else pgembed._bm25_config_sql((b).config, (b).config_expression) end
$$;
comment on function pgembed._row_config_sql(pgembed.bm25, text) is
    'Expression for the text search configuration of a found row, evaluated as who searches only where it calls nothing '
    'but PostgreSQL''s own.';

create or replace function pgembed._bm25_lexemes(p_config regconfig, p_text text) returns tsvector
language plpgsql stable
as $$
begin
    return pg_catalog.to_tsvector(p_config, p_text);
exception when program_limit_exceeded then    -- a tsvector holds 1 MB
    return pgembed._bm25_lexemes(p_config, pg_catalog.left(p_text, least(200000, pg_catalog.length(p_text) operator(pg_catalog./) 2)));
end
$$;
comment on function pgembed._bm25_lexemes(regconfig, text) is
    'Lexemes of a text; of one that is too long for a tsvector, those of its first 200,000 characters, or as many as fit.';

create or replace function pgembed._bm25_config_digest(b pgembed.bm25) returns bytea
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Parser, dictionaries and their options, by name; where rows name their configuration,
    -- those of all.
    select pgembed._hash(string_agg(concat_ws(' ', n.nspname, c.cfgname, c.cfgparser, m.maptokentype, m.mapseqno, d.dictname,
                                              d.dicttemplate, d.dictinitoption, case when d.oid >= 16384 then d.oid end), E'\n'
                                    order by n.nspname, c.cfgname, m.maptokentype, m.mapseqno))
    from pg_ts_config as c
    join pg_namespace as n on n.oid = c.cfgnamespace
    left join pg_ts_config_map as m on m.mapcfg = c.oid
    left join pg_ts_dict as d on d.oid = m.mapdict
    where (b).config_expression is not null or format('%I.%I', n.nspname, c.cfgname) = (b).config
$$;
comment on function pgembed._bm25_config_digest(pgembed.bm25) is
    'Digest of the text search configurations of an index: another one means that words may be others now.';

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
