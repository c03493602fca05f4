"""Static models: the vector of a text is the mean of its tokens' vectors.

No torch: a lookup and a mean. Which files are read: see
`pgembed.encoders.static_files`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from pgembed.encoders.base import check_texts, unit_length
from pgembed.encoders.batching import pack
from pgembed.encoders.prompts import choose_prompts
from pgembed.encoders.static_files import StaticModel, load_static
from pgembed.errors import DimensionMismatch, TextError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BATCH_CHARACTERS: Final = 1 << 18
_BATCH_TEXTS: Final = 1024


class StaticEncoder:
    """A static model: StaticEmbedding, model2vec, or word vectors.

    Attributes:
        name: The model's name.
        dimensions: Length of every vector.
        max_tokens: Longest input; longer is truncated. None: no limit.
        normalized: Whether every vector has unit length.
        fingerprint: SHA-256 over the files that its vectors are read from.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        model: Tokenizer and token vectors.
        probe: A text that it can encode, if it can encode any.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        dimensions: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        model: StaticModel | None = None,
    ) -> None:
        """Find and load a model.

        Args:
            name: A directory, a file of word vectors, or a name on the hub.
            revision: Commit on the hub; None: whichever is found.
            dimensions: Fewer than the model has: vectors are truncated and, where
                the model normalises, scaled to unit length again.
            query_prompt: None takes the model's own; '' is no prompt.
            document_prompt: None takes the model's own; '' is no prompt.
            model: What has been loaded already.

        Raises:
            ModelNotFound: No place has it, or what is there is no static model, or is
                damaged.
            DimensionMismatch: The model has fewer dimensions than asked for.
        """
        self.name = name
        self.model = model or load_static(name, revision)
        own = self.model.vectors.shape[1]
        if dimensions is not None and not 1 <= dimensions <= own:
            raise DimensionMismatch(
                f"model {name!r} has {own} dimensions, not {dimensions}",
                hint=f"Declare it with {own} dimensions, or fewer to truncate.",
            )
        self.dimensions = dimensions or own
        self.max_tokens = self.model.max_tokens
        self.normalized = self.model.normalized
        self.fingerprint = self.model.fingerprint
        prompts = self.model.prompts, self.model.default_prompt_name
        self.query_prompt, self.document_prompt = choose_prompts(
            name, query_prompt, document_prompt, *prompts
        )
        # Word vectors of one field need not know any word of a common text.
        some = islice(self.model.tokenizer.get_vocab(with_added_tokens=False), 1000)
        self.probe = next((text for text in some if any(self._counted([text], ""))), "")

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts into batches of at most 1,024 texts or 256 Ki characters."""
        check_texts(texts)
        return pack([len(text) for text in texts], _BATCH_CHARACTERS, _BATCH_TEXTS)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions).

        Raises:
            TextError: The model knows no token of one of the texts.
        """
        return self._encode(texts, self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions).

        Raises:
            TextError: The model knows no token of one of the texts.
        """
        return self._encode(texts, self.query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens with the document prompt, untruncated."""
        return [len(ids) for ids in self._ids(texts, self.document_prompt)]

    def tokenizer_json(self) -> str | None:
        """Give the model's tokenizer, without truncation and padding, as JSON."""
        return str(self.model.tokenizer.to_str())

    def _ids(self, texts: Sequence[str], prompt: str) -> list[list[int]]:
        check_texts(texts)
        found = self.model.tokenizer.encode_batch_fast(
            [prompt + text for text in texts], add_special_tokens=False
        )
        return [encoding.ids for encoding in found]

    def _counted(self, texts: Sequence[str], prompt: str) -> Iterator[list[int]]:
        """Give the tokens of each text that count in its mean."""
        for ids in self._ids(texts, prompt):
            yield [i for i in ids[: self.max_tokens] if i != self.model.left_out]

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        means = np.empty((len(texts), self.model.vectors.shape[1]), dtype=np.float32)
        for number, counted in enumerate(self._counted(texts, prompt)):
            if not counted:
                raise TextError(
                    f"model {self.name!r} knows no token of text {number}",
                    hint="It has no vector for such a text: rare words, another "
                    "language, or signs only.",
                )
            # In 64 bits, as PostgreSQL does it. take() is faster than vectors[counted].
            taken = self.model.vectors.take(counted, 0)
            means[number] = taken.mean(axis=0, dtype=np.float64)
        means = means[:, : self.dimensions]
        return unit_length(means) if self.normalized else np.ascontiguousarray(means)
