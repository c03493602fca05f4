"""BM25 indexes of their own, and what a migration says of roles and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.alembic.conftest import Project, calls

INDEX = """
class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    words = {}
"""
STATE = (
    "select b.name, b.k1, b.config::text, t.text_expression from pgembed.bm25 as b"
    " join pgembed.captured_text as t using (text_id)"
)
ENGLISH = ("article_words", 1.2, "pg_catalog.english", "title")
GERMAN = ("article_words", 0.9, "pg_catalog.german", "title || ' ' || body")


def test_an_index_goes_round_and_back(project: Project) -> None:
    project.models(INDEX.format('BM25Index("title", BM25(config="english"))'))
    first = project.revision()
    assert calls(first) == ["create_table", "create_bm25"]
    assert calls(first, "downgrade")[0] == "drop_bm25"
    project.upgrade()
    assert project.query(STATE) == [ENGLISH]
    assert calls(project.revision("nothing")) == []
    project.upgrade()

    project.models(
        INDEX.format(
            "BM25Index(\"title || ' ' || body\", BM25(config='german', k1=0.9))"
        )
    )
    changed = project.revision("other words")
    assert calls(changed) == calls(changed, "downgrade") == ["alter_bm25"]
    project.upgrade()
    assert project.query(STATE) == [GERMAN]
    assert calls(project.revision("nothing again")) == []
    project.upgrade()
    project.alembic("downgrade", "-2")
    assert project.query(STATE) == [ENGLISH]
    project.upgrade()
    assert project.query(STATE) == [GERMAN]

    project.models(INDEX.format("None"))
    gone = project.revision("no words")
    assert calls(gone) == ["drop_bm25"]
    project.upgrade()
    assert project.query(STATE) == []
    assert calls(project.revision("still nothing")) == []
    project.alembic("downgrade", "-1")
    assert project.query(STATE) == [GERMAN]


def test_an_embedding_takes_the_place_of_an_index(project: Project) -> None:
    project.models(INDEX.format('BM25Index("title")'))
    project.revision()
    project.upgrade()
    project.models(INDEX.format('Embedding("title", model="hashing", dimensions=8)'))
    assert calls(project.revision("vectors")) == ["drop_bm25", "create_embedding"]


def test_options_go_back_to_their_defaults(project: Project) -> None:
    project.models(INDEX.format('BM25Index("title", BM25(k1=0.9, b=0.5))'))
    project.revision()
    project.upgrade()
    project.models(INDEX.format('BM25Index("title", BM25(b=0.5))'))
    script = project.revision("k1")
    assert "reset=['k1']" in script
    project.upgrade()
    assert project.query("select k1, b from pgembed.bm25") == [(1.2, 0.5)]


def test_a_migration_grants_and_registers(project: Project) -> None:
    project.run("drop role if exists pgembed_searcher; create role pgembed_searcher")
    project.models(INDEX.format("None"))
    project.alembic("revision", "-m", "by hand")
    (path,) = Path(project.folder).glob("migrations/versions/*.py")
    text = path.read_text().replace(
        'def upgrade() -> None:\n    """Upgrade schema."""\n    pass',
        "def upgrade() -> None:\n"
        "    op.install_pgembed()\n"
        "    op.register_model('own', 8, provider='hashing', max_tokens=64)\n"
        "    op.accept_weights('own', 'f1')\n"
        "    op.grant_usage('pgembed_searcher')\n"
        "    op.register_model('mistaken', 8, provider='hashing')\n"
        "    op.drop_model('mistaken')\n"
        "    op.drop_model('mistaken', if_exists=True)\n",
    )
    assert "grant_usage" in text
    path.write_text(text)
    project.upgrade()
    usage = "select has_schema_privilege('pgembed_searcher', 'pgembed', 'usage')"
    assert project.query(usage) == [(True,)]
    own = "select dimensions, max_tokens, fingerprint from pgembed.model"
    assert project.query(f"{own} where name = 'own'") == [(8, 64, "f1")]
    assert project.query(f"{own} where name = 'mistaken'") == []
    project.run("select pgembed.revoke_usage('pgembed_searcher')")


@pytest.mark.parametrize("wrong", ['BM25Index("title", 5)', 'BM25Index("title", "x")'])
def test_wrong_options_are_named(project: Project, wrong: str) -> None:
    project.models(INDEX.format(wrong))
    with pytest.raises(Exception, match="options is"):
        project.revision()
