"""A user's project: the plugin, offline mode, pgembed's history, what goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgembed import schema
from pgembed.errors import (
    EmbeddingsExist,
    InvalidExpression,
    SchemaVersionError,
    UnknownModel,
    UnsupportedEnvironment,
)
from tests.fixtures.postgres import Server
from tests.integration.alembic.conftest import Project, calls, make_project
from tests.integration.alembic.test_cycle import catalog, settings
from tests.migration.catalog import catalog_of

DEFAULT = "Embedding(\"title || E'\\\\n\\\\n' || body\")"


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def states(project: Project) -> set[str]:
    """Read whether the embeddings are active."""
    rows = project.query("select state from pgembed.embedding")
    return {state for (state,) in rows}


def test_the_command_finds_the_plugin(empty_project: Project) -> None:
    project = empty_project
    project.article(DEFAULT)
    project.command("revision", "--autogenerate", "-m", "first")
    project.command("upgrade", "head")
    assert "No new upgrade operations" in project.command("check")
    assert settings(project)[0][:3] == (
        "article_embedding",
        "article",
        "title || E'\\n\\n' || body",
    )


def test_one_line_in_env_py_does_it_too(project: Project) -> None:
    env = project.folder / "migrations" / "env.py"
    env.write_text("import pgembed.alembic\n" + env.read_text())
    project.models("class Nothing:\n    pass")
    # As where no entry points are installed.
    code = (
        "import importlib.metadata as m; m.entry_points = lambda **_: ();"
        "from alembic.config import main; main(['check'])"
    )
    project.run("create table article (id int primary key, title text)")
    project.run("select pgembed.create_embedding('article', 'title')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "drop_embedding" in done.stderr + done.stdout
    assert "article_embedding'" in done.stderr + done.stdout
    assert "remove_table', Table('article_embedding'" not in done.stdout + done.stderr


def test_op_makes_what_the_command_line_makes(empty_project: Project, dsn: str) -> None:
    empty_project.article(DEFAULT)
    empty_project.revision()
    empty_project.upgrade()
    empty_project.run("select pgembed.drop_embedding('article_embedding')")
    assert catalog_of(empty_project.dsn) == catalog_of(dsn)
    version = schema.version(empty_project.dsn)
    assert version is not None
    assert version.is_current


def test_offline_scripts_run_in_psql(
    empty_project: Project, server: Server, tmp_path: Path
) -> None:
    project = empty_project
    expression = "title || E'\\t100% :title ; \\\\ ''' || body || $$'$$"
    options = "bm25=BM25(config='english'), index=HNSW(m=8), name='it''s :x %'"
    project.article(f"Embedding({expression!r}, {options})".replace("''s", "\\'s"))
    project.revision()
    script = project.alembic("upgrade", "head", "--sql")
    back = project.alembic("downgrade", "head:base", "--sql")
    project.upgrade()
    online = (settings(project), catalog(project))
    name = server.create_database()
    other = Project(project.folder, server.dsn(name))
    for text, expected in ((script, online), (back, None)):
        file = tmp_path / "script.sql"
        file.write_text(text)
        done = subprocess.run(
            [
                server.program("psql"),
                "-Xqv",
                "ON_ERROR_STOP=1",
                "-v",
                "title=broken",
                "-v",
                "x=broken",
                "-f",
                str(file),
                other.dsn,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if expected is not None:
            assert (settings(other), catalog(other)) == expected
            path = other.query(
                "select reset_val from pg_settings where name = 'search_path'"
            )
            assert path
    assert not any(row[1].startswith("pgembed") for row in catalog(other))
    server.drop_database(name)


def test_names_mean_the_same_after_an_install(empty_project: Project) -> None:
    """The installation works with a search_path of its own; what follows does not."""
    project = empty_project
    project.article("")
    project.revision()
    script = next(project.folder.glob("migrations/versions/*.py"))
    text = script.read_text().replace(
        "    op.create_table(",
        "    op.execute('set local search_path = public, pg_temp')\n"
        "    op.install_pgembed()\n"
        "    op.execute('create table here (path) as "
        "select current_setting(\\'search_path\\')')\n"
        "    op.create_table(",
    )
    script.write_text(text)
    project.upgrade()
    assert project.query("select path from public.here") == [("public, pg_temp",)]


def test_pgembeds_own_is_never_proposed_for_dropping(project: Project) -> None:
    project.run("create table article (id serial primary key, title text not null)")
    project.run("create table other (id int primary key, title text)")
    for call in (
        "'other', 'title'",
        "'other', 'title', name => 'second', storage => 'column', index => 'hnsw'",
    ):
        project.run(f"select pgembed.create_embedding({call})")
    project.article("", "title")
    env = project.folder / "migrations" / "env.py"
    plain = env.read_text()
    # Another application's table, in all schemas.
    env.write_text(
        plain.replace(
            "target_metadata=target_metadata\n",
            "target_metadata=target_metadata, include_schemas=True,\n"
            "            include_name=lambda name, kind, _: name != 'other',\n",
        )
    )
    assert "include_schemas" in env.read_text()
    script = project.revision()
    assert "pgembed" not in script
    assert "second" not in script
    assert "other" not in script
    assert calls(script) in ([], ["alter_column"])
    # And a table of this one, dropped: its embeddings go first.
    env.write_text(plain)
    project.alembic("stamp", "head")
    script = project.revision()
    assert [c for c in calls(script) if c != "alter_column"] == [
        "drop_embedding",
        "drop_embedding",
        "drop_table",
    ]
    project.upgrade()
    project.alembic("downgrade", "-1")
    names = [row[0] for row in settings(project)]
    assert names == ["other_embedding", "second"]


def test_embeddings_can_be_left_out(project: Project) -> None:
    project.run("create table article (id serial primary key, title varchar not null)")
    project.run("select pgembed.create_embedding('article', 'title')")
    project.article("", "title")
    env = project.folder / "migrations" / "env.py"
    env.write_text(
        env.read_text().replace(
            "target_metadata=target_metadata\n",
            "target_metadata=target_metadata,\n            include_object="
            "lambda o, name, kind, *_: kind != 'embedding',\n",
        )
    )
    assert calls(project.revision()) == []


def test_a_renamed_column_heals(project: Project) -> None:
    project.article(DEFAULT)
    project.revision()
    project.upgrade()
    project.article(DEFAULT.replace("title", "headline"), "headline body")
    script = project.revision()
    assert calls(script) == ["add_column", "alter_embedding", "drop_column"]
    assert "If title got another name" in script
    file = max(project.folder.glob("migrations/versions/*.py"), key=_age)
    text = re.sub(r"    op\.drop_column\(.*\n", "", script)
    names = iter([("title", "headline"), ("headline", "title")])

    def rename(_: re.Match[str]) -> str:
        old, new = next(names)
        return f"    op.alter_column('article', {old!r}, new_column_name={new!r})\n"

    file.write_text(re.sub(r"    op\.add_column\(.*\n", rename, text))
    project.run("insert into article values (1, 'kept', 'x')")
    project.upgrade()
    assert project.query("select headline, state from article, pgembed.embedding") == [
        ("kept", "active")
    ]
    assert calls(project.revision()) == []
    project.upgrade()
    project.alembic("downgrade", "-2")
    assert settings(project)[0][2] == "title || E'\\n\\n' || body"
    project.run("update article set title = 'still captured'")


def test_a_column_renamed_behind_its_back_heals(project: Project) -> None:
    project.article(DEFAULT)
    project.revision()
    project.upgrade()
    project.run("alter table article rename column title to headline")
    project.article(DEFAULT.replace("title", "headline"), "headline body")
    script = project.revision()
    assert calls(script) == ["alter_embedding"]
    project.upgrade()
    project.run("insert into article values (1, 'x', 'y')")
    assert settings(project)[0][2] == "headline || E'\\n\\n' || body"


def test_two_embeddings_of_one_table_change_together(project: Project) -> None:
    def write(columns: str, texts: list[str], kind: str) -> None:
        project.models(
            f"""
            class Article(Base):
                __tablename__ = "article"
                id: Mapped[int] = mapped_column(primary_key=True)
                kept: Mapped[str] = mapped_column({kind})
                {columns}: Mapped[str]
                one = Embedding({texts[0]!r})
                two = Embedding({texts[1]!r}, bm25=False)
            """
        )

    write("old", ["old || kept", "kept || old"], "String(20)")
    project.revision()
    project.upgrade()
    project.run("insert into article values (1, 'a', 'b')")
    project.run("alter table article alter column old drop not null")
    write("new", ["new || kept", "kept"], "String(50)")
    script = project.revision()
    assert calls(script) == [
        "pause_embedding",
        "pause_embedding",
        "add_column",
        "alter_column",
        "resume_embedding",
        "resume_embedding",
        "alter_embedding",
        "alter_embedding",
        "drop_column",
    ]
    file = max(project.folder.glob("migrations/versions/*.py"), key=_age)
    file.write_text(script.replace("nullable=False", "nullable=True"))
    project.upgrade()
    assert [row[2] for row in settings(project)] == ["new || kept", "kept"]
    assert states(project) == {"active"}
    project.alembic("downgrade", "-1")
    assert [row[2] for row in settings(project)] == ["old || kept", "kept || old"]
    assert states(project) == {"active"}


def test_a_schema_and_quoted_names(project: Project) -> None:
    project.run('create schema "My Shop"')
    env = project.folder / "migrations" / "env.py"
    env.write_text(
        env.read_text().replace(
            "target_metadata=target_metadata\n",
            "target_metadata=target_metadata, include_schemas=True\n",
        )
    )
    body = """
        class Order(Base):
            metadata = MetaData(schema="My Shop")
            __tablename__ = "Order %"
            id: Mapped[int] = mapped_column("User", primary_key=True)
            text: Mapped[str] = mapped_column("select")
            embedding = Embedding('"select" || \\'%(x)s\\'', index={index})
        Base.metadata = Order.metadata
        """
    project.models(body.format(index="HNSW()"))
    script = project.revision()
    assert calls(script) == ["create_table", "create_embedding"]
    project.upgrade()
    project.alembic("check")
    project.models(body.format(index="None"))
    assert calls(project.revision()) == ["alter_embedding"]
    project.upgrade()
    project.alembic("check")
    project.alembic("downgrade", "base")
    assert settings(project) == []


@pytest.mark.filterwarnings("ignore:autoincrement")  # Alembic's own, for any key
def test_a_column_may_change_its_type(project: Project) -> None:
    project.article(DEFAULT)
    project.revision()
    project.upgrade()
    project.run("insert into article values (1, 'a', 'b')")
    project.models(
        f"""
        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
            title: Mapped[str] = mapped_column(String(100))
            body: Mapped[str] = mapped_column(Text)
            embedding = {DEFAULT}
        """
    )
    script = project.revision()
    assert calls(script) == [
        "pause_embedding",
        "alter_column",
        "alter_column",
        "resume_embedding",
    ]
    project.upgrade()
    side = "select format_type(atttypid, -1) from pg_attribute where attname = 'id'"
    query = f"{side} and attrelid = 'article_embedding'::regclass"
    assert project.query(query) == [("bigint",)]
    assert states(project) == {"active"}
    project.alembic("downgrade", "-1")
    assert project.query(query) == [("integer",)]
    assert states(project) == {"active"}


def test_the_cost_of_a_change_is_said(project: Project) -> None:
    project.article("Embedding('title')")
    project.revision()
    project.upgrade()
    for options, words in (
        ("model='all-mpnet-base-v2'", "encoded again, beside the vectors"),
        ("dimensions=128", "encoded again, beside the vectors"),
        ("distance='l2'", "encoded again, beside the vectors"),
        ("index=HNSW(m=20)", "vector index is built anew"),
        ("chunk_size=50", "cut and encoded again"),
        ("bm25=BM25(b=0.5)", "word index is built anew"),
    ):
        project.article(f"Embedding('title', {options})")
        script = project.revision()
        project.upgrade()
        project.alembic("downgrade", "-1")
        max(project.folder.glob("migrations/versions/*.py"), key=_age).unlink()
        comments = " ".join(re.findall(r"# (.*)", script))
        assert words in comments


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asynchronous_projects(tmp_path: Path, empty_dsn: str, driver: str) -> None:
    project = make_project(tmp_path, empty_dsn, template="async", driver=driver)
    project.article(DEFAULT)
    project.revision()
    project.upgrade()
    project.alembic("check")
    project.alembic("downgrade", "base")
    assert project.query("select to_regnamespace('pgembed') is null") == [(True,)]


def test_pgembeds_history_as_a_dependency(empty_project: Project) -> None:
    project = empty_project
    ini = project.folder / "alembic.ini"
    ini.write_text(
        ini.read_text()
        .replace("path_separator = os", "path_separator = newline")
        .replace(
            "[alembic]\n",
            "[alembic]\nversion_locations =\n    %(here)s/migrations/versions\n"
            "    pgembed.alembic:versions\n",
        )
    )
    project.article(DEFAULT)
    project.alembic("upgrade", "heads")
    path = str(project.folder / "migrations" / "versions")
    script = project.revision(
        "first",
        *("--head", "base", "--version-path", path),
        *("--branch-label", "shop", "--depends-on", "pgembed_0001"),
    )
    assert calls(script) == ["create_table", "create_embedding"]
    project.alembic("upgrade", "heads")
    project.alembic("check")
    project.alembic("downgrade", "pgembed@base")
    assert project.query("select to_regnamespace('pgembed') is null") == [(True,)]
    project.alembic("upgrade", "shop@head")  # brings what it depends on
    assert len(settings(project)) == 1
    sql = project.alembic("upgrade", "heads", "--sql")
    assert sql.count("create table pgembed.embedding") == 1


def test_every_revision_can_be_depended_on() -> None:
    folder = Path(schema.__file__).parent / "alembic" / "versions"
    names = {path.stem for path in folder.glob("pgembed_*.py")}
    assert names == {f"pgembed_{revision}" for revision in schema.known_revisions()}


@pytest.mark.parametrize("revision", schema.known_revisions())
def test_an_earlier_schema_is_upgraded(project: Project, revision: str) -> None:
    """By autogenerate; the functions of another build count as earlier too."""
    assert schema.head_revision() == revision, "write how it is upgraded from"
    project.run("comment on schema pgembed is 'pgembed 0.0, functions 0123456789ab'")
    project.run("drop function pgembed.retry")
    project.article(DEFAULT)
    script = project.revision()
    assert calls(script) == ["install_pgembed", "create_table", "create_embedding"]
    assert f"upgrade_from='{revision}'" in script
    assert "install_pgembed" not in calls(script, "downgrade")
    sql = project.alembic("upgrade", "head", "--sql")
    assert f"'{revision}'" in sql
    assert "create table pgembed.embedding" not in sql
    project.upgrade()
    project.alembic("check")
    assert project.query("select pgembed.retry()") == [(0,)]
    project.alembic("downgrade", "base")
    assert project.query("select to_regnamespace('pgembed') is null") == [(False,)]


def test_what_goes_wrong_is_said(empty_project: Project) -> None:
    project = empty_project
    project.article(DEFAULT)
    script = project.revision()
    (file,) = project.folder.glob("migrations/versions/*.py")
    file.write_text(script.replace("    op.install_pgembed()\n", ""))
    with pytest.raises(UnsupportedEnvironment, match="pgembed install"):
        project.upgrade()
    file.write_text(script.replace("|| body", "|| bodi"))
    with pytest.raises(InvalidExpression, match=r"(?s)bodi.*Columns of"):
        project.upgrade()
    file.write_text(script.replace("name='", "model='nosuch', name='"))
    with pytest.raises(UnknownModel, match="nosuch"):
        project.upgrade()
    assert catalog(project) == []  # nothing is left of any attempt
    file.write_text(script)
    project.upgrade()
    project.run("create table mine (id int primary key, body text)")
    project.run("select pgembed.create_embedding('mine', 'body')")
    with pytest.raises(EmbeddingsExist, match="mine_embedding"):
        project.alembic("downgrade", "base")


def test_a_newer_or_older_database_is_refused(project: Project) -> None:
    project.article(DEFAULT)
    project.revision()
    project.run("update pgembed.alembic_version set version_num = '9999'")
    with pytest.raises(SchemaVersionError, match=r"(?s)9999.*pip install"):
        project.upgrade()
    for file in project.folder.glob("migrations/versions/*.py"):
        file.unlink()
    with pytest.raises(SchemaVersionError, match=r"(?s)9999.*pip install"):
        project.alembic("check")


def test_a_development_schema_from_before_is_refused(project: Project) -> None:
    project.article(DEFAULT)
    project.revision()
    project.run("drop table pgembed.captured_text cascade")
    with pytest.raises(SchemaVersionError, match=r"(?s)development.*DROP SCHEMA"):
        project.upgrade()
    for file in project.folder.glob("migrations/versions/*.py"):
        file.unlink()
    with pytest.raises(SchemaVersionError, match=r"(?s)development.*DROP SCHEMA"):
        project.alembic("check")
