"""Static models that are stored in a database: no files are needed to encode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pgembed.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenizers import Tokenizer

    from pgembed.encoders.static import StaticEncoder

_HEADER_BYTES: Final = 4  # dimensions, and a number that is not used


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A row of `pgembed.token_encoder` with its tokenizer, tokens and vectors.

    Attributes:
        vectors: Token, whether the numbers have 16 bits, and what pgvector sends.
    """

    kind: str
    clean_text: bool
    split_ideographs: bool
    strip_accents: bool
    lowercase: bool
    special_pattern: str | None
    unknown_id: int | None
    continuing_prefix: str
    longest_word: int
    normalized: bool
    max_tokens: int | None
    fingerprint: str
    vocabulary: Mapping[str, int]
    vectors: Sequence[tuple[int, bool, bytes]]


def stored_encoder(
    name: str,
    stored: StoredModel,
    *,
    query_prompt: str | None,
    document_prompt: str | None,
) -> StaticEncoder:
    """Make an encoder of what is stored.

    Raises:
        MissingExtra: The package `tokenizers` is not installed.
    """
    from pgembed.encoders.static import StaticEncoder
    from pgembed.encoders.static_files import StaticModel

    dimensions = (len(stored.vectors[0][2]) - _HEADER_BYTES) // (
        2 if stored.vectors[0][1] else 4
    )
    rows = max(stored.vocabulary.values()) + 1
    vectors = np.zeros((rows, dimensions), dtype=np.float32)
    for token_id, is_half, sent in stored.vectors:
        kind = ">f2" if is_half else ">f4"
        vectors[token_id] = np.frombuffer(sent, kind, offset=_HEADER_BYTES)
    counted = {token_id for token_id, _, _ in stored.vectors}
    return StaticEncoder(
        name,
        model=StaticModel(
            _tokenizer(stored),
            vectors,
            stored.fingerprint,
            stored.normalized,
            stored.max_tokens,
            None if stored.unknown_id in counted else stored.unknown_id,
        ),
        query_prompt=query_prompt or "",
        document_prompt=document_prompt or "",
    )


def _tokenizer(stored: StoredModel) -> Tokenizer:
    try:
        from tokenizers import AddedToken, Tokenizer
        from tokenizers.models import WordLevel, WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer
    except ImportError as exc:
        raise MissingExtra("static") from exc

    vocabulary = dict(stored.vocabulary)
    tokens = {number: token for token, number in vocabulary.items()}
    unknown = "[UNK]" if stored.unknown_id is None else tokens[stored.unknown_id]
    if stored.kind == "wordpiece":
        tokenizer = Tokenizer(
            WordPiece(
                vocabulary,
                unk_token=unknown,
                max_input_chars_per_word=stored.longest_word,
                continuing_subword_prefix=stored.continuing_prefix,
            )
        )
    else:
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = BertNormalizer(
        clean_text=stored.clean_text,
        handle_chinese_chars=stored.split_ideographs,
        strip_accents=stored.strip_accents,
        lowercase=stored.lowercase,
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    if stored.special_pattern is not None:
        special = re.compile(stored.special_pattern)
        tokenizer.add_special_tokens(
            [
                AddedToken(token, normalized=False)
                for token in vocabulary
                if special.fullmatch(token)
            ]
        )
    return tokenizer
