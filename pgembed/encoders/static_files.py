"""Reading static models: folders of StaticEmbedding and model2vec, word vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.lookup import find_model
from pgembed.encoders.trust import check_folder, list_modules, read_json
from pgembed.encoders.weights import checksum, fingerprint
from pgembed.encoders.word_vectors import SETTINGS, WordVectors, read_word_vectors
from pgembed.errors import MissingExtra, ModelNotFound

try:
    from safetensors import SafetensorError, safe_open
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
except ImportError as exc:
    raise MissingExtra("static") from exc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MOST_BYTES: Final = 4 << 30  # of vectors in memory
UNKNOWN: Final = "[UNK]"  # what word vectors have no vector for
_MODULES: Final = (["StaticEmbedding"], ["StaticEmbedding", "Normalize"])
_MODEL2VEC_TOKENS: Final = 512  # its own default


@dataclass(frozen=True, slots=True)
class StaticModel:
    """A tokenizer, and a vector for each of its tokens.

    Attributes:
        tokenizer: Without truncation and padding; special tokens are not added.
        vectors: Row i is the vector of token i, its weight multiplied in.
        fingerprint: SHA-256 over the files with the vectors.
        normalized: Whether the mean is scaled to unit length.
        max_tokens: Longer texts are truncated; None: never.
        left_out: A token that does not count in the mean: what is unknown.
        prompts: The model's own, by name.
        default_prompt_name: Of the prompt for all texts.
    """

    tokenizer: Tokenizer
    vectors: NDArray[np.float32]
    fingerprint: str
    normalized: bool
    max_tokens: int | None = None
    left_out: int | None = None
    prompts: Mapping[str, str | None] = field(default_factory=dict)
    default_prompt_name: str | None = None


def load_static(name: str, revision: str | None = None) -> StaticModel:
    """Find and read a static model.

    Args:
        name: A directory (of StaticEmbedding, of model2vec, or with `static.json`), a
            file of word vectors, or a name on the hub.
        revision: Commit on the hub; None: whichever is found.

    Raises:
        ModelNotFound: There is none, it is none, or it is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file() or (path / SETTINGS).is_file():
        return _of_words(name, read_word_vectors(name, path.resolve(), MOST_BYTES))
    folder = find_model(name, revision).folder
    check_folder(name, folder)
    modules = list_modules(folder)
    kinds = [module.kind for module in modules]
    if modules and kinds not in _MODULES:
        raise ModelNotFound(
            f"model {name!r} is no static model: it is made of {', '.join(kinds)}",
            hint="Provider static takes StaticEmbedding, alone or with Normalize; "
            "others are for provider sentence-transformers.",
        )
    part = folder / (modules[0].path if modules else "")
    tensors = _read_tensors(name, part / "model.safetensors")
    of_model2vec = "embedding.weight" not in tensors
    config = read_json(part / "config.json")
    own = read_json(folder / "config_sentence_transformers.json")
    tokenizer = _read_tokenizer(name, part / "tokenizer.json")
    vectors = _fold(name, tensors)
    _check_vectors(name, vectors, tokenizer)
    truncation = tokenizer.truncation
    limit = truncation["max_length"] if truncation else None
    if truncation and truncation["direction"] != "right":
        raise ModelNotFound(
            f"the tokenizer of model {name!r} truncates texts on the left",
            hint="Set truncation to null in its tokenizer.json.",
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return StaticModel(
        tokenizer,
        vectors,
        fingerprint(folder),
        normalized="Normalize" in kinds
        or (not modules and bool(config.get("normalize"))),
        max_tokens=config.get("max_length", _MODEL2VEC_TOKENS)
        if of_model2vec
        else limit,
        # The libraries differ here: model2vec leaves out what is unknown.
        left_out=_unknown_token(tokenizer) if of_model2vec else None,
        prompts=own.get("prompts") or {},
        default_prompt_name=own.get("default_prompt_name"),
    )


def _of_words(name: str, words: WordVectors) -> StaticModel:
    """Make a tokenizer of whole words, as BERT cuts them: at spaces and signs."""
    vocabulary = {word: row for row, word in enumerate(words.words)}
    vocabulary.setdefault(UNKNOWN, len(vocabulary))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=False,
        strip_accents=False,
        lowercase=words.lowercase,
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    _check_vectors(name, words.vectors, tokenizer)
    return StaticModel(
        tokenizer,
        words.vectors,
        checksum(words.files),
        normalized=words.normalize,
        left_out=vocabulary[UNKNOWN],
    )


def _read_tensors(name: str, file: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors that a static model is made of, if they are not too large."""
    if not file.is_file():
        raise ModelNotFound(
            f"model {name!r} has no {file.name} in {file.parent}",
            hint="Give the folder of a StaticEmbedding or model2vec model; of word "
            f"vectors give the file, or a folder with {SETTINGS}.",
        )
    known = ("embedding.weight", "embeddings", "mapping", "weights")
    try:
        with safe_open(file, framework="np") as opened:
            found = [tensor for tensor in known if tensor in opened.keys()]  # noqa: SIM118
            if not {"embedding.weight", "embeddings"} & set(found):
                raise ModelNotFound(
                    f"model {name!r} is no static model: {file} has neither "
                    "embedding.weight nor embeddings",
                    detail=f"It has {', '.join(sorted(opened.keys())[:10])}.",
                    hint="Such a model is for provider sentence-transformers.",
                )
            rows, columns = opened.get_slice(found[0]).get_shape()
            if rows * columns * 4 > MOST_BYTES:
                raise too_large(name, rows, columns)
            return {tensor: opened.get_tensor(tensor) for tensor in found}
    except (SafetensorError, ValueError, TypeError) as exc:
        raise ModelNotFound(
            f"{file} cannot be read: {exc}",
            hint="Vectors are a matrix of float32, float16 or int8.",
        ) from exc


def too_large(name: str, rows: int, columns: int) -> ModelNotFound:
    """Say that a model does not fit."""
    return ModelNotFound(
        f"model {name!r} is too large: {rows:,} tokens of {columns} dimensions take "
        f"{rows * columns * 4 / (1 << 30):.1f} GiB of memory, and may take "
        f"{MOST_BYTES >> 30}",
        hint="Word vectors are sorted by frequency: keep the first of them, with "
        f'{{"vectors": "FILE", "words": 400000}} in a file {SETTINGS}.',
    )


def _fold(name: str, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Give one row a token: model2vec may keep fewer, and weights apart."""
    vectors = tensors.get("embedding.weight", tensors.get("embeddings"))
    assert vectors is not None
    mapping, weights = tensors.get("mapping"), tensors.get("weights")
    if mapping is not None:
        if mapping.size and not 0 <= mapping.min() <= mapping.max() < len(vectors):
            raise ModelNotFound(
                f"model {name!r} maps a token to row {mapping.max()} of {len(vectors)}",
                hint="Its file is damaged: copy the model there again.",
            )
        vectors = vectors[mapping]
    vectors = np.asarray(vectors, dtype=np.float32)
    if weights is None:
        return vectors
    if len(weights) != len(vectors):
        raise ModelNotFound(
            f"model {name!r} has {len(weights)} weights for {len(vectors)} tokens",
            hint="Its file is damaged: copy the model there again.",
        )
    return np.asarray(vectors * weights[:, None], dtype=np.float32)


def _read_tokenizer(name: str, file: Path) -> Tokenizer:
    if not file.is_file():
        raise ModelNotFound(
            f"model {name!r} has no tokenizer.json in {file.parent}",
            hint="Copy the whole model there.",
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as exc:  # what the library raises has no class of its own
        raise ModelNotFound(
            f"{file} is no tokenizer: {exc}", hint="Copy the model there again."
        ) from exc


def _unknown_token(tokenizer: Tokenizer) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        unknown = model.get("unk_id")
        return None if unknown is None else int(unknown)
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def _check_vectors(
    name: str, vectors: NDArray[np.float32], tokenizer: Tokenizer
) -> None:
    known = tokenizer.get_vocab_size(with_added_tokens=True)
    if vectors.ndim != 2 or len(vectors) < known:
        raise ModelNotFound(
            f"model {name!r} has vectors of shape {vectors.shape} for {known} tokens",
            hint="tokenizer.json and model.safetensors are not of the same model.",
        )
    # By rows: a flag for each number would be a fourth of the matrix again.
    bad = [row for row, vector in enumerate(vectors) if not np.isfinite(vector).all()]
    if bad:
        raise ModelNotFound(
            f"model {name!r} has {len(bad)} tokens whose vectors are not finite",
            detail=f"The first is token {bad[0]}: {tokenizer.id_to_token(bad[0])!r}.",
            hint="Copy the model there again, or repair its vectors.",
        )
