"""Embeddings on SQLAlchemy models: one declaration for schema, rows and searches.

    from pgembed.sqlalchemy import Embedding


    class Article(Base):
        __tablename__ = "article"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        body: Mapped[str]
        embedding = Embedding("title || ' ' || body")


    search = Article.embedding.hybrid_search("cheap flights", k=10)
    for article, hit in session.execute(search.where(Article.title != "")):
        print(article.title, hit.score)

`pgembed.alembic` writes the migrations.
"""

from __future__ import annotations

from pgembed.options import BM25, HNSW, IVFFlat
from pgembed.sqlalchemy.chunks import EmbeddingChunk
from pgembed.sqlalchemy.declare import BM25Index, Embedding, RowEmbedding, attach
from pgembed.sqlalchemy.execution import encode_query
from pgembed.sqlalchemy.hits import BM25Hit, HybridHit, VectorHit
from pgembed.sqlalchemy.search import Search
from pgembed.sqlalchemy.searches import BM25Of, EmbeddingOf
from pgembed.sqlalchemy.waiting import await_embedded

__all__ = [
    "BM25",
    "HNSW",
    "BM25Hit",
    "BM25Index",
    "BM25Of",
    "Embedding",
    "EmbeddingChunk",
    "EmbeddingOf",
    "HybridHit",
    "IVFFlat",
    "RowEmbedding",
    "Search",
    "VectorHit",
    "attach",
    "await_embedded",
    "encode_query",
]
