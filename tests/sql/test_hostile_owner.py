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

from pgembed.evaluation.recall import RecallOptions, measure_recall
from tests.fixtures.hostile import (
    NEXT,
    ROLLED_BACK,
    SCHEMAS,
    SUPERUSER,
    Play,
    Stage,
    stage,
)
from tests.fixtures.postgres import Server
from tests.sql.hostile_kinds import (
    AFTER,
    BEFORE,
    EARLY_OVERLOADS,
    KINDS,
    ROWS,
    TABLE,
    TRAP_SCHEMA,
    Kind,
)

SERVE = "serve"
RECALL = "recall"


class Act(NamedTuple):
    """One thing that a role does with pgembed.

    Attributes:
        role: Who.
        place: Schema of the table that it is about, `{s}` in the SQL.
        sql: What; `SERVE` is a run of the encoder service, `RECALL` measures it.
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
    "select": "select * from {s}.doc; select count(*) from {s}.doc where id = '1'",
    "insert": "insert into {s}.doc (id, title, body)"
    " values ('4', 'four', 'fourth text')",
    "update": "update {s}.doc set body = body || ' again' where id in ('1', '4');"
    " update {s}.doc set title = 'uno' where id = '1'",
    "delete": "delete from {s}.doc where id = '4'",
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

MODELS = """
select pgembed.register_model('eight', 8, 'hashing');
select pgembed.register_model('four', 4, 'hashing');
"""

VECTOR = "query_embedding => '[1,1,1,1,1,1,1,1]'"
SEARCH = [
    f"select (doc).id from pgembed.vector_search(null::{{s}}.doc, {VECTOR})",
    f"select (doc).id from pgembed.vector_search(null::{{s}}.doc, {VECTOR},"
    """ exact => true, filter => '{"title": "two"}', where_sql => 'id = ''2''')""",
    "select (doc).id from pgembed.bm25_search(null::{s}.doc, 'second',"
    " snippets => true)",
    "select (doc).id from pgembed.similar(null::{s}.doc, '2'::text)",
    "select pgembed.judge(null::{s}.doc, 'second', '2'::text, 1)",
    "select * from pgembed.judgements(null::{s}.doc)",
]
HYBRID = (
    f"select (doc).id from pgembed.hybrid_search(null::{{s}}.doc, 'text', {VECTOR})"
)
LOOK = [
    "select * from pgembed.status",
    "select * from pgembed.bm25_status",
    "select * from pgembed.failed",
    "select * from pgembed.doctor()",
]
NEW_TEXT = (
    "select pgembed.alter_embedding('{s}_e', text_expression => $t${text} || '!'$t$)"
)
NEW_MODEL = (
    "select pgembed.alter_embedding('{s}_e', model => 'four',"
    " switch => case '{s}' when 'col' then 'in_place' else 'auto' end)"
)


def writes(*verbs: str) -> list[Act]:
    """Give plain changes of the writer, on both tables."""
    return [
        Act("writer", place, PLAIN[verb], verb)
        for verb in verbs
        for place in ("tab", "col")
    ]


USE = [
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
    *(Act(role, "tab", RECALL, "select") for role in (SUPERUSER, "kit")),
    *(Act(role, "", look) for role in ("dba", SUPERUSER, "kit") for look in LOOK),
    Act("kit", "", "select pgembed._reconcile_v1()"),
    Act(SUPERUSER, "", "select pgembed._reconcile_v1()"),
]
"""What is done with what is declared."""
CHANGE = [
    *writes("update", "delete", "truncate", "insert"),
    Act("dba", "tab", "select pgembed.repair('{s}_e')"),
    Act(SUPERUSER, "col", "select pgembed.repair('{s}_e')"),
    Act(SUPERUSER, "tab", "select pgembed.reembed('{s}_e')"),
    Act("dba", "tab", NEW_TEXT),
    Act("dba", "col", NEW_MODEL),
    Act(SUPERUSER, "col", NEW_TEXT),
    Act(SUPERUSER, "tab", NEW_MODEL),
    Act("bypass", "", SERVE),
    Act("kit", "", "select pgembed.bm25_maintain(min_rows => 1)"),
    Act(SUPERUSER, "tab", "select pgembed.bm25_rebuild('{s}_e')"),
    Act("dba", "col", "select pgembed.bm25_rebuild('{s}_b')"),
    Act(SUPERUSER, "", "select pgembed.bm25_maintain(min_rows => 1)"),
    Act("dba", "tab", "select pgembed.pause_embedding('{s}_e', capture => false)"),
    Act("dba", "tab", "select pgembed.resume_embedding('{s}_e')"),
    Act(SUPERUSER, "tab", TABLE_STORAGE.replace("{s}_e", "more")),
    Act("dba", "tab", "select pgembed.drop_embedding('more')"),
    Act(SUPERUSER, "tab", "select pgembed.drop_embedding('{s}_e')"),
    Act("dba", "col", "select pgembed.drop_embedding('{s}_e')"),
    Act("dba", "col", "select pgembed.drop_bm25('{s}_b')"),
]
"""What is done to it; declarations are made anew here, so it is done once a kind."""


@pytest.fixture(scope="module")
def hostile_stage(server: Server) -> Iterator[Stage]:
    """Give the roles, and a database to copy."""
    with stage(server, after=MODELS + TRAP_SCHEMA) as made:
        yield made


def without_place(what: str) -> str:
    """Take the schema from what a spy said: `tab: check` is `check`."""
    return what.partition(": ")[2] or what


@dataclass
class Case:
    """A kind of hooks that is played through."""

    kind: Kind
    play: Play
    fired: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    allowed: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)

    def run(self, role: str, sql: str, place: str) -> psycopg.Cursor[Any]:
        kind = self.kind
        names = {
            "text": kind.text,
            "bm25_text": kind.bm25_text or kind.text,
            "bm25_options": kind.bm25_options,
            "columns": kind.columns,
            "key": kind.key,
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
                "grant all on {s}.doc to {writer}, {kit};"
                "grant select on {s}.doc to {searcher}",
                place,
            )

    def hook(self) -> None:
        """Hook the spies in, and find out what plain statements may do."""
        for place in SCHEMAS[:1] if self.kind.once else SCHEMAS:
            if self.kind.hooks:
                self.run(self.kind.by, self.kind.hooks, place)
        self.play.take_log()
        for role, verbs in (
            ("searcher", ["select"]),
            ("kit", ["select"]),
            (SUPERUSER, ["select"]),
            ("writer", ["insert", "update", "delete", "truncate", "insert"]),
        ):
            # In sessions of their own, because plans are remembered; and in one,
            # because what one statement leaves in a session may catch the next.
            for one in verbs[:-1]:
                self.plain(role, [one])
            self.plain(role, verbs)
        self.run("owner", "analyze {s}.doc", "twin")  # nothing else runs statistics
        self.log()

    def plain(self, role: str, verbs: list[str]) -> None:
        """Find out what plain statements of a role may do, in one session."""
        session = self.play.sessions["plain"] = self.play.new_session(role)
        for verb in verbs:
            self.run("plain", PLAIN[verb], "twin")
            self.run("plain", NEXT, "twin")
            ran = {(who, without_place(what)) for who, what in self.log()}
            self.allowed.setdefault((role, verb), set()).update(ran)
        session.close()

    def log(self) -> set[tuple[str, str]]:
        found = self.play.take_log()
        self.fired |= {without_place(what) for _, what in found}
        return found

    def act(self, acts: list[Act]) -> None:
        """Do things, and write down who was there that had no business there."""
        for act in acts:
            failure = ""
            try:
                if act.sql == SERVE:
                    self.play.serve(act.role)
                elif act.sql == RECALL:
                    options = RecallOptions(sample=1, values=[10])
                    measure_recall(self.play.session(act.role), "tab.doc", options)
                else:
                    cursor = self.run(act.role, act.sql, act.place)
                    self.run(act.role, NEXT, act.place)
                    if (
                        act.sql in SEARCH
                        and act.role == SUPERUSER
                        and not cursor.rowcount
                    ):
                        failure = "" if self.kind.breaks else "found nothing"
            except Exception as error:
                failure = self.unexpected(act, error)
            if self.kind.leaves and act.like:
                self.play.sessions.pop(act.role).close()
            spied = sorted(ran for ran in self.log() if not self.may(act, *ran))
            self.wrong += [f"{act.label}: {who} ran {what}" for who, what in spied]
            self.wrong += [f"{act.label}: {failure}"] if failure else []

    def may(self, act: Act, who: str, what: str) -> bool:
        """Say whether a plain statement would have run this as that role too."""
        allowed = self.allowed.get((act.role, act.like), set())
        # No row tells what was rolled back; and what is left in a session catches
        # whatever comes next in it.
        if what == ROLLED_BACK or self.kind.leaves:
            return who in self.kind.trusted or who in {one for one, _ in allowed}
        return who in self.kind.trusted or (who, without_place(what)) in allowed

    def never_fired(self) -> set[str]:
        """Give the spies that nothing has called, by their names in the hooks."""
        hooks = self.kind.hooks
        spies = set(re.findall(r"\.sp(?:y|ied)\('([^']*)'", hooks))
        triggers = set(re.findall(r"create(?: constraint)? trigger (\w+)", hooks))
        named = spies | triggers
        if self.fired and (len(named) == 1 or self.kind.breaks):
            return set()  # it may have been rolled back, and statements may fail
        return named - self.fired - {what.split()[0] for what in self.fired}

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
    play_through(hostile_stage, kind, moment)


# Before 18, what is deferred ran with the rights of who commits.
@pytest.mark.majors(17, 16)
@pytest.mark.parametrize(
    ("kind", "moment"), [case for case in CASES if "deferred" in str(case.id)]
)
def test_nobody_else_runs_what_the_owner_deferred(
    hostile_stage: Stage, kind: Kind, moment: str
) -> None:
    play_through(hostile_stage, kind, moment)


def play_through(hostile_stage: Stage, kind: Kind, moment: str) -> None:
    """Make tables, hook spies in, do all that may be done, and look who ran them."""
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
            pytest.skip(f"PostgreSQL refuses it: {error.diag.message_primary}")
        if moment == BEFORE:
            case.act(DECLARE)
        case.act(USE)
        if moment == kind.moments[-1]:
            case.act(CHANGE)
        if case.wrong:
            pytest.fail("\n".join(dict.fromkeys(case.wrong)), pytrace=False)
        assert kind.silent or case.never_fired() == set()


@pytest.mark.parametrize(
    "made",
    [
        "create domain {s}.key as text check ({s}.spy('key'))",
        "create type {s}.key as enum ('1', '2', '3', '4')",
        "create type {s}.key as (part text)",
        "create type {s}.key as range (subtype = text)",
    ],
    ids=["domain", "enum", "composite", "range"],
)
def test_a_key_of_the_owners_type_is_refused(hostile_stage: Stage, made: str) -> None:
    with hostile_stage.play() as play:
        case = Case(Kind("key", "", key="{s}.key"), play)
        for place in ("tab", "col"):
            case.run("owner", made, place)
            case.run("owner", TABLE, place)
            case.run("owner", "grant all on {s}.doc to {kit}", place)
        for act in DECLARE[:3]:
            with pytest.raises(psycopg.Error) as caught:
                case.run(act.role, act.sql, act.place)
            assert caught.value.sqlstate == "PE003"
            assert caught.value.diag.message_hint
        assert case.log() == set()


def test_the_owner_cannot_hook_into_the_side_table(hostile_stage: Stage) -> None:
    with hostile_stage.play() as play:
        case = Case(KINDS[0], play)
        case.make_tables()
        case.act(DECLARE)
        side_tables = play.session(SUPERUSER).execute(
            "select side_table::text from pgembed.embedding"
        )
        for (side_table,) in side_tables.fetchall():
            for hook in (
                "create trigger t before insert on {t}"
                " for each row execute function tab.spy_trigger()",
                "create rule r as on insert to {t} do also select tab.spy('rule')",
                "create policy p on {t} using (tab.spy('policy'))",
                "create index on {t} (tab.spied('index', 'x'))",
                "create statistics tab.st on chunk, model_id from {t}",
                "alter table {t} add check (tab.spy('check'))",
                "alter table {t} add column g boolean default tab.spy('default')",
                "alter table {t} owner to {owner}",
                "alter table {t} disable trigger all",
                "create table tab.child () inherits ({t})",
                "insert into {t} select * from {t}",
            ):
                with pytest.raises(errors.InsufficientPrivilege):
                    case.run("owner", hook.replace("{t}", side_table), "tab")


def test_overloads_that_were_there_before_pgembed(hostile_stage: Stage) -> None:
    """Views and SQL functions are bound to operators when they are made."""
    database = hostile_stage.make_database(
        before="grant create on schema public to {owner}; set role {owner};"
        + EARLY_OVERLOADS
        + "reset role;",
        after=MODELS,
    )
    try:
        with hostile_stage.play(database) as play:
            case = Case(KINDS[0], play)
            spied = {who for who, _ in case.log()} - {"owner"}
            case.make_tables()
            case.log()
            case.act(DECLARE)
            case.act(USE + CHANGE)
            if spied or case.wrong:
                pytest.fail("\n".join([f"installed by {spied}", *case.wrong]), False)
    finally:
        hostile_stage.server.drop_database(database)
