"""The queue: who gets which job, and that no result is ever written too late."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.fixtures.postgres import Server, prepared_by
from tests.sql.steps import (
    ARTICLE,
    Job,
    Service,
    create,
    declare,
    service_for,
    value,
    vector,
)

NAME = "article_embedding"


def make_empty(conn: psycopg.Connection) -> None:
    """Declare an embedding on an empty table."""
    conn.execute(ARTICLE)
    declare(conn)


@pytest.fixture
@prepared_by(make_empty)
def service(conn: psycopg.Connection) -> Service:
    """Give an embedding on an empty table."""
    return service_for(conn, NAME)


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection]:
    """Open a second connection."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set lock_timeout = '5s'")
        yield connection


def insert(service: Service, *ids: int) -> None:
    """Insert rows, each in a statement of its own."""
    for number in ids:
        service.conn.execute(
            "insert into article (id, body) values (%s, %s)", [number, f"text {number}"]
        )


def keys(jobs: list[Job]) -> list[str | None]:
    """Give the keys of jobs in the order of the queue."""
    return [job.key for job in sorted(jobs)]


def wait_for_lease(service: Service) -> None:
    """Let all leases run out."""
    service.conn.execute("update pgembed.queue set not_before = now() - interval '1 s'")


# Claims


def test_claim_takes_the_oldest_first(service: Service) -> None:
    insert(service, 5, 3, 4)
    assert keys(service.claim(2)) == ["5", "3"]
    assert keys(service.claim(2)) == ["4"]
    assert service.claim(2) == []


def test_claim_takes_fresh_changes_before_bulk_before_backfill(
    conn: psycopg.Connection,
) -> None:
    conn.execute(ARTICLE)
    conn.execute("insert into article (id, body) values (1, 'old')")
    service = declare(conn)
    assert service.backfill() == 1
    conn.execute(
        "insert into article (id, body) select i, 'b' from generate_series(11, 1011) i"
    )
    insert(service, 2)
    assert [(j.key, j.priority) for j in service.claim(1)] == [("2", 0)]
    bulk = service.claim(1001)
    assert {j.priority for j in bulk} == {1}
    assert [(j.key, j.priority) for j in service.claim(5)] == [("1", 2)]


def test_a_batch_is_filled_from_the_next_priority(conn: psycopg.Connection) -> None:
    conn.execute(ARTICLE)
    conn.execute("insert into article (id, body) values (1, 'old')")
    service = declare(conn)
    service.backfill()
    insert(service, 2)
    assert [
        (j.key, j.priority) for j in sorted(service.claim(), key=lambda j: j[4])
    ] == [
        ("2", 0),
        ("1", 2),
    ]


def test_a_lease_keeps_others_off_until_it_ends(service: Service) -> None:
    insert(service, 1)
    (first,) = service.claim()
    assert (first.attempts, service.claim()) == (1, [])
    wait_for_lease(service)
    (second,) = service.claim()
    assert (second.seq, second.attempts) == (first.seq, 2)


def test_ready_tells_when_the_next_lease_ends(service: Service) -> None:
    conn = service.conn
    ready = (
        "select ready, next_at - now() between '50 s' and '1 minute'"
        " from pgembed._ready_v1()"
    )
    assert conn.execute(ready).fetchone() == (False, None)
    insert(service, 1)
    assert value(conn, "select ready from pgembed._ready_v1()")
    service.claim()
    assert conn.execute(ready).fetchone() == (False, True)
    wait_for_lease(service)
    assert value(conn, "select ready from pgembed._ready_v1()")
    assert not value(
        conn, "select ready from pgembed._ready_v1(array[%s])", service.embedding_id
    )


def test_claims_at_the_same_time_are_disjoint(
    service: Service, other: psycopg.Connection
) -> None:
    insert(service, *range(1, 21))
    with service.conn.transaction(), other.transaction():
        first = service.claim(8)
        other.execute("set local lock_timeout = '100ms'")
        second = service.on(other).claim(8)
    assert keys(first) == [str(n) for n in range(1, 9)]
    assert keys(second) == [str(n) for n in range(9, 17)]


@pytest.mark.majors(18, 17, 16)
def test_eight_services_share_the_queue(service: Service, dsn: str) -> None:
    service.conn.execute(
        "insert into article (id, body) select i, 'x' from generate_series(1, 400) as i"
    )

    def drain(_: int) -> list[int]:
        taken = []
        with psycopg.connect(dsn, autocommit=True) as conn:
            while jobs := service.on(conn).claim(7):
                taken += [job.seq for job in jobs]
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [seq for seqs in pool.map(drain, range(8)) for seq in seqs]
    assert len(taken) == len(set(taken)) == 400


def test_claim_leaves_other_embeddings_alone(service: Service) -> None:
    second = declare(service.conn, "article", "title", name="second")
    insert(service, 1)
    assert len(service.claim()) == len(second.claim()) == 1


def test_a_paused_embedding_queues_and_waits(service: Service) -> None:
    conn = service.conn
    conn.execute("select pgembed.pause_embedding('article_embedding')")
    insert(service, 1)
    assert service.jobs() == [("U", "1")]
    assert not value(conn, "select ready from pgembed._ready_v1()")
    assert conn.execute("select * from pgembed._embeddings_v1()").fetchall() == []
    conn.execute("select pgembed.resume_embedding('article_embedding')")
    assert value(conn, "select ready from pgembed._ready_v1()")


def release(service: Service, job: Job, delay: str, refund: bool) -> None:
    """Give a job back."""
    service.conn.execute(
        "select pgembed._release_v1(%s, %s::smallint[], %s::interval, %s)",
        [[job.seq], [job.attempts], delay, refund],
    )


def test_a_released_job_can_be_claimed_at_once(service: Service) -> None:
    insert(service, 1)
    (job,) = service.claim()
    release(service, job, "0", refund=True)
    (again,) = service.claim()
    assert again.attempts == 1
    release(service, again, "0", refund=False)
    assert service.claim()[0].attempts == 2


def test_a_released_job_waits_out_its_delay(service: Service) -> None:
    insert(service, 1)
    release(service, service.claim()[0], "1 hour", refund=True)
    assert service.claim() == []


def extend(service: Service, jobs: list[Job], lease: str = "1 hour") -> int:
    """Renew leases."""
    extended: int = value(
        service.conn,
        "select pgembed._extend_v1(%s, %s::smallint[], %s::interval)",
        [job.seq for job in jobs],
        [job.attempts for job in jobs],
        lease,
    )
    return extended


def test_extend_renews_what_is_still_held(service: Service) -> None:
    insert(service, 1, 2)
    jobs = sorted(service.claim(lease="0"))
    (taken,) = service.claim(1)
    assert taken.seq == jobs[0].seq
    assert extend(service, jobs) == 1
    wait = "select not_before > now() + '50 min' from pgembed.queue where seq = %s"
    assert not value(service.conn, wait, jobs[0].seq)
    assert value(service.conn, wait, jobs[1].seq)


def test_who_lost_the_lease_changes_nothing(service: Service) -> None:
    insert(service, 1)
    (old,) = service.claim()
    wait_for_lease(service)
    (new,) = service.claim()
    release(service, old, "0", refund=True)
    assert fail(service, old) == "retry"
    service.control(old)
    assert service.claim() == []
    assert extend(service, [old]) == 0
    assert extend(service, [new]) == 1


def fail(service: Service, job: Job, error: str = "boom", delay: str = "0") -> str:
    """Report a failure."""
    state: str = value(
        service.conn,
        "select pgembed._fail_v1(%s, %s, %s::smallint, %s, %s::interval)",
        service.embedding_id,
        job.seq,
        job.attempts,
        error,
        delay,
    )
    return state


def test_a_job_that_fails_is_tried_again_then_kept_with_its_error(
    conn: psycopg.Connection,
) -> None:
    conn.execute(ARTICLE)
    service = declare(conn, max_attempts=3)
    insert(service, 1)
    assert [fail(service, service.claim()[0]) for _ in range(3)] == [
        "retry",
        "retry",
        "dead",
    ]
    assert service.jobs() == []
    failed = "select name, key, op::text, attempts, error from pgembed.failed"
    assert conn.execute(failed).fetchall() == [
        ("article_embedding", "1", "U", 3, "boom")
    ]
    assert value(conn, "select pgembed.retry()") == 1
    assert conn.execute(failed).fetchall() == []
    assert service.claim()[0].attempts == 1
    assert value(conn, "select pgembed.retry('article_embedding')") == 0


def test_a_failed_job_waits_before_it_is_tried_again(service: Service) -> None:
    insert(service, 1)
    assert fail(service, service.claim()[0], delay="1 hour") == "retry"
    assert service.claim() == []


def test_the_dead_letter_of_a_row_goes_when_the_row_is_embedded(
    conn: psycopg.Connection,
) -> None:
    conn.execute(ARTICLE)
    service = declare(conn, max_attempts=1)
    insert(service, 1, 2)
    for job in service.claim():
        assert fail(service, job) == "dead"
    conn.execute("update article set body = 'better' where id = 1")
    conn.execute("delete from article where id = 2")
    service.drain()
    assert value(conn, "select count(*) from pgembed.dead_letter") == 0


# Reading


def test_read_tells_what_is_to_be_done(service: Service) -> None:
    service.conn.execute(
        "insert into article (id, body) values (1, 'a'), (2, null), (3, ''), (4, 'd')"
    )
    service.drain()
    service.conn.execute("update article set body = 'new' where id = 4")
    rows = service.read(["1", "2", "3", "4", "99"])
    assert [(r.key, r.found, r.current, r.content) for r in rows] == [
        ("1", True, True, None),
        ("2", True, True, None),
        ("3", True, True, None),
        ("4", True, False, "new"),
        ("99", False, True, None),
    ]
    assert rows[1].hash is None
    assert rows[2].hash is None


def test_read_of_a_text_that_went(service: Service) -> None:
    insert(service, 1, 2)
    service.drain()
    service.conn.execute("update article set body = '' where id = 1")
    service.conn.execute("delete from article where id = 2")
    assert [(r.found, r.current, r.hash) for r in service.read(["1", "2"])] == [
        (True, False, None),
        (False, False, None),
    ]


def test_read_defers_what_is_too_much_at_once(service: Service) -> None:
    service.conn.execute(
        "insert into article (id, body) "
        "select i, repeat(i::text, 100) from generate_series(1, 4) as i"
    )
    rows = service.read(["1", "2", "3", "4"], max_bytes=250)
    assert [(r.deferred, r.content is None) for r in rows] == [
        (False, False),
        (False, False),
        (True, True),
        (True, True),
    ]
    # One text that is too long by itself is not read; its hash says that it is there.
    rows = service.read(["1", "2"], max_bytes=10)
    assert [(r.deferred, r.content is None, r.hash is None) for r in rows] == [
        (False, True, False),
        (True, True, False),
    ]


def test_ten_megabytes_of_text(service: Service) -> None:
    service.conn.execute(
        "insert into article (id, body) select 1, string_agg(md5(i::text), ' ') "
        "from generate_series(1, 320000) as i"
    )
    (row,) = service.read(["1"], max_bytes=32 << 20)
    assert row.content is not None
    assert len(row.content) > 10_000_000
    assert service.write(service.claim(), [row]) == (1, 0)
    assert service.jobs() == []


def test_chunks_lists_vectors_that_can_be_used_again(service: Service) -> None:
    service.conn.execute("insert into article (id, body) values (1, E'a\\n\\nb')")
    service.drain()
    chunks = (
        "select key, chunk, content, embedding::text from pgembed._chunks_v1(%s, %s)"
    )
    rows = service.conn.execute(chunks, [service.embedding_id, ["1", "2"]]).fetchall()
    assert [row[:3] for row in sorted(rows)] == [("1", 0, "a"), ("1", 1, "b")]
    service.conn.execute("select pgembed.reembed('article_embedding')")
    rows = service.conn.execute(chunks, [service.embedding_id, ["1"]]).fetchall()
    assert rows == []


# Writing: a vector is never written over a newer text, and never without a row


def test_write_replaces_all_chunks(service: Service) -> None:
    conn = service.conn
    conn.execute("insert into article (id, body) values (1, E'a\\n\\nb\\n\\nc')")
    service.drain()
    assert service.embedded() == {"1": "a\n\nb\n\nc"}
    conn.execute("update article set body = E'a\\n\\nz'")
    service.drain()
    assert service.embedded() == {"1": "a\n\nz"}
    conn.execute("update article set body = null")
    service.drain()
    assert service.embedded() == {}


def test_changed_while_encoding(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("update article set body = 'newer'")
    assert service.write(jobs, rows) == (0, 1)
    assert service.embedded() == {}
    assert service.jobs() == [("U", "1")]
    service.drain()
    assert service.embedded() == {"1": "newer"}


def test_late_result_of_a_lost_lease(
    service: Service, other: psycopg.Connection
) -> None:
    insert(service, 1)
    slow = service.claim()
    slow_rows = service.read_jobs(slow)
    service.conn.execute("update article set body = 'newer'")
    wait_for_lease(service)
    service.on(other).drain()
    assert service.write(slow, slow_rows) == (0, 1)
    assert service.embedded() == {"1": "newer"}


def test_late_result_that_is_still_right(
    service: Service, other: psycopg.Connection
) -> None:
    insert(service, 1)
    slow = service.claim()
    rows = service.read_jobs(slow)
    wait_for_lease(service)
    (new,) = service.on(other).claim()
    assert service.write(slow, rows) == (1, 0)
    assert service.embedded() == {"1": "text 1"}
    assert service.jobs() == [("U", "1")]  # who holds the lease removes the job
    assert service.on(other).write([new], rows) == (1, 0)
    assert service.write(slow, rows) == (1, 0)
    assert service.embedded() == {"1": "text 1"}
    assert service.jobs() == []


def test_unrelated_column_changed_while_encoding(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("update article set views = 5")
    assert service.write(jobs, rows) == (1, 0)
    assert service.embedded() == {"1": "text 1"}
    assert service.jobs() == []


def test_row_deleted_while_encoding(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("delete from article")
    service.on(service.conn).drain()
    assert service.write(jobs, rows) == (0, 1)
    assert service.embedded() == {}


def test_text_emptied_while_encoding(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("update article set body = null")
    service.drain()
    assert service.write(jobs, rows) == (0, 1)
    assert service.embedded() == {}


def test_late_removal_of_a_row_that_came_back(service: Service) -> None:
    insert(service, 1)
    service.drain()
    service.conn.execute("delete from article")
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    assert rows[0].hash is None
    insert(service, 1)
    assert service.write(jobs, rows) == (0, 1)
    assert service.embedded() == {"1": "text 1"}
    service.drain()
    assert service.embedded() == {"1": "text 1"}


def test_text_that_changed_there_and_back(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("update article set body = 'b'")
    service.conn.execute("update article set body = 'text 1'")
    assert service.write(jobs, rows) == (1, 0)
    assert service.embedded() == {"1": "text 1"}
    service.drain()
    assert service.embedded() == {"1": "text 1"}


def test_a_slow_write_and_a_newer_one(
    service: Service, other: psycopg.Connection
) -> None:
    """The write whose text is older commits first, however slow it is."""
    insert(service, 1)
    old = service.claim()
    old_rows = service.read_jobs(old)
    with ThreadPoolExecutor(1) as pool:
        with service.conn.transaction():
            assert service.write(old, old_rows) == (1, 0)
            other.execute("update article set body = 'newer'")
            newer = pool.submit(service.on(other).drain)
            with pytest.raises(TimeoutError):
                newer.result(timeout=0.3)
        assert newer.result(timeout=10) == 1
    assert service.embedded() == {"1": "newer"}


def test_a_slow_write_and_a_deletion(
    service: Service, other: psycopg.Connection
) -> None:
    insert(service, 1)
    old = service.claim()
    old_rows = service.read_jobs(old)
    with ThreadPoolExecutor(1) as pool:
        with service.conn.transaction():
            service.write(old, old_rows)
            other.execute("delete from article")
            newer = pool.submit(service.on(other).drain)
            with pytest.raises(TimeoutError):
                newer.result(timeout=0.3)
        newer.result(timeout=10)
    wait_for_lease(service)
    service.drain()
    assert service.embedded() == {}


def test_a_slow_write_and_a_text_that_came_back(
    service: Service, other: psycopg.Connection
) -> None:
    """What is up to date when read may be about to be overwritten."""
    insert(service, 1)
    service.drain()
    service.conn.execute("update article set body = 'b'")
    slow = service.claim()
    slow_rows = service.read_jobs(slow)
    with ThreadPoolExecutor(1) as pool:
        with service.conn.transaction():
            assert service.write(slow, slow_rows) == (1, 0)
            other.execute("update article set body = 'text 1'")
            newer = pool.submit(service.on(other).drain)
            with pytest.raises(TimeoutError):
                newer.result(timeout=0.3)
        newer.result(timeout=10)
    wait_for_lease(service)
    service.drain()
    assert service.embedded() == {"1": "text 1"}


def test_two_services_that_write_the_same_rows_do_not_deadlock(
    service: Service, dsn: str
) -> None:
    service.conn.execute(
        "insert into article (id, body) "
        "select i, 'x' || i from generate_series(1, 50) as i"
    )
    rows = service.read([str(n) for n in range(1, 51)])

    def write(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            mixed = rows[number:] + rows[:number]
            for _ in range(5):
                assert service.on(conn).write([], mixed)[1] == 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, (0, 13, 26, 39)))
    assert len(service.embedded()) == 50


def test_result_for_an_earlier_declaration_is_dropped(service: Service) -> None:
    insert(service, 1)
    revision = service.column("revision")
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute(
        "select pgembed.alter_embedding('article_embedding', chunk_size => 7)"
    )
    assert service.write(jobs, rows, revision) == (0, 1)
    assert service.embedded() == {}
    (again,) = service.claim()
    assert (again.seq, again.attempts) == (jobs[0].seq, 1)


def test_result_for_a_dropped_embedding_is_dropped(service: Service) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    service.conn.execute("select pgembed.drop_embedding('article_embedding')")
    assert service.write(jobs, rows, 1) == (0, 1)


def test_alter_waits_for_a_write_and_not_the_other_way_round(
    service: Service, other: psycopg.Connection
) -> None:
    insert(service, 1)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    other.execute("set lock_timeout = '100ms'")
    with service.conn.transaction():
        service.write(jobs, rows)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("select pgembed.reembed('article_embedding')")


def test_vector_of_other_dimensions_is_refused(service: Service) -> None:
    insert(service, 1)
    (row,) = service.read(["1"])
    with pytest.raises(psycopg.errors.DataException, match="expected 3 dimensions"):
        service.conn.execute(
            "select pgembed._write_v1(%s, 1, '{}', '{}', '{1}', %s::bytea[], '{1}', "
            "'{0}', '{x}', array['[1,2]'::vector])",
            [service.embedding_id, [row.hash]],
        )
    assert service.embedded() == {}


def test_rows_embedded_again_keep_their_vectors_until_then(service: Service) -> None:
    insert(service, 1, 2)
    service.drain()
    service.conn.execute("select pgembed.reembed('article_embedding')")
    assert len(service.embedded()) == 2
    assert service.drain() == 2
    assert service.drain() == 0


# Backfill


def make_backlog(conn: psycopg.Connection) -> None:
    """Declare an embedding on a table with ten rows."""
    conn.execute(ARTICLE)
    conn.execute(
        "insert into article (id, body) "
        "select i, 'x' || i from generate_series(1, 10) as i"
    )
    declare(conn)


@pytest.fixture
@prepared_by(make_backlog)
def backlog(conn: psycopg.Connection) -> Service:
    """Give an embedding on a table with ten rows."""
    return service_for(conn, NAME)


def test_backfill_walks_the_key_in_pages(backlog: Service) -> None:
    assert backlog.column("backfill_state") == "pending"
    assert [backlog.backfill(4) for _ in range(4)] == [4, 4, 2, None]
    assert [job[1] for job in backlog.jobs()] == [str(n) for n in range(1, 11)]
    assert backlog.column("backfill_state") == "done"


def test_backfill_that_ends_with_a_full_page(backlog: Service) -> None:
    assert [backlog.backfill(5) for _ in range(3)] == [5, 5, None]


def test_backfill_goes_on_where_it_was(
    backlog: Service, other: psycopg.Connection
) -> None:
    backlog.backfill(4)
    with backlog.conn.transaction(force_rollback=True):  # the service dies
        backlog.backfill(4)
    assert backlog.on(other).backfill(4) == 4
    assert [job[1] for job in backlog.jobs()] == [str(n) for n in range(1, 9)]


def test_backfill_is_one_services_business_at_a_time(
    backlog: Service, other: psycopg.Connection
) -> None:
    with backlog.conn.transaction():
        backlog.backfill(4)
        other.execute("set lock_timeout = '100ms'")
        assert backlog.on(other).backfill(4) == 0
    assert len(backlog.jobs()) == 4


def test_backfill_misses_no_row_written_meanwhile(backlog: Service) -> None:
    conn = backlog.conn
    backlog.backfill(4)
    conn.execute("insert into article (id, body) values (0, 'before'), (99, 'after')")
    conn.execute("update article set id = -id, body = 'moved' where id in (2, 8)")
    conn.execute("delete from article where id in (3, 9)")
    backlog.drain()
    rows = conn.execute("select id::text, body from article").fetchall()
    expected: dict[str, str] = dict(rows)
    assert backlog.embedded() == expected


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("a text, b int, primary key (b, a)", "'k' || i % 3, i"),
        ("a uuid primary key", "md5(i::text)::uuid"),
        ("a text primary key", "chr(64 + i) || ', {\"' || i"),
        (
            "a timestamptz, b text, primary key (a, b)",
            "now() + i * '1 day'::interval, i",
        ),
        ("a date primary key", "date '2024-01-25' + i"),
    ],
)
def test_backfill_by_any_key(conn: psycopg.Connection, columns: str, row: str) -> None:
    conn.execute("set datestyle = 'SQL, DMY'")
    conn.execute(f"create table article (body text, {columns})")
    conn.execute(
        f"insert into article select 'x' || i, {row} from generate_series(1, 20) as i"
    )
    service = declare(conn)
    while service.backfill(3):
        conn.execute("set datestyle = 'SQL, MDY'")
    assert len(service.jobs()) == 20
    service.drain()
    assert len(service.embedded()) == 20


def test_backfill_removes_vectors_without_a_row(backlog: Service) -> None:
    backlog.drain()
    conn = backlog.conn
    conn.execute("alter table article disable trigger user")
    conn.execute("delete from article where id > 5")
    conn.execute("update article set body = 'unseen' where id = 1")
    conn.execute("alter table article enable trigger user")
    assert backlog.jobs() == []
    conn.execute("select pgembed.repair('article_embedding')")
    backlog.drain()
    assert backlog.embedded() == {
        "1": "unseen",
        **{str(n): f"x{n}" for n in range(2, 6)},
    }


# The application's writes come first


WRITES = [
    "insert into article (id, body) values (100, 'new'), (101, 'new')",
    "update article set body = 'changed'",
    "update article set views = 1",
    "update article set id = id + 1000",
    "delete from article",
]


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("step", ["claim", "write", "backfill", "control", "other"])
def test_a_writer_never_waits_for_a_service(
    conn: psycopg.Connection, other: psycopg.Connection, step: str
) -> None:
    conn.execute(ARTICLE)
    conn.execute("insert into article (id, body) values (1, 'a'), (2, 'b')")
    service = declare(conn)
    service.backfill()
    jobs = service.claim(1)
    rows = service.read_jobs(jobs)
    rescan = Job(0, None, "R", 1, 0)
    with conn.transaction():
        if step == "claim":
            service.claim()
        elif step == "write":
            assert service.write(jobs, rows) == (1, 0)
        elif step == "backfill":
            conn.execute("select pgembed._restart_backfill(%s)", [service.embedding_id])
            service.backfill(1)
        elif step == "control":
            service.control(rescan)
            service.control(rescan._replace(op="T"))
        else:
            fail(service, jobs[0])
            extend(service, jobs)
            conn.execute("select pgembed._reconcile_v1()")
            service.broken("x", service.column("revision"))
        other.execute("set lock_timeout = '100ms'")
        for statement in WRITES:
            other.execute(statement)
        with other.cursor().copy("copy article (id, body) from stdin") as copy:
            copy.write_row((7, "copied"))
    assert ("D", "1101") in service.jobs()


def test_a_service_never_waits_for_a_writer(
    conn: psycopg.Connection, other: psycopg.Connection
) -> None:
    conn.execute(ARTICLE)
    service = declare(conn)
    insert(service, 1, 2)
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    conn.execute("set lock_timeout = '100ms'")
    with other.transaction():
        other.execute("update article set body = 'open' where id = 1")
        other.execute("insert into article (id, body) values (3, 'open')")
        assert service.write(jobs, rows) == (2, 0)
        assert service.claim() == []
    service.drain()
    assert service.embedded() == {"1": "open", "2": "text 2", "3": "open"}


# Column storage


def make_column(conn: psycopg.Connection) -> None:
    """Declare an embedding whose vectors are in the table itself."""
    conn.execute(ARTICLE)
    declare(conn, storage="column", column_name="vec tor")


@pytest.fixture
@prepared_by(make_column)
def column(conn: psycopg.Connection) -> Service:
    """Give an embedding whose vectors are in the table itself."""
    return service_for(conn, NAME)


def column_vectors(service: Service) -> dict[int, str | None]:
    """Give the vectors in the table."""
    rows = service.conn.execute('select id, "vec tor"::text from article').fetchall()
    return dict(rows)


def test_column_storage_writes_into_the_row(column: Service) -> None:
    insert(column, 1, 2)
    assert column.drain() == 2
    assert column_vectors(column) == {1: vector("text 1"), 2: vector("text 2")}
    assert column.jobs() == []  # a vector's update is no change of the text
    column.conn.execute("update article set body = 'new' where id = 1")
    column.conn.execute("update article set body = null where id = 2")
    column.drain()
    assert column_vectors(column) == {1: vector("new"), 2: None}
    column.conn.execute("delete from article")
    column.drain()
    assert value(column.conn, "select count(*) from article_embedding") == 0


def test_column_storage_of_a_row_that_came_back(column: Service) -> None:
    insert(column, 1)
    column.drain()
    with column.conn.transaction():
        column.conn.execute("delete from article")
        insert(column, 1)
    assert column_vectors(column) == {1: None}
    column.drain()
    assert column_vectors(column)[1] is not None
    column.conn.execute("truncate article")
    insert(column, 1)
    column.drain()
    assert column_vectors(column)[1] is not None


def test_column_storage_late_results(column: Service) -> None:
    insert(column, 1, 2)
    jobs = column.claim()
    rows = column.read_jobs(jobs)
    column.conn.execute("update article set body = 'newer' where id = 1")
    column.conn.execute("delete from article where id = 2")
    column.drain()
    assert column.write(jobs, rows) == (0, 2)
    assert column_vectors(column) == {1: vector("newer")}


def test_column_storage_does_not_wait_for_a_writer(
    column: Service, other: psycopg.Connection
) -> None:
    insert(column, 1, 2, 3)
    jobs = column.claim()
    rows = column.read_jobs(jobs)
    column.conn.execute("set lock_timeout = '100ms'")
    with other.transaction():
        other.execute("update article set body = 'newer' where id = 1")
        other.execute("select from article where id = 2 for update")
        assert column.write(jobs, rows) == (1, 2)
    assert column_vectors(column) == {1: None, 2: None, 3: vector("text 3")}
    wait_for_lease(column)
    column.drain()
    assert column_vectors(column) == {
        1: vector("newer"),
        2: vector("text 2"),
        3: vector("text 3"),
    }


# Dump and restore


@pytest.mark.majors(18, 17, 16)
def test_dump_and_restore(conn: psycopg.Connection, server: Server, dsn: str) -> None:
    conn.execute('create schema "My Schema"')
    conn.execute('create table "My Schema"."T" (id int primary key, body text)')
    service = declare(conn, '"My Schema"."T"', name="kept")
    conn.execute(ARTICLE)
    create(conn, "article", "title || body", name="inline", storage="column")
    conn.execute("insert into \"My Schema\".\"T\" values (1, 'a'), (2, 'b')")
    service.drain()
    conn.execute('insert into "My Schema"."T" values (3, \'waiting\')')

    with (
        server.restored(dsn) as copy,
        psycopg.connect(copy, autocommit=True) as restored,
    ):
        again = service.on(restored)
        assert again.jobs() == [("U", "3")]
        restored.execute('update "My Schema"."T" set body = \'c\' where id = 1')
        restored.execute('delete from "My Schema"."T" where id = 2')
        restored.execute("insert into article (id, title, body) values (1, 'x', 'y')")
        again.drain()
        assert again.embedded() == {"1": "c", "3": "waiting"}
        restored.execute("select pgembed._reconcile_v1()")
        states = "select name, state from pgembed.embedding order by name"
        assert restored.execute(states).fetchall() == [
            ("inline", "active"),
            ("kept", "active"),
        ]
        assert value(restored, "select count(*) from pgembed.queue") == 1
        restored.execute("select pgembed.drop_embedding(name) from pgembed.embedding")
