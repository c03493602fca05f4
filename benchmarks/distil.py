"""Distilled static models beside their teacher: nDCG@10, STS-B, texts a second.

Documents and queries are both encoded by the model of the row. `of its tokens` is
`pgembed distil MODEL`; `of the table` is `--table` with the teacher's vectors.

    python benchmarks/distil.py --data FOLDER [--sts stsb-en-test.tsv.gz]
        [--cache vectors.npz] [--dimensions 256] [--split test]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cached import CachedEncoder
from common import show
from corpora import documents

from pgembed.distil import DIMENSIONS, distil
from pgembed.encoders import load_encoder
from pgembed.encoders.static import StaticEncoder
from pgembed.evaluation import find_data, load_data, score_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.distil import Distilled
    from pgembed.encoders import Encoder

MODEL = "all-MiniLM-L6-v2"
MEASURE = "nDCG@10"
TIMED = 200  # texts


def encoded(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts in the batches that the encoder likes."""
    found = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
    for places in encoder.plan(texts):
        found[places] = encoder.encode_documents([texts[place] for place in places])
    return found


def spearman(encoder: Encoder, pairs: Sequence[tuple[str, str, float]]) -> float:
    """Correlate cosines with what people say."""
    left, right, said = zip(*pairs, strict=True)
    cosines = (encoded(encoder, left) * encoded(encoder, right)).sum(axis=1)
    ranks = [np.argsort(np.argsort(values)) for values in (cosines, said)]
    return float(np.corrcoef(*ranks)[0, 1])


def loaded(made: Distilled) -> StaticEncoder:
    """Write a model, and load it."""
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder))
        return StaticEncoder(folder)


def main() -> None:
    """Print a row for the teacher, and one for each way to distil it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--sts", type=Path, help="pairs with a score each")
    parser.add_argument("--cache", type=Path, help="where the teacher's vectors stay")
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    options = parser.parse_args()
    data = load_data(find_data(options.data, options.split))
    found = [one for one in documents(options.data) if one.text.strip()]
    ids = [one.id for one in found]
    texts = [f"{one.title} {one.text}" for one in found]
    pairs: list[tuple[str, str, float]] = []
    if options.sts:
        with gzip.open(options.sts, "rt") as file:
            found_pairs = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            pairs = [
                (one["sentence1"], one["sentence2"], float(one["score"]))
                for one in found_pairs
            ]
    teacher = load_encoder(MODEL)
    kept = CachedEncoder(teacher, options.cache) if options.cache else teacher
    vectors = encoded(kept, texts)
    if options.cache:
        kept.save()
    rows = []

    def measured(name: str, encoder: Encoder, stored: NDArray[np.float32]) -> None:
        asked = encoder.encode_queries(list(data.queries.values()))
        best = np.argsort(-(asked @ stored.T), axis=1)[:, :10]
        rankings = {
            key: [ids[place] for place in places]
            for key, places in zip(data.queries, best, strict=True)
        }
        values = score_run(rankings, data.judgements, [MEASURE])[MEASURE]
        some = texts[:: max(1, len(texts) // TIMED)]
        began = time.process_time()
        encoded(encoder, some)
        speed = len(some) / (time.process_time() - began)
        sts = f"{spearman(encoder, pairs):.3f}" if pairs else ""
        mean = sum(values.values()) / len(values)
        rows.append((name, encoder.dimensions, f"{mean:.3f}", sts, f"{speed:,.0f}"))

    measured(MODEL, teacher, vectors)
    for name, learnt in (
        ("of its tokens", {}),
        ("of its tokens and the table's words", {"texts": texts}),
        ("of the table", {"texts": texts, "vectors": vectors}),
    ):
        made = loaded(distil(teacher, dimensions=options.dimensions, **learnt))
        measured(name, made, encoded(made, texts))
    columns = ["model", "dimensions", MEASURE, "STS-B", "texts a CPU second"]
    show(f"{options.data.name}: distilled", columns, rows)


if __name__ == "__main__":
    main()
