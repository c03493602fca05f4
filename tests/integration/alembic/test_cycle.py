"""init, autogenerate, upgrade, change, downgrade: with the real command."""

from __future__ import annotations

import re
from typing import Any

from tests.integration.alembic.conftest import Project, calls

_CATALOG = """
with own as (
    select oid from pg_namespace where nspname in ('public', 'pgembed')
), extension as (
    select objid from pg_depend where deptype = 'e'
)
select 'class', c.oid::regclass::text, c.relkind::text
from pg_class as c
where relnamespace in (select oid from own) and oid not in (select objid from extension)
    and relname !~ '^alembic_version'
    and relname !~ '_(hnsw|ivfflat)$'    -- the service builds these when it comes to it
union all
select 'function', p.oid::regprocedure::text, ''
from pg_proc as p
where pronamespace in (select oid from own) and oid not in (select objid from extension)
union all
select 'trigger', tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal
union all
select 'column', c.oid::regclass::text,
       attname || ' ' || format_type(atttypid, atttypmod)
from pg_attribute as a join pg_class as c on c.oid = a.attrelid
where relnamespace = 'public'::regnamespace and relkind = 'r' and attnum > 0
    and not attisdropped and relname <> 'alembic_version'
"""


def catalog(project: Project) -> list[tuple[str, ...]]:
    """Describe everything there is, without the numbers that embeddings get."""
    rows = project.query(_CATALOG)
    return sorted(tuple(re.sub(r"_\d+", "_N", part) for part in row) for row in rows)


_SETTINGS = """
select e.name, e.source::text, t.text_expression, m.name, e.dimensions, e.distance,
       e.reduction, e.partitions,
       e.storage, e.column_name, e.chunking, e.chunk_size, e.chunk_overlap,
       e.vector_type, e.index_kind, e.index_options::text, e.wake, e.max_attempts,
       e.query_encoder, e.state, b.config, b.config_expression, b.k1, b.b,
       b.field_weights
from pgembed.embedding as e join pgembed.model as m using (model_id)
join pgembed.captured_text as t on t.text_id = e.text_id
left join pgembed.bm25 as b using (embedding_id) order by 1, 2
"""


def settings(project: Project) -> list[tuple[Any, ...]]:
    return project.query(_SETTINGS)


def test_the_whole_cycle(empty_project: Project) -> None:
    """Each option is changed in turn; each step is found, and found only once."""
    project = empty_project
    project.run("create extension vector")  # the one thing that stays
    start = catalog(project)
    steps: list[tuple[str, str, list[str]]] = [
        (
            "Embedding(\"title || E'\\\\n\\\\n' || body\")",
            "title body",
            ["install_pgembed", "create_table", "create_embedding"],
        ),
        ("Embedding('title')", "title body", ["alter_embedding"]),
        (
            "Embedding('title || lang', index=HNSW(m=8, ef_construction=40))",
            "title lang",
            ["add_column", "alter_embedding", "drop_column"],
        ),
        (
            "Embedding('title', index=IVFFlat(lists=10), bm25=BM25("
            "config='de', analyzer={'fold': False}, config_expression='lang',"
            " k1=1.5, b=0.5,"
            " fields={'title': 4}))",
            "title lang",
            ["alter_embedding"],
        ),
        (
            "Embedding('title', dimensions=96, reduction='pca')",
            "title lang",
            ["alter_embedding"],
        ),
        (
            "Embedding('title', dimensions=64, reduction='pca', partitions=4)",
            "title lang",
            ["alter_embedding"],
        ),
        (
            "Embedding('title', model='all-mpnet-base-v2', chunk_size=100,"
            " chunk_overlap=10, distance='l2', index=None, bm25=False)",
            "title lang",
            ["alter_embedding"],
        ),
        (
            "Embedding('title', model='sentence-transformers/all-MiniLM-L6-v2',"
            " dimensions=128, vector_type='halfvec', chunking='none', wake='poll',"
            " max_attempts=3, distance='l2', query_encoder='model')",
            "title lang",
            ["alter_embedding"],
        ),
        (
            "Embedding('title', storage='column', column_name='vec')",
            "title lang",
            ["drop_embedding", "create_embedding"],
        ),
        (
            "Embedding(lambda cls: cls.title + '%(x)s :y \\'', name='renamed',"
            " dimensions=96, reduction='pca')",
            "title lang",
            ["drop_embedding", "create_embedding"],
        ),
        ("", "title", ["drop_embedding", "drop_column"]),
    ]
    history = []
    for embedding, columns, expected in steps:
        project.article(embedding, columns)
        script = project.revision()
        assert calls(script) == expected
        assert ("Projected vectors:" in script) == (
            embedding == "Embedding('title', dimensions=96, reduction='pca')"
        )
        project.upgrade()
        history.append((settings(project), catalog(project)))
        project.alembic("check")
    for earlier in reversed(history[:-1]):
        project.alembic("downgrade", "-1")
        assert (settings(project), catalog(project)) == earlier
    project.alembic("downgrade", "base")
    assert catalog(project) == start
    project.upgrade()
    assert settings(project) == []


def test_an_embedding_of_images_is_as_declared(project: Project) -> None:
    project.models(
        """
        class Product(Base):
            __tablename__ = "product"
            id: Mapped[int] = mapped_column(primary_key=True)
            photo: Mapped[bytes]
            embedding = Embedding(
                lambda cls: cls.photo, model="clip-ViT-B-32", query_encoder="model"
            )
        """
    )
    assert calls(project.revision()) == ["create_table", "create_embedding"]
    project.upgrade()
    project.alembic("check")
    assert project.query(
        "select kind, chunking from pgembed.captured_text"
        " join pgembed.embedding using (text_id)"
    ) == [("image", "none")]
