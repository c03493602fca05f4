"""For your own tests: a real PostgreSQL with pgembed, and no model to load.

Needs `pip install 'pgembed-kit[embedded]' pytest`. In `conftest.py`:

    pytest_plugins = ["pgembed.testing"]

and in a test:

    import pgembed
    from pgembed.testing import HASHING_MODEL, process_all


    def test_search_finds_the_article(pgembed_conn, pgembed_dsn):
        pgembed_conn.execute("create table article (id int primary key, body text)")
        pgembed.create_embedding(pgembed_conn, "article", "body", model=HASHING_MODEL)
        pgembed_conn.execute("insert into article values (1, 'cheap flights to Rome')")

        process_all(pgembed_dsn)  # what the encoder service would do

        hits = pgembed.vector_search(
            pgembed_conn, "article", "flights", k=1, encoder=HASHING_MODEL
        )
        assert hits[0].doc["id"] == 1

The model `hashing` maps equal words to equal directions: the same on every machine,
in microseconds, without synonyms. Everything else is what production runs: the
triggers, the queue, the encoder service's own code, the vector index.

The server is the embedded one (extra `embedded`), unless the environment says
otherwise:
    PGEMBED_TEST_DSN: Connection string of a superuser on a server that runs already;
        databases whose names begin with `pgembed_test_` are made and dropped there.
    PGEMBED_TEST_BACKEND: `docker` starts one through testcontainers (extra
        `containers`), provided that a Docker engine answers.
    PGEMBED_TEST_IMAGE: The image for that; `{major}` in it is replaced.

Fixtures:
    pgembed_server: A running server, once a session.
    pgembed_dsn: Connection string of a new database with pgembed, for each test.
    pgembed_conn: An autocommit connection to it.

Fixtures to override:
    pgembed_major: PostgreSQL's major version, 18 (default) or 16.
    pgembed_prepare: A function that is called once with the connection string of
        the database that all others are copied from: run your migrations there.
"""

from pgembed.testing.databases import (
    HASHING_DIMENSIONS,
    HASHING_MODEL,
    make_template,
    new_database,
)
from pgembed.testing.fixtures import (
    pgembed_conn,
    pgembed_dsn,
    pgembed_major,
    pgembed_prepare,
    pgembed_server,
    pgembed_template,
    pytest_report_header,
)
from pgembed.testing.process import process_all
from pgembed.testing.servers import (
    Backend,
    backend,
    chosen_server,
    throwaway_server,
)

__all__ = [
    "HASHING_DIMENSIONS",
    "HASHING_MODEL",
    "Backend",
    "backend",
    "chosen_server",
    "make_template",
    "new_database",
    "pgembed_conn",
    "pgembed_dsn",
    "pgembed_major",
    "pgembed_prepare",
    "pgembed_server",
    "pgembed_template",
    "process_all",
    "pytest_report_header",
    "throwaway_server",
]
