-- Who may read the source may read what was made of its text, and no one else; row
-- security of the source holds there too. Both follow the source both ways.

create or replace function pgembed._readers(t pgembed.captured_text) returns table (role oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- 0 is PUBLIC. A role reads the text that may read each of its columns and the key, be
    -- it by a right on the table or on columns, its own or PUBLIC's.
    with granted as (
        select a.grantee, null::int2 as attnum
        from pg_class as c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as a
        where c.oid = (t).source and a.privilege_type = 'SELECT'
        union
        select a.grantee, c.attnum
        from pg_attribute as c, aclexplode(c.attacl) as a
        where c.attrelid = (t).source and not c.attisdropped and a.privilege_type = 'SELECT')
    select g.grantee
    from (select distinct grantee from granted) as g
    where g.grantee <> pgembed._own()
      and (g.grantee = 0 or exists (select from pg_roles where oid = g.grantee))
      and not exists (
        select from unnest(pgembed._captured_columns(t)) as needed(attnum)
        where not exists (select from granted as x where x.grantee in (g.grantee, 0) and coalesce(x.attnum, needed.attnum) = needed.attnum))
$$;
comment on function pgembed._readers(pgembed.captured_text) is
    'Roles that may read the text of a table (0: PUBLIC), pgembed''s owner left out.';

create or replace function pgembed._role_sql(p_role oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case p_role when 0 then 'public' else quote_ident(pg_get_userbyid(p_role)) end
$$;
comment on function pgembed._role_sql(oid) is 'A role as GRANT takes it; 0: public.';

create or replace function pgembed._shared_relations(t pgembed.captured_text)
returns table (kind text, object text, acl aclitem[], columns text, own oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'table', pgembed._table_sql(c.oid), c.relacl, null, c.relowner
    from pgembed.embedding as e join pg_class as c on c.oid = e.side_table
    where e.text_id = (t).text_id
    union all
    -- Where all rows may be seen, keys and scores are enough; under row security a caller is
    -- ranked over the words of the rows that the caller sees.
    select 'columns', pgembed._table_sql(c.oid),
           (select a.attacl from pg_attribute as a where a.attrelid = c.oid and a.attname = 'key'),
           case when not c.relrowsecurity then case part when 'doc' then 'slot, key' else 'version, key' end
                else case part when 'dead' then 'key, version, op' else 'key, version, length, lexemes'
                               || case part when 'doc' then ', slot' else '' end end end,
           c.relowner
    from pgembed.bm25 as b
    cross join unnest(array['doc', 'recent', 'dead']) as part
    join pg_class as c on c.oid = to_regclass(pgembed._bm25_part(b.bm25_id, part))
    where b.text_id = (t).text_id and (part <> 'dead' or c.relrowsecurity)
    union all
    select 'function', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), null, p.proowner
    from pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace
      and (p.proname in (select format('_text_%s_%s', (t).text_id, part) from unnest(array['current', 'compose', 'config']) as part)
           or p.proname in (select format('_bm25_%s_%s', b.bm25_id, part)
                            from pgembed.bm25 as b cross join unnest(array['top', 'top_spelling', 'rank', 'rank_spelling', 'weights', 'matches', 'keys', 'key']) as part
                            where b.text_id = (t).text_id))
$$;
comment on function pgembed._shared_relations(pgembed.captured_text) is
    'What the readers of a captured text are given: side tables, keys (and words) of documents, functions.';

create or replace function pgembed._readers_differ(t pgembed.captured_text)
returns table (kind text, object text, columns text, role oid, may_read boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with wanted as materialized (select r.role from pgembed._readers(t) as r)
    select o.kind, o.object, o.columns, d.role, d.may_read
    from pgembed._shared_relations(t) as o
    cross join (select relrowsecurity as secured from pg_class where oid = (t).source) as s
    cross join lateral (
        select coalesce(w.role, h.grantee) as role, w.role is not null as may_read
        from (select distinct x.grantee from aclexplode(o.acl) as x
              where x.privilege_type in ('SELECT', 'EXECUTE') and x.grantee not in (o.own, pgembed._own())) as h
        full join (select w.role from wanted as w
                   -- Past row security only who is past it: the table's owner, and BYPASSRLS; that is
                   -- not inherited, as EXECUTE is, so a role with heirs is left out.
                   where w.role <> o.own and (o.object !~ '^pgembed\._bm25_\d+_rank' or w.role = pgembed._owner_of((t).source)
                                              or exists (select from pg_roles as x where x.oid = w.role and (x.rolbypassrls or x.rolsuper)
                                                           and not exists (select from pg_auth_members as m where m.roleid = x.oid and m.inherit_option)))
                     -- The policy of a side table reads the whole row.
                     and (o.kind <> 'table' or not secured or not exists (
                         select from pg_attribute as a where a.attrelid = (t).source and a.attnum > 0 and not a.attisdropped
                                                         and not has_column_privilege(w.role, a.attrelid, a.attnum, 'select')))) as w
          on w.role = h.grantee
        where w.role is null or h.grantee is null) as d
$$;
comment on function pgembed._readers_differ(pgembed.captured_text) is
    'Roles that may read the source and not what was made of it, or the reverse.';

create or replace function pgembed._opened_tables(t pgembed.captured_text) returns table (object text, role oid)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- As GRANT ON ALL TABLES IN SCHEMA gives them: no policy holds in a partition that is read by its own name.
    select pgembed._table_sql(c.oid), a.grantee
    from (select x.relation::oid as relid from pgembed.embedding as e cross join lateral pgembed._partitions(e.side_table) as x
          where e.text_id = (t).text_id
          union all
          select to_regclass(pgembed._bm25_part(b.bm25_id, r.part)) from pgembed.bm25 as b cross join pgembed._bm25_relations() as r
          where b.text_id = (t).text_id) as made
    join pg_class as c on c.oid = made.relid
    cross join lateral (select distinct x.grantee from aclexplode(c.relacl) as x where x.grantee not in (c.relowner, pgembed._own())) as a
$$;
comment on function pgembed._opened_tables(pgembed.captured_text) is
    'Roles with rights on tables made of a text that nobody but pgembed''s owner may have: partitions of vectors, and tables of words as wholes.';

create or replace function pgembed._source_policy_sql(t pgembed.captured_text, p_table oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- What a row said before may have been another's to read: hence the hash, and the version.
    select case
        when exists (select from pgembed.embedding as e where e.side_table = p_table) then format(
            'exists (select from %s as pgembed_source where %s%s)', source,
            pgembed._key_sql((t).source, p_table, format('pgembed_source.%%2$I %%7$s %s.%%3$I', replace(made, '%', '%%')), ' and '),
            case when (t).volatility = 'immutable'
                 then format(' and pgembed._text_%s_current(pgembed_source, %s.text_hash)', (t).text_id, made) else '' end)
        else format('%sexists (select from %s as pgembed_source where %s)%s',
            case when made = dead then 'op <> ''D'' or ' else '' end, source,
            pgembed._key_sql((t).source, null, 'pgembed_source.%2$I %7$s %5$s::%4$s', ' and ', made || '.key'),
            case when made <> dead then format(
                ' and not exists (select from %1$s as d where (d.op <> ''D'' or d.key = %2$s.key) and d.version > %2$s.version)', dead, made)
                else '' end) end
    from (select pgembed._table_sql((t).source) as source, pgembed._table_sql(p_table) as made,
                 (select pgembed._bm25_part(b.bm25_id, 'dead') from pgembed.bm25 as b where b.text_id = (t).text_id) as dead) as x
$$;
comment on function pgembed._source_policy_sql(pgembed.captured_text, oid) is
    'Condition of the policy of a table that was made of a text: the caller sees the row of the source.';

create or replace function pgembed._secured_tables(t pgembed.captured_text) returns table (relid oid, secured boolean, rule text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.oid, c.relrowsecurity, (
        select obj_description(p.oid, 'pg_policy') from pg_policy as p where p.polrelid = c.oid and p.polname = 'pgembed_source')
    from pg_class as c
    where c.oid in (select e.side_table from pgembed.embedding as e where e.text_id = (t).text_id
                    union all
                    select to_regclass(pgembed._bm25_part(b.bm25_id, part))
                    from pgembed.bm25 as b cross join unnest(array['doc', 'recent', 'dead']) as part where b.text_id = (t).text_id)
$$;
comment on function pgembed._secured_tables(pgembed.captured_text) is
    'Tables made of a text that have the row security of its source, and the rule of their policy.';

create or replace function pgembed._security_differs(t pgembed.captured_text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(bool_or(x.secured <> c.relrowsecurity
                            or c.relrowsecurity and x.rule is distinct from pgembed._source_policy_sql(t, x.relid)), false)
    from pg_class as c cross join pgembed._secured_tables(t) as x
    where c.oid = (t).source
$$;
comment on function pgembed._security_differs(pgembed.captured_text) is
    'Whether row security of the source was switched on or off, or its key changed, since it was taken over.';

create or replace function pgembed._sync_security(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    secure constant boolean := (select relrowsecurity from pg_class where oid = t.source);
    made record;
    rule text;
    reader text;
begin
    for made in select * from pgembed._secured_tables(t) loop
        rule := pgembed._source_policy_sql(t, made.relid);
        -- Nothing is done where nothing changed: it would lock out writers.
        continue when made.secured = secure and (not secure or made.rule is not distinct from rule);
        execute format('drop policy if exists pgembed_source on %s', pgembed._table_sql(made.relid));
        execute format('alter table %s %s row level security', pgembed._table_sql(made.relid), case when secure then 'enable' else 'disable' end);
        if secure then
            execute format('create policy pgembed_source on %s for select using (%s)', pgembed._table_sql(made.relid), rule);
            execute format('comment on policy pgembed_source on %s is %L', pgembed._table_sql(made.relid), rule);
        end if;
        -- Other columns are open now: what was granted is granted anew.
        for reader in
            select distinct pgembed._role_sql(a.grantee) from pg_attribute as c, aclexplode(c.attacl) as a
            where c.attrelid = made.relid and a.grantee <> pgembed._own()
        loop
            execute format('revoke all on %s from %s', pgembed._table_sql(made.relid), reader);
        end loop;
    end loop;
end
$$;
comment on function pgembed._sync_security(pgembed.captured_text) is
    'Gives the tables made of a text the row security of the source.';

create or replace function pgembed._sync_readers(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    d record;
    statement text;
begin
    for d in select * from pgembed._opened_tables(t) loop    -- with the columns, which are given again
        execute format('revoke all on %s from %s cascade', d.object, pgembed._role_sql(d.role));
    end loop;
    for d in select * from pgembed._readers_differ(t) loop
        statement := format('%s %s on %s %s %s %s%s', case when d.may_read then 'grant' else 'revoke' end,
            case d.kind when 'table' then 'select' when 'columns' then format('select (%s)', d.columns) else 'execute' end,
            case d.kind when 'function' then 'function' else 'table' end, d.object,
            case when d.may_read then 'to' else 'from' end, pgembed._role_sql(d.role),
            case when d.may_read then '' else ' cascade' end);
        if d.object like 'pgembed.\_text\_%' then    -- it belongs to the table's owner
            perform pgembed._run_as_owner(t.text_id, statement);
        else
            execute statement;
        end if;
    end loop;
end
$$;
comment on function pgembed._sync_readers(pgembed.captured_text) is
    'Gives what was made of a text the readers of its source, and takes it from those who are none any more.';

create or replace function pgembed._sync_privileges(t pgembed.captured_text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if pgembed._security_differs(t) then
        perform pgembed._sync_security(t);
    end if;
    perform pgembed._sync_readers(t);
end
$$;
comment on function pgembed._sync_privileges(pgembed.captured_text) is
    'Has readers and row security of what was made of a text follow its source.';
