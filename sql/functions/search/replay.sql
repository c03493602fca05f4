-- Reading your own writes on a standby: wait until it has replayed what was committed on the
-- primary. It is the caller's session on the standby that waits.

create or replace procedure pgembed.wait_for_replay(lsn pg_lsn, timeout float8 default 10)
language plpgsql
as $$
declare
    -- It commits, so it can have no search_path of its own: every name is qualified.
    has_written constant boolean := not pg_catalog.pg_is_in_recovery() and pg_catalog.pg_current_xact_id_if_assigned() is not null;
    deadline constant pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) pgembed._check_timeout(timeout);
    replayed pg_catalog.pg_lsn;
    pause pg_catalog.float8 := 0.001;    -- seconds
begin
    if lsn is null then
        raise exception 'lsn is NULL' using errcode = 'PE007',
            hint = 'Ask the primary after the commit: SELECT pg_current_wal_insert_lsn().';
    end if;
    call pgembed._check_may_commit('pgembed.wait_for_replay()', has_written,
        'Call it outside of a transaction (in autocommit mode): a snapshot that is held would keep the standby from replaying.');
    loop
        replayed := case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                         else pg_catalog.pg_current_wal_insert_lsn() end;
        exit when replayed operator(pg_catalog.>=) lsn;
        if pg_catalog.clock_timestamp() operator(pg_catalog.>) deadline then
            raise exception 'this server has not replayed % after % seconds', lsn, timeout using errcode = 'PE019',
                detail = pg_catalog.format('It is at %s, %s bytes behind.', replayed, lsn operator(pg_catalog.-) replayed),
                hint = 'Wait for longer (timeout => 60), search on the primary, or look there at pg_stat_replication.';
        end if;
        commit;    -- a snapshot must not keep the server from replaying
        perform pg_catalog.pg_sleep(pause);
        pause := least(pause operator(pg_catalog.*) 1.5::pg_catalog.float8, 0.1::pg_catalog.float8);
    end loop;
end
$$;
comment on procedure pgembed.wait_for_replay(pg_lsn, float8) is
    'Waits on a standby until it has replayed the write-ahead log up to a position of its primary, so that what was committed there before can '
    'be read here; timeout in seconds, then PE019. The position is what SELECT pg_current_wal_insert_lsn() gave on the primary after the '
    'commit, and after CALL pgembed.wait(). Cannot run inside a transaction block. Example: CALL pgembed.wait_for_replay(''0/3000060'');';
