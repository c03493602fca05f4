"""What the encoder service would do, in the process of a test."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg

from pgembed import client
from pgembed.errors import NotEmbeddedInTime


def process_all(
    dsn: str, *, timeout: float = 60.0
) -> dict[str, client.EmbeddingStatus]:
    """Do in this process what the encoder service would: encode all that waits.

    Builds the vector indexes too. Rows that fail for good do not raise: see `failed`
    in the result and the view `pgembed.failed`.

    Args:
        dsn: The database; what is to be encoded must be committed.
        timeout: Longest time for all of it, retries included, in seconds.

    Returns:
        How each embedding stands afterwards, by name; by `schema.name` where two
        schemas have one of the same name.

    Raises:
        NotEmbeddedInTime: Something still waits.
    """
    from pgembed.service import drain

    deadline = time.monotonic() + timeout
    while True:
        # A thread of its own: the caller may be inside an event loop.
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(asyncio.run, drain(dsn)).result()
        with psycopg.connect(dsn, autocommit=True) as conn:
            statuses = client.status(conn)
        names = Counter(one.name for one in statuses)
        found = {
            one.name if names[one.name] == 1 else f"{one.schema}.{one.name}": one
            for one in statuses
        }
        waiting = [
            name
            for name, one in found.items()
            if one.state == "active" and not one.up_to_date
        ]
        if not waiting:
            return found
        if time.monotonic() > deadline:
            raise NotEmbeddedInTime(
                f"still waiting after {timeout:g} seconds: {', '.join(waiting)}",
                hint="The queue, pgembed.queue, shows attempts and when they are due.",
            )
        time.sleep(0.05)  # a retry is due later
