"""Static models against MiniLM: a query in SQL and by the service, documents per second.

The static model is MiniLM's own token vectors, averaged: its speed is that of any with
384 dimensions. Queries of 12 words, each new, in turn; documents as they come.

    python benchmarks/static_models.py --data FOLDER [--queries 200] [--documents 60]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from common import new_database, percentile, server, server_version, show
from corpora import documents
from safetensors.numpy import load_file, save_file

from pgembed.encoders import load_encoder
from pgembed.encoders.lookup import find_model
from pgembed.encoders.static import StaticEncoder
from pgembed.token_vectors import import_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pgembed.encoders import Encoder

MODEL = "all-MiniLM-L6-v2"
WORDS = 12


def static_model(folder: Path) -> StaticEncoder:
    """Write MiniLM's token vectors as a model2vec folder, and load it."""
    minilm = find_model(MODEL).folder
    weights = load_file(minilm / "model.safetensors")
    vectors = weights["embeddings.word_embeddings.weight"]
    save_file({"embeddings": vectors.astype(np.float32)}, folder / "model.safetensors")
    tokenizer = json.loads((minilm / "tokenizer.json").read_bytes())
    tokenizer |= {"truncation": None, "padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text('{"normalize": true}')
    return StaticEncoder(str(folder))


def queries(texts: Sequence[str]) -> Iterator[str]:
    """Make queries of 12 words of the collection, no two alike."""
    rng = random.Random(3)
    while True:
        words = rng.choice(texts).split()
        if len(words) > WORDS:
            start = rng.randrange(len(words) - WORDS)
            yield " ".join(words[start : start + WORDS])


def milliseconds(call: Callable[[], object]) -> float:
    """Say how long a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


IN_SQL = "static, in SQL"
BY_SERVICE = "MiniLM, by the service"


def measure_queries(
    conn: psycopg.Connection,
    static: str,
    texts: Sequence[str],
    count: int,
    *,
    both: bool,
) -> dict[str, list[float]]:
    """Encode queries in SQL and by the service, in turn."""
    statements = {IN_SQL: ("select pgembed.embed(%s, %s)", static)}
    if both:
        statements[BY_SERVICE] = ("call pgembed.encode(%s, %s, 60)", MODEL)
    times: dict[str, list[float]] = {name: [] for name in statements}
    for number, query in enumerate(itertools.islice(queries(texts), count + 20)):
        for name, (statement, model) in statements.items():
            took = milliseconds(
                lambda s=statement, p=(query, model): conn.execute(s, p)
            )
            if number >= 20:
                times[name].append(took)
    return times


def rate(encoder: Encoder, texts: list[str]) -> float:
    """Say how many documents are encoded in a second; the best of three."""
    return (
        len(texts)
        * 1e3
        / min(milliseconds(lambda: encoder.encode_documents(texts)) for _ in range(3))
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--documents", type=int, default=60)
    options = parser.parse_args()
    texts = [one.text for one in documents(options.data, 5000)]
    with server() as running, tempfile.TemporaryDirectory() as folder:
        static = static_model(Path(folder))
        dsn = new_database(running, "static")
        with psycopg.connect(dsn, autocommit=True) as conn:
            import_model(conn, static)
            conn.execute("vacuum analyze")
            asked = conn, static.name, texts, options.queries
            alone = measure_queries(*asked, both=False)
            service = subprocess.Popen(
                [sys.executable, "-m", "pgembed", "serve", "--dsn", dsn],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                while not conn.execute("select from pgembed.worker").fetchall():
                    time.sleep(0.1)
                times = measure_queries(*asked, both=True)
            finally:
                service.terminate()
                service.wait(30)
        times |= {f"{IN_SQL}, no service runs": alone[IN_SQL]}
        version = server_version(dsn)
        floor = statistics.median(times[IN_SQL])
        show(
            f"A query of {WORDS} words, ms, {version}",
            ("encoder", "p50", "p95", "times as long"),
            [
                (
                    name,
                    statistics.median(values),
                    percentile(values, 0.95),
                    statistics.median(values) / floor,
                )
                for name, values in times.items()
            ],
        )
        few = texts[: options.documents]
        rates = {
            "static": rate(static, texts),
            "MiniLM": rate(load_encoder(MODEL), few),
            "static, these documents": rate(static, few),
        }
    show(
        f"Documents of {statistics.mean(map(len, few)):.0f} characters, a second",
        ("encoder", "documents", "times MiniLM's"),
        [(name, value, value / rates["MiniLM"]) for name, value in rates.items()],
    )


if __name__ == "__main__":
    main()
