"""Which of a table's embeddings is the default follows the models, and goes back."""

from __future__ import annotations

from tests.integration.alembic.conftest import Project, calls

MODEL = """
class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    {}
"""
KIND = 'Embedding("{}", model="hashing", dimensions=8, bm25=False{})'


def write(project: Project, *lines: str) -> None:
    project.models(MODEL.format("\n    ".join(lines)))


def embedding(name: str, text: str, *, is_default: bool = False) -> str:
    kind = KIND.format(text, ", is_default=True" if is_default else "")
    return f"{name} = {kind}"


def default(project: Project, table: str = "embedding") -> list[str]:
    found = project.query(f"select name from pgembed.{table} where is_default")
    return [row[0] for row in found]


def test_the_default_goes_to_another_and_back(project: Project) -> None:
    project.run("select pgembed.register_model('hashing', 8, 'hashing')")
    write(project, embedding("one", "title"))
    assert "is_default" not in project.revision()
    project.upgrade()
    write(project, embedding("one", "title"), embedding("two", "body"))
    assert "is_default" not in project.revision("a second")
    project.upgrade()
    assert default(project) == ["article_one"]
    assert calls(project.revision("nothing")) == []
    project.upgrade()

    write(project, embedding("one", "title"), embedding("two", "body", is_default=True))
    script = project.revision("the second")
    assert calls(script) == calls(script, "downgrade") == ["alter_embedding"]
    assert "op.alter_embedding('article_two', is_default=True)" in script
    assert "op.alter_embedding('article_one', is_default=True)" in script
    project.upgrade()
    assert default(project) == ["article_two"]
    assert calls(project.revision("nothing again")) == []
    project.upgrade()
    project.alembic("downgrade", "-2")
    assert default(project) == ["article_one"]
    project.upgrade()

    # What is declared without it says nothing of the others.
    write(project, embedding("one", "title"), embedding("two", "body"))
    assert calls(project.revision("unsaid")) == []
    project.upgrade()
    write(project, embedding("one", "title"))
    script = project.revision("one again")
    assert "is_default=True" in script.partition("def downgrade")[2]
    project.upgrade()
    assert default(project) == ["article_one"]
    project.alembic("downgrade", "-1")
    assert default(project) == ["article_two"]


def test_a_new_one_and_an_index_are_declared_with_it(project: Project) -> None:
    words = 'words = BM25Index("title")'
    write(project, words)
    project.revision()
    project.upgrade()
    write(project, words, 'more = BM25Index("body", BM25(k1=0.9), is_default=True)')
    script = project.revision("more")
    assert calls(script) == ["create_bm25"]
    project.upgrade()
    assert default(project, "bm25") == ["article_more"]
    assert calls(project.revision("nothing")) == []
    project.upgrade()
    write(
        project,
        'words = BM25Index("title", is_default=True)',
        'more = BM25Index("body", BM25(k1=0.9))',
    )
    script = project.revision("the first")
    assert calls(script) == calls(script, "downgrade") == ["alter_bm25"]
    project.upgrade()
    assert default(project, "bm25") == ["article_words"]
    project.alembic("downgrade", "-1")
    assert default(project, "bm25") == ["article_more"]
    assert project.query("select distinct state from pgembed.bm25") == [("ready",)]
