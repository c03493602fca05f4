"""How many chunks a query encoder needs, and what other texts do to it: nDCG@10.

It is trained on so many documents of a collection, drawn at random, and searches all of
them. With --other, documents of another collection come after the training: it agrees
with the model on these, and finds them, before and after it is trained again.

    python benchmarks/query_encoder_size.py --data FOLDER [--other FOLDER]
        [--cache vectors.npz] [--sizes 200 500 1000] [--new 70 300]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cached import CachedEncoder
from common import show
from corpora import documents
from distil import MEASURE, MODEL, encoded

from pgembed.encoders import load_encoder
from pgembed.encoders.base import unit_length
from pgembed.evaluation import find_data, load_data, score_run
from pgembed.query_encoder import vocabulary
from pgembed.query_encoder.store import word_vectors
from pgembed.query_encoder.training import Agreement, train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from pgembed.encoders import Encoder


@dataclass(frozen=True)
class Collection:
    """Documents with the model's vectors, and judged queries."""

    ids: list[str]
    texts: list[str]
    vectors: NDArray[np.float32]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]

    def some(self, places: NDArray[np.int64]) -> Collection:
        """Keep some documents, and the queries that these answer."""
        ids = [self.ids[place] for place in places]
        kept = {
            key: {one: judged[one] for one in ids if judged.get(one)}
            for key, judged in self.judgements.items()
        }
        return Collection(
            ids,
            [self.texts[place] for place in places],
            self.vectors[places],
            {key: text for key, text in self.queries.items() if kept.get(key)},
            {key: judged for key, judged in kept.items() if judged},
        )


def read(folder: Path, model: Encoder) -> Collection:
    """Read a collection and encode its documents."""
    data = load_data(find_data(folder, "test"))
    found = [one for one in documents(folder) if one.text.strip()]
    texts = [f"{one.title} {one.text}" for one in found]
    return Collection(
        [one.id for one in found],
        texts,
        encoded(model, texts),
        dict(data.queries),
        {key: dict(judged) for key, judged in data.judgements.items()},
    )


class QueryEncoder:
    """A query encoder outside of any database."""

    def __init__(self, of: Collection, start: Encoder | None) -> None:
        self._tokenizer: Tokenizer = vocabulary.learn(of.texts)
        tokens = vocabulary.tokens(self._tokenizer, of.texts)
        size = (self._tokenizer.get_vocab_size(), of.vectors.shape[1])
        vectors = np.random.default_rng(0).normal(0, 0.05, size).astype(np.float32)
        if start is not None:
            vectors = word_vectors(self._tokenizer, start, lambda _what, _done: None)
        trained = train(tokens, of.vectors, vectors)
        self._vectors = trained.vectors
        self.agreement: Agreement = trained.agreement

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts; zeros where no word is known."""
        tokens = vocabulary.tokens(self._tokenizer, texts)
        sums = [self._vectors[one].sum(axis=0) for one in tokens]
        return unit_length(np.array(sums, dtype=np.float32))

    def agrees(self, on: Collection) -> float:
        """Give the mean cosine to the model's vectors."""
        return float((self.encode(on.texts) * on.vectors).sum(axis=1).mean())

    def finds(self, of: Collection, *beside: Collection) -> str:
        """Rank documents of all collections for the queries of one."""
        ids = [one for some in (of, *beside) for one in some.ids]
        vectors = np.vstack([some.vectors for some in (of, *beside)])
        asked = self.encode(list(of.queries.values()))
        best = np.argsort(-(asked @ vectors.T), axis=1)[:, :10]
        rankings = {
            key: [ids[place] for place in places]
            for key, places in zip(of.queries, best, strict=True)
        }
        values = score_run(rankings, of.judgements, [MEASURE])[MEASURE]
        return f"{sum(values.values()) / len(values):.3f}"


def main() -> None:
    """Print a table of sizes, or one of what is new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--new", type=int, nargs="+", default=[70, 300])
    options = parser.parse_args()
    model = load_encoder(MODEL)
    kept = CachedEncoder(model, options.cache) if options.cache else model
    whole = read(options.data, kept)
    order = np.random.default_rng(1).permutation(len(whole.ids))
    rows: list[tuple[object, ...]] = []
    if options.other is None:
        for size in options.sizes:
            for name, start in (("the model", model), ("nothing", None)):
                made = QueryEncoder(whole.some(order[:size]), start)
                cosine = f"{made.agreement.cosine:.3f}"
                rows.append((f"{size} from {name}", made.finds(whole), cosine))
        show(options.data.name, ["chunks", MEASURE, "agreement"], rows)
    else:
        other = read(options.other, kept)
        before = QueryEncoder(whole, model)
        for count in options.new:
            new = other.some(
                np.random.default_rng(2).permutation(len(other.ids))[:count]
            )
            both = Collection(
                whole.ids + new.ids,
                whole.texts + new.texts,
                np.vstack([whole.vectors, new.vectors]),
                {},
                {},
            )
            again = QueryEncoder(both, model)
            for name, made in (("before", before), ("trained again", again)):
                rows.append(
                    (
                        f"{count} new, {name}",
                        f"{made.agreement.cosine:.3f}",
                        f"{made.agrees(new):.3f}",
                        made.finds(whole, new),
                        made.finds(new, whole),
                    )
                )
        columns = ["", "agreement", "on the new", f"{MEASURE} of the old", "of the new"]
        show(f"{options.data.name} and {options.other.name}", columns, rows)
    if options.cache:
        kept.save()


if __name__ == "__main__":
    main()
