"""Text embeddings that stay fresh by themselves, and semantic search, in PostgreSQL.

    >>> import psycopg, pgembed
    >>> with psycopg.connect("dbname=shop") as conn:  # doctest: +SKIP
    ...     pgembed.create_embedding(conn, "article", "title || ' ' || body")

The functions are those of `pgembed.client`, loaded when one is first used; their
asynchronous twins are in `pgembed.aclient`. `pgembed.errors` has every error.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from pgembed.errors import PgembedError

if TYPE_CHECKING:
    from pgembed.client import (
        BM25Hit,
        ClassifiedRow,
        DuplicatePair,
        EmbeddingComparison,
        EmbeddingStatus,
        FacetValue,
        HybridHit,
        Judgement,
        LabelScore,
        NearWord,
        OutlierScore,
        ScoredRow,
        VectorHit,
        accept_weights,
        alter_bm25,
        alter_embedding,
        analogy,
        await_embedded,
        bm25_maintain,
        bm25_rebuild,
        bm25_search,
        centroid,
        classify,
        classify_text,
        compare_embeddings,
        create_bm25,
        create_embedding,
        current_lsn,
        drop_bm25,
        drop_embedding,
        drop_model,
        duplicate_groups,
        duplicates,
        duplicates_of,
        embed,
        encode,
        erase,
        grant_usage,
        hybrid_search,
        is_fresh,
        judge,
        judgements,
        nearest_words,
        outliers,
        pause_embedding,
        recommend,
        reembed,
        register_model,
        repair,
        resume_embedding,
        retry,
        revoke_usage,
        row_analogy,
        search,
        search_count,
        search_facets,
        similar,
        similarity,
        status,
        switch_embedding,
        vector_search,
        wait_for_replay,
    )

__version__ = metadata.version("pgembed-kit")

__all__ = [
    "BM25Hit",
    "ClassifiedRow",
    "DuplicatePair",
    "EmbeddingComparison",
    "EmbeddingStatus",
    "FacetValue",
    "HybridHit",
    "Judgement",
    "LabelScore",
    "NearWord",
    "OutlierScore",
    "PgembedError",
    "ScoredRow",
    "VectorHit",
    "accept_weights",
    "alter_bm25",
    "alter_embedding",
    "analogy",
    "await_embedded",
    "bm25_maintain",
    "bm25_rebuild",
    "bm25_search",
    "centroid",
    "classify",
    "classify_text",
    "compare_embeddings",
    "create_bm25",
    "create_embedding",
    "current_lsn",
    "drop_bm25",
    "drop_embedding",
    "drop_model",
    "duplicate_groups",
    "duplicates",
    "duplicates_of",
    "embed",
    "encode",
    "erase",
    "grant_usage",
    "hybrid_search",
    "is_fresh",
    "judge",
    "judgements",
    "nearest_words",
    "outliers",
    "pause_embedding",
    "recommend",
    "reembed",
    "register_model",
    "repair",
    "resume_embedding",
    "retry",
    "revoke_usage",
    "row_analogy",
    "search",
    "search_count",
    "search_facets",
    "similar",
    "similarity",
    "status",
    "switch_embedding",
    "vector_search",
    "wait_for_replay",
]


def __getattr__(name: str) -> object:
    """Load the client when one of its names is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module("pgembed.client"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
