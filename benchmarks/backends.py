"""One model on torch and on onnxruntime: latency, throughput, memory, start.

Each round runs every way in a process of its own, in turn, over the same texts: time to
import and load, a query at a time (p50), documents (texts a second, by the wall's clock
and by that of the CPU), the most memory. With `--busy` two connections read and write
as fast as they can on a PostgreSQL of the same machine.

    python benchmarks/backends.py [--rounds 3] [--documents 64] [--queries 60] [--busy]

Wants the model exported: `pgembed model export all-MiniLM-L6-v2`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from common import markdown, new_database, percentile, server

MODEL = "all-MiniLM-L6-v2"
# What computes, and what the environment says besides.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "sentence-transformers": ("sentence-transformers", {}),
    "torch, threads that spin": ("torch", {"OMP_WAIT_POLICY": "active"}),
    "torch, as serve has it": ("torch", {"OMP_WAIT_POLICY": "passive"}),
    "onnx": ("onnx", {}),
    "onnx, 1 thread": ("onnx", {"PGEMBED_THREADS": "1"}),
}
TORCH, ONNX = "torch, as serve has it", "onnx"
FIGURES = ("start", "query", "query_cpu", "wall", "cpu", "memory")


def measure(way: str, texts: Sequence[str], queries: int) -> dict[str, float]:
    """Measure in this process, which has imported neither library yet."""
    began = time.perf_counter()
    if way == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        from pgembed.encoders.packaged import MODELS, installed_folder

        plain = SentenceTransformer(str(installed_folder(MODELS[0])), device="cpu")

        def encode(texts: Sequence[str]) -> object:
            return plain.encode(list(texts), batch_size=32, show_progress_bar=False)
    else:
        from pgembed.encoders import load_encoder
        from pgembed.settings import Backend, Settings

        settings = replace(Settings.from_env(), backend=Backend(way))
        encode = load_encoder(MODEL, settings=settings).encode_documents
    start = time.perf_counter() - began

    encode(texts[:2])
    one = []
    cpu = time.process_time()
    for number in range(queries):
        at = time.perf_counter()
        encode([f"how is setting {number} read from a file"])
        one.append(time.perf_counter() - at)
        time.sleep(0.005)
    query_cpu = (time.process_time() - cpu) / queries
    cpu, at = time.process_time(), time.perf_counter()
    encode(texts)
    wall, cpu = time.perf_counter() - at, time.process_time() - cpu
    return {
        "start": start,
        "query": percentile(one, 0.5) * 1e3,
        "query_cpu": query_cpu * 1e3,
        "wall": len(texts) / wall,
        "cpu": len(texts) / cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(way: str, texts: Sequence[str], queries: int) -> dict[str, float]:
    """Measure in a new process."""
    library, environment = WAYS[way]
    done = subprocess.run(
        [sys.executable, __file__, "--way", library, "--queries", str(queries)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def busy_server(clients: int = 2) -> Iterator[None]:
    """Keep a server busy with small statements."""
    program = (
        "import sys, psycopg\n"
        "with psycopg.connect(sys.argv[1], autocommit=True) as conn:\n"
        "    while True:\n"
        "        conn.execute('select sum(n) from generate_series(1, 20000) as n')\n"
        "        conn.execute('insert into busy values (1)')\n"
    )
    with server() as running:
        dsn = new_database(running, "busy")
        import psycopg

        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create table busy (n int)")
        beside = [
            subprocess.Popen([sys.executable, "-c", program, dsn])
            for _ in range(clients)
        ]
        try:
            yield
        finally:
            for process in beside:
                process.kill()
                process.wait()


def main() -> None:
    """Print the figures, and their ratios to torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--busy", action="store_true", help="beside a busy server")
    parser.add_argument("--way", help="measure one, texts from stdin, print JSON")
    options = parser.parse_args()
    if options.way:
        texts = json.load(sys.stdin)
        print(json.dumps(measure(options.way, texts, options.queries)))
        return
    from pgembed.demo.corpus import corpus

    texts = [row.text for row in corpus(limit=options.documents)]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with busy_server() if options.busy else nullcontext():
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(run(way, texts, options.queries))
    medians = {
        way: {f: statistics.median(one[f] for one in rounds) for f in FIGURES}
        for way, rounds in found.items()
    }
    columns = (
        *("", "start, s", "query p50, ms", "query CPU, ms"),
        *("texts/s", "texts/CPU s", "memory, MiB"),
    )
    beside = ", beside a busy server" if options.busy else ""
    markdown(
        f"{MODEL}, {options.documents} docstrings, {os.cpu_count()} cores{beside}, "
        f"median of {options.rounds} rounds",
        columns,
        [(way, *(medians[way][f] for f in FIGURES)) for way in WAYS],
    )
    ratios = {
        f: statistics.median(
            o[f] / t[f] for o, t in zip(found[ONNX], found[TORCH], strict=True)
        )
        for f in FIGURES
    }
    markdown(
        f"{ONNX} to {TORCH}, median of the rounds' ratios",
        columns,
        [("ratio", *(ratios[f] for f in FIGURES))],
    )


if __name__ == "__main__":
    main()
