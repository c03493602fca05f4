"""Code of a table's owner runs with no rights but the owner's.

The rule: what the owner of a table can define is evaluated with the owner's rights, or
with the caller's where a plain SELECT or INSERT by that caller would evaluate it too.
Every case hooks one kind of code in, before or after the declaration, does everything
that one can do with pgembed, and looks who was there. What plain statements may do is
found out on a twin of the table, without a declaration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import errors

from tests.fixtures.hostile import SCHEMAS, SUPERUSER, Play, Stage, stage
from tests.fixtures.postgres import Server
from tests.sql.hostile_kinds import (
    AFTER,
    BEFORE,
    KINDS,
    ROWS,
    TABLE,
    TRAP_SCHEMA,
    Kind,
)

SERVE = "serve"


class Act(NamedTuple):
    """One thing that a role does with pgembed.

    Attributes:
        role: Who.
        place: Schema of the table that it is about, `{s}` in the SQL.
        sql: What; `SERVE` is a run of the encoder service.
        like: The plain statement that would evaluate the same: see `PLAIN`.
    """

    role: str
    place: str
    sql: str
    like: str = ""

    @property
    def label(self) -> str:
        """Name it in a report."""
        called = re.search(r"pgembed\.(\w+)", self.sql)
        what = called[1] if called else self.sql.split()[0]
        return f"{what} {self.place} by {self.role}".replace("  ", " ")


PLAIN = {
    "select": "select * from {s}.doc; select count(*) from {s}.doc where id = 1",
    "insert": "insert into {s}.doc (id, title, body) values (4, 'four', 'fourth text')",
    "update": "update {s}.doc set body = body || ' again' where id in (1, 4);"
    " update {s}.doc set title = 'uno' where id = 1",
    "delete": "delete from {s}.doc where id = 4",
    "truncate": "truncate {s}.doc",
}

TABLE_STORAGE = (
    "select pgembed.create_embedding('{s}.doc', $t${text}$t$, name => '{s}_e',"
    " model => 'eight', bm25_options => '{bm25_options}')"
)
COLUMN_STORAGE = (
    "select pgembed.create_embedding('{s}.doc', $t${text}$t$, name => '{s}_e',"
    " model => 'eight', storage => 'column', bm25 => false)"
)
BM25 = (
    "select pgembed.create_bm25('{s}.doc', $t${bm25_text}$t$, name => '{s}_b',"
    " options => '{bm25_options}')"
)
DECLARE = [
    Act("dba", "tab", TABLE_STORAGE),
    Act(SUPERUSER, "col", COLUMN_STORAGE),
    Act("dba", "col", BM25),
    Act("dba", "", "select pgembed.grant_usage('{searcher}')"),
]

VECTOR = "query_embedding => '[1,1,1,1,1,1,1,1]'"
SEARCH = [
    f"select (doc).id from pgembed.vector_search(null::{{s}}.doc, {VECTOR})",
    f"select (doc).id from pgembed.vector_search(null::{{s}}.doc, {VECTOR},"
    """ exact => true, filter => '{"title": "two"}', where_sql => 'id = 2')""",
    "select (doc).id from pgembed.bm25_search(null::{s}.doc, 'second', snippets => true)",
    "select (doc).id from pgembed.similar(null::{s}.doc, 2)",
]
HYBRID = f"select (doc).id from pgembed.hybrid_search(null::{{s}}.doc, 'text', {VECTOR})"
LOOK = [
    "select * from pgembed.status",
    "select * from pgembed.bm25_status",
    "select * from pgembed.failed",
    "select * from pgembed.doctor()",
]
NEW_TEXT = (
    "select pgembed.alter_embedding('{s}_e', text_expression => $t${text} || '!'$t$)"
)
NEW_MODEL = "select pgembed.alter_embedding('{s}_e', model => 'four')"


def writes(*verbs: str) -> list[Act]:
    """Give plain changes of the writer, on both tables."""
    return [
        Act("writer", place, PLAIN[verb], verb)
        for verb in verbs
        for place in ("tab", "col")
    ]


ACTS = [
    Act("kit", "", SERVE),
    *writes("insert", "update"),
    Act(SUPERUSER, "", SERVE),
    *(
        Act(role, place, search, "select")
        for role in ("searcher", SUPERUSER, "kit")
        for place, search in (
            *(("tab", search) for search in (*SEARCH, HYBRID)),
            *(("col", search) for search in SEARCH),
        )
    ),
    *(Act(role, "", look) for role in ("dba", SUPERUSER, "kit") for look in LOOK),
    Act("kit", "", "select pgembed._reconcile_v1()"),
    Act(SUPERUSER, "", "select pgembed._reconcile_v1()"),
    *writes("update", "delete", "truncate", "insert"),
    Act("bypass", "", SERVE),
    Act("dba", "tab", "select pgembed.repair('{s}_e')"),
    Act(SUPERUSER, "col", "select pgembed.repair('{s}_e')"),
    Act(SUPERUSER, "tab", "select pgembed.reembed('{s}_e')"),
    Act("dba", "tab", NEW_TEXT),
    Act("dba", "col", NEW_MODEL),
    Act(SUPERUSER, "col", NEW_TEXT),
    Act(SUPERUSER, "tab", NEW_MODEL),
    Act("kit", "", SERVE),
    Act("kit", "", "select pgembed.bm25_maintain(min_rows => 1)"),
    Act(SUPERUSER, "tab", "select pgembed.bm25_rebuild('{s}_e')"),
    Act("dba", "col", "select pgembed.bm25_rebuild('{s}_b')"),
    Act(SUPERUSER, "", "select pgembed.bm25_maintain(min_rows => 1)"),
    Act("dba", "tab", "select pgembed.pause('{s}_e', capture => false)"),
    Act("dba", "tab", "select pgembed.resume('{s}_e')"),
    Act(SUPERUSER, "tab", TABLE_STORAGE.replace("{s}_e", "more")),
    Act("dba", "tab", "select pgembed.drop_embedding('more')"),
    Act(SUPERUSER, "tab", "select pgembed.drop_embedding('{s}_e')"),
    Act("dba", "col", "select pgembed.drop_embedding('{s}_e')"),
    Act("dba", "col", "select pgembed.drop_bm25('{s}_b')"),
]


@pytest.fixture(scope="module")
def hostile_stage(server: Server) -> Iterator[Stage]:
    """Give the roles, and a database to copy."""
    with stage(server, TRAP_SCHEMA) as made:
        yield made


@dataclass
class Case:
    """A kind of hooks that is played through."""

    kind: Kind
    play: Play
    fired: bool = False
    wrong: list[str] = field(default_factory=list)
    allowed: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def run(self, role: str, sql: str, place: str) -> psycopg.Cursor[Any]:
        kind = self.kind
        names = {
            "text": kind.text,
            "bm25_text": kind.bm25_text or kind.text,
            "bm25_options": kind.bm25_options,
            "columns": kind.columns,
            "body": kind.body,
            "s": place,  # the last: it stands in the others
        }
        return self.play.run(role, sql, names)

    def make_tables(self) -> None:
        """Make the honest tables, with three rows each."""
        for place in SCHEMAS:
            if self.kind.admin:
                self.run(SUPERUSER, self.kind.admin, place)
            if self.kind.honest:
                self.run("owner", self.kind.honest, place)
            self.run("owner", self.kind.table, place)
            self.run("owner", ROWS, place)
            self.run(
                "owner",
                "grant all on {s}.doc to {writer}, {kit}; grant select on {s}.doc to {searcher}",
                place,
            )

    def hook(self) -> None:
        """Hook the spies in, and find out what plain statements may do."""
        for place in SCHEMAS[:1] if self.kind.once else SCHEMAS:
            if self.kind.hooks:
                self.run(self.kind.by, self.kind.hooks, place)
        self.play.take_log()
        for role, verbs in (
            ("writer", ["insert", "update", "delete", "truncate"]),
            ("searcher", ["select"]),
            ("kit", ["select"]),
            (SUPERUSER, ["select"]),
        ):
            for verb in verbs:
                self.play.sessions.pop("plain", None)
                plain = self.play.sessions["plain"] = self.play.new_session(role)
                self.run("plain", PLAIN[verb], "twin")
                plain.close()
                self.allowed[role, verb] = {who for who, _ in self.log()}

    def log(self) -> set[tuple[str, str]]:
        found = self.play.take_log()
        self.fired = self.fired or bool(found)
        return found

    def act(self, acts: list[Act]) -> None:
        """Do things, and write down who was there that had no business there."""
        for act in acts:
            failure = ""
            try:
                if act.sql == SERVE:
                    self.play.serve(act.role)
                else:
                    cursor = self.run(act.role, act.sql, act.place)
                    if act.sql in SEARCH and act.role == SUPERUSER and not cursor.rowcount:
                        failure = "" if self.kind.breaks else "found nothing"
            except Exception as error:
                failure = self.unexpected(act, error)
            allowed = self.kind.trusted | self.allowed.get((act.role, act.like), set())
            spied = sorted((w, what) for w, what in self.log() if w not in allowed)
            self.wrong += [f"{act.label}: {who} ran {what}" for who, what in spied]
            self.wrong += [f"{act.label}: {failure}"] if failure else []

    def unexpected(self, act: Act, error: Exception) -> str:
        """Say what failed, unless the kind breaks things or pgembed may refuse."""
        code = getattr(error, "sqlstate", None) or ""
        refusal = code.startswith("PE") and (
            act.sql not in {TABLE_STORAGE, COLUMN_STORAGE} or code in self.kind.refused
        )
        if self.kind.breaks or (refusal and self.kind.hooks):
            return ""
        return f"failed: {error!r}"


CASES = [
    pytest.param(kind, moment, id=f"{kind.name}, {moment}")
    for kind in KINDS
    for moment in kind.moments
]


@pytest.mark.parametrize(("kind", "moment"), CASES)
def test_nobody_else_runs_the_owners_code(
    hostile_stage: Stage, kind: Kind, moment: str
) -> None:
    if hostile_stage.server.major < kind.since:
        pytest.skip(f"PostgreSQL {kind.since} brought it")
    with hostile_stage.play() as play:
        case = Case(kind, play)
        case.make_tables()
        if moment == AFTER:
            case.act(DECLARE)
        try:
            case.hook()
        except errors.FeatureNotSupported as error:
            pytest.skip(f"PostgreSQL refuses it: {error}")
        if moment == BEFORE:
            case.act(DECLARE)
        case.act(ACTS)
        if case.wrong:
            pytest.fail("\n".join(dict.fromkeys(case.wrong)), pytrace=False)
        assert case.fired or kind.silent, "no spy was called at all"
