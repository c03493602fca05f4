-- Standbys: how far behind they are. Of a primary: those that are connected to it; of a standby:
-- itself, and those that follow it.

create or replace function pgembed._bytes_behind(p_lsn pg_lsn, p_replayed pg_lsn) returns numeric
language sql immutable strict
set search_path = pg_catalog, pg_temp
as $$
    select greatest(p_lsn - p_replayed, 0)
$$;
comment on function pgembed._bytes_behind(pg_lsn, pg_lsn) is
    'Bytes of the write-ahead log that are still to be replayed; NULL where that is not known.';

create or replace function pgembed._standbys()
returns table (standby text, state text, lag interval, bytes_behind numeric)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(nullif(r.application_name, ''), 'standby') || coalesce(' at ' || r.client_addr, ''), r.state, r.replay_lag,
           pgembed._bytes_behind(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, r.replay_lsn)
    from pg_stat_replication as r
    -- Others copy it, or are behind a slot of logical replication.
    where coalesce(r.state, 'streaming') in ('startup', 'catchup', 'streaming')
        and not exists (select from pg_replication_slots as s where s.active_pid = r.pid and s.slot_type <> 'physical')
    union all
    -- When nothing is written, nothing is replayed, and it is not behind for that.
    select 'this server', null,
           case when pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() then '0'::interval
                else clock_timestamp() - pg_last_xact_replay_timestamp() end,
           pgembed._bytes_behind(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    where pg_is_in_recovery()
$$;
comment on function pgembed._standbys() is
    'Standbys and how far their replay is behind, in time and in bytes of the write-ahead log. State, lag and bytes are NULL where the '
    'role is not a member of pg_read_all_stats. Of a standby: itself too.';

create or replace function pgembed._doctor_standbys()
returns table (severity text, code text, problem text, advice text)
language sql
set search_path = pg_catalog, pg_temp
as $$
    select 'warning', 'standby_behind',
           format('%s is %s behind: searches there do not see what was written since', s.standby,
                  coalesce(date_trunc('second', s.lag)::text, pg_size_pretty(s.bytes_behind))),
           'See pg_stat_replication; long searches on a standby hold up its replay for max_standby_streaming_delay.'
    from pgembed._standbys() as s
    where s.lag > interval '30 seconds' or s.lag is null and s.bytes_behind > 1024 * 1024 * 1024
$$;
comment on function pgembed._doctor_standbys() is 'Standbys that are more than half a minute, or a gigabyte, behind.';
