"""How good the rankings are: BM25, vectors and hybrid on a judged collection.

BM25 is compared with bm25s (its lucene method) over the same lexemes, which come from
the analyzer and PostgreSQL's to_tsvector for both; hybrid with the better of its arms. Every way to
search sees the same rows and queries.

    python benchmarks/ranking_quality.py --data FOLDER [--split test] [--rows 500]

FOLDER holds corpus.jsonl, queries.jsonl and qrels (BEIR's layout, or flat; .gz is
fine), for instance SciFact.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from pathlib import Path

import bm25s
import psycopg
from cached import CachedEncoder
from common import new_database, server, server_version, show
from corpora import CONFIG, TABLE, TEXT, build_bm25, documents, load

from pgembed.encoders import load_encoder
from pgembed.evaluation import (
    EvaluationOptions,
    evaluate,
    find_data,
    load_data,
    save_chart,
    score_run,
)
from pgembed.evaluation.files import JudgedQueries
from pgembed.service import ServiceSettings, drain

MODEL = "all-MiniLM-L6-v2"
DEPTH = 100
MEASURES = ("nDCG@10", "MRR@10", "recall@100", "MAP")
# What to fuse, besides the default.
FUSIONS: dict[str, dict[str, object]] = {
    "hybrid, rrf": {},
    "hybrid, rrf with rrf_k 60": {"rrf_k": 60},
    "hybrid, minmax": {"fusion": "minmax"},
    "hybrid, distribution": {"fusion": "distribution"},
}


def lexemes(conn: psycopg.Connection) -> tuple[list[str], list[list[str]]]:
    """Give the key of every row that has words, and its lexemes as often as they occur.

    A row without words is in no statistic, as in Lucene: bm25s would count it.
    """
    keys, texts = [], []
    for key, words in conn.execute(
        f"select id, (select array_agg(l.lexeme) from unnest(to_tsvector('{CONFIG}', pgembed.analyze({TEXT}))) as l,"
        f" unnest(l.positions)) from {TABLE} order by id"
    ):
        if words:
            keys.append(key)
            texts.append(words)
    return keys, texts


def bm25s_rankings(
    conn: psycopg.Connection, data: JudgedQueries, k1: float, b: float
) -> dict[str, list[tuple[str, float]]]:
    """Rank by bm25s, over PostgreSQL's lexemes; with the factor (k1 + 1)."""
    keys, texts = lexemes(conn)
    model = bm25s.BM25(method="lucene", k1=k1, b=b)
    model.index(texts, show_progress=False)
    rankings = {}
    for key, query in data.queries.items():
        row = conn.execute(
            f"select pgembed._query_lexemes('{CONFIG}', %s, '{{}}')", [query]
        ).fetchone()
        assert row is not None
        known = [word for word in row[0] if word in model.vocab_dict]
        if not known:
            rankings[key] = []
            continue
        found, scores = model.retrieve(
            [known], corpus=keys, k=min(DEPTH, len(keys)), show_progress=False
        )
        rankings[key] = [
            (document, float(score) * (k1 + 1))
            for document, score in zip(found[0], scores[0], strict=True)
            if score > 0
        ]
    return rankings


def largest_difference(
    conn: psycopg.Connection,
    data: JudgedQueries,
    reference: dict[str, list[tuple[str, float]]],
) -> float:
    """Compare scores rank by rank; returns the largest relative difference."""
    worst = 0.0
    for key, query in data.queries.items():
        ours = [
            row[0]
            for row in conn.execute(
                f"select score from pgembed.bm25_search(NULL::{TABLE}, %s, k => %s)",
                (query, DEPTH),
            )
        ]
        theirs = [score for _, score in reference[key]]
        if len(ours) != len(theirs):
            return math.inf
        worst = max(
            [worst, *(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))]
        )
    return worst


def main() -> None:
    """Print the measures and the differences that count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, help="only so many documents")
    parser.add_argument("--queries", type=int, help="only so many queries")
    parser.add_argument("--chunking", default="sentences")
    parser.add_argument("--k1", type=float, default=1.2)
    parser.add_argument("--b", type=float, default=0.75)
    parser.add_argument("--chart", type=Path)
    parser.add_argument(
        "--vectors", type=Path, help="keep the documents' vectors in this .npz file"
    )
    parser.add_argument(
        "--hybrid",
        nargs="*",
        default=[],
        help="more ways to fuse, as JSON: '{\"rrf_k\": 20}'",
    )
    options = parser.parse_args()
    fusions = FUSIONS | {f"hybrid, {text}": json.loads(text) for text in options.hybrid}
    data = load_data(find_data(options.data, options.split))
    encoder = load_encoder(MODEL)
    if options.vectors:
        encoder = CachedEncoder(encoder, options.vectors)
    with server() as running:
        dsn = new_database(running, "quality")
        with psycopg.connect(dsn, autocommit=True) as conn:
            rows = load(conn, documents(options.data, options.rows))
            bm25 = f'{{"config": "{CONFIG}", "k1": {options.k1}, "b": {options.b}}}'
            conn.execute(
                "select pgembed.create_embedding(%s, %s, chunking => %s, bm25 => true,"
                " bm25_options => %s)",
                (TABLE, TEXT, options.chunking, bm25),
            )
            asyncio.run(drain(dsn, ServiceSettings(), encoders={MODEL: encoder}))
            if options.vectors:
                encoder.save()
            build_bm25(conn)
            conn.execute("vacuum analyze")
            kept = {
                key for (key,) in conn.execute(f"select id from {TABLE}").fetchall()
            }
            data = some(data, kept, options.queries)
            measured: dict[str, dict[str, float]] = {}
            reference = bm25s_rankings(conn, data, options.k1, options.b)
            per_query = score_run(
                {key: [d for d, _ in found] for key, found in reference.items()},
                data.judgements,
                MEASURES,
            )
            measured["bm25s"] = {
                name: sum(values.values()) / len(values)
                for name, values in per_query.items()
            }
            latency: dict[str, float] = {}
            for name, fusion in fusions.items():
                report = evaluate(
                    conn,
                    TABLE,
                    data,
                    EvaluationOptions(
                        modes=("hybrid",) if latency else ("bm25", "vector", "hybrid"),
                        measures=MEASURES,
                        encoder=encoder,
                        depth=DEPTH,
                        hybrid=fusion,
                    ),
                )
                for mode in report.modes:
                    label = name if mode.mode == "hybrid" else mode.mode
                    measured[label] = mode.measures
                    latency[label] = mode.latency.p50
                if options.chart and not fusion:
                    save_chart(report, options.chart)
            difference = largest_difference(conn, data, reference)
        show(
            f"Ranking of {rows} documents, {len(data.queries)} queries, {server_version(dsn)}",
            ("search", *MEASURES, "p50 ms"),
            [
                (
                    name,
                    *(f"{value:.4f}" for value in values.values()),
                    f"{latency[name]:.1f}" if name in latency else "",
                )
                for name, values in measured.items()
            ],
        )
        ndcg = {name: values["nDCG@10"] for name, values in measured.items()}
        better = max(ndcg["bm25"], ndcg["vector"])
        show(
            "Differences of nDCG@10",
            ("what", "difference", "goal"),
            [
                ("BM25 - bm25s", f"{ndcg['bm25'] - ndcg['bm25s']:+.4f}", "within 0.01"),
                *(
                    (f"{name} - better arm", f"{ndcg[name] - better:+.4f}", "+0.02")
                    for name in fusions
                ),
                ("BM25 scores against bm25s, relative", f"{difference:.1e}", "1e-5"),
            ],
        )


def some(data: JudgedQueries, kept: set[str], count: int | None) -> JudgedQueries:
    """Keep queries with a relevant document in the table, at most so many."""
    queries = [
        key
        for key, found in data.judgements.items()
        if any(document in kept and score > 0 for document, score in found.items())
    ][:count]
    return JudgedQueries(
        {key: data.queries[key] for key in queries},
        {key: data.judgements[key] for key in queries},
    )


if __name__ == "__main__":
    main()
