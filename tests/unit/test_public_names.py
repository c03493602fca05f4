"""What users may import, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pgembed
from pgembed import aclient, client

FUNCTIONS = {
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
}


def test_public_names_are_pinned() -> None:
    types = {
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
    }
    assert set(client.__all__) == FUNCTIONS | types
    assert set(aclient.__all__) == FUNCTIONS | types
    assert set(pgembed.__all__) == FUNCTIONS | {
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
    }


def test_the_package_exports_the_clients_functions() -> None:
    for name in FUNCTIONS:
        assert getattr(pgembed, name) is getattr(client, name)


def test_importing_the_client_loads_no_heavy_library() -> None:
    script = (
        "import sys, pgembed, pgembed.aclient; pgembed.search;"
        "heavy = {'torch', 'sentence_transformers', 'sqlalchemy', 'alembic', 'numpy',"
        " 'rich', 'typer', 'structlog'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
