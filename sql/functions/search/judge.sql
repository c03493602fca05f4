-- Judgements: how relevant a row is to a query, as people have said.
--
-- A judgement is seen by the role that gave it, by members of that role and by the owner of the
-- table, and by each of them only as long as they see the row itself. That is for the
-- policies of pgembed.judgement to see to, whoever reads it. A policy of a user's table runs
-- with the rights of who reads, so only that of the one table is asked which the caller of
-- a function here has named: in the setting pgembed.judged. Without it nothing is seen.

create or replace function pgembed._key_names(p_source oid) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array(select a.attname::text from unnest(pgembed._key_columns(p_source)) with ordinality as k(attnum, place)
                 join pg_attribute as a on a.attrelid = p_source and a.attnum = k.attnum order by k.place)
$$;
comment on function pgembed._key_names(oid) is 'Names of the columns of a table''s primary key.';

create or replace function pgembed._judged_now(p_source oid) returns pgembed._judged
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select p_source, pgembed._key_names(p_source), k.numbers,
           format('select %s', pgembed._key_sql(p_source, null, '%5$s::%4$s is not null', ' and ', '$1')),
           -- All columns: whoever may not read some of them does not see the row as searches give it.
           format('select exists (select s.* from %s as s where %s)', pgembed._table_sql(p_source),
                  pgembed._key_sql(p_source, null, 's.%2$I %7$s %5$s::%4$s', ' and ', '$1'))
    from (select pgembed._key_columns(p_source) as numbers) as k
    where k.numbers <> '{}'
$$;
comment on function pgembed._judged_now(oid) is
    'How keys of a table are compared and rows looked for; NULL where it is gone, or has no primary key.';

create or replace function pgembed._judged_named() returns pgembed._judged
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._judged_now(nullif(current_setting('pgembed.judged', true), '')::oid)
$$;
comment on function pgembed._judged_named() is 'The table whose judgements the caller has asked for; NULL where none is named.';

create or replace function pgembed._judged_key(j pgembed.judgement, p_now pgembed._judged) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    fits boolean;
begin
    if j.source::oid is distinct from p_now.source
       or j.key_numbers is distinct from p_now.key_numbers and j.key_columns is distinct from p_now.key_columns then
        return null;
    end if;
    execute p_now.is_key into fits using j.key;
    return case when fits then j.key end;
exception when data_exception or array_subscript_error then
    return null;    -- the columns have other types
end
$$;
comment on function pgembed._judged_key(pgembed.judgement, pgembed._judged) is
    'Key of the row that was judged; NULL where it is of another table, or that has another primary key by now.';

create or replace function pgembed._judgement_is_seen(j pgembed.judgement, p_named pgembed._judged) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    key constant text := pgembed._judged_key(j, p_named);
    seen boolean := false;
begin
    if key is not null then
        execute p_named.is_seen into seen using key;
    end if;
    return seen;
exception when insufficient_privilege then
    return false;
end
$$;
comment on function pgembed._judgement_is_seen(pgembed.judgement, pgembed._judged) is
    'Whether a judgement is of the table that the caller has named, and of a row that the caller sees.';

create or replace function pgembed._judges_with(p_role name, p_source oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(pg_has_role(pgembed._owner_of(p_source), 'usage'), false)
        or exists (select from pg_roles as r where r.rolname = p_role and pg_has_role(r.oid, 'usage'))
$$;
comment on function pgembed._judges_with(name, oid) is
    'Whether the caller sees what a role has judged: as that role, a member of it, or the owner of the table.';

drop policy if exists judged_row on pgembed.judgement;
drop policy if exists own_judgement on pgembed.judgement;
drop policy if exists shared_judgement on pgembed.judgement;
create policy judged_row on pgembed.judgement as restrictive using (pgembed._judgement_is_seen(judgement, (select pgembed._judged_named())));
create policy own_judgement on pgembed.judgement using (judged_by = current_user);
create policy shared_judgement on pgembed.judgement for select using (pgembed._judges_with(judged_by, source));

create or replace function pgembed._judged_table(source anyelement) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    named constant regclass := pgembed._searched_table(source);
begin
    perform pgembed._search_arms(named, null, false, false);    -- PE001 where there is nothing to search
    return named;
end
$$;
comment on function pgembed._judged_table(anyelement) is 'The table whose rows are judged; PE001 or PE003 for one that is not searched.';

create or replace function pgembed._row_key(p_source regclass, p_key text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_key jsonb;
begin
    begin
        execute format('select %s from (select s.* from %s as s where %s) as s', pgembed._key_json_sql(p_source, 's'), pgembed._table_sql(p_source),
                       pgembed._key_sql(p_source, null, 's.%2$I %7$s %5$s::%4$s', ' and ', '$1'))
        into found_key using p_key;
    exception when data_exception or array_subscript_error then
        raise exception 'not a key of table %: %', p_source, p_key using errcode = 'PE009',
            detail = sqlerrm, hint = 'Give the value of the primary key; for a composite key an array: array[''1'', ''a''].';
    end;
    if found_key is null then
        raise exception 'there is no row with key "%" in table %', coalesce(p_key, 'NULL'), p_source using errcode = 'PE009',
            hint = 'It does not exist, or is not the caller''s to see.';
    end if;
    return pgembed._key_text(p_source, pgembed._key_given(found_key));
end
$$;
comment on function pgembed._row_key(regclass, text) is
    'Text of the key of a row that the caller sees, always the same for one row; PE009 where there is none.';

create or replace function pgembed._key_text(p_source oid, p_key text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Keys are written as the triggers write them.
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
    parts text[];
begin
    execute format('select array[%s]', pgembed._key_sql(p_source, null, '%6$s(pg_catalog.concat(%5$s::%4$s))', ', ', '$1')) into parts using p_key;
    return case cardinality(parts) when 1 then parts[1] else parts::text end;
end
$$;
comment on function pgembed._key_text(oid, text) is 'A key as the triggers write it.';

create or replace function pgembed.judge(source anyelement, query text, key anycompatible, grade bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    judged constant regclass := pgembed._judged_table(source);
    key_text text;
    pair bytea;
begin
    perform pgembed._check_query(judge.query);
    if judge.grade not between 0 and 3 then
        raise exception 'grade must be between 0 and 3, not %', judge.grade using errcode = 'PE007',
            hint = '0 is not relevant; 1, 2 and 3 more and more so; NULL takes a judgement back.';
    end if;
    key_text := pgembed._row_key(judged, pgembed._key_given(judge.key));
    pair := pgembed._hash(array[judge.query, key_text, pgembed._key_columns(judged)::text]::text);
    perform set_config('pgembed.judged', judged::oid::text, true);
    if judge.grade is null then
        delete from pgembed.judgement as j where j.source = judged and j.judged_by = current_user and j.digest = pair;
    else
        insert into pgembed.judgement as j (source, query, key, key_columns, key_numbers, grade, digest)
        values (judged, judge.query, key_text, pgembed._key_names(judged), pgembed._key_columns(judged), judge.grade, pair)
        on conflict (source, judged_by, digest) do update
        set grade = excluded.grade, judged_at = clock_timestamp(), key_columns = excluded.key_columns, key_numbers = excluded.key_numbers,
            missing_since = null;
    end if;
    perform set_config('pgembed.judged', '', true);
end
$$;
comment on function pgembed.judge(anyelement, text, anycompatible, bigint) is
    'Says how relevant a row is to a query: grade 0 is not, 1 to 3 more and more so; NULL takes back what the caller''s role said '
    'before. key is the primary key, as in similar. pgembed eval, tune and tune-index measure by judgements. '
    'Example: SELECT pgembed.judge(NULL::article, ''cheap flights'', 42, 1);';

create or replace function pgembed.judgements(source anyelement, only_query text default null)
returns table (query text, key jsonb, grade bigint, judged_by text, judged_at timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    judged constant regclass := pgembed._judged_table(source);
begin
    if pgembed._key_columns(judged) = '{}' then
        return;
    end if;
    perform set_config('pgembed.judged', judged::oid::text, true);
    return query execute format(
        'select j.query, %s, j.grade::int8, j.judged_by::text, j.judged_at from pgembed.judgement as j '
        'cross join lateral (select pgembed._judged_key(j, (select pgembed._judged_named())) as key) as pgembed_key '
        'cross join lateral (select s.* from %s as s where %s) as s '
        'where j.source = $1 and ($2 is null or j.query = $2) order by j.query, j.grade desc, j.judged_at, j.digest',
        pgembed._key_json_sql(judged, 's'), pgembed._table_sql(judged), pgembed._key_sql(judged, null, 's.%2$I %7$s %5$s::%4$s', ' and '))
    using judged, only_query;
    perform set_config('pgembed.judged', '', true);
end
$$;
comment on function pgembed.judgements(anyelement, text) is
    'What was judged of the rows of a table that the caller sees: by the caller''s role and those that it is a member of; the owner '
    'of the table sees all. only_query: of one query. Example: SELECT * FROM pgembed.judgements(NULL::article);';

create or replace function pgembed._mark_judgements(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    now constant pgembed._judged := pgembed._judged_now(t.source);
    keys constant text[] := array(select distinct k from pgembed.judgement as j cross join lateral pgembed._judged_key(j, now) as k
                                  where j.source = t.source and k is not null);
    found_keys text[] := '{}';
begin
    if keys <> '{}' then
        begin
            found_keys := pgembed._keys_of_rows(t, keys);
        exception when sqlstate 'PE016' or sqlstate 'PE018' then
            return;    -- nothing is known now
        end;
    end if;
    update pgembed.judgement as j set missing_since = clock_timestamp()
    where j.source = t.source and j.missing_since is null and (pgembed._judged_key(j, now) = any (found_keys)) is not true;
    -- Whatever its columns are called by now, and what their numbers are after a restore.
    update pgembed.judgement as j set missing_since = null, key_columns = now.key_columns, key_numbers = now.key_numbers
    where j.source = t.source and (j.missing_since, j.key_columns, j.key_numbers) is distinct from (null, now.key_columns, now.key_numbers)
      and pgembed._judged_key(j, now) = any (found_keys);
end
$$;
comment on function pgembed._mark_judgements(pgembed.captured_text) is
    'Marks the judgements of a table whose row is not there, as its owner sees it.';

create or replace function pgembed._drop_judgements(p_missing_for interval, p_source oid default null) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update pgembed.judgement as j set missing_since = clock_timestamp()
    where j.missing_since is null and not exists (
        select from pgembed.captured_text as t where t.source = j.source and pgembed._table_sql(t.source) is not null);
    delete from pgembed.judgement
    where missing_since <= clock_timestamp() - p_missing_for and source = coalesce(p_source, source)
$$;
comment on function pgembed._drop_judgements(interval, oid) is
    'Removes the judgements whose row, or table, or what was declared on it, has been gone for so long: a table that is emptied '
    'and filled again keeps its own.';
