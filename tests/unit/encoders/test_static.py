"""Provider static: the same vectors as the libraries that the formats are of."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pgembed.encoders import load_encoder
from pgembed.errors import DimensionMismatch, ModelNotFound, TextError
from tests.fixtures.static_models import (
    minilm_tokenizer,
    save_model2vec,
    save_static_embedding,
    token_vectors,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

TEXTS = [
    "Cheap flights to Rome",
    "Ein Flugzeug hebt gerade ab; naïve café, ÅNGSTRÖM",
    "飛行機が離陸しています。",
    "emoji 🤖 and 𝔘nknown",
    "word " * 700,
]


def _load(path: Path, **options: Any) -> Any:
    return load_encoder(str(path), "static", **options)


@pytest.mark.parametrize("normalize", [True, False])
def test_static_embedding_is_encoded_as_by_sentence_transformers(
    tmp_path: Path, normalize: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save_static_embedding(tmp_path / "m", normalize=normalize)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    encoder = _load(folder)
    ours = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(ours[:-1], theirs[:-1], atol=1e-6)
    # It adds the 700 words up in 32 bits.
    np.testing.assert_allclose(ours[-1], theirs[-1], atol=1e-5)
    assert (encoder.dimensions, encoder.normalized) == (64, normalize)
    assert encoder.max_tokens is None


def test_a_truncation_of_the_tokenizer_is_kept(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    truncated = json.loads(minilm_tokenizer()) | {
        "truncation": {
            "direction": "Right",
            "max_length": 5,
            "strategy": "LongestFirst",
            "stride": 0,
        }
    }
    folder = save_static_embedding(tmp_path / "m", tokenizer=json.dumps(truncated))
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    encoder = _load(folder)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), theirs, atol=4e-6)
    assert encoder.max_tokens == 5
    assert encoder.count_tokens(["word " * 700]) == [700]


def _model2vec_tensors(kind: str) -> dict[str, NDArray[Any]]:
    vectors = token_vectors()
    rng = np.random.default_rng(7)
    if kind == "float16":
        return {"embeddings": vectors.astype(np.float16)}
    if kind == "int8":
        return {"embeddings": (vectors / np.abs(vectors).max() * 127).astype(np.int8)}
    if kind == "quantized":
        return {
            "embeddings": vectors[:1000],
            "mapping": rng.integers(0, 1000, len(vectors)),
            "weights": rng.random(len(vectors), dtype=np.float32),
        }
    return {"embeddings": vectors}


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "quantized"])
def test_model2vec_is_encoded_as_by_model2vec(tmp_path: Path, kind: str) -> None:
    model2vec = pytest.importorskip("model2vec")
    tensors = _model2vec_tensors(kind)
    folder = save_model2vec(tmp_path / "m", tensors, normalize=True)
    theirs = model2vec.StaticModel.from_pretrained(folder).encode(TEXTS[:4])
    encoder = _load(folder)
    # model2vec adds up in the numbers it has; here it is in 32 bits.
    atol = 1e-3 if kind == "float16" else 2e-6
    np.testing.assert_allclose(
        encoder.encode_documents(TEXTS[:4]), theirs.astype(np.float32), atol=atol
    )
    assert encoder.max_tokens == 512


def test_what_model2vec_saves_is_read(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer

    model = model2vec.StaticModel(
        token_vectors(), Tokenizer.from_str(minilm_tokenizer()), normalize=True
    )
    model.save_pretrained(tmp_path / "m")
    theirs = model.encode(TEXTS[:4])
    encoder = _load(tmp_path / "m")
    np.testing.assert_allclose(encoder.encode_queries(TEXTS[:4]), theirs, atol=4e-6)
    assert encoder.normalized


WORDS = {"the": [1, 0, 0], "cat": [0, 2, 0], "Ünïcode": [0, 0, 3], "sat": [4, 5, -6]}


def _lines(separator: str = "\n") -> str:
    return separator.join(f"{w} {' '.join(map(str, v))}" for w, v in WORDS.items())


def _word2vec_text(file: Path) -> None:
    file.write_text(f"4 3\n{_lines()}\n", encoding="utf-8")


def _word2vec_binary(file: Path, after: bytes = b"\n") -> None:
    body = b"".join(
        w.encode() + b" " + np.array(v, "<f4").tobytes() + after
        for w, v in WORDS.items()
    )
    file.write_bytes(b"4 3\n" + body)


def _glove(file: Path) -> None:
    file.write_text(_lines() + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "write",
    [_word2vec_text, _word2vec_binary, lambda f: _word2vec_binary(f, b""), _glove],
    ids=["text", "binary", "binary without line ends", "glove"],
)
def test_word_vectors_are_averaged(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "vectors.txt")
    encoder = _load(tmp_path / "vectors.txt")
    # The vocabulary has capitals, so texts keep theirs.
    vectors = encoder.encode_documents(["the cat, the dog: sat", "Ünïcode"])
    mean = np.array([1 + 0 + 1 + 4, 2 + 5, -6]) / 4
    expected = np.array([mean / np.linalg.norm(mean), np.array([0, 0, 1])])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    with pytest.raises(TextError, match="no token of text 1"):
        encoder.encode_documents(["cat", "THE ünïcode"])


def test_words_in_lower_case_find_capitals(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("cat 1 0\nsat 0 1\n")
    vectors = _load(tmp_path / "v.txt").encode_queries(["CAT"])
    np.testing.assert_allclose(vectors, [[1, 0]])


def test_a_word_may_have_spaces_and_come_twice(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("cat 1 0\n. . . 0 1\ncat 5 5\n")
    model = _load(tmp_path / "v.txt").model
    assert model.tokenizer.get_vocab() == {"cat": 0, ". . .": 1, "[UNK]": 2}
    np.testing.assert_allclose(model.vectors, [[1, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"weighting": "mean"}, [1, 1]),
        ({"weighting": "sif", "a": 0.1, "counts": "counts.txt"}, [0.1 / 1, 0.1 / 0.2]),
        ({"weighting": "sif", "a": 1.0}, [1 / 1.6, 1 / 1.4]),  # Zipf: 1/2, 1/3
        (
            {"weighting": "idf", "counts": "counts.txt", "documents": 100},
            [np.log(100 / 90), np.log(100 / 10)],
        ),
    ],
)
def test_words_are_weighted(
    tmp_path: Path, settings: dict[str, Any], weights: list[float]
) -> None:
    (tmp_path / "v.txt").write_text("the 1 0\ncat 0 1\n")
    (tmp_path / "counts.txt").write_text("the 90\ncat 10\n")
    (tmp_path / "static.json").write_text(
        json.dumps({"vectors": "v.txt", "normalize": False, **settings})
    )
    vectors = _load(tmp_path).encode_documents(["the", "cat", "the cat"])
    first, second = weights
    expected = [[first, 0], [0, second], [first / 2, second / 2]]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5)


def test_the_first_words_can_be_kept(tmp_path: Path) -> None:
    _glove(tmp_path / "v.txt")
    (tmp_path / "static.json").write_text('{"vectors": "v.txt", "words": 2}')
    encoder = _load(tmp_path)
    assert encoder.model.tokenizer.get_vocab_size() == 3


def _not_finite(tmp_path: Path) -> Path:
    vectors = token_vectors().copy()
    vectors[2003, 5] = np.nan
    return save_static_embedding(tmp_path / "m", vectors=vectors)


def _too_few(tmp_path: Path) -> Path:
    return save_static_embedding(tmp_path / "m", vectors=token_vectors()[:100])


def _without_tokenizer(tmp_path: Path) -> Path:
    folder = save_static_embedding(tmp_path / "m")
    (folder / "0_StaticEmbedding" / "tokenizer.json").unlink()
    return folder


def _damaged_tokenizer(tmp_path: Path) -> Path:
    return save_static_embedding(tmp_path / "m", tokenizer="{}")


def _transformer(tmp_path: Path) -> Path:
    from pgembed.encoders.lookup import find_model

    return find_model("all-MiniLM-L6-v2").folder


def _other_tensor(tmp_path: Path) -> Path:
    return save_static_embedding(tmp_path / "m", tensor="weight")


def _damaged_weights(tmp_path: Path) -> Path:
    folder = save_static_embedding(tmp_path / "m")
    (folder / "0_StaticEmbedding" / "model.safetensors").write_bytes(b"no tensors")
    return folder


def _written(text: str, name: str = "v.txt") -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name if name == "v.txt" else tmp_path

    return write


def _wrong_mapping(tmp_path: Path) -> Path:
    mapping = np.full(len(token_vectors()), 10)
    tensors = {"embeddings": token_vectors()[:10], "mapping": mapping}
    return save_model2vec(tmp_path / "m", tensors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_not_finite, r"1 tokens .* not finite[\s\S]*token 2003: 'is'"),
        (_too_few, r"shape \(100, 64\) for 30522 tokens"),
        (_without_tokenizer, r"no tokenizer\.json"),
        (_damaged_tokenizer, "is no tokenizer"),
        (_transformer, "made of Transformer, Pooling, Normalize"),
        (_other_tensor, "neither embedding.weight nor embeddings"),
        (_damaged_weights, "cannot be read"),
        (_wrong_mapping, "maps a token to row 10 of 10"),
        (_written("hello"), "neither a header nor"),
        (_written("cat 1 2\ndog 1\n"), "entry 2 has 1 numbers, not 2"),
        (_written("cat 1 2\ndog 1 x\n"), "entry 2 has could not convert"),
        (_written("cat 1 2\ndog 1 nan\n"), "1 tokens"),
        (_written("2 3\ncat 1 2 3\ndog 1"), "entry 2 has 1 numbers, not 3"),
        (_written("10000000 300\n"), "10,000,000 words of 300 dimensions"),
        (_written("{", "static.json"), "is damaged"),
        (_written('{"vectors": "../x"}', "static.json"), "no file"),
        (_written('{"vectors": "x", "pooling": 1}', "static.json"), "not possible"),
        (_written('{"vectors": "x", "weighting": "idf"}', "static.json"), "idf"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        _load(path)
    assert caught.match(message)
    assert caught.value.hint


def test_more_words_than_fit_are_refused_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgembed.encoders import word_vectors

    monkeypatch.setattr(word_vectors, "MOST_WORDS", 3)
    _glove(tmp_path / "v.txt")
    with pytest.raises(ModelNotFound, match="more words of 3 dimensions"):
        _load(tmp_path / "v.txt")


def test_dimensions_are_truncated_or_refused(tmp_path: Path) -> None:
    folder = save_static_embedding(tmp_path / "m")
    whole = _load(folder).encode_queries(TEXTS[:1])[0]
    short = _load(folder, dimensions=16).encode_queries(TEXTS[:1])[0]
    np.testing.assert_allclose(
        short, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6
    )
    with pytest.raises(DimensionMismatch, match="64 dimensions, not 65"):
        _load(folder, dimensions=65)


def test_prompts_are_the_models_own_or_given(tmp_path: Path) -> None:
    folder = save_static_embedding(tmp_path / "m")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "passage": "passage: "}})
    )
    encoder = _load(folder)
    assert (encoder.query_prompt, encoder.document_prompt) == ("query: ", "passage: ")
    assert _load(folder, query_prompt="").query_prompt == ""
    prompted = encoder.encode_queries(["a cat"])
    plain = _load(folder, query_prompt="").encode_queries(["query: a cat"])
    np.testing.assert_allclose(prompted, plain)


def test_fingerprint_is_of_the_weights(tmp_path: Path) -> None:
    one = _load(save_static_embedding(tmp_path / "one"))
    same = _load(save_static_embedding(tmp_path / "same"))
    other = _load(save_static_embedding(tmp_path / "other", vectors=token_vectors(32)))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    folder = save_static_embedding(tmp_path / "m")
    code = (
        "import sys; from pgembed.encoders import load_encoder;"
        f"load_encoder({str(folder)!r}, 'static').encode_queries(['a cat']);"
        "print(sorted({'torch', 'transformers', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
