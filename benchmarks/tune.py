"""A fine-tuned model beside its base: nDCG@10 over a whole collection.

Hard negatives are mined by hybrid search, as `pgembed tune` does it; a tenth of the
training queries is held out, for early stopping. The test queries are ranked over all
documents, exactly.

    python benchmarks/tune.py --data FOLDER [--cache vectors.npz] [--seed 1 --seed 2]
        [--epochs 1] [--max-tokens 128] [--negatives 1] [--batch-size 32]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import psycopg
from cached import CachedEncoder
from common import new_database, server, show
from corpora import CONFIG, TABLE, TEXT, documents, load

from pgembed import client
from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
from pgembed.evaluation import find_data, load_data
from pgembed.evaluation.measures import interval
from pgembed.evaluation.target import find_target
from pgembed.service import ServiceSettings, drain
from pgembed.tuning.examples import Examples, split_queries
from pgembed.tuning.measure import MEASURE, measure
from pgembed.tuning.mining import mine
from pgembed.tuning.pairs import pairs
from pgembed.tuning.training import TrainingOptions, train

MODEL = "all-MiniLM-L6-v2"
HELD_OUT = 0.1


def said(what: str) -> Any:
    """Print how far something is, now and then."""
    last = [time.monotonic()]

    def progress(*found: Any) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(what, *found, f"{time.process_time():.0f} CPU s", flush=True)

    return progress


def main() -> None:
    """Print a row for the base, and one for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="where the base's vectors stay")
    parser.add_argument("--seed", type=int, action="append", dest="seeds")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--negatives", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    options = parser.parse_args()
    learnt = load_data(find_data(options.data, "train"))
    tested = load_data(find_data(options.data, "test"))
    base: Any = SentenceTransformersEncoder(MODEL)
    kept = CachedEncoder(base, options.cache) if options.cache else base
    found = [one for one in documents(options.data) if one.text.strip()]
    texts = {one.id: f"{one.title} {one.text}" for one in found}
    with server() as running:
        dsn = new_database(running, "tune")
        with psycopg.connect(dsn, autocommit=True) as conn:
            load(conn, iter(found))
            words = {"config": CONFIG}
            client.create_embedding(
                conn, TABLE, TEXT, model=MODEL, chunking="none", bm25_options=words
            )
            asyncio.run(drain(dsn, ServiceSettings(), encoders={MODEL: kept}))
            target = find_target(conn, TABLE)
            examples = Examples(learnt, {})
            mined = mine(conn, target, examples, encoder=base, progress=said("mining"))
    before = measure(kept, tested, texts, progress=said(MODEL))[base.dimensions]
    if options.cache:
        kept.save()
    rows = [(MODEL, "", f"{before.mean():.4f}", "", "", "")]
    print(rows, flush=True)
    examples = examples.with_texts(mined.texts)
    for seed in options.seeds or [1]:
        encoder = SentenceTransformersEncoder(MODEL)
        # Some are in both.
        without = tested.queries.values()
        sides = split_queries(examples.data, HELD_OUT, seed, without)
        train_rows, held_rows = (
            pairs(
                examples.only(side),
                mined.texts,
                mined,
                negatives=options.negatives,
                seed=seed,
            )
            for side in sides
        )
        began = time.process_time()
        trained = train(
            encoder,
            train_rows,
            held_rows,
            TrainingOptions(
                epochs=options.epochs,
                batch_size=options.batch_size,
                max_tokens=options.max_tokens,
                learning_rate=options.learning_rate,
                seed=seed,
            ),
            said("training"),
        )
        seconds = time.process_time() - began
        print(trained, f"{seconds:.0f} CPU s", flush=True)
        after = measure(encoder, tested, texts, progress=said("tuned"))
        values = after[encoder.dimensions]
        low, high = interval(before, values)
        rows.append(
            (
                f"seed {seed}, {len(train_rows)} pairs",
                trained.steps,
                f"{values.mean():.4f}",
                f"{values.mean() - before.mean():+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{seconds:.0f}",
            )
        )
        print(rows[-1], flush=True)
    columns = ["model", "steps", MEASURE, "gain", "95 %", "CPU s to train"]
    show(f"{options.data.name}: fine-tuned", columns, rows)


if __name__ == "__main__":
    main()
