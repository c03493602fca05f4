-- help: what there is for people, from the catalog and its comments.

create or replace function pgembed.help(about text default null)
returns table (topic text, name text, does text, example text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with object as (
        select p.proname::text as name, d.description,
               format('%s pgembed.%I(%s);', case when p.prokind = 'p' then 'CALL' when p.proretset then 'SELECT * FROM' else 'SELECT' end, p.proname, (
                   select string_agg(case a.name when 'name' then case when p.proname ~ 'bm25' then '''article_bm25''' else '''article_embedding''' end
                                                 when 'role' then '''app''' else a.name end, ', ' order by a.place)
                   from unnest(p.proargnames[1:p.pronargs - p.pronargdefaults]) with ordinality as a(name, place))) as call
        from pg_proc as p left join pg_description as d on d.classoid = 'pg_proc'::regclass and d.objoid = p.oid
        where p.pronamespace = 'pgembed'::regnamespace and p.proname !~ '^_'
        union all
        select c.relname, d.description, format('SELECT * FROM pgembed.%I;', c.relname)
        from pg_class as c left join pg_description as d on d.classoid = 'pg_class'::regclass and d.objoid = c.oid and d.objsubid = 0
        where c.relnamespace = 'pgembed'::regnamespace and c.relkind = 'v' and c.relname !~ '^_'),
    described as (
        select case when o.name ~ '_search$|^search($|_(count|facets))|^(similar|embed|encode|wait|wait_for_replay|is_fresh|analyze|judge|judgements)$' then 'search'
                    when o.name ~ '^(duplicate|classify|outliers|recommend|centroid|similarity|nearest_words)|analogy$' then 'analysis'
                    when o.name ~ '^(create|alter|drop)_' then 'declare'
                    when o.name ~ 'usage$' then 'rights'
                    when o.name ~ 'model|weights' then 'models'
                    when o.name ~ 'status$|^(failed|workers|load|doctor|help)$' then 'watch'
                    else 'keep' end as topic,
               o.name, regexp_replace(o.description, '\s*Example: .*$', '') as comment,
               coalesce(substring(o.description from 'Example: (.*)$'), o.call) as example
        from object as o)
    select d.topic, d.name,
           case when help.about is null or lower(help.about) in (select x.topic from described as x) then substring(regexp_replace(d.comment, '\s\([^)]*\)', '', 'g') from '^.*?(?=[.:;](?:\s|$)|$)') else d.comment end,
           d.example
    from described as d
    where help.about is null or lower(help.about) in (d.topic, d.name)
       or not exists (select from described as x where lower(help.about) in (x.topic, x.name)) and strpos(d.name, lower(help.about)) > 0
    order by array_position('{search,analysis,declare,watch,keep,models,rights}', d.topic), d.name
$$;
comment on function pgembed.help(text) is
    'What pgembed has for people: functions and views, what each does, an example. About a topic: search, analysis, declare, watch, keep, '
    'models, rights. About a name, or a part of one: in full. Example: SELECT * FROM pgembed.help(''search'');';
