"""The log of a command's process: events with fields, as JSON or for people."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TypeAlias

import structlog

from pgembed.dsn import redact

LogFormat: TypeAlias = Literal["console", "json"]


def configure_logging(
    kind: LogFormat,
    level: Literal["debug", "info", "warning"] = "info",
    *,
    dsn: str = "",
) -> None:
    """Send the events of this process, and other libraries' messages, to stderr.

    Args:
        kind: `json` writes one object a line, for machines.
        level: What is less important is left out.
        dsn: The connection string; its password is taken out of whatever is logged.
    """
    shared: list[structlog.typing.Processor] = [
        _fields,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if kind == "json"
        else _redacting(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), dsn)
    )
    if kind == "console":
        shared.pop()  # the console renderer shows tracebacks by itself
    shared.append(_redacted_values(dsn))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    # Other libraries speak of themselves at INFO; only what is wrong matters here.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("pgembed").setLevel(level.upper())


def _fields(
    _logger: Any, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Take an event of pgembed's apart again: see `pgembed.events`."""
    record = event["_record"]
    if hasattr(record, "fields"):
        event.update(record.fields, event=record.event)
    return event


def _redacted_values(dsn: str) -> structlog.typing.Processor:
    """Take secrets out of an event before it is quoted and escaped."""

    def process(
        _logger: Any, _name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {
            key: redact(value, dsn) if isinstance(value, str) else value
            for key, value in event.items()
        }

    return process


def _redacting(
    renderer: structlog.dev.ConsoleRenderer, dsn: str
) -> structlog.typing.Processor:
    """Take secrets out of what is written, tracebacks included."""

    def render(logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        return redact(renderer(logger, name, event), dsn)

    return render
