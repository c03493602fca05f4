from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pgembed.encoders import load_encoder
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import DimensionMismatch, ModelNotFound, TextError


def test_vectors_have_unit_length_even_without_words() -> None:
    texts = ["a cat", "", "...", "¿?", "日本語", "x " * 10_000]
    vectors = HashingEncoder(dimensions=16).encode_documents(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_texts_that_share_words_are_near() -> None:
    encoder = HashingEncoder()
    query = encoder.encode_queries(["cheap flights to Rome"])[0]
    near, far = encoder.encode_documents(
        ["Flights to Rome are cheap in May", "How to bake sourdough bread"]
    )
    assert query @ near > 0.4
    assert query @ far < 0.2


def test_vectors_are_the_same_in_another_process() -> None:
    program = (
        "from pgembed.encoders import load_encoder;"
        "print(load_encoder('h','hashing',dimensions=4)"
        ".encode_documents(['one two']).tobytes().hex())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    vectors = HashingEncoder("h", 4).encode_documents(["one two"])
    assert printed.stdout.strip() == vectors.tobytes().hex()


def test_empty_list_has_the_right_shape() -> None:
    assert HashingEncoder(dimensions=9).encode_documents([]).shape == (0, 9)


def test_lone_surrogate_is_a_text_error_that_names_the_text() -> None:
    with pytest.raises(TextError, match=r"text 1 .* U\+D800 at character 2"):
        HashingEncoder().encode_documents(["fine", "ab\ud800"])


@pytest.mark.parametrize("dimensions", [0, -1, 16_001])
def test_dimensions_out_of_range_are_refused(dimensions: int) -> None:
    with pytest.raises(DimensionMismatch, match=str(dimensions)):
        load_encoder("h", "hashing", dimensions=dimensions)


def test_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="sentence-transformers, static, hashing, "):
        load_encoder("h", "magic")


def test_plan_bounds_characters_and_keeps_every_text() -> None:
    texts = ["x" * 200_000, *["y"] * 3000, "z" * 200_000]
    plan = HashingEncoder().plan(texts)
    assert sorted(i for batch in plan for i in batch) == list(range(len(texts)))
    assert max(len(batch) for batch in plan) <= 1024


def test_importing_encoders_imports_no_model_library() -> None:
    program = (
        "import sys, pgembed.encoders, pgembed.encoders.lookup;"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'litellm'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
