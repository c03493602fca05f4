"""Hosted and OpenAI-compatible models, through litellm."""

from __future__ import annotations

import base64
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import check_texts, truncate_vectors, unit_length
from pgembed.encoders.batching import pack_sums
from pgembed.errors import DimensionMismatch, EncoderError, TextError
from pgembed.hosted.api import HostedModel, TextsRefused
from pgembed.hosted.tokens import estimate
from pgembed.hosted.usage import Spent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.encoders.base import EncoderSettings
    from pgembed.hosted.usage import Usage

_FEWEST_TOKENS: Final = 1_000  # in a request: below that it is not the size
_ESTIMATE_MARGIN: Final = 0.8  # of a provider's limit, because tokens are estimated


class LitellmEncoder:
    """A hosted model, one request a batch, never retried here.

    Vectors are scaled to unit length, whatever the provider does, so that they fit
    any distance. Queries and documents are told apart where the API can.

    Attributes:
        name: The model's name as litellm knows it: `openai/text-embedding-3-small`.
        dimensions: Length of every vector.
        max_tokens: Longest input as far as litellm knows it.
        normalized: Always True.
        fingerprint: SHA-256 over the name: a provider's weights cannot be seen.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        concurrent: Several threads may use it at a time: they only wait.
    """

    normalized = True
    concurrent = True

    def __init__(
        self,
        name: str,
        *,
        dimensions: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        settings: EncoderSettings | None = None,
    ) -> None:
        """Prepare a hosted model; without `dimensions` one request is made.

        Args:
            name: The model's name as litellm knows it.
            dimensions: Length of the vectors; fewer than the model's are asked for,
                or cut off here where its API cannot be asked. None: the model's.
            query_prompt: Put before every query.
            document_prompt: Put before every document.
            settings: Must allow hosted models.

        Raises:
            EncoderError: The settings do not allow hosted models.
            MissingExtra: litellm is not installed.
            ModelNotFound: The provider does not have the model.
            EncoderUnavailable: It does not answer, or refuses the key.
        """
        self._api = HostedModel(name, settings)
        self.name = name
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.fingerprint = sha256(f"litellm: {name}".encode()).hexdigest()
        self.max_tokens = self._api.known("max_input_tokens")
        self._most_tokens = int(self._api.provider.most_tokens * _ESTIMATE_MARGIN)
        self._most_texts = self._api.provider.most_texts
        self._lock = threading.Lock()  # of these two
        self._asked: int | None = None
        if dimensions is None:
            self.dimensions = self._request(["dimensions"], query=False).shape[1]
        else:
            self.dimensions = dimensions
            self._asked = self._to_ask(dimensions)

    @property
    def usage(self) -> Usage:
        """What its requests have spent so far; see `Usage.listen` for each."""
        return self._api.usage

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts into requests that the provider takes."""
        return pack_sums(self.count_tokens(texts), self._most_tokens, self._most_texts)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions).

        Raises:
            TextError: The provider refuses one of the texts.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
        """
        return self._encode(texts, query=False)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions).

        Raises:
            TextError: The provider refuses one of the texts.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
        """
        return self._encode(texts, query=True)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimate tokens; the tokenizer is the provider's."""
        check_texts(texts)
        return [estimate(self.document_prompt + text) for text in texts]

    def tokenizer_json(self) -> str | None:
        """Give None: the tokenizer is the provider's."""
        return None

    def _to_ask(self, dimensions: int) -> int | None:
        """Give what the API is to be asked for; None: the model's own dimensions."""
        if not self._api.provider.shortens(self._api.model):
            return None
        own = self._api.known("output_vector_size")
        return None if dimensions == own else dimensions

    def _encode(self, texts: Sequence[str], *, query: bool) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        waiting = self.plan(texts)
        prompt = self.query_prompt if query else self.document_prompt
        while waiting:
            batch = waiting.pop()
            try:
                raw = self._request([prompt + texts[i] for i in batch], query=query)
            except TextsRefused as exc:
                if exc.fault != "too large" or len(batch) == 1:
                    raise
                waiting += self._split(batch, texts)
                continue
            if raw.shape[1] < self.dimensions:
                raise DimensionMismatch(
                    f"model {self.name!r} gives {raw.shape[1]} dimensions, "
                    f"not {self.dimensions}",
                    hint=f"Declare it with {raw.shape[1]} dimensions or fewer.",
                )
            vectors[batch] = truncate_vectors(raw, self.dimensions, normalized=True)
        return vectors

    def _split(self, batch: list[int], texts: Sequence[str]) -> list[list[int]]:
        """Halve a request that was too large, and make no such ones any more."""
        half = (len(batch) + 1) // 2
        tokens = sum(self.count_tokens([texts[i] for i in batch]))
        with self._lock:
            if tokens > 2 * _FEWEST_TOKENS:
                self._most_tokens = min(self._most_tokens, tokens // 2)
            else:
                self._most_texts = min(self._most_texts, half)
        return [batch[half:], batch[:half]]

    def _request(self, texts: list[str], *, query: bool) -> NDArray[np.float32]:
        """Make one request; vectors of unit length, in the order of the texts."""
        parameters: dict[str, Any] = dict(
            self._api.provider.input_type(self._api.model, query=query)
        )
        if self._asked is not None:
            parameters["dimensions"] = self._asked
        try:
            response = self._api.embed(texts, parameters)
        except TextsRefused as exc:
            if len(texts) > 1 or exc.fault == "refused":
                raise
            raise self._too_long(texts[0], exc) from None
        self._count(response, texts, query=query)
        return self._vectors(response, len(texts))

    def _too_long(self, text: str, exc: TextsRefused) -> EncoderError:
        limit = "" if self.max_tokens is None else f", which takes {self.max_tokens}"
        fits = self.max_tokens or 512
        return TextError(
            f"the text is too long for hosted model {self.name!r}{limit}: it has about "
            f"{estimate(text)} tokens",
            detail=exc.detail,
            hint="Have texts cut into chunks: pgembed.alter_embedding(name, "
            f"chunking => 'sentences', chunk_size => {fits // 2}).",
        )

    def _count(self, response: Any, texts: list[str], *, query: bool) -> None:
        usage = getattr(response, "usage", None)
        told = getattr(usage, "total_tokens", 0) or getattr(usage, "prompt_tokens", 0)
        tokens = int(told or 0) or sum(map(estimate, texts))
        kind = "queries" if query else "documents"
        self.usage.add(Spent(self.name, kind, len(texts), tokens, not told))

    def _vectors(self, response: Any, texts: int) -> NDArray[np.float32]:
        try:
            # The API may answer out of order: `index` says which text it was.
            rows = sorted(response.data, key=lambda row: int(row["index"]))
            vectors = np.asarray(
                [_numbers(row["embedding"]) for row in rows], dtype=np.float32
            )
            indices = [int(row["index"]) for row in rows]
        except (KeyError, TypeError, ValueError) as exc:
            raise TextError(
                f"model {self.name!r} gave no vectors to {texts} texts, or "
                "vectors of unlike lengths",
                detail=f"{type(exc).__name__}: {exc}",
            ) from exc
        if vectors.ndim != 2 or indices != list(range(texts)):
            raise TextError(
                f"model {self.name!r} gave {len(rows)} vectors to {texts} texts"
            )
        if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
            raise TextError(
                f"model {self.name!r} gave a vector of zeros or of no numbers"
            )
        return unit_length(vectors)


def _numbers(embedding: Any) -> Any:
    """Read a vector: a list of numbers, or their bytes in base64."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return embedding
