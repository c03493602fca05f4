"""A query encoder against the model whose vectors it was trained on: nDCG@10, by queries.

Both search the same stored vectors, exactly: what is compared is the query's vector.
Hybrid is beside BM25.

    python benchmarks/query_encoder.py --data FOLDER [--split test] [--rows 500]
        [--cache vectors.npz]
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
from pgembed.encoders import load_encoder
from pgembed.evaluation import find_data, load_data, score_run
from pgembed.query_encoder.store import train_query_encoder
from pgembed.service import ServiceSettings, drain

MODEL = "all-MiniLM-L6-v2"
MEASURE = "nDCG@10"


def main() -> None:
    """Print what each query encoder makes of the judged queries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, help="only so many documents")
    parser.add_argument("--cache", type=Path, help="where the model's vectors stay")
    options = parser.parse_args()
    data = load_data(find_data(options.data, options.split))
    encoder: Any = load_encoder(MODEL)
    if options.cache:
        encoder = CachedEncoder(encoder, options.cache)
    rows = []
    with server() as running:
        dsn = new_database(running, "query_encoder")
        with psycopg.connect(dsn, autocommit=True) as conn:
            load(conn, documents(options.data, options.rows))
            client.create_embedding(
                conn,
                TABLE,
                TEXT,
                model=MODEL,
                chunking="none",
                index="none",
                bm25_options={"config": CONFIG},
            )
            asyncio.run(drain(dsn, ServiceSettings(), encoders={MODEL: encoder}))

            def measured(name: str, seconds: float, **by: Any) -> None:
                found = []
                for find in (client.vector_search, client.hybrid_search):
                    rankings = {
                        key: [hit.doc["id"] for hit in find(conn, TABLE, query, **by)]
                        for key, query in data.queries.items()
                    }
                    values = score_run(rankings, data.judgements, [MEASURE])[MEASURE]
                    found.append(f"{sum(values.values()) / len(values):.4f}")
                rows.append((name, *found, f"{seconds:.0f}"))

            measured("the model", 0, encoder=encoder)
            for name, start in (("from the model", encoder), ("without it", None)):
                began = time.process_time()
                train_query_encoder(conn, f"{TABLE}_embedding", encoder=start)
                seconds = time.process_time() - began
                measured(f"trained {name}", seconds, query_encoder="static")
    show(
        f"{options.data.name}: queries",
        ["by", MEASURE, "hybrid", "CPU s to train"],
        rows,
    )


if __name__ == "__main__":
    main()
