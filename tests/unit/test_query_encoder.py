"""Training of query encoders, on texts whose vectors are known to be sums."""

from __future__ import annotations

import numpy as np
import pytest

from pgembed.query_encoder import vocabulary
from pgembed.query_encoder.training import Ints, Texts, _Adam, _step, train

VOCABULARY = 60
DIMENSIONS = 16


def made_up(texts: int, seed: int = 1) -> tuple[list[Ints], np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(VOCABULARY, DIMENSIONS)).astype(np.float32)
    # The last token is in no text.
    tokens = [
        generator.integers(
            0, VOCABULARY - 1, size=generator.integers(1, 9), dtype=np.int32
        )
        for _ in range(texts)
    ]
    return tokens, np.stack([truth[one].sum(axis=0) for one in tokens])


def start() -> np.ndarray:
    size = (VOCABULARY, DIMENSIONS)
    return np.random.default_rng(0).normal(0, 0.05, size).astype(np.float32)


def test_it_learns_vectors_whose_sums_are_those_of_the_texts() -> None:
    tokens, vectors = made_up(3000)
    told: list[float] = []
    trained = train(tokens, vectors, start(), progress=told.append)
    assert trained.agreement.texts == 300
    assert trained.agreement.cosine > 0.95
    assert trained.agreement.overlap > 0.7
    assert not trained.vectors[VOCABULARY - 1].any()
    assert trained.vectors[: VOCABULARY - 1].any(axis=1).all()
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_seed_decides_everything() -> None:
    tokens, vectors = made_up(300)
    first, again, other = (
        train(tokens, vectors, start(), seed=seed).vectors for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_vectors_of_shuffled_texts_are_not_learnt() -> None:
    """Agreement is measured on texts that were held out."""
    tokens, vectors = made_up(1000)
    shuffled = np.random.default_rng(5).permutation(vectors)
    assert abs(train(tokens, shuffled, start()).agreement.cosine) < 0.3


def loss(values: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> float:
    made = counts @ values
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    logits = made @ wanted.T / 0.05
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(
        (1 - (made * wanted).sum(axis=1)).mean() - 0.3 * np.diag(logits).mean()
    )


def test_a_step_goes_down_the_gradient_of_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, vectors = made_up(20)
    wanted = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(float)
    used, counts = Texts(tokens).counts(np.arange(20))
    size = (VOCABULARY, DIMENSIONS)
    weights = _Adam(np.random.default_rng(3).normal(size=size).astype(np.float32))
    seen: list[np.ndarray] = []
    monkeypatch.setattr(weights, "step", lambda _rows, gradient: seen.append(gradient))
    _step(weights, used, counts, wanted)
    values = weights.values[used].astype(float)
    for row, column in ((0, 0), (5, 3), (17, 15)):
        moved = []
        for by in (1e-5, -1e-5):
            other = values.copy()
            other[row, column] += by
            moved.append(loss(other, counts.astype(float), wanted))
        expected = (moved[0] - moved[1]) / 2e-5
        assert seen[0][row, column] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_vocabulary_is_of_pieces_that_occur_twice() -> None:
    texts = ["the wing flutters", "wings flutter and a wing", "Überschall 飛行機"] * 2
    tokenizer = vocabulary.learn([*texts, "zeppelin"])
    assert tokenizer.encode("WING wings", add_special_tokens=False).tokens[0] == "wing"
    assert "uberschall" in tokenizer.get_vocab()
    assert "zeppelin" not in tokenizer.get_vocab()
    assert tokenizer.get_vocab_size() <= vocabulary.VOCABULARY_SIZE
