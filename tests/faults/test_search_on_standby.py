"""Searches run on a standby; what they need a service for is asked of the primary."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

import pgembed
from pgembed import aclient
from pgembed.cli import app
from pgembed.cli.status import _standbys
from pgembed.doctor import examine
from pgembed.errors import InvalidParameter, NoEncoderService, NotEmbeddedInTime
from pgembed.sqlalchemy import Embedding, encode_query
from tests.faults.cluster import Cluster, standby_of
from tests.fixtures.postgres import Server
from tests.fixtures.running import running_service
from tests.fixtures.urls import sqlalchemy_url
from tests.integration.studio.conftest import TOKEN, opened

Conn = psycopg.Connection


class Base(DeclarativeBase):
    pass


class Doc(Base):
    __tablename__ = "doc"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding = Embedding("body", model="small", name="d")


@dataclass
class Servers:
    """A primary, where a service runs, and its standby.

    Attributes:
        primary: Connection string of the one.
        standby: Of the other.
        cluster: The standby.
    """

    primary: str
    standby: str
    cluster: Cluster


@pytest.fixture
def servers(server: Server, dsn: str, conn: Conn) -> Iterator[Servers]:
    conn.execute("select pgembed.register_model('small', 64, 'hashing')")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc values (1, 'cheap flights to rome'), (2, 'how to bake bread')"
    )
    pgembed.create_embedding(conn, "doc", "body", model="small", name="d")
    with running_service(dsn):
        pgembed.await_embedded(conn)
        with standby_of(server, dsn) as cluster:
            yield Servers(dsn, cluster.dsn(conn.info.dbname), cluster)


def behind(servers: Servers, *, paused: bool) -> None:
    """Have the standby stop replaying, or go on."""
    with psycopg.connect(servers.standby, autocommit=True) as there:
        there.execute(f"select pg_wal_replay_{'pause' if paused else 'resume'}()")
        while paused and there.execute(
            "select pg_get_wal_replay_pause_state() <> 'paused'"
        ).fetchone() == (True,):
            pass


def test_searches_on_a_standby(servers: Servers, conn: Conn) -> None:
    with psycopg.connect(servers.standby, autocommit=True) as there:
        assert there.execute("select pg_is_in_recovery()").fetchone() == (True,)
        # Words need nobody.
        assert pgembed.bm25_search(there, "doc", "bread")[0].doc["id"] == 2
        for find in (pgembed.vector_search, pgembed.search, pgembed.hybrid_search):
            with pytest.raises(NoEncoderService, match="standby"):
                find(there, "doc", "a flight that nobody has asked for")
        # The answer need not be replayed before it is of use.
        behind(servers, paused=True)
        for name in ("vector_search", "search", "hybrid_search"):
            find = getattr(pgembed, name)
            hits = find(there, "doc", f"flights {name}", primary_dsn=servers.primary)
            assert hits[0].doc["id"] == 1
        with there.transaction():
            hits = pgembed.hybrid_search(
                there, "doc", "rome flights", primary_dsn=servers.primary
            )
            assert hits[0].doc["id"] == 1
        behind(servers, paused=False)
        with pytest.raises(NoEncoderService, match="cannot be reached"):
            pgembed.search(there, "doc", "?", primary_dsn="host=/nowhere")
        with pytest.raises(InvalidParameter, match="connection string"):
            pgembed.search(there, "doc", "?", primary_dsn="postgresql://a:b%c@d")
    # What is in the cache is there for all, once it is replayed.
    pgembed.encode(conn, "how to fly", "small")
    with psycopg.connect(servers.standby, autocommit=True) as there:
        pgembed.wait_for_replay(there, pgembed.current_lsn(conn))
        assert len(pgembed.vector_search(there, "doc", "how to fly")) == 2
        pgembed.encode(there, "how to fly", "small")
        assert len(pgembed.embed(there, "how to fly", "small")) == 64

    async def asked() -> int:
        async with await psycopg.AsyncConnection.connect(
            servers.standby, autocommit=True
        ) as there:
            hits = await aclient.vector_search(
                there, "doc", "async flights", primary_dsn=servers.primary
            )
            return int(hits[0].doc["id"])

    assert asyncio.run(asked()) == 1
    _orm(servers)
    _command_line(servers)
    _studio(servers)
    _own_writes(servers, conn)


def _orm(servers: Servers) -> None:
    primary = create_engine(sqlalchemy_url(servers.primary), poolclass=NullPool)
    standby = create_engine(
        sqlalchemy_url(servers.standby),
        poolclass=NullPool,
        execution_options={"pgembed_primary": primary},
    )
    with Session(standby) as session:
        hits = session.execute(Doc.embedding.vector_search("orm flights", k=1)).all()
        assert hits[0][0].id == 1
        encode_query(session, "flights by orm", "small")
    alone = create_engine(sqlalchemy_url(servers.standby), poolclass=NullPool)
    with Session(alone) as session, pytest.raises(NoEncoderService):
        session.execute(Doc.embedding.vector_search("orm flights nobody asked for"))
    wrong = alone.execution_options(pgembed_primary=servers.primary)
    with Session(wrong) as session, pytest.raises(InvalidParameter, match="is '"):
        session.execute(Doc.embedding.vector_search("orm flights nobody asked for"))


def _command_line(servers: Servers) -> None:
    run = CliRunner().invoke
    where = ["--dsn", servers.primary, "--search-dsn", servers.standby]
    found = run(app, ["search", "doc", "typed flights", "--json", *where])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout.splitlines()[0])["doc"]["id"] == 1
    shown = run(app, ["status", "--dsn", servers.primary], env={"COLUMNS": "200"})
    assert "walreceiver" in shown.stdout
    shown = run(app, ["status", "--dsn", servers.standby], env={"COLUMNS": "200"})
    assert "this server: up to date" in shown.stdout
    with psycopg.connect(servers.standby, autocommit=True) as there:
        assert [one.code for one in examine(there)] == []
    # Whoever may not see it is not told that all is well.
    with psycopg.connect(servers.primary, autocommit=True) as conn:
        role = f"{conn.info.dbname}_watcher"
        conn.execute(f'create role "{role}" in role postgres')
        try:
            conn.execute(f'set role "{role}"')
            (line,) = _standbys(conn)
            assert "cannot be seen" in line.plain
        finally:
            conn.execute(f'reset role; drop role "{role}"')


def _studio(servers: Servers) -> None:
    with opened(servers.primary, search_dsn=servers.standby) as studio:
        page = studio.get("/", params={"table": "public.doc", "q": "studio flights"})
        assert "cheap flights to rome" in page.text
        assert "thumb" in page.text
        said = {"table": "public.doc", "q": "studio flights", "thumb": "up"}
        own = {"origin": "http://localhost:8765", "hx-request": "true"}
        said["key"] = "1"
        assert studio.post("/judge", data=said, headers=own).status_code == 200
        vectors = studio.post(
            "/v1/embeddings",
            json={"model": "small", "input": "a"},
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        assert len(vectors.json()["data"][0]["embedding"]) == 64
    with psycopg.connect(servers.standby) as there:
        assert [j.key for j in pgembed.judgements(there, "doc")] == [1]
    with opened(servers.standby) as studio:
        page = studio.get("/", params={"table": "public.doc", "q": "nobody asked"})
        assert "this server is a standby" in page.text
        assert "thumb" not in page.text


def _own_writes(servers: Servers, conn: Conn) -> None:
    behind(servers, paused=True)
    conn.execute("insert into doc values (3, 'a quiet lake in the mountains')")
    pgembed.await_embedded(conn, "doc")
    written = pgembed.current_lsn(conn)
    with psycopg.connect(servers.standby, autocommit=True) as there:
        assert pgembed.bm25_search(there, "doc", "lake") == []
        with pytest.raises(NotEmbeddedInTime, match=r"0\.2 seconds"):
            pgembed.wait_for_replay(there, written, timeout=0.2)
        resumed = threading.Timer(0.3, behind, [servers], {"paused": False})
        resumed.start()
        pgembed.wait_for_replay(there, written)
        assert pgembed.bm25_search(there, "doc", "lake")[0].doc["id"] == 3
        assert pgembed.vector_search(
            there, "doc", "quiet lake", k=1, primary_dsn=servers.primary
        )[0].doc == {"id": 3, "body": "a quiet lake in the mountains"}
        resumed.join()
        with there.transaction(), pytest.raises(InvalidParameter):
            pgembed.wait_for_replay(there, written)
        with pytest.raises(psycopg.DataError):
            pgembed.wait_for_replay(there, "no position")
    # On the primary, where it is there already.
    pgembed.wait_for_replay(conn, written)
