-- wait and is_fresh: whether what was written can be searched yet. For applications: they
-- run with the caller's rights, and look at the tables that the caller may read.

create or replace function pgembed._transaction_refusal() returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    refusal text;
begin
    begin
        commit;
    exception when invalid_transaction_termination then
        get stacked diagnostics refusal := message_text;
    end;
    return refusal;
end
$$;
comment on function pgembed._transaction_refusal() is
    'What the server says, in its language, to a COMMIT where none can be: in a function, or a transaction block.';

create or replace procedure pgembed._check_may_commit(p_procedure text, p_has_written boolean, p_hint text)
language plpgsql
as $$
declare
    refusal pg_catalog.text;
begin
    -- The server tells nobody whether this is a transaction block. A COMMIT in a subtransaction
    -- is always refused, but in a block for another reason, which a function shows.
    begin
        commit;
    exception when invalid_transaction_termination then
        get stacked diagnostics refusal := message_text;
    end;
    -- What the caller's procedure has written is not ours to commit.
    if p_has_written or refusal operator(pg_catalog.=) pgembed._transaction_refusal() then
        raise exception '% commits, so it cannot run inside a transaction block', p_procedure
            using errcode = 'invalid_transaction_termination', hint = p_hint;
    end if;
end
$$;
comment on procedure pgembed._check_may_commit(text, boolean, text) is
    '2D000 where a procedure cannot commit, or should not as its caller has written.';

create or replace function pgembed._check_timeout(p_timeout float8) returns interval
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_timeout is null or not (p_timeout > 0 and p_timeout <= 3600) then
        raise exception 'timeout must be more than 0 and at most 3600 seconds, not %',
            coalesce(p_timeout::text, 'NULL') using errcode = 'PE007', hint = 'The default is 10.';
    end if;
    return make_interval(secs => p_timeout);
end
$$;
comment on function pgembed._check_timeout(float8) is 'Seconds to wait, or PE007.';

create or replace function pgembed._waited_table(p_source text, p_path text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    waited regclass;
begin
    if p_source is null then
        return null;
    end if;
    waited := pgembed._table_named(p_source, p_path);
    -- A view could call functions when it is planned: it is no table that was declared.
    if not exists (select from pgembed.embedding where source = waited union all select from pgembed.bm25 where source = waited) then
        raise exception 'table % has neither an embedding nor a BM25 index', waited using errcode = 'PE001',
            hint = 'Declare one with pgembed.create_embedding or pgembed.create_bm25; of a partitioned table name the parent.';
    end if;
    execute format('select from %s limit 0', pgembed._table_sql(waited));    -- who may not read it, may not ask
    return waited;
end
$$;
comment on function pgembed._waited_table(text, text) is
    'The table that is to be looked at, which the caller may read; NULL: all. PE001, PE003.';

create or replace function pgembed._waiting(p_source oid, p_last bigint, out waiting text, out filling boolean, out last_job bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    part record;
    names text[] := '{}';
begin
    filling := false;
    for part in select * from pgembed._searchable as x where p_source is null or x.source = p_source order by x.label loop
        last_job := greatest(last_job, part.last_seq);
        continue when part.captured and part.state <> 'broken' and not part.filling
            and (not part.waits or part.first_seq > coalesce(p_last, part.last_seq));    -- NULL under row security: until nothing waits
        if part.state = 'broken' then
            raise exception '"%" is broken, so what was written will not be searchable', part.label using errcode = 'PE016',
                detail = coalesce(part.state_reason, ''), hint = format('Mend the table or the text, then: SELECT pgembed.repair(%L).', part.label);
        elsif part.state = 'paused' or not part.captured then
            raise exception '"%" is paused, so what was written will not be searchable', part.label using errcode = 'PE007',
                hint = format('Resume it first: SELECT pgembed.resume_embedding(%L).', part.label);
        end if;
        filling := filling or part.filling;
        if part.label <> all (names) then    -- an embedding and its BM25 index have one name
            names := names || part.label;
        end if;
    end loop;
    waiting := nullif(array_to_string(names, ', '), '');
end
$$;
comment on function pgembed._waiting(oid, bigint) is
    'What of a table (NULL: of all that the caller may read) is not searchable yet of the changes up to a job (NULL: of all), NULL: nothing; '
    'whether a table is read as a whole; the last job that there is. PE007, PE016 where it will not be searchable.';

create or replace procedure pgembed.wait(source text default null, timeout float8 default 10)
language plpgsql
as $$
declare
    -- It commits, so it can have no search_path of its own: every name is qualified.
    has_written constant boolean := pg_catalog.pg_current_xact_id_if_assigned() is not null;
    deadline constant pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) pgembed._check_timeout(timeout);
    waited constant pg_catalog.oid := pgembed._waited_table(source, pg_catalog.current_setting('search_path'));
    until bigint;    -- the last job that is waited for; NULL: that is not known yet
    look pg_catalog.record;
    looked pg_catalog.timestamptz;
    pause pg_catalog.float8 := 0.001;    -- seconds
begin
    call pgembed._check_may_commit('pgembed.wait()', has_written,
        'Commit first, and call it outside of a transaction (in autocommit mode): what is not committed cannot become searchable.');
    loop
        looked := pg_catalog.clock_timestamp();
        select * into look from pgembed._waiting(waited, until);
        exit when look.waiting is null;
        -- What a fill will queue still is waited for too.
        until := case when not look.filling then coalesce(until, look.last_job) end;
        if pg_catalog.clock_timestamp() operator(pg_catalog.>) deadline then
            raise exception 'not everything that was written is searchable after % seconds', timeout using errcode = 'PE019',
                detail = pg_catalog.concat('Waiting: ', look.waiting, '. ', case when pgembed._service_alive_public() then 'An encoder service is running.'
                                                                       else 'No encoder service is running: start one with pgembed serve.' end),
                hint = 'Wait for longer (timeout => 60), or look at pgembed.search_status and, as pgembed''s owner, pgembed.doctor().';
        end if;
        commit;    -- each look has a new snapshot
        -- Where very many jobs wait, a look takes its time.
        perform pg_catalog.pg_sleep(greatest(pause, 2::pg_catalog.float8 operator(pg_catalog.*)
            pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() operator(pg_catalog.-) looked)));
        pause := least(pause operator(pg_catalog.*) 1.5::pg_catalog.float8, 0.1::pg_catalog.float8);
    end loop;
end
$$;
comment on procedure pgembed.wait(text, float8) is
    'Waits until all that is committed of a table (NULL: of all tables that the caller may read) can be found by words and by meaning, '
    'timeout in seconds; then PE019. What others write meanwhile is not waited for, nor rows that failed for good '
    '(pgembed.failed). Cannot run inside a transaction block. Example: CALL pgembed.wait(''article'');';

create or replace function pgembed.is_fresh(source text default null) returns boolean
language plpgsql stable
as $$
declare
    waited constant pg_catalog.oid := pgembed._waited_table(source, pg_catalog.current_setting('search_path'));
begin
    return not exists (select from pgembed.search_status as x
                       where not x.fresh and (waited is null or x.source operator(pg_catalog.=) waited));
end
$$;
comment on function pgembed.is_fresh(text) is
    'Whether everything that was written to a table (NULL: to all that the caller may read) can be found by words and by meaning. '
    'Example: SELECT pgembed.is_fresh(''article'');';
