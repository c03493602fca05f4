"""Trains token vectors whose sum points where the stored vector of a text points.

The loss of a batch is the mean of 1 - cosine, plus the cross-entropy of finding each
text's own vector among those of the batch (InfoNCE: van den Oord et al., Representation
Learning with Contrastive Predictive Coding, 2018), minimised by Adam (Kingma and Ba,
2015), of which only the moments of tokens in the batch are touched. As numpy, so that
no torch is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from pgembed.encoders.base import unit_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int32]

BATCH = 256
LEARNING_RATE = 2e-3
CONTRAST = 0.3
TEMPERATURE = 0.05
#: Steps below which a small table is read again and again.
LEAST_STEPS = 250
MOST_EPOCHS = 40
LEAST_EPOCHS = 3
#: Share of the texts that agreement is measured on, and how many at most.
HELD_OUT = 0.1
MOST_HELD_OUT = 500
OVERLAP_OF = 10
_TINY = 1e-9


class Texts:
    """Texts as tokens, one after the other in one array.

    Args:
        tokens: Of each text; one without tokens is None of the training's.

    Attributes:
        lengths: Number of tokens of each text.
        flat: The tokens of all texts.
    """

    def __init__(self, tokens: Sequence[Ints]) -> None:
        self.lengths = np.array([len(one) for one in tokens], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self.flat: Ints = np.concatenate([np.empty(0, np.int32), *tokens]).astype(
            np.int32
        )

    @property
    def all(self) -> Ints:
        """The different tokens of all texts."""
        return np.unique(self.flat)

    def counts(self, which: npt.NDArray[np.int64]) -> tuple[Ints, Floats]:
        """Count the tokens of some texts.

        Returns:
            The different tokens, and how often each text has each: texts x tokens.
        """
        parts = [
            self.flat[self._ends[i] - self.lengths[i] : self._ends[i]] for i in which
        ]
        rows = np.repeat(np.arange(len(which)), self.lengths[which])
        tokens, places = np.unique(np.concatenate(parts), return_inverse=True)
        cells = np.bincount(
            rows * len(tokens) + places, minlength=len(which) * len(tokens)
        )
        return tokens, cells.reshape(len(which), len(tokens)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the trained vectors do on texts that they were not trained on.

    Attributes:
        texts: Number of these texts.
        cosine: Mean cosine of the vector made from a text's tokens and the stored one.
        overlap: Mean share of the 10 nearest of the held-out texts by the stored
            vector that are among the 10 nearest by the other, 0 to 1.
    """

    texts: int
    cosine: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Trained:
    """Token vectors, and what they are worth.

    Attributes:
        vectors: A row a token of the vocabulary; zeros for one that no text has.
        agreement: On held-out texts.
        epochs: How often the texts were read.
    """

    vectors: Floats
    agreement: Agreement
    epochs: int


def train(
    tokens: Sequence[Ints],
    vectors: Floats,
    start: Floats,
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _done: None,
) -> Trained:
    """Train token vectors on texts and their stored vectors.

    Args:
        tokens: Of each text, at least one each.
        vectors: The stored vectors: texts x dimensions, in any length but zero.
        start: Vectors to begin with: vocabulary x dimensions. The model's own vectors
            of the tokens are best; small random numbers do.
        seed: Of the order of the texts, and of which are held out.
        progress: Told the share that is done, 0 to 1.

    Returns:
        The vectors of all texts' tokens, and their agreement on the held-out texts.
    """
    generator = np.random.default_rng(seed)
    wanted = unit_length(vectors)
    texts = Texts(tokens)
    order = generator.permutation(len(tokens))
    held = order[: min(int(len(tokens) * HELD_OUT), MOST_HELD_OUT)]
    rest = order[len(held) :]
    epochs = _epochs(len(rest))
    weights = _Adam(start.astype(np.float32))
    for epoch in range(epochs):
        for batch in _batches(generator.permutation(rest)):
            _step(weights, *texts.counts(batch), wanted[batch])
        progress((epoch + 1) / epochs)
    seen = np.zeros(len(start), dtype=bool)
    seen[texts.all] = True
    trained = weights.values * seen[:, None]
    return Trained(trained, _agreement(trained, texts, held, wanted), epochs)


def _epochs(texts: int) -> int:
    """Choose how often to read the texts: small tables more often."""
    steps = max(1, -(-texts // BATCH))
    return int(np.clip(LEAST_STEPS // steps, LEAST_EPOCHS, MOST_EPOCHS))


def _batches(order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, len(order), BATCH):
        yield order[first : first + BATCH]


class _Adam:
    """Rows of numbers, and the moments of their gradients."""

    _FIRST, _SECOND = 0.9, 0.999

    def __init__(self, values: Floats) -> None:
        self.values = values.copy()
        self._mean = np.zeros_like(values)
        self._square = np.zeros_like(values)
        self._steps = 0

    def step(self, rows: Ints, gradient: Floats) -> None:
        self._steps += 1
        mean = self._FIRST * self._mean[rows] + (1 - self._FIRST) * gradient
        square = self._SECOND * self._square[rows] + (1 - self._SECOND) * gradient**2
        self._mean[rows], self._square[rows] = mean, square
        unbiased = mean / (1 - self._FIRST**self._steps)
        scale = np.sqrt(square / (1 - self._SECOND**self._steps)) + 1e-8
        self.values[rows] -= LEARNING_RATE * unbiased / scale


def _step(weights: _Adam, tokens: Ints, counts: Floats, wanted: Floats) -> None:
    """Go one step down the gradient of a batch's loss."""
    sums = counts @ weights.values[tokens]
    lengths = np.linalg.norm(sums, axis=1, keepdims=True) + _TINY
    made = sums / lengths
    size = len(wanted)
    logits = made @ wanted.T / TEMPERATURE
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(size), np.arange(size)] -= 1
    to_made = (CONTRAST / TEMPERATURE * chances @ wanted - wanted) / size
    along = (to_made * made).sum(axis=1, keepdims=True)
    to_sums = (to_made - along * made) / lengths
    weights.step(tokens, counts.T @ to_sums)


def _agreement(
    trained: Floats, texts: Texts, held: npt.NDArray[np.int64], wanted: Floats
) -> Agreement:
    if len(held) <= OVERLAP_OF:
        return Agreement(len(held), float("nan"), float("nan"))
    tokens, counts = texts.counts(held)
    made = unit_length(counts @ trained[tokens])
    stored = wanted[held]
    shared = [
        len(set(a) & set(b)) / OVERLAP_OF
        for a, b in zip(_nearest(stored, stored), _nearest(made, stored), strict=True)
    ]
    cosine = float((made * stored).sum(axis=1).mean())
    return Agreement(len(held), cosine, float(np.mean(shared)))


def _nearest(queries: Floats, vectors: Floats) -> npt.NDArray[np.int64]:
    """Find the nearest of the others for each."""
    similar = queries @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return np.argpartition(-similar, OVERLAP_OF, axis=1)[:, :OVERLAP_OF]
