-- What those who search may know of what they search.

-- A view keeps the operators that the path finds.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

create or replace function pgembed._words_unread(p_bm25_id int) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    unread boolean := true;
begin
    if to_regclass(pgembed._bm25_part(p_bm25_id, 'dead')) is not null then
        execute format('select exists (select from %s where op = ''R'')', pgembed._bm25_part(p_bm25_id, 'dead')) into unread;
    end if;
    return unread;
end
$$;
comment on function pgembed._words_unread(int) is
    'Whether a BM25 index must read its table again, as rows may be missing, for callers who may not read its parts.';

create or replace view pgembed._searchable with (security_barrier) as
select x.kind, x.id, x.name, x.source, x.label, x.state, x.state_reason,
       t.capture as captured,
       t.unseen or case x.kind when 'embedding' then e.backfill_state = 'pending' else x.state = 'pending' or pgembed._words_unread(x.id) end as filling,
       -- In the order of its index on embedding_id: other ways lead through what waits for others.
       x.kind = 'embedding' and (select true from pgembed.queue as q where q.embedding_id = x.id
                                 order by q.priority, q.not_before limit 1) is true as waits,
       jobs.first_seq, jobs.last_seq
from pgembed._standing as x
left join pgembed.embedding as e on x.kind = 'embedding' and e.embedding_id = x.id
left join pgembed.bm25 as b on x.kind = 'bm25' and b.bm25_id = x.id
join pgembed.captured_text as t on t.text_id = coalesce(e.text_id, b.text_id)
-- Their numbers would tell how many rows there are that row security hides.
left join lateral (
    -- A generation that takes its place has the same changes with numbers of their own.
    select min(q.seq) filter (where q.embedding_id = x.id) as first_seq, max(q.seq) as last_seq
    from (select x.id as embedding_id union all select g.embedding_id from pgembed.embedding as g where g.current_id = x.id) as g
    cross join lateral (
        select q.embedding_id, q.seq from pgembed.queue as q where q.embedding_id = g.embedding_id order by q.priority, q.not_before offset 0) as q
) as jobs on x.kind = 'embedding' and not row_security_active(x.source)
where has_any_column_privilege(x.source::oid, 'select') and e.generation is distinct from 'next' and e.generation is distinct from 'previous';
comment on view pgembed._searchable is
    'Each embedding and BM25 index of the tables that the caller may read: whether its table is read as a whole, whether '
    'jobs wait; the first and the last, NULL for whom row security restricts.';

create or replace view pgembed.search_status with (security_barrier) as
select pgembed._schema_of(x.source) as schema, x.source, x.kind, x.name, m.name as model, x.state, x.state_reason, x.filling,
       case when row_security_active(x.source) or x.kind <> 'embedding' then null
            else (select count(distinct w.key) from (select q.key from pgembed.queue as q where q.embedding_id = x.id
                                                      order by q.priority, q.not_before limit 10000) as w) end as waiting,
       x.captured and not x.filling and not x.waits and x.state <> 'broken' as fresh
from pgembed._searchable as x
left join (pgembed.embedding as e join pgembed.model as m using (model_id)) on x.kind = 'embedding' and e.embedding_id = x.id;
comment on view pgembed.search_status is
    'Whether what a role may search is fresh: each embedding and BM25 index of the tables that it may read, its model and state. filling: '
    'its table is read as a whole; waiting: rows in the queue (of 10,000 jobs at most), NULL for whom row security restricts; fresh: '
    'everything written can be found.';
