"""How good models are at tasks whose answers people have written down."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.analysis.tasks import Analogies, Labelled, Pairs, Wording
from pgembed.analysis.vectors import silent
from pgembed.analysis.wording import negated, with_typing_error
from pgembed.encoders.base import unit_length
from pgembed.errors import EvaluationError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.analysis.tasks import Task
    from pgembed.analysis.vectors import Progress
    from pgembed.encoders.base import Encoder

_FOLDS: Final = 5
_FEWEST: Final = 3  # pairs or texts
_BLOCK: Final = 1024  # vectors that are compared with all others at once
_ENCODED_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of a model.

    Attributes:
        task: Name of the file.
        measure: `spearman`, `analogies`, `accuracy`, `purity`, `v_measure`, `typos`
            or `negation`.
        value: From -1 or 0 to 1. Of `typos` and `negation`: the share of texts whose
            nearest neighbour is another when they are worded so.
        count: Pairs, questions or texts that it is of.
    """

    task: str
    measure: str
    value: float
    count: int

    @property
    def is_change(self) -> bool:
        """Whether it says how often something changes, which is not good or bad."""
        return self.measure in ("typos", "negation")


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a model is good for.

    Attributes:
        model: Its name.
        dimensions: Of its vectors.
        seconds: What encoding the texts took.
        figures: The measures, in the order of the tasks.
    """

    model: str
    dimensions: int
    seconds: float
    figures: list[Figure]

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold."""
        return asdict(self)


def evaluate_model(
    encoder: Encoder,
    tasks: Sequence[Task],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> ModelReport:
    """Measure a model on tasks. Texts are encoded as documents are.

    Args:
        encoder: The model.
        tasks: What to measure it on.
        seed: Of folds, first centres and typing errors.
        progress: Told how far encoding is.

    Raises:
        MissingExtra: The extra `analysis` is not installed.
        EvaluationError: A task cannot be measured.
        EncoderError: The model cannot encode a text.
    """
    encoded = _Encoded(encoder, progress)
    figures: list[Figure] = []
    for task in tasks:
        _check(task)
        match task:
            case Pairs():
                figures.append(_similarity(task, encoded))
            case Analogies():
                figures.append(_analogies(task, encoded))
            case Labelled():
                figures += _labelled(task, encoded, seed)
            case Wording():
                figures += _wording(task, encoded, seed)
    return ModelReport(encoder.name, encoder.dimensions, encoded.seconds, figures)


def _check(task: Task) -> None:
    """Refuse what is too little, as the first lines of a file may be."""
    many = len(task.first) if isinstance(task, Pairs) else _FEWEST
    many = len(task.texts) if isinstance(task, Wording | Labelled) else many
    if many < _FEWEST:
        raise EvaluationError(
            f"{task.name}: {many} lines are too few; at least {_FEWEST} are needed"
        )
    if isinstance(task, Labelled) and len(set(task.labels)) < 2:
        raise EvaluationError(
            f"{task.name}: all texts have the label {task.labels[0]!r}"
        )


class _Encoded:
    """Vectors of texts, at unit length; each text is encoded once a call."""

    def __init__(self, encoder: Encoder, progress: Progress) -> None:
        self._encoder = encoder
        self._progress = progress
        self.seconds = 0.0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Give a vector a text."""
        different = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        unique = list(different)
        began = time.perf_counter()
        blocks = []
        for start in range(0, len(unique), _ENCODED_AT_ONCE):
            batch = unique[start : start + _ENCODED_AT_ONCE]
            blocks.append(self._encoder.encode_documents(batch))
            self._progress(
                f"encoding with {self._encoder.name}",
                (start + len(batch)) / len(unique),
            )
        self.seconds += time.perf_counter() - began
        return unit_length(np.concatenate(blocks))[[different[text] for text in texts]]


def _similarity(task: Pairs, encoded: _Encoded) -> Figure:
    """Compare the order of cosines with that of people's scores (Spearman)."""
    try:
        from scipy.stats import spearmanr
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    vectors = encoded([*task.first, *task.second])
    many = len(task.first)
    cosines = (vectors[:many] * vectors[many:]).sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cosines that are all the same
        value = float(spearmanr(cosines, task.scores).statistic)
    return Figure(task.name, "spearman", 0.0 if np.isnan(value) else value, many)


def _analogies(task: Analogies, encoded: _Encoded) -> Figure:
    """Count the answers that b - a + c is nearest to, among all words of the file.

    Mikolov and others, 2013; the three words of a question are no answers to it.
    """
    words = sorted({word for question in task.questions for word in question})
    vectors = encoded(words)
    number = {word: place for place, word in enumerate(words)}
    right = 0
    for start in range(0, len(task.questions), _BLOCK):
        block = np.array(
            [
                [number[word] for word in q]
                for q in task.questions[start : start + _BLOCK]
            ]
        )
        a, b, c, answers = block.T
        scores = unit_length(vectors[b] - vectors[a] + vectors[c]) @ vectors.T
        for known in (a, b, c):
            scores[np.arange(len(block)), known] = -np.inf
        right += int((scores.argmax(axis=1) == answers).sum())
    many = len(task.questions)
    return Figure(task.name, "analogies", right / many, many)


def _labelled(task: Labelled, encoded: _Encoded, seed: int) -> list[Figure]:
    """Learn the labels from the vectors, and find them without learning."""
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import v_measure_score
        from sklearn.model_selection import StratifiedKFold, cross_val_score
    except ImportError as exc:
        raise MissingExtra("analysis") from exc
    labels = np.unique(task.labels, return_inverse=True)[1]
    folds = min(_FOLDS, int(np.bincount(labels).min()))
    if folds < 2:
        alone = np.flatnonzero(np.bincount(labels) < 2)[0]
        raise EvaluationError(
            f"{task.name}: only one text has the label "
            f"{str(np.unique(task.labels)[alone])!r}",
            hint="To learn a label and to be asked for it, two are needed.",
        )
    vectors = encoded(task.texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy = cross_val_score(
            LogisticRegression(max_iter=1000),
            vectors,
            labels,
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        ).mean()
        found = KMeans(labels.max() + 1, random_state=seed).fit_predict(vectors)
    many = len(task.texts)
    return [
        Figure(task.name, "accuracy", float(accuracy), many),
        Figure(task.name, "purity", purity(found, labels), many),
        Figure(task.name, "v_measure", float(v_measure_score(labels, found)), many),
    ]


def purity(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Give the share of rows that have the most frequent label of their cluster.

    Args:
        clusters: Number of each row's cluster.
        labels: Number of each row's label.
    """
    counts = np.zeros((clusters.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts.max(axis=1).sum() / len(labels))


def _wording(task: Wording, encoded: _Encoded, seed: int) -> list[Figure]:
    """Compare a text's nearest neighbour with that of the text worded otherwise."""
    random = np.random.default_rng(seed)
    vectors = encoded(task.texts)
    before = _neighbours(vectors, vectors, np.arange(len(vectors)))
    figures = []
    for measure, changed in (
        ("typos", [with_typing_error(text, random) for text in task.texts]),
        ("negation", [negated(text) for text in task.texts]),
    ):
        rows = np.array([i for i, text in enumerate(changed) if text is not None], int)
        if not len(rows):
            continue
        others = encoded([text for text in changed if text is not None])
        after = _neighbours(others, vectors, rows)
        share = float((after != before[rows]).mean())
        figures.append(Figure(task.name, measure, share, len(rows)))
    return figures


def _neighbours(
    vectors: NDArray[np.float32], among: NDArray[np.float32], own: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find what is nearest to each vector, but for the text that it is made of."""
    found = []
    for start in range(0, len(vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = vectors[block] @ among.T
        scores[np.arange(len(scores)), own[block]] = -np.inf
        found.append(scores.argmax(axis=1))
    return np.concatenate(found)
