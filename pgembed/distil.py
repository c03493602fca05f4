"""A static model out of a sentence encoder, for documents too.

Each piece of a word gets the vector that the encoder gives it alone, reduced by PCA and
weighted by how rare it is: as model2vec does it (Tulkens and van Dongen, 2024), by any
encoder with all its modules. Where a table has the encoder's vectors of its texts, the
pieces are trained on these instead, as a query encoder is, which is much better.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pgembed.encoders.base import main_axes
from pgembed.encoders.sql_tokenizer import sql_tokenizer
from pgembed.errors import DimensionMismatch, InvalidParameter, MissingExtra
from pgembed.query_encoder import vocabulary
from pgembed.query_encoder.store import word_vectors
from pgembed.query_encoder.training import train

try:
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
except ImportError as exc:
    raise MissingExtra("static") from exc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pgembed.encoders.base import Encoder
    from pgembed.query_encoder.training import Floats, Ints

DIMENSIONS = 256
#: Of smooth inverse frequency (Arora, Liang and Ma, 2017), where there are no texts to
#: count in: pieces rarer than this count in full.
_RARE = 1e-4
_MODULE = "sentence_transformers.models"


@dataclass(frozen=True, slots=True)
class Distilled:
    """A static model.

    Attributes:
        tokenizer: Cuts a text into pieces of words.
        vectors: A row a piece, weight multiplied in.
    """

    tokenizer: Tokenizer
    vectors: Floats

    def save(self, folder: Path) -> None:
        """Write it as model2vec does: sentence-transformers reads it too."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file({"embeddings": self.vectors}, folder / "model.safetensors")
        config = {
            "model_type": "model2vec",
            "architectures": ["StaticModel"],
            "hidden_dim": self.vectors.shape[1],
            "normalize": True,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        modules = [
            {"idx": n, "name": str(n), "path": path, "type": f"{_MODULE}.{kind}"}
            for n, (path, kind) in enumerate(
                [(".", "StaticEmbedding"), ("1_Normalize", "Normalize")]
            )
        ]
        (folder / "modules.json").write_text(json.dumps(modules, indent=2))


def distil(
    teacher: Encoder,
    *,
    dimensions: int = DIMENSIONS,
    texts: Sequence[str] | None = None,
    vectors: Floats | None = None,
    progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> Distilled:
    """Make a static model.

    Args:
        teacher: The encoder that it is to do as.
        dimensions: Of its vectors.
        texts: What it is for: its vocabulary is learnt from these, and how rare a
            piece is. None: the teacher's own vocabulary.
        vectors: The teacher's of these texts: it is trained on them.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Raises:
        DimensionMismatch: The teacher has fewer dimensions.
        InvalidParameter: There are no texts, and the teacher's tokenizer is none that
            PostgreSQL can run.
    """
    if not 1 <= dimensions <= teacher.dimensions:
        raise DimensionMismatch(
            f"model {teacher.name!r} has {teacher.dimensions} dimensions, so "
            f"{dimensions} are not possible",
            hint="Give as many, or fewer.",
        )
    progress("learning words", 0)
    if texts is None:
        tokenizer = _own_tokenizer(teacher)
    else:
        tokenizer = vocabulary.learn(texts)
        tokens = vocabulary.tokens(tokenizer, texts)
    own = word_vectors(tokenizer, teacher, progress)
    own[_not_words(tokenizer)] = 0
    if texts is not None and vectors is not None:
        known = [n for n, one in enumerate(tokens) if len(one) and vectors[n].any()]
        trained = train(
            [tokens[n] for n in known],
            vectors[known],
            own,
            progress=lambda done: progress("training", done),
        ).vectors
        return Distilled(tokenizer, trained @ main_axes(vectors, dimensions).T)
    words = own.any(axis=1)
    centred = own - own[words].mean(axis=0)
    reduced = centred @ main_axes(centred[words], dimensions).T
    size = tokenizer.get_vocab_size()
    weights = words * (_by_rank(size) if texts is None else _rareness(tokens, size))
    return Distilled(tokenizer, (reduced * weights[:, None]).astype(np.float32))


def _own_tokenizer(teacher: Encoder) -> Tokenizer:
    found = teacher.tokenizer_json()
    if found is None:
        raise InvalidParameter(
            f"model {teacher.name!r} has no tokenizer that can be taken over",
            hint="Give a table (--table), whose texts a vocabulary is learnt from.",
        )
    try:
        sql_tokenizer(found)
    except InvalidParameter as exc:
        raise InvalidParameter(
            str(exc).splitlines()[0],
            hint="Give a table (--table), whose texts a vocabulary is learnt from.",
        ) from exc
    return Tokenizer.from_str(found)


def _not_words(tokenizer: Tokenizer) -> list[int]:
    """Find what stands for no text: [CLS], [unused1]."""
    added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
    unused = [n for token, n in tokenizer.get_vocab().items() if _is_unused(token)]
    return [*added, *unused]


def _is_unused(token: str) -> bool:
    return token.startswith("[unused") and token.endswith("]")


def _by_rank(count: int) -> Floats:
    """Weigh pieces by Zipf's law: the most frequent come first in a vocabulary."""
    shares = 1 / np.arange(2, count + 2)
    found: Floats = (_RARE / (_RARE + shares / shares.sum())).astype(np.float32)
    return found


def _rareness(tokens: Sequence[Ints], count: int) -> Floats:
    """Weigh pieces by their inverse document frequency (Sparck Jones, 1972)."""
    texts = np.zeros(count, dtype=np.float64)
    for some in tokens:
        texts[np.unique(some)] += 1
    found: Floats = np.log((len(tokens) + 1) / (texts + 1)).astype(np.float32)
    return found
