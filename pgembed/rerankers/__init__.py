"""Re-rankers: a query and a text to a score. Imports no model library."""

from __future__ import annotations

from pgembed.rerankers.base import Reranker, SupportsPredict, check_scores
from pgembed.rerankers.registry import DEFAULT_RERANKER, as_reranker, load_reranker

__all__ = [
    "DEFAULT_RERANKER",
    "Reranker",
    "SupportsPredict",
    "as_reranker",
    "check_scores",
    "load_reranker",
]
