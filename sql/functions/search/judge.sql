-- Judgements: how relevant a row is to a query, as people have said.
--
-- A judgement is seen by the role that gave it, by members of that role and by the owner of the
-- table, and by each of them only as long as they see the row itself. That is for the view
-- pgembed._seen_judgement to see to, whoever reads it: it reads with the rights of pgembed's
-- owner, calls functions with those of the caller, and looks for all rows in one statement. A policy
-- of a user's table runs with the rights of who reads, so only that of the one table is asked which the
-- caller has named: in the setting pgembed.judged. Without it nothing is seen.

create or replace function pgembed._key_names(p_source oid) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array(select a.attname::text from unnest(pgembed._key_columns(p_source)) with ordinality as k(attnum, place)
                 join pg_attribute as a on a.attrelid = p_source and a.attnum = k.attnum order by k.place)
$$;
comment on function pgembed._key_names(oid) is 'Names of the columns of a table''s primary key.';

create or replace function pgembed._judged_named() returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when pg_input_is_valid(s.value, 'oid') then s.value::oid end from current_setting('pgembed.judged', true) as s(value)
$$;
comment on function pgembed._judged_named() is 'The table whose judgements the caller has asked for; NULL where none is named.';

-- As whoever calls it: a key that was judged, and the row's own as JSON.
create or replace function pgembed._judged_rows(p_source oid, p_keys text[]) returns table (key text, key_json jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pgembed._key_columns(p_source) <> '{}' then
        -- All columns: whoever may not read some of them does not see the row as searches give it.
        return query execute format(
            'select pgembed_key.key, %s from %s as pgembed_key cross join lateral (select s.* from %s as s where %s) as s',
            pgembed._key_json_sql(p_source, 's'), pgembed._judged_keys_sql(p_source), pgembed._table_sql(p_source),
            pgembed._key_sql(p_source, null, 's.%2$I %7$s %5$s::%4$s', ' and '))
        using p_keys;
    end if;
end
$$;
comment on function pgembed._judged_rows(oid, text[]) is 'Which of these keys of a table are of rows that the caller sees, and the rows'' own keys.';

create or replace function pgembed._judged_keys_sql(p_source oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- The columns may have had other types when the rows were judged.
    select format('(select k.key from pg_catalog.unnest($1) as k(key) where case when %s then %s end offset 0)',
                  case cardinality(pgembed._key_columns(p_source)) when 1 then 'true' else $sql$pg_catalog.pg_input_is_valid(k.key, 'pg_catalog.text[]')$sql$ end,
                  pgembed._key_sql(p_source, null, 'pg_catalog.pg_input_is_valid(%5$s, %4$L)', ' and ', 'k.key'))
$$;
comment on function pgembed._judged_keys_sql(oid) is 'Subquery: those of the keys $1 that the columns of a table''s primary key can have.';

create or replace function pgembed._is_same_key(j pgembed.judgement, p_names text[], p_numbers int2[]) returns boolean
language sql immutable
as $$
    select j.key_numbers operator(pg_catalog.=) p_numbers or j.key_columns operator(pg_catalog.=) p_names
$$;
comment on function pgembed._is_same_key(pgembed.judgement, text[], int2[]) is
    'Whether a row was judged by these columns: by their numbers, which others have after a restore, or by their names, which may change.';

-- A view and a policy keep the operators that the path finds.
create or replace view pgembed._seen_judgement with (security_barrier) as
    with judged as materialized (
        select j.* from pgembed.judgement as j
        cross join (select pgembed._judged_named() as source offset 0) as named
        where j.source operator(pg_catalog.=) named.source
          and (current_setting('pgembed.judged_query', true) operator(pg_catalog.=) any (array['', j.query])) is not false
          and (j.judged_by operator(pg_catalog.=) any (select r.rolname from pg_roles as r where pg_has_role(r.oid, 'usage'))
               or pg_has_role(pgembed._owner_of(named.source), 'usage'))
          and pgembed._is_same_key(j, pgembed._key_names(named.source), pgembed._key_columns(named.source)))
    select j.query, r.key_json as key, j.grade, j.judged_by, j.judged_at, j.digest
    from judged as j
    join pgembed._judged_rows(pgembed._judged_named(), array(select distinct j.key from judged as j)) as r on r.key operator(pg_catalog.=) j.key;
comment on view pgembed._seen_judgement is
    'Judgements of the table that the caller has named, and of rows that the caller sees: the caller''s own, those of roles that it is '
    'a member of, and all for the owner of the table.';

-- What a role gave, it may change and take back; it reads by the view.
drop policy if exists own_judgement on pgembed.judgement;
create policy own_judgement on pgembed.judgement using (judged_by operator(pg_catalog.=) current_user);

create or replace function pgembed._pair_digest(p_query text, p_key text) returns bytea
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select pgembed._hash(array[p_query, p_key]::text)
$$;
comment on function pgembed._pair_digest(text, text) is 'SHA-256 of a query and the text of a key, which may be longer than an index takes.';

-- As whoever writes: one row and query have one judgement of a role, however the key is written.
create or replace function pgembed._judgement_written() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        perform pgembed._search_arms(new.source, null, false, false);    -- PE001
        perform pgembed._check_query(new.query);
        new.key := pgembed._row_key(new.source, new.key);
        new.digest := pgembed._pair_digest(new.query, new.key);
    end if;
    new.judged_at := clock_timestamp();
    new.key_columns := pgembed._key_names(new.source);
    new.key_numbers := pgembed._key_columns(new.source);
    new.missing_since := null;
    return new;
end
$$;
comment on function pgembed._judgement_written() is 'Fills in all that a role does not say itself when it judges; PE009 for a row that it does not see.';

-- Whoever gives a digest is pgembed's owner, and restores.
create or replace trigger judged before insert on pgembed.judgement
    for each row when (new.digest is null) execute function pgembed._judgement_written();
create or replace trigger judged_again before update of grade on pgembed.judgement
    for each row execute function pgembed._judgement_written();

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
    given constant text := pgembed._key_given(judge.key);
begin
    perform pgembed._check_query(judge.query);
    if judge.grade not between 0 and 3 then
        raise exception 'grade must be between 0 and 3, not %', judge.grade using errcode = 'PE007',
            hint = '0 is not relevant; 1, 2 and 3 more and more so; NULL takes a judgement back.';
    end if;
    if judge.grade is null then
        delete from pgembed.judgement as j
        where j.source = judged and j.judged_by = current_user
          and j.digest = pgembed._pair_digest(judge.query, pgembed._row_key(judged, given));
    else
        insert into pgembed.judgement (source, query, key, grade) values (judged, judge.query, given, judge.grade)
        on conflict (source, judged_by, digest) do update set grade = judge.grade;
    end if;
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
    perform from pgembed._judged_rows(judged, '{}');    -- whoever may not read the table is told, whatever was judged
    perform set_config('pgembed.judged', judged::oid::text, true), set_config('pgembed.judged_query', only_query, true);
    return query
        select j.query, j.key, j.grade::int8, j.judged_by::text, j.judged_at from pgembed._seen_judgement as j
        where judgements.only_query is null or j.query = judgements.only_query
        order by j.query, j.grade desc, j.judged_at, j.digest;
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
    names constant text[] := pgembed._key_names(t.source);
    numbers constant int2[] := pgembed._key_columns(t.source);
    keys text[];
    found_keys text[] := '{}';
begin
    if numbers <> '{}' and exists (select from pgembed.judgement as j where j.source = t.source) then
        execute format('select array(select k.key from %s as k)', pgembed._judged_keys_sql(t.source)) into keys
        using array(select distinct j.key from pgembed.judgement as j where j.source = t.source and pgembed._is_same_key(j, names, numbers));
        begin
            found_keys := pgembed._keys_of_rows(t, keys);
        exception when sqlstate 'PE016' or sqlstate 'PE018' then
            return;    -- nothing is known now
        end;
    end if;
    -- Whatever its columns are called by now, and what their numbers are after a restore.
    update pgembed.judgement as j
    set missing_since = case when f.found then null else coalesce(j.missing_since, clock_timestamp()) end,
        key_columns = case when f.found then names else j.key_columns end, key_numbers = case when f.found then numbers else j.key_numbers end
    from (select x.ctid as place, pgembed._is_same_key(x, names, numbers) and k.key is not null as found
          from pgembed.judgement as x left join unnest(found_keys) as k(key) on k.key = x.key where x.source = t.source) as f
    where j.ctid = f.place and (not f.found and j.missing_since is null
           or f.found and (j.missing_since, j.key_columns, j.key_numbers) is distinct from (null, names, numbers));
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
