"""Vectors from hashed words: no model, no download, the same on every machine.

For users' own tests: texts that share words are near each other, so a search finds
what a test expects, in microseconds and without torch. It knows no synonyms.
"""

from __future__ import annotations

import re
from hashlib import blake2b, sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from pgembed.encoders.base import check_texts, unit_length
from pgembed.encoders.batching import pack
from pgembed.errors import DimensionMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DEFAULT_DIMENSIONS: Final = 256
MAX_DIMENSIONS: Final = 16_000  # pgvector's longest `vector`

_WORD: Final = re.compile(r"\w+")
# A pair of neighbours counts half a word: order matters, but less than wording.
_BIGRAM_WEIGHT: Final = 0.5
_CACHE_ENTRIES: Final = 1 << 18  # about 40 MB at most; emptied when full
_BATCH_CHARACTERS: Final = 1 << 18
_BATCH_TEXTS: Final = 1024


class HashingEncoder:
    """Feature hashing of words and word pairs into a fixed number of dimensions.

    Attributes:
        name: The model's name.
        dimensions: Length of every vector.
        max_tokens: None: a text of any length is taken whole.
        normalized: Always True.
        fingerprint: SHA-256 over the method's name and the dimensions.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
    """

    max_tokens: int | None = None
    normalized = True

    def __init__(
        self,
        name: str = "hashing",
        dimensions: int = DEFAULT_DIMENSIONS,
        *,
        query_prompt: str = "",
        document_prompt: str = "",
    ) -> None:
        """Make an encoder; nothing is loaded.

        Raises:
            DimensionMismatch: `dimensions` is outside 1 to 16,000.
        """
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise DimensionMismatch(
                f"hashing model {name!r} cannot have {dimensions} dimensions",
                hint=f"Give 1 to {MAX_DIMENSIONS} dimensions.",
            )
        self.name = name
        self.dimensions = dimensions
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.fingerprint = sha256(
            f"pgembed hashing 1: {dimensions}".encode()
        ).hexdigest()
        self._features: dict[str, tuple[int, float]] = {}

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts into batches of at most 1,024 texts or 256 Ki characters."""
        check_texts(texts)
        return pack([len(text) for text in texts], _BATCH_CHARACTERS, _BATCH_TEXTS)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions)."""
        return self._encode(texts, self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions)."""
        return self._encode(texts, self.query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count words, the document prompt's included."""
        prompt = len(_WORD.findall(self.document_prompt))
        return [prompt + len(_WORD.findall(text)) for text in texts]

    def tokenizer_json(self) -> str | None:
        """Give None: words are not subword tokens, chunks are cut by characters."""
        return None

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        check_texts(texts)
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            self._add(row, (prompt + text).lower())
        return unit_length(vectors)

    def _add(self, row: NDArray[np.float32], text: str) -> None:
        words = _WORD.findall(text)
        sums: dict[int, float] = {}
        for word in words:
            index, sign = self._feature(word)
            sums[index] = sums.get(index, 0.0) + sign
        for pair in pairwise(words):
            index, sign = self._feature(" ".join(pair))
            sums[index] = sums.get(index, 0.0) + sign * _BIGRAM_WEIGHT
        if not any(sums.values()):
            # No words, or words that cancel out: cosine distance needs a direction.
            index, sign = self._feature(f"\n{text}")
            sums[index] = sign
        row[list(sums)] = list(sums.values())

    def _feature(self, feature: str) -> tuple[int, float]:
        """Give the dimension and the sign that a feature is added with."""
        known = self._features.get(feature)
        if known is None:
            number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest())
            known = (number >> 1) % self.dimensions, 1.0 if number & 1 else -1.0
            if len(self._features) >= _CACHE_ENTRIES:
                self._features.clear()
            self._features[feature] = known
        return known
