"""A vocabulary of a table's own: pieces of words, learnt from its texts.

Any model can be followed with it, also one whose own tokenizer PostgreSQL cannot run,
or of which nobody has the tokenizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

VOCABULARY_SIZE = 30_000
UNKNOWN = "[UNK]"
_LEAST_OFTEN = 2
_AT_ONCE = 1000
_LONGEST_WORD = 100  # as BERT's


def learn(texts: Iterable[str], size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Learn pieces of words from texts, by WordPiece over BERT's normalizer.

    Args:
        texts: Read once.
        size: Most pieces.

    Returns:
        A tokenizer of the tokenizers library; its pieces occur twice at least.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(
        models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_LEAST_OFTEN,
        special_tokens=[UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Cut texts into known pieces.

    A word that is unknown says nothing, or all that are unknown would say the same.
    """
    unknown = tokenizer.token_to_id(UNKNOWN)
    found: list[NDArray[np.int32]] = []
    # What the library makes of a text is fifty times as large as its tokens.
    for at in range(0, len(texts), _AT_ONCE):
        part = texts[at : at + _AT_ONCE]
        for one in tokenizer.encode_batch(part, add_special_tokens=False):
            ids = np.array(one.ids, dtype=np.int32)
            found.append(ids[ids != unknown])
    return found
