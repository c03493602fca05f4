"""Declare, search and watch embeddings over asynchronous psycopg connections.

Every function takes the connection first and runs as its role; nothing here is
kept between calls. `pgembed.client` has the same functions for synchronous
connections.

Names of embeddings and BM25 indexes are unique in the schema of their table: a name
is `'article_embedding'` or `'shop.article_embedding'` everywhere. Of several with one
name, a bare name means that in the first schema on the search_path.

    >>> import psycopg, pgembed.aclient
    >>> async def titles(conn: psycopg.AsyncConnection) -> list[str]:
    ...     hits = await pgembed.aclient.search(conn, "article", "cheap flights")
    ...     return [hit.doc["title"] for hit in hits]

**Where a query becomes a vector.** With `encoder=...` in this process: an object
with the methods of `pgembed.encoders.Encoder`, or the name of a registered model,
which is loaded once and kept; it runs in a thread, so that an event loop goes on.
Without it, the encoder service does it, and its answer stays in a cache in the
database. The service is asked through `CALL pgembed.encode(...)`, which has to commit,
so it runs on this connection only while that is outside a transaction; inside one, a
second connection is opened for a moment (same address, same login role) if the query
is not in the cache yet. A connection that is not in autocommit mode is inside a
transaction from its first statement to the next commit.
"""

from __future__ import annotations

from pgembed._client.results import (
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
)
from pgembed.aclient.analysis import (
    analogy,
    centroid,
    classify,
    classify_text,
    duplicate_groups,
    duplicates,
    duplicates_of,
    nearest_words,
    outliers,
    recommend,
    row_analogy,
    similarity,
)
from pgembed.aclient.declare import (
    accept_weights,
    alter_bm25,
    alter_embedding,
    create_bm25,
    create_embedding,
    drop_bm25,
    drop_embedding,
    drop_model,
    grant_usage,
    register_model,
    revoke_usage,
    switch_embedding,
)
from pgembed.aclient.judge import judge, judgements
from pgembed.aclient.search import (
    bm25_search,
    embed,
    encode,
    hybrid_search,
    search,
    search_count,
    search_facets,
    similar,
    vector_search,
)
from pgembed.aclient.watch import (
    await_embedded,
    bm25_maintain,
    bm25_rebuild,
    compare_embeddings,
    current_lsn,
    erase,
    is_fresh,
    pause_embedding,
    reembed,
    repair,
    resume_embedding,
    retry,
    status,
    wait_for_replay,
)
from pgembed.options import Filter, RerankerLike, Table, Vector

__all__ = [
    "BM25Hit",
    "ClassifiedRow",
    "DuplicatePair",
    "EmbeddingComparison",
    "EmbeddingStatus",
    "FacetValue",
    "Filter",
    "HybridHit",
    "Judgement",
    "LabelScore",
    "NearWord",
    "OutlierScore",
    "RerankerLike",
    "ScoredRow",
    "Table",
    "Vector",
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
