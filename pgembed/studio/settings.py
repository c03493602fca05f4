"""What the studio is told when it starts."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from pgembed.errors import InvalidParameter

SHORTEST_TOKEN = 16  # characters


def new_token() -> str:
    """Make a token that nobody guesses."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioSettings:
    """How the studio is served.

    Attributes:
        host: Address that it listens on.
        port: Port, 0 to 65,535; 0: a free one.
        token: What opens it.
        allowed_hosts: Names, besides addresses and localhost, by which browsers may
            ask for it.
        search_dsn: Connection string of a standby, where everything is read; None: all
            is on one server.
        connections: Most connections to the database; with a standby, to each.
        waiting: Most requests that wait for one of them; more are refused.
        wait_seconds: How long a request waits for one.
        statement_seconds: How long a search may take.
        encode_seconds: How long the encoder service is waited for.
        analysis_seconds: How long a look at all rows of a table may take; one at a time
            does so.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str = field(default_factory=new_token, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    search_dsn: str | None = field(default=None, repr=False)
    connections: int = 4
    waiting: int = 32
    wait_seconds: float = 5.0
    statement_seconds: float = 10.0
    encode_seconds: float = 10.0
    analysis_seconds: float = 60.0

    def __post_init__(self) -> None:
        if len(self.token) < SHORTEST_TOKEN or not self.token.isascii():
            raise InvalidParameter(
                f"the token must be {SHORTEST_TOKEN} ASCII characters or more, not "
                f"{len(self.token)}",
                hint="Leave it out, and one is made.",
            )
