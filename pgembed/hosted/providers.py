"""What is declared of each provider's API: its limits, and what it is to be told.

Sources, read in November 2026: OpenAI's and Azure's, Cohere's (v2), Voyage's, Jina's,
Mistral's, Google's and Ollama's references of their endpoints for embeddings, and of
Cohere, Voyage and Jina for re-ranking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_REFERENCES: Final = (
    *("data:", "gs://", "files/"),
    "https://generativelanguage.googleapis.com/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An API's limits and parameters; the defaults suit one that is not known.

    Attributes:
        base_variables: Variables that may hold the endpoint: the first that is set.
        embed_route: What follows the endpoint, where litellm wants the whole address.
        most_texts: Most texts in a request.
        most_tokens: Most tokens in a request.
        query: Parameters that say that texts are queries.
        document: Parameters that say that texts are documents.
        typed: Beginnings of the names of the models that know these; None: all.
        shortened: Parts of the names of models that give fewer dimensions if asked.
        references: Beginnings of a text that litellm would take for a file or an
            image, and replace by what it refers to.
        most_documents: Most documents in a re-ranking request.
        most_rerank_tokens: Most tokens in one; the query counts for each document.
    """

    base_variables: tuple[str, ...] = ()
    embed_route: str = ""
    most_texts: int = 96
    most_tokens: int = 50_000
    query: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    typed: tuple[str, ...] | None = None
    shortened: tuple[str, ...] = ()
    references: tuple[str, ...] = _REFERENCES
    most_documents: int = 100
    most_rerank_tokens: int = 200_000

    def endpoint(self) -> str | None:
        """Give the endpoint that the environment names; None: the provider's own."""
        for variable in self.base_variables:
            if base := os.environ.get(variable, "").strip():
                return base.rstrip("/")
        return None

    def embed_address(self) -> str | None:
        """Give what litellm is to be told for embeddings; None: the provider's own."""
        base = self.endpoint()
        if base is None or not self.embed_route or base.endswith(self.embed_route):
            return base
        return base + self.embed_route

    def input_type(self, model: str, *, query: bool) -> Mapping[str, Any]:
        """Give the parameters that say what the texts are."""
        if self.typed is not None and not model.startswith(self.typed):
            return {}
        return self.query if query else self.document

    def as_text(self, text: str) -> str:
        """Give a text as litellm has to get it, so that it is taken for a text."""
        return f" {text}" if text.startswith(self.references) else text

    def shortens(self, model: str) -> bool:
        """Whether a model gives fewer dimensions than it has if it is asked to."""
        return any(part in model for part in self.shortened)


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider(
        base_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        most_texts=2048,
        most_tokens=300_000,
        shortened=("text-embedding-3",),
        references=(),
    ),
    "azure": Provider(
        base_variables=("AZURE_API_BASE",),
        most_texts=2048,
        most_tokens=300_000,
        shortened=("text-embedding-3",),
        references=(),
    ),
    "cohere": Provider(
        base_variables=("COHERE_API_BASE",),
        embed_route="/v2/embed",
        most_texts=96,
        most_tokens=120_000,
        query={"input_type": "search_query", "encoding_format": "float"},
        document={"input_type": "search_document", "encoding_format": "float"},
        shortened=("embed-v4",),
        most_documents=1000,
    ),
    "voyage": Provider(
        base_variables=("VOYAGE_API_BASE",),
        most_texts=1000,
        most_tokens=120_000,
        query={"input_type": "query"},
        document={"input_type": "document"},
        shortened=("voyage-3-large", "voyage-3.5", "voyage-code-3", "voyage-4"),
        most_documents=1000,
        most_rerank_tokens=300_000,
    ),
    "jina_ai": Provider(
        base_variables=("JINA_AI_API_BASE",),
        query={"task": "retrieval.query"},
        document={"task": "retrieval.passage"},
        typed=("jina-embeddings-v3", "jina-embeddings-v4"),
        shortened=("jina-embeddings-v3", "jina-embeddings-v4"),
    ),
    "mistral": Provider(
        base_variables=("MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE"),
        most_texts=512,
        most_tokens=16_000,
        shortened=("codestral-embed",),
        references=(),
    ),
    "gemini": Provider(
        base_variables=("GEMINI_API_BASE",),
        most_texts=100,
        most_tokens=20_000,
        query={"task_type": "RETRIEVAL_QUERY"},
        document={"task_type": "RETRIEVAL_DOCUMENT"},
        typed=("gemini-embedding-001", "text-embedding-004"),
        shortened=("gemini-embedding", "text-embedding-004"),
    ),
    "ollama": Provider(
        base_variables=("OLLAMA_API_BASE",),
        most_texts=64,
        most_tokens=16_000,
        shortened=("",),
        references=(),
    ),
}
"""By litellm's name."""

UNKNOWN: Final = Provider()
