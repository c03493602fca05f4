"""Embeddings in several schemas, of one application or of several in a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.alembic.conftest import Project, calls, make_project
from tests.integration.alembic.test_cycle import catalog, settings

_PLAIN = "target_metadata=target_metadata\n"


def configure(project: Project, options: str) -> None:
    """Give `context.configure` more options, one a line."""
    env = project.folder / "migrations" / "env.py"
    text = env.read_text()
    assert _PLAIN in text
    env.write_text(
        text.replace(_PLAIN, f"target_metadata=target_metadata,\n{options}\n")
    )


def declared(project: Project) -> list[tuple[str, str]]:
    statement = "select schema, name from pgembed.status order by 1, 2"
    return [(row[0], row[1]) for row in project.query(statement)]


def notes(options: str = "", shop: str = "", columns: str = "body: Mapped[str]") -> str:
    """Write the same table for the default schema, and for another."""
    embedding = "embedding = Embedding('body'{})"
    return f"""
        class Note(Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            {columns}
            {embedding.format(options)}

        class ShopNote(Base):
            __tablename__ = "note"
            __table_args__ = {{"schema": "shop"}}
            id: Mapped[int] = mapped_column(primary_key=True)
            {columns}
            {embedding.format(shop) if shop != "none" else ""}
        """


def test_the_same_name_in_two_schemas(project: Project) -> None:
    project.run("create schema shop")
    configure(project, "            include_schemas=True,")
    start = catalog(project)
    history = []
    wide = "body: Mapped[str] = mapped_column(Text)"
    steps: list[tuple[str, list[str], list[str]]] = [
        (
            notes(),
            ["create_table"] * 2 + ["create_embedding"] * 2,
            ["op.drop_embedding('note_embedding', schema='shop')"],
        ),
        (
            notes(shop=", chunk_size=50, index=None"),
            ["alter_embedding"],
            ["op.alter_embedding('note_embedding', schema='shop', "],
        ),
        (
            notes(", max_attempts=3", ", chunk_size=50, index=None"),
            ["alter_embedding"],
            ["op.alter_embedding('note_embedding', max_attempts=3)"],
        ),
        (
            notes(", max_attempts=3", "", wide),
            ["pause_embedding", "alter_column", "resume_embedding"] * 2
            + ["alter_embedding"],
            ["op.pause_embedding('note_embedding', schema='shop', capture=False)"],
        ),
        (
            notes(", max_attempts=3", "none", wide),
            ["drop_embedding"],
            [
                "op.drop_embedding('note_embedding', schema='shop')",
                "op.create_embedding('note', 'body', schema='shop', ",
            ],
        ),
    ]
    for models, expected, lines in steps:
        project.models(models)
        script = project.revision()
        assert sorted(calls(script)) == sorted(expected)
        flat = " ".join(script.split()).replace("( ", "(")
        for line in lines:
            assert line in flat
        project.upgrade()
        project.alembic("check")
        history.append((declared(project), settings(project), catalog(project)))
    assert declared(project) == [("public", "note_embedding")]
    for earlier in reversed(history[:-1]):
        project.alembic("downgrade", "-1")
        assert (declared(project), settings(project), catalog(project)) == earlier
    assert declared(project) == [
        ("public", "note_embedding"),
        ("shop", "note_embedding"),
    ]
    project.alembic("downgrade", "base")
    assert catalog(project) == start
    # One script for both, with every name in its place.
    sql = project.alembic("upgrade", "head", "--sql")
    assert "'shop.note_embedding'" in sql
    assert sql.count('"source" => \'"shop"."note"\'') == 1


@pytest.mark.parametrize("schemas", ["one", "two"])
def test_two_applications_in_one_database(
    tmp_path: Path, dsn: str, schemas: str
) -> None:
    """Each has its own metadata, and leaves the other's embeddings alone."""
    projects: list[tuple[Project, str]] = []
    for number, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        project = make_project(tmp_path / name, dsn)
        # In one schema, an application names its tables; else it names its schema.
        if schemas == "one":
            table, schema = f"note_{name}", ""
            chosen = "kind != 'table' or n in target_metadata.tables"
            options = f"            include_name=lambda n, kind, _: {chosen},"
        else:
            table, schema = "note", "MetaData(schema='app')" if number else "MetaData()"
            chosen = f"kind != 'schema' or n == {'app' if number else None!r}"
            options = (
                "            include_schemas=True,\n"
                f"            include_name=lambda n, kind, _: {chosen},"
            )
            if number:
                options += "\n            version_table_schema='app',"
        configure(project, f"{options}\n            version_table='version_{name}',")
        body = f"""
            class Note(Base):
                {"metadata = " + schema if schema else "pass"}
                __tablename__ = "{table}"
                id: Mapped[int] = mapped_column(primary_key=True)
                body: Mapped[str]
                {{embedding}}
            Base.metadata = Note.metadata
            """
        projects.append((project, body))
    projects[0][0].run("create schema app")
    found = []
    for project, body in projects:
        project.models(body.format(embedding="embedding = Embedding('body')"))
        assert calls(project.revision()) == ["create_table", "create_embedding"]
        project.upgrade()
        found.append(declared(project))
    everything = found[-1]
    assert len(everything) == 2
    for project, _ in projects:
        project.alembic("check")
    # Each drops its own, and nothing else.
    for project, body in projects:
        project.models(body.format(embedding=""))
        assert calls(project.revision()) == ["drop_embedding"]
        project.upgrade()
        project.alembic("check")
        assert len(declared(project)) == 1
        project.alembic("downgrade", "-1")
        assert declared(project) == everything
    for project, _ in projects:
        project.alembic("downgrade", "base")
    assert declared(projects[0][0]) == []


def test_the_same_migrations_for_each_tenant(project: Project) -> None:
    """As Alembic's cookbook has it: the search_path says which tenant it is."""
    for tenant in ("alpha", "beta"):
        project.run(f"create schema {tenant}")
    env = project.folder / "migrations" / "env.py"
    text = env.read_text()
    connected = "    with connectable.connect() as connection:\n"
    assert connected in text
    env.write_text(
        text.replace(
            connected,
            connected
            + "        tenant = context.get_x_argument(as_dictionary=True)['tenant']\n"
            + "        connection.exec_driver_sql(\n"
            + "            f'set search_path = {tenant}, public'\n        )\n"
            + "        connection.commit()\n"
            + "        connection.dialect.default_schema_name = tenant\n",
        )
    )

    def alembic(tenant: str, *arguments: str) -> None:
        project.alembic("-x", f"tenant={tenant}", *arguments)

    def revision(embedding: str, columns: str) -> list[str]:
        project.article(embedding, columns)
        before = set(project.folder.glob("migrations/versions/*.py"))
        alembic("alpha", "revision", "--autogenerate", "-m", "change")
        (new,) = set(project.folder.glob("migrations/versions/*.py")) - before
        return calls(new.read_text())

    both = [("alpha", "article_embedding"), ("beta", "article_embedding")]
    assert revision("Embedding('title')", "title") == [
        "create_table",
        "create_embedding",
    ]
    for tenant in ("alpha", "beta"):
        alembic(tenant, "upgrade", "head")
        alembic(tenant, "check")
    assert declared(project) == both
    assert revision("Embedding('title || body')", "title body") == [
        "add_column",
        "alter_embedding",
    ]
    for tenant in ("alpha", "beta"):
        alembic(tenant, "upgrade", "head")
        alembic(tenant, "check")
    alembic("beta", "downgrade", "-1")
    texts = project.query(
        "select source::text, text_expression from pgembed.captured_text order by 1"
    )
    assert texts == [("alpha.article", "title || body"), ("beta.article", "title")]
    alembic("beta", "downgrade", "base")
    assert declared(project) == both[:1]
    alembic("beta", "upgrade", "head")
    assert declared(project) == both
    alembic("beta", "check")


def test_operations_take_a_name_with_its_schema(project: Project) -> None:
    project.run("create schema shop")
    project.run("create table note (id int primary key, body text)")
    project.run("create table shop.note (id int primary key, body text)")
    project.run("select pgembed.create_embedding('note', 'body')")
    project.article("", "")
    script = project.revision("by hand")
    (file,) = project.folder.glob("migrations/versions/*.py")
    head, _, _ = script.partition("def upgrade()")
    file.write_text(
        head
        + """
def upgrade() -> None:
    for _ in range(2):
        op.create_embedding("note", "body", schema="shop", if_not_exists=True)
    op.pause_embedding("shop.note_embedding", capture=False)
    op.resume_embedding("shop.note_embedding")
    op.alter_embedding("shop.note_embedding", max_attempts=2, reset=["chunk_size"])
    op.alter_embedding("note_embedding", schema="shop", wake="poll")
    op.alter_embedding("public.note_embedding", max_attempts=4)


def downgrade() -> None:
    op.drop_embedding("shop.note_embedding")
    op.drop_embedding("note_embedding", schema="shop", if_exists=True)
"""
    )
    project.upgrade()
    assert project.query(
        "select source::text, max_attempts, wake, state from pgembed.embedding"
        " order by 1"
    ) == [("note", 4, "notify", "active"), ("shop.note", 2, "poll", "active")]
    project.alembic("downgrade", "base")
    assert declared(project) == [("public", "note_embedding")]
