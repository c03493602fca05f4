"""k-means through `pgembed.analysis`, reading included, beside scikit-learn's alone.

With Debian's packages (a corpus.jsonl.gz with metadata.section) the clusters are compared
with the sections as well. Their vectors are of words hashed to 384 dimensions, or of a
model.

    python benchmarks/clusters.py [--rows 20000] [--data FOLDER [--model NAME]]
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from common import new_database, server, show
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg import sql
from sklearn.cluster import KMeans

from pgembed.analysis import ClusterOptions, find_clusters, name_clusters, read_vectors
from pgembed.analysis.models import purity
from pgembed.encoders import load_encoder
from pgembed.encoders.hashing import HashingEncoder

DIMENSIONS = 384
Row = tuple[str, str, str]


def packages(folder: Path, rows: int) -> list[Row]:
    """Give name, section and description of packages, spread over the collection."""
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as stream:
        found = [json.loads(line) for line in stream]
    step = max(1, len(found) // rows)
    return [
        (one["_id"], one["metadata"]["section"], f"{one['title']}\n{one['text']}")
        for one in found[::step][:rows]
    ]


def made_up(rows: int) -> tuple[list[Row], NDArray[np.float32]]:
    """Give rows whose vectors lie near a surface of 16 dimensions."""
    random = np.random.default_rng(0)
    surface = random.normal(size=(16, DIMENSIONS))
    vectors = random.normal(size=(rows, 16)) @ surface
    vectors += 0.2 * random.normal(size=(rows, DIMENSIONS))
    return [(str(i), "", f"row {i}") for i in range(rows)], vectors.astype(np.float32)


def fill(
    conn: psycopg.Connection[Any], rows: list[Row], vectors: NDArray[np.float32]
) -> None:
    """Make a table, and put the vectors where a service would."""
    register_vector(conn)
    conn.execute("create table package (id text primary key, section text, body text)")
    conn.execute("select pgembed.register_model('made', 384, provider => 'hashing')")
    with conn.cursor() as cursor:
        with cursor.copy("copy package from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        # Afterwards: rows that are written later would be queued one by one.
        cursor.execute(
            "select pgembed.create_embedding('package', 'body', model => 'made',"
            " index => 'none')"
        )
        found = cursor.execute("select model_id from pgembed.model").fetchone()
        assert found is not None
        statement = sql.SQL(
            "copy package_embedding (id, chunk, content, embedding, text_hash,"
            " model_id, embedded_at) from stdin (format binary)"
        )
        now = datetime.now(UTC)
        with cursor.copy(statement) as copy:
            copy.set_types(
                ["text", "int4", "text", "vector", "bytea", "int4", "timestamptz"]
            )
            for (key, _, body), vector in zip(rows, vectors, strict=True):
                digest = sha256(body.encode()).digest()
                copy.write_row((key, 0, body, vector, digest, found[0], now))
    conn.execute("analyze")


def main() -> None:
    """Print what each step takes, and the purity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("-k", type=int, default=20)
    options = parser.parse_args()
    if options.data is None:
        rows, given = made_up(options.rows)
    else:
        rows = packages(options.data, options.rows)
        encoder = (
            load_encoder(options.model)
            if options.model
            else HashingEncoder("made", DIMENSIONS)
        )
        given = encoder.encode_documents([row[2] for row in rows])
    with server() as running:
        dsn = new_database(running, "clusters")
        with psycopg.connect(dsn, autocommit=True) as conn:
            fill(conn, rows, given)
            times = {"": time.perf_counter()}
            vectors = read_vectors(conn, "package", columns=["section"])
            times["reading"] = time.perf_counter()
            found = find_clusters(vectors, ClusterOptions(k=options.k))
            times["clusters"] = time.perf_counter()
            named = name_clusters(conn, vectors, found)
            times["words"] = time.perf_counter()
    began = time.perf_counter()
    alone = KMeans(options.k, random_state=0).fit_predict(vectors.matrix)
    seconds = time.perf_counter() - began
    points = list(times.values())
    steps = dict(zip(list(times)[1:], np.diff(points).tolist(), strict=True))
    ratio = (steps["reading"] + steps["clusters"]) / seconds
    show(
        f"{len(vectors):,} vectors of {DIMENSIONS} dimensions, k = {options.k}: seconds",
        ("step", "seconds"),
        [
            *steps.items(),
            ("scikit-learn alone", seconds),
            ("reading and clusters / scikit-learn", ratio),
        ],
    )
    if options.data is not None:
        labels = np.unique(vectors.columns["section"], return_inverse=True)[1]
        show(
            "purity by section",
            ("", "purity"),
            [
                ("pgembed", purity(found.numbers, labels)),
                ("scikit-learn", purity(alone, labels)),
            ],
        )
        for one in named.clusters[:8]:
            print(f"{one.rows:6,}  {', '.join(one.words)}")


if __name__ == "__main__":
    main()
