-- Excerpts. ts_headline chooses and marks in a shadow of the text: what the analyzer makes of it,
-- piece by piece, without what it adds at the end. What is shown is the text itself: the
-- place and the marks are carried over by the pieces.

create or replace function pgembed._shadow_of(p_piece text, p_analyzer jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- A mark without its letter, which stands in another piece, is nothing where accents go.
    select case
        when pgembed._beyond_ascii(p_piece) and p_piece ~ E'^[\\u0300-\\u036f]+$' and not p_analyzer @> '{"fold": false}' then ''
        else translate(pgembed._analyzed(p_piece, p_analyzer || '{"cjk": false}', false, '_'), E'_\x02\x03', '   ') end
$$;
comment on function pgembed._shadow_of(text, jsonb) is 'A piece of a text as the analyzer has it, but for CJK pairs.';

create or replace function pgembed._shadow_pieces(
    p_text text, p_analyzer jsonb, out originals text[], out shadows text[], out cjk boolean[]
)
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    beyond constant boolean := pgembed._beyond_ascii(p_text);
    pairs constant boolean := beyond and not p_analyzer @> '{"cjk": false}';
    mark constant text := E'[\\u0300-\\u036f\\u3099\\u309a\\uff9e\\uff9f]';
    -- Letters that the analyzer leaves alone, by and large: more than one are a piece.
    plain constant text := E'[^<&\\u0080-\\u0390\\u03aa-\\u03b0\\u03ca-\\u040f\\u0450-\\u05cf\\u05eb-\\u0620\\u064b-\\U0010ffff]+';
begin
    if not beyond and p_text !~ '[<&]' then
        originals := array[p_text];
        shadows := array[pgembed._shadow_of(p_text, p_analyzer)];
        cjk := array[false];
        return;
    end if;
    select array_agg(case when made.tag then ' ' else made.piece end order by made.place),
           array_agg(case when made.tag then ' '
                          when made.is_cjk then concat(' ', made.shadow, case when made.next_is_cjk then left(made.next_shadow, 1) end, ' ')
                          else made.shadow end order by made.place),
           array_agg(made.is_cjk order by made.place)
    into originals, shadows, cjk
    from (select p.*, lead(p.is_cjk) over (order by p.place) as next_is_cjk, lead(p.shadow) over (order by p.place) as next_shadow
          from (select m[1] as piece, place, pairs and m[1] ~ ('^' || pgembed._cjk()) as is_cjk,
                       length(m[1]) > 1 and left(m[1], 1) = '<' as tag,
                       case when left(m[1], 1) in ('<', '&') then repeat(' ', length(m[1])) else pgembed._shadow_of(m[1], p_analyzer) end as shadow
                from regexp_matches(p_text, case when beyond then concat(plain, '|', pgembed._markup(), '|[<&]|.', mark, '*') else
                    concat('[^<&]+|', pgembed._markup(), '|[<&]') end, 'gi') with ordinality as r(m, place)) as p) as made;
end
$$;
comment on function pgembed._shadow_pieces(text, jsonb) is
    'A text in pieces, and beside each its shadow: as long as the piece, or to be taken as a whole. A tag is a space in both; a CJK '
    'character is the pair that it begins.';

create or replace function pgembed._piece_at(p_starts int[], p_place int) returns int
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select width_bucket(p_place, p_starts)
$$;
comment on function pgembed._piece_at(int[], int) is 'Number of the piece, given where pieces start, that a place is in.';

create or replace function pgembed._text_place(p_starts int[], p_origins int[], p_place int, p_end boolean) returns int
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    piece int := pgembed._piece_at(p_starts, case when p_end then p_place - 1 else p_place end);
begin
    if piece >= cardinality(p_starts) then
        return p_origins[cardinality(p_origins)];
    elsif p_starts[piece + 1] - p_starts[piece] = p_origins[piece + 1] - p_origins[piece]
          and not (p_end and p_place = p_starts[piece + 1]) then
        return p_origins[piece] + p_place - p_starts[piece];    -- one for one
    elsif p_end then
        while p_starts[piece + 1] = p_starts[piece + 2] and p_place = p_starts[piece + 1] loop
            piece := piece + 1;    -- a mark that belongs to the letter before it
        end loop;
        return p_origins[piece + 1];
    end if;
    return p_origins[piece];
end
$$;
comment on function pgembed._text_place(int[], int[], int, boolean) is
    'Where in a text a place of its shadow is, given where pieces start in both; of the end of a word, the place after it.';

create or replace function pgembed._with_characters(p_query tsquery, p_terms text[]) returns tsquery
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    term text;
begin
    for term in select t from unnest(p_terms) as t where pgembed._beyond_ascii(t) and t ~ concat('^', pgembed._cjk(), '$') loop
        p_query := p_query || pgembed._bm25_prefix_query(term);
    end loop;
    return p_query;
end
$$;
comment on function pgembed._with_characters(tsquery, text[]) is
    'A query for a CJK character also as the beginning of a pair, which is what a shadow has.';

create or replace function pgembed._snippet(p_config regconfig, p_text text, p_analyzer jsonb, p_query tsquery, p_terms text[]) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    originals text[];
    shadows text[];
    cjk boolean[];
    starts int[];         -- of each piece in the shadow, from 1, and one past the end
    origins int[];        -- and in the text
    shadow text;
    content text;
    headline text;
    part text;
    place int;            -- in the shadow
    piece int;
    shown_from int;       -- in the text
    shown_to int;
    mark_from int[] := '{}';
    mark_to int[] := '{}';
    snippet text := '';
    done int;
begin
    if p_text is null or p_config is null then
        return null;
    end if;
    select * into originals, shadows, cjk from pgembed._shadow_pieces(p_text, p_analyzer);
    shadow := array_to_string(shadows, '');
    content := array_to_string(originals, '');
    p_query := pgembed._with_characters(p_query, p_terms);
    headline := ts_headline(p_config, shadow, p_query, E'StartSel="\x02", StopSel="\x03"');
    place := strpos(shadow, translate(headline, E'\x02\x03', ''));
    if place = 0 then    -- the parser knows of more tags than the analyzer
        return ts_headline(p_config, p_text, p_query);
    end if;
    select array_agg(s order by nth), array_agg(o order by nth) into starts, origins
    from (select nth, 1 + coalesce(sum(length(a)) over before, 0)::int as s, 1 + coalesce(sum(length(b)) over before, 0)::int as o
          from unnest(shadows || ''::text, originals || ''::text) with ordinality as p(a, b, nth)
          window before as (order by nth rows between unbounded preceding and 1 preceding)) as sums;
    shown_from := pgembed._text_place(starts, origins, place, false);
    for part, done in select p, nth from string_to_table(headline, E'\x02') with ordinality as t(p, nth) loop
        if done > 1 then
            piece := pgembed._piece_at(starts, place);
            mark_from := mark_from || pgembed._text_place(starts, origins, place, false);
            -- Of a pair both characters, of a character that pair begins with only that.
            mark_to := mark_to || case
                when cjk[piece] and cjk[piece + 1] and strpos(part, E'\x03') = 3 and left(part, 2) = any (p_terms) then origins[piece + 2]
                else pgembed._text_place(starts, origins, place + strpos(part, E'\x03') - 1, true) end;
            place := place + length(part) - 1;
        else
            place := place + length(part);
        end if;
    end loop;
    shown_to := greatest(pgembed._text_place(starts, origins, place, true), mark_to[cardinality(mark_to)]);
    done := shown_from;
    for i in 1 .. cardinality(mark_from) loop
        if mark_to[i] > done then
            if mark_from[i] > done or i = 1 then
                snippet := concat(snippet, substr(content, done, mark_from[i] - done), '<b>');
            else    -- goes on where the one before ends
                snippet := left(snippet, -4);
            end if;
            snippet := concat(snippet, substr(content, greatest(mark_from[i], done), mark_to[i] - greatest(mark_from[i], done)), '</b>');
            done := mark_to[i];
        end if;
    end loop;
    return concat(snippet, substr(content, done, shown_to - done));
end
$$;
comment on function pgembed._snippet(regconfig, text, jsonb, tsquery, text[]) is
    'An excerpt of a text with the words of a query between <b> and </b>: words as the text has them.';
