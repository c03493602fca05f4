-- Every statement of the encoder service. Logic is in the functions; these are
-- calls. A statement's parameters are psycopg's named ones; %(name)b is sent in
-- binary.

-- vector_schema --
-- Schema of the pgvector extension, unquoted; no row when it is not installed.
select n.nspname from pg_catalog.pg_extension as e join pg_catalog.pg_namespace as n on n.oid = e.extnamespace where e.extname = 'vector'

-- installed_functions --
-- Which of the functions that the service calls exist.
select p.proname from pg_catalog.pg_proc as p where p.pronamespace = to_regnamespace('pgembed') and p.proname = any (%(names)s::text[])

-- no_timeout --
-- Before anything that could take longer than the role's may be.
set statement_timeout = 0

-- prepare_session --
-- Settings of each connection, whatever is set for the role: row security must raise, not hide rows (a hidden row looks deleted).
select pg_catalog.set_config(s.name, s.value, %(local)s) from (values ('search_path', 'pg_catalog, pg_temp'), ('row_security', 'off'), ('default_transaction_isolation', 'read committed'), ('default_transaction_read_only', 'off'), ('default_transaction_deferrable', 'off'), ('lock_timeout', %(lock_timeout)s), ('statement_timeout', '0'), ('transaction_timeout', '0'), ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), ('jit', 'off'), ('application_name', 'pgembed service')) as s(name, value) where s.name in (select p.name from pg_catalog.pg_settings as p)

-- own_transaction --
-- Behind a pooler: a transaction as ours are, whatever is set for the role.
set transaction isolation level read committed read write

-- deadline --
-- Of the statements after it in the same transaction.
select pg_catalog.set_config('statement_timeout', %(seconds)s, true)

-- end_session --
-- Of a statement that cannot be cancelled.
select pg_catalog.pg_terminate_backend(%s)

-- recovery --
-- Whether the server is a standby.
select pg_catalog.pg_is_in_recovery()

-- discard_session --
-- After code of a table's owner ran in it.
discard all

-- backend_pid --
-- Backend that runs this statement; behind a pooler another than the one that answered the connection request.
select pg_backend_pid()

-- listen_probe --
-- A notification on a private channel: arrives only where LISTEN belongs to this session.
select pg_notify(%(channel)s, '')

-- try_sleep_lock --
-- While it is held, writers notify. See the wake-up protocol in scheduler.py.
select pg_try_advisory_lock(1885824365, 1)

-- release_sleep_lock --
-- Awake: writers need not notify. However often it was taken; this session takes no other.
select pg_advisory_unlock_all()

-- sleep_lock_holder --
-- Whether another service sleeps with the lock (else a writer's transaction is open).
select exists (select from pg_catalog.pg_locks where locktype = 'advisory' and classid = 1885824365 and objid = 1 and objsubid = 2 and mode = 'ExclusiveLock' and granted and database = (select oid from pg_catalog.pg_database where datname = current_database()))

-- embeddings --
-- Active embeddings.
select * from pgembed._embeddings_v1()

-- models --
-- Models by id.
select * from pgembed._models_v1(%(model_ids)s::int[])

-- ready --
-- Whether anything can be claimed now; else seconds (of the server's clock) until the next can.
select ready, extract(epoch from next_at - clock_timestamp())::float8 as wait_seconds from pgembed._ready_v1(%(skip)s::int[])

-- claim_fresh --
-- Leases fresh changes of several embeddings.
select embedding_id, seq, key, op, attempts, priority from pgembed._claim_fresh_v1(%(embedding_ids)s::int[], %(batch)s, make_interval(secs => %(lease)s))

-- claim --
-- Leases jobs of one embedding, by priority.
select %(embedding_id)s::int as embedding_id, seq, key, op, attempts, priority from pgembed._claim_v1(%(embedding_id)s, %(batch)s, make_interval(secs => %(lease)s))

-- backfill --
-- Queues the next page of a backfill.
select pgembed._backfill_v1(%(embedding_id)s, %(batch)s)

-- read --
-- Composed texts of rows.
select key, found, deferred, current, content, hash from pgembed._read_v1(%(embedding_id)s, %(keys)s::text[], %(max_bytes)s)

-- chunks --
-- Chunks and vectors that rows have now.
select content, embedding from pgembed._chunks_v1(%(embedding_id)s, %(keys)s::text[])

-- write --
-- Writes chunks, removes jobs.
select written, stale from pgembed._write_v1(%(embedding_id)s, %(revision)s, %(seqs)s::bigint[], %(attempts)s::smallint[], %(keys)s::text[], %(hashes)s::bytea[], %(chunk_rows)s::int[], %(chunks)s::int[], %(contents)s::text[], %(embeddings)b)

-- write_nothing --
-- The same where no row has a chunk: an empty array says nothing of its type.
select written, stale from pgembed._write_v1(%(embedding_id)s, %(revision)s, %(seqs)s::bigint[], %(attempts)s::smallint[], %(keys)s::text[], %(hashes)s::bytea[], '{}', '{}', '{}', '{}')

-- release --
-- Gives jobs back.
select pgembed._release_v1(%(seqs)s::bigint[], %(attempts)s::smallint[], make_interval(secs => %(delay)s), %(refund)s)

-- extend --
-- Renews leases.
select pgembed._extend_v1(%(seqs)s::bigint[], %(attempts)s::smallint[], make_interval(secs => %(lease)s))

-- fail --
-- Records a failure of one job.
select pgembed._fail_v1(%(embedding_id)s, %(seq)s, %(attempts)s::smallint, %(error)s, make_interval(secs => %(delay)s))

-- control --
-- Performs a job on the whole table.
select pgembed._control_v1(%(embedding_id)s, %(seq)s, %(attempts)s::smallint, %(op)s::"char")

-- follow --
-- Looks at the table of an embedding; whether it can be read at all.
select pgembed._follow_v1(%(embedding_id)s)

-- broken --
-- Takes an embedding out of service.
select pgembed._broken_v1(%(embedding_id)s, %(revision)s, %(reason)s)

-- model_seen --
-- Tells what has been loaded.
select pgembed._model_seen_v1(%(model_id)s, %(dimensions)s, %(max_tokens)s, %(normalized)s, %(fingerprint)s, %(images)s)

-- spend --
-- Counts tokens of a hosted model; NULL: that is more than the most of a day.
select pgembed._spend_v1(%(model_id)s, %(tokens)s, %(most)s)

-- stored_model --
-- A static model that is in the database.
select * from pgembed._stored_model_v1(%(model_id)s)

-- stored_tokens --
-- Its vocabulary.
select token, token_id from pgembed._stored_tokens_v1(%(tokenizer_id)s)

-- stored_vectors --
-- A page of its vectors.
select token_id, is_half, sent from pgembed._stored_vectors_v1(%(encoder_id)s, %(after)s, %(n)s)

-- heartbeat --
-- Says that this service is alive.
select pgembed._heartbeat_v1(%(worker_id)s, %(hostname)s, %(pid)s, %(version)s, %(models)s::jsonb, %(work)s::jsonb, %(problems)s::text[], case when %(keeps_session)s then pg_catalog.pg_backend_pid() end)

-- goodbye --
-- Says that it stops.
select pgembed._goodbye_v1(%(worker_id)s)

-- texts --
-- Captured texts, by id.
select text_id from pgembed.captured_text order by text_id

-- reconcile_text --
-- Finds what has changed of one table behind pgembed's back.
select pgembed._reconcile_text_v1(%(text_id)s)

-- reconcile --
-- Finds what else has changed behind pgembed's back.
select pgembed._reconcile_rest_v1()

-- measures --
-- Rows of each embedding by what they are, for metrics.
select embedding, rows, embedded, waiting, encoding, failed, oldest_seconds from pgembed._measures_v1()

-- findings --
-- What the doctor finds, for metrics.
select severity, code, embedding, findings from pgembed._findings_v1(%(worker_id)s)

-- query_encoders_due --
-- Which query encoders are to be trained.
select embedding_id, name, model_id, why from pgembed._query_encoders_due_v1(%(skip)s::int[])

-- query_claim --
-- Leases queries.
select model_id, role, query_hash, query, attempts, is_image from pgembed._query_claim_v1(%(n)s, make_interval(secs => %(lease)s), %(busy)s::int[], %(served)s::text[])

-- query_extend --
-- Renews leases of queries.
select pgembed._query_extend_v1(%(model_ids)s::int[], %(roles)s::name[], %(hashes)s::bytea[], make_interval(secs => %(lease)s))

-- query_answer --
-- Answers a query.
select pgembed._query_answer_v1(%(model_id)s, %(role)s::name, %(query_hash)s, %(embedding)s, %(error)s)

-- bm25_due --
-- BM25 indexes with work to do.
select bm25_id, name from pgembed._bm25_due_v1(%(erase_seconds)s)

-- bm25_maintain --
-- Does what is due for one; NULL when there was nothing, or another service is at it.
select pgembed._bm25_maintain_v1(%(bm25_id)s, %(erase_seconds)s)

-- index_next --
-- The next index to build.
select embedding_id, ddl from pgembed._index_next_v1(%(worker_id)s, %(most_memory)s)

-- index_done --
-- Ends an index build.
select pgembed._index_done_v1(%(embedding_id)s, %(error)s, %(worker_id)s)

-- projections_due --
-- Which projections are to be learnt.
select embedding_id, name, dimensions, model_dimensions from pgembed._projections_due_v1()

-- projection_sample --
-- Vectors to learn one from.
select * from pgembed._projection_sample_v1(%(embedding_id)s, %(most)s)

-- projection_learnt --
-- Stores one.
select pgembed._projection_learnt_v1(%(embedding_id)s, %(axes)b, %(vectors)s)

-- projection --
-- The matrix of one, row by row.
select axis from pgembed._projection_v1(%(projection_id)s)

-- switch_due --
-- Has complete generations of embeddings take the place of earlier ones.
select pgembed._switch_due_v1()
