"""The same table from plain psycopg: python search.py postgresql://… "warm"."""

from __future__ import annotations

import sys

import psycopg

import pgembed

dsn, query = sys.argv[1:]
with psycopg.connect(dsn) as conn:
    for hit in pgembed.hybrid_search(conn, "product", query, k=3):
        print(f"{hit.score:.4f}  {hit.doc['name']}")
