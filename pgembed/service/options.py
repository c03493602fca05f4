"""Settings of the encoder service."""

from __future__ import annotations

from dataclasses import dataclass

from pgembed.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(Settings):
    """What `pgembed serve` may be told, besides what encoders are.

    Attributes:
        models: Names of the models to serve, separated by commas; None: all.
        batch_size: Most rows claimed at once. Large enough to sort by length over
            many texts; shrunk by itself where rows are slow.
        lease_seconds: How long a claimed row stays with a service that died.
        poll_seconds: Longest sleep: what a lost notification costs at most.
        grace_seconds: How long a stop waits for work in hand before it is given
            back.
        health_host: Where the health server listens.
        health_port: Its port; None: no health server. 0 chooses a free one.
        call_timeout_seconds: How long one call of a model may take before it is given
            up. Longer than any honest call takes here: see `request_timeout_seconds`
            for hosted models, which should be shorter.
        read_seconds: How long the database may take to read one row, or to write it:
            the owner's code runs then.
        erase_seconds: How long the words and keys of a deleted row, or of an earlier
            text, may stay in a BM25 index.
        index_megabytes: Most memory of the server that the build of a vector index may
            take, in MiB, where maintenance_work_mem is less; None: as much as its
            shared_buffers.
        train_query_encoders: Whether query encoders are trained when nothing else is to
            be done.
        max_read_megabytes: Most text read at once, in MiB; the rest waits, and a row
            with more fails.
        image_roots: Folders and addresses that images may be read from whose rows say
            where they are; none. In the environment separated by commas.
        max_tokens_per_day: Most tokens that each hosted model is sent in a day (UTC),
            by all services of the database together; None: no limit.
    """

    models: str | None = None
    batch_size: int = 512
    lease_seconds: float = 60.0
    poll_seconds: float = 5.0
    grace_seconds: float = 3.0
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    call_timeout_seconds: float = 120.0
    read_seconds: float = 10.0
    erase_seconds: float = 3600.0
    index_megabytes: int | None = None
    train_query_encoders: bool = True
    max_read_megabytes: int = 32
    image_roots: tuple[str, ...] = ()
    max_tokens_per_day: int | None = None

    def index_bytes(self) -> int | None:
        """Give `index_megabytes` in bytes."""
        return None if self.index_megabytes is None else self.index_megabytes << 20

    def served(self) -> list[str] | None:
        """Give the names in `models`; None: all are served."""
        if self.models is None:
            return None
        return [name.strip() for name in self.models.split(",")]

    def serves(self, model: str) -> bool:
        """Whether this service works for a model."""
        served = self.served()
        return served is None or model in served
