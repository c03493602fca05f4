"""What pgembed says to the log: events with fields, through the standard library.

Silent unless the application has a handler and sets a level, as by
`logging.getLogger("pgembed").setLevel(logging.INFO)`. A record's message is the event
with its fields; for handlers that want them apart they are its attributes `event` and
`fields`.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

_STANDARD = frozenset({"exc_info", "stack_info", "stacklevel", "extra"})

logging.getLogger("pgembed").addHandler(logging.NullHandler())


class Events(logging.LoggerAdapter[logging.Logger]):
    """A logger whose methods take an event and, by keyword, its fields."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        """Write the fields into the message, and keep them beside it."""
        fields = {name: kwargs.pop(name) for name in [*kwargs] if name not in _STANDARD}
        kwargs["extra"] = {"event": msg, "fields": fields}
        written = "".join(f" {name}={value}" for name, value in fields.items())
        return f"{msg}{written}", kwargs


def events(module: str) -> Events:
    """Give a module its logger.

    Args:
        module: Its `__name__`, by which a log can be chosen.
    """
    return Events(logging.getLogger(module))
