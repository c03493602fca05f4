"""What the benchmarks share: a server, a table of figures, and where they came from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

import pgembed.schema
from pgembed.embedded import EmbeddedServer, Major


@contextmanager
def server(major: Major = 18) -> Iterator[EmbeddedServer]:
    """Start a throwaway server with durable commits, as production has them."""
    with tempfile.TemporaryDirectory(prefix="pgembed-bench-") as folder:
        data = Path(folder) / "data"
        Path(folder).chmod(0o755)
        settings = {
            "shared_buffers": "512MB",
            "max_wal_size": "4GB",
            "maintenance_work_mem": "512MB",
        }
        with EmbeddedServer(data, major=major, settings=settings) as running:
            yield running


def new_database(running: EmbeddedServer, name: str) -> str:
    """Make a database with pgembed installed; returns its connection string."""
    running.create_database(name)
    dsn = running.dsn(name)
    pgembed.schema.install(dsn)
    return dsn


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of figures, and the same as one JSON line for later comparison."""
    rows = [tuple(row) for row in rows]
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row))
    Console(width=120).print(table)
    print(
        json.dumps(
            {
                "title": title,
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
                "columns": columns,
                "rows": rows,
            }
        )
    )


def markdown(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Print a table of figures as it stands in docs/measurements.md."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cells = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[
        round(share * 100) - 1
    ]


def server_version(dsn: str) -> str:
    """Name the server and pgvector that a figure belongs to."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "select current_setting('server_version'), extversion "
            "from pg_extension where extname = 'vector'"
        ).fetchone()
        assert row is not None
        return f"PostgreSQL {row[0]}, pgvector {row[1]}"
