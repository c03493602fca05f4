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
    from pgembed.aclient import search as asearch
    from pgembed.client import (
        Bm25Hit,
        EmbeddingStatus,
        FacetValue,
        Hit,
        HybridHit,
        alter_bm25,
        alter_embedding,
        await_embedded,
        bm25_maintain,
        bm25_rebuild,
        bm25_search,
        create_bm25,
        create_embedding,
        drop_bm25,
        drop_embedding,
        embed,
        encode,
        erase,
        grant_usage,
        hybrid_search,
        pause,
        reembed,
        register_model,
        repair,
        resume,
        retry,
        revoke_usage,
        search,
        search_count,
        search_facets,
        similar,
        status,
    )

__version__ = metadata.version("pgembed-kit")

__all__ = [
    "Bm25Hit",
    "EmbeddingStatus",
    "FacetValue",
    "Hit",
    "HybridHit",
    "PgembedError",
    "alter_bm25",
    "alter_embedding",
    "asearch",
    "await_embedded",
    "bm25_maintain",
    "bm25_rebuild",
    "bm25_search",
    "create_bm25",
    "create_embedding",
    "drop_bm25",
    "drop_embedding",
    "embed",
    "encode",
    "erase",
    "grant_usage",
    "hybrid_search",
    "pause",
    "reembed",
    "register_model",
    "repair",
    "resume",
    "retry",
    "revoke_usage",
    "search",
    "search_count",
    "search_facets",
    "similar",
    "status",
]


def __getattr__(name: str) -> object:
    """Load the client when one of its names is first used."""
    if name == "asearch":
        found: object = import_module("pgembed.aclient").search
    elif name in __all__:
        found = getattr(import_module("pgembed.client"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
