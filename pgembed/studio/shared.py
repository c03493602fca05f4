"""What the routes share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from starlette.requests import Request

    from pgembed.studio.database import Database
    from pgembed.studio.health import Looks
    from pgembed.studio.security import Keys
    from pgembed.studio.settings import StudioSettings

MOST_BYTES = 4 << 20  # of a body


@dataclass(frozen=True, slots=True)
class Studio:
    """What there is one of."""

    database: Database
    keys: Keys
    settings: StudioSettings
    looks: Looks


def studio_of(request: Request) -> Studio:
    """Find it from a request."""
    found: Studio = request.app.state.studio
    return found


def is_part(request: Request) -> bool:
    """Whether htmx asks, which puts the answer into a page."""
    return request.headers.get("hx-request") == "true"


async def body_of(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        InvalidParameter: It is too large.
    """
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > MOST_BYTES:
            raise InvalidParameter(
                f"the request is larger than {MOST_BYTES >> 20} MiB",
                hint="Send fewer texts at once.",
            )
    return bytes(read)


def read_json(what: str, text: str | bytes) -> Any:
    """Read JSON that somebody has sent.

    Raises:
        InvalidParameter: It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidParameter(f"the {what} is no JSON: {exc}") from exc


async def form_of(request: Request) -> dict[str, str]:
    """Read a form; of several fields with one name the last."""
    body = (await body_of(request)).decode(errors="replace")
    return {name: values[-1] for name, values in parse_qs(body).items()}
