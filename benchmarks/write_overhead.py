"""What an application's writes cost with an embedding declared.

Two tables that are alike, one with an embedding; pgbench writes to them in turn,
so that noise of the machine falls on both. The queue fills and nothing drains it:
a service on the same cores would be measured with it. With --asleep a session
holds the wake-up lock as a sleeping service does, which is the worst case of the
wake-up; a real service takes it for the milliseconds until it has woken.

    python benchmarks/write_overhead.py [--seconds 3] [--rounds 5] [--bm25]

The embedding alone is measured; what BM25 adds, mostly to_tsvector, has its own
comparison with a GIN index in bm25_writes.py.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from common import new_database, server, server_version, show

ROWS = 20_000
SCRIPTS = {
    "INSERT": "insert into {table} (title, body, other) values ('a title', repeat('word ', 40), 1);",
    "UPDATE text": "\\set id random(1, {rows})\n"
    "update {table} set body = 'body ' || random() where id = :id;",
    "UPDATE other": "\\set id random(1, {rows})\n"
    "update {table} set other = other + 1 where id = :id;",
}


def prepare(dsn: str, bm25: bool) -> None:
    """Make the two tables, alike but for the embedding."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("plain", "embedded"):
            conn.execute(
                f"create table {table} (id bigint generated always as identity primary key,"
                " title text not null, body text not null, other int not null)"
                " with (fillfactor = 80)"
            )
            conn.execute(
                f"insert into {table} (title, body, other)"
                f" select 'title ' || i, repeat('word ', 40), 0 from generate_series(1, {ROWS}) as i"
            )
        conn.execute(
            "select pgembed.create_embedding('embedded', $$ title || ' ' || body $$,"
            " bm25 => %s)",
            [bm25],
        )
        conn.execute("vacuum analyze")


def transactions_per_second(
    pgbench: Path, dsn: str, script: Path, clients: int, seconds: int, *more: Path
) -> float:
    """Run one pgbench, which takes any of the scripts each time; read its figure."""
    done = subprocess.run(
        [
            pgbench,
            "-n",
            "-M",
            "prepared",
            *(part for each in (script, *more) for part in ("-f", each)),
            "-c",
            str(clients),
            "-j",
            str(min(clients, 2)),
            "-T",
            str(seconds),
            dsn,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    match = re.search(r"tps = ([\d.]+)", done.stdout)
    assert match is not None, done.stdout
    return float(match[1])


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--asleep", action="store_true")
    parser.add_argument(
        "--bm25", action="store_true", help="with a BM25 index too, as by default"
    )
    options = parser.parse_args()
    rows = []
    with server() as running, TemporaryDirectory() as folder:
        dsn = new_database(running, "writes")
        prepare(dsn, options.bm25)
        pgbench = running.program_folder / "pgbench"
        sleeper = psycopg.connect(dsn, autocommit=True)
        if options.asleep:
            sleeper.execute("select pg_advisory_lock(1885824365, 1)")
        for name, template in SCRIPTS.items():
            scripts = {}
            for table in ("plain", "embedded"):
                scripts[table] = Path(folder) / f"{table}.sql"
                scripts[table].write_text(template.format(table=table, rows=ROWS))
            for clients in options.clients:
                tps: dict[str, list[float]] = {"plain": [], "embedded": []}
                for turn in range(options.rounds):
                    order = ("plain", "embedded") if turn % 2 else ("embedded", "plain")
                    for table in order:
                        script = scripts[table]
                        tps[table].append(
                            transactions_per_second(
                                pgbench, dsn, script, clients, options.seconds
                            )
                        )
                    sleeper.execute("delete from pgembed.queue")
                ratios = [
                    e / p for e, p in zip(tps["embedded"], tps["plain"], strict=True)
                ]
                rows.append(
                    (
                        name,
                        clients,
                        round(statistics.median(tps["plain"])),
                        round(statistics.median(tps["embedded"])),
                        statistics.median(ratios),
                        min(ratios),
                        max(ratios),
                    )
                )
        show(
            f"Writes with an embedding, {server_version(dsn)}",
            (
                "statement",
                "clients",
                "tps plain",
                "tps embedded",
                "ratio",
                "min",
                "max",
            ),
            rows,
        )


if __name__ == "__main__":
    main()
