"""The library's log: silent unless asked for, through the standard library."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from pgembed.events import events


def test_events_have_their_fields_in_the_message_and_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pgembed")
    log = events("pgembed.service.pipeline")
    log.debug("not.this")
    log.warning("row.failed", key="100%s", attempt=2)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("window.failed")
    first, second = caplog.records
    assert first.getMessage() == "row.failed key=100%s attempt=2"
    assert first.name == "pgembed.service.pipeline"
    assert first.__dict__["event"] == "row.failed"
    assert first.__dict__["fields"] == {"key": "100%s", "attempt": 2}
    assert second.exc_info


PROGRAM = """if True:
    import asyncio, logging
    from pgembed.service import EncoderService
    {setting}
    async def main():
        service = EncoderService("host=127.0.0.1 port=1 dbname=none")
        asyncio.get_running_loop().call_later(0.5, service.stop)
        await service.run()
    asyncio.run(main())
"""


@pytest.mark.parametrize("asked", [False, True])
def test_the_library_says_nothing_unless_asked(asked: bool) -> None:
    setting = "logging.basicConfig(level=logging.INFO)" if asked else ""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setting=setting)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert ("WARNING:pgembed.service.database" in done.stderr) == asked
    if not asked:
        assert done.stderr == ""


def test_a_command_writes_fields_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from pgembed.cli.logs import configure_logging

    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root, own = logging.getLogger(), logging.getLogger("pgembed")
    before = root.handlers[:], root.level, own.level
    try:
        configure_logging("json", "info")
        events("pgembed.service").info("window.written", rows=3)
        events("pgembed.service").debug("not.this")
        logging.getLogger("library").warning("of its own")
    finally:
        root.handlers[:], root.level = before[:2]
        own.setLevel(before[2])
    first, second = map(json.loads, written.getvalue().splitlines())
    assert (first["event"], first["rows"], first["level"]) == (
        "window.written",
        3,
        "info",
    )
    assert second["event"] == "of its own"
