"""Search the table of shop.sql from Python.

python examples/search.py postgresql://… "something warm for winter"
"""

from __future__ import annotations

import sys

import psycopg

from pgembed import client


def main() -> None:
    """Print the three nearest products that cost less than 200."""
    dsn, query = sys.argv[1:]
    with psycopg.connect(dsn) as conn:
        client.await_embedded(conn, "product", timeout=60)
        hits = client.vector_search(
            conn, "product", query, k=3, filter={"price": {"$lt": 200}}
        )
    for hit in hits:
        print(f"{hit.similarity:.2f}  {hit.doc['name']}: {hit.content}")


if __name__ == "__main__":
    main()
