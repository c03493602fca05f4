-- The durable queue and its surroundings. The queue is append-only for writers:
-- an application's transaction inserts and never waits for a row that a service
-- has locked. not_before is ready time, lease expiry and back-off in one, so
-- that one index serves them all.

create table pgembed.queue (
    -- Cached, so that many writers do not meet at the sequence: seq names a job, and
    -- tells nothing of its age.
    seq          bigint generated always as identity (cache 32) primary key,
    embedding_id int not null,
    key          text,
    op           "char" not null,    -- no CHECK: it would double the cost of an insert
    priority     smallint not null default 0,
    not_before   timestamptz not null default now(),
    attempts     smallint not null default 0
) with (
    -- Every job is inserted, leased once and deleted: vacuum by count, at once.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000
);
create index queue_ready_idx on pgembed.queue (embedding_id, priority, not_before, seq);

comment on table pgembed.queue is
    'Durable record of the row changes that the encoder service has still to work off.';
comment on column pgembed.queue.key is
    'Primary key of the source row as text; a composite key is the text form of a text[].';
comment on column pgembed.queue.op is
    'U inserted or updated, D deleted, T truncated, R the whole table is to be scanned again.';
comment on column pgembed.queue.priority is '0 fresh change, 1 bulk statement, 2 backfill.';
comment on column pgembed.queue.not_before is
    'When the job may be claimed: ready time, lease expiry and retry back-off in one.';
comment on column pgembed.queue.attempts is
    'Counted at claim, so that a job that kills the service counts too.';

create table pgembed.dead_letter (
    seq          bigint primary key,
    embedding_id int not null,
    key          text,
    op           "char" not null,
    attempts     smallint not null,
    error        text not null,
    failed_at    timestamptz not null default now()
);
create index dead_letter_embedding_idx on pgembed.dead_letter (embedding_id);
create index dead_letter_key_idx on pgembed.dead_letter using hash (key);    -- of any length

comment on table pgembed.dead_letter is
    'Jobs that failed for good, with their error; pgembed.retry() queues them again.';

create unlogged table pgembed.write_lock (
    embedding_id int,
    key          text,
    primary key (embedding_id, key)
);
comment on table pgembed.write_lock is
    'One service at a time writes the vectors of a row: it inserts the row''s key here and deletes it in the '
    'same transaction, and another that comes with the same key waits. Always empty to look at.';

create table pgembed.worker (
    worker_id    uuid primary key,
    hostname     text not null,
    pid          int not null,
    version      text not null,
    models       jsonb not null default '{}',
    work         jsonb not null default '{}',
    builds       jsonb not null default '{}',
    problems     text[] not null default '{}',
    session      int,
    started_at   timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
) with (fillfactor = 50);    -- a row is updated each second

comment on table pgembed.worker is 'Running encoder services; each writes a heartbeat.';
comment on column pgembed.worker.models is
    'What it says of each model that it serves, by name: state (ready, loading, unavailable), for how many seconds, and the reason.';
comment on column pgembed.worker.work is
    'Of each embedding that it works for, by embedding_id: encoding (rows in hand) and rate (rows a second).';
comment on column pgembed.worker.builds is
    'Vector indexes that it builds, by embedding_id: phase, percent, and waits_for (process id of whom it waits for).';
comment on column pgembed.worker.problems is 'What keeps it from its duties.';
comment on column pgembed.worker.session is
    'Server process of the session that its heartbeats come from: with the service, that is gone at once. NULL: behind a transaction pooler.';

create table pgembed.index_build (
    relation     regclass primary key,
    embedding_id int not null,    -- no reference: who claims a build would wait for who drops the embedding, and that one for this table
    revision     int not null,
    worker_id    uuid not null,
    memory       bigint not null,
    notice       text
);

comment on table pgembed.index_build is
    'Tables whose vector index a service builds, as long as its heart beats.';
comment on column pgembed.index_build.revision is 'That of the embedding when it was claimed: an error of an earlier one does not count.';
comment on column pgembed.index_build.memory is 'Bytes that it takes meanwhile.';
comment on column pgembed.index_build.notice is 'What makes the build slow, and what to set; NULL: nothing.';

create table pgembed.clock (
    latest  timestamptz not null default '-infinity',
    highest timestamptz not null default '-infinity'
);
insert into pgembed.clock default values;
comment on table pgembed.clock is
    'What the server''s clock said at the latest heartbeat of a service, and the highest it ever said then: one row, '
    'by which services notice that the clock was set back.';

create table pgembed.query_embedding (
    model_id      int not null references pgembed.model on delete cascade,
    role          name not null default current_user,
    query_hash    bytea not null,
    query         text check (length(query) <= 100000),    -- as _check_query() does
    embedding     vector,
    error         text,
    requested_at  timestamptz not null default clock_timestamp(),
    wanted_until  timestamptz not null,
    attempts      smallint not null default 0,
    claimed_until timestamptz,
    answered_at   timestamptz,
    image         bytea check (octet_length(image) <= 10485760),    -- as _check_asked() does
    primary key (model_id, query_hash, role)
);
create index query_embedding_open_idx on pgembed.query_embedding (role, requested_at)
    where answered_at is null;
-- That somebody asked for something is nobody else's business.
alter table pgembed.query_embedding enable row level security;
create policy own_queries on pgembed.query_embedding
    using (role = current_user) with check (role = current_user);

comment on table pgembed.query_embedding is
    'Requests for the vector of a query, and the cache of the answers; each role sees its own.';
comment on column pgembed.query_embedding.query is
    'The query''s text, kept only until it is answered.';
comment on column pgembed.query_embedding.image is
    'In place of a text the bytes of an image file, kept only until it is answered.';
comment on column pgembed.query_embedding.wanted_until is
    'When the last caller who waits gives up; nobody encodes it after that.';
comment on column pgembed.query_embedding.attempts is
    'Claims without an answer: counted at claim, so that a query that kills the service counts too.';

create table pgembed.model_usage (
    model_id int not null references pgembed.model on delete cascade,
    day      date not null,
    tokens   bigint not null,
    primary key (model_id, day)
);
comment on table pgembed.model_usage is
    'Tokens that each hosted model was sent, by the day in UTC: as its provider counts them, by all services together.';
