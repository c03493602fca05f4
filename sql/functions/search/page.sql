-- What all searches have in common: which part of the ranking is wanted.

create or replace function pgembed._check_k(p_k int) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_k is null or p_k not between 1 and 10000 then
        raise exception 'k must be between 1 and 10000, not %', coalesce(p_k::text, 'NULL')
            using errcode = 'PE007', hint = 'k is the number of rows wanted; the default is 10.';
    end if;
    return p_k;
end
$$;
comment on function pgembed._check_k(int) is 'k; PE007 for one out of range.';

create or replace function pgembed._check_page(p_k int, p_offset int) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pgembed._check_k(p_k);
    if p_offset is null or p_offset not between 0 and 10000 then
        raise exception 'offset must be between 0 and 10000, not %', coalesce(p_offset::text, 'NULL')
            using errcode = 'PE007',
            detail = 'It is the number of rows of the ranking that come before the page.',
            hint = case when p_offset > 10000 then 'Nobody reads that far: narrow the search down with a filter or more words, or '
                                                   'read all matching rows with a query of your own, by their key.'
                        else 'The first page has offset 0, the next one k.' end;
    end if;
    return p_k + p_offset;
end
$$;
comment on function pgembed._check_page(int, int) is 'Where a page ends in the ranking; PE007 for k or offset out of range.';

create or replace function pgembed._check_min_score(p_min_score float8) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_min_score in ('NaN', 'Infinity', '-Infinity') then
        raise exception 'min_score must be a finite number, not %', p_min_score using errcode = 'PE007',
            hint = 'Rows with a lower score are left out; without it, none is.';
    end if;
end
$$;
comment on function pgembed._check_min_score(float8) is 'PE007 for a threshold of scores that is no number; NULL is none.';

create or replace function pgembed._check_min_similarity(p_min_similarity float8, p_distance text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    lowest constant float8 := case p_distance when 'cosine' then -1 when 'l2' then 0 else -1e300 end;
    highest constant float8 := case p_distance when 'inner_product' then 1e300 else 1 end;
begin
    if p_min_similarity not between lowest and highest then    -- 'NaN' is greater than all numbers
        raise exception 'min_similarity is out of range: %', p_min_similarity using errcode = 'PE007',
            detail = case p_distance when 'inner_product' then 'It is compared with inner products.'
                                     else format('Similarities by %s distance are %s to 1.', p_distance, lowest) end,
            hint = 'Rows that are less similar are left out; without it, none is.';
    end if;
end
$$;
comment on function pgembed._check_min_similarity(float8, text) is
    'PE007 for a threshold of similarities that is none for a kind of distance; NULL is no threshold.';
