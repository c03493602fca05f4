"""The encoder service of the demo: `pgembed serve`, as in production."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from pgembed.errors import EncoderUnavailable

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import psycopg

_STOP_WITHIN_S = 10.0
_LOG_LINES_SHOWN = 15


class ServiceProcess:
    """A running `pgembed serve`; a context that stops it.

    Attributes:
        log_path: File that takes its output.
        command_line: What was started, as one would type it.
    """

    def __init__(self, dsn: str, log_dir: Path) -> None:
        """Start the service; it is not ready yet."""
        self.log_path = log_dir / "service.log"
        # Smaller batches than a service's own: the progress bar moves more often.
        options = ["serve", "--batch-size", "128"]
        self.command_line = " ".join(["pgembed", *options])
        self._kept = False
        # The connection string goes through the environment: other users of the
        # machine can read command lines, and it may hold a password.
        environment = {**os.environ, "PGEMBED_DSN": dsn}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "pgembed", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C is for the demo, which then stops the service itself.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            EncoderUnavailable: With the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            lines = self.log_path.read_text(errors="replace").splitlines()
            raise EncoderUnavailable(
                f"the encoder service ended with exit status {code}",
                detail="\n".join(lines[-_LOG_LINES_SHOWN:]),
                hint=f"Its whole log: {self.log_path}",
            )

    def is_alive(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether it has announced itself in the database.

        Raises:
            EncoderUnavailable: It has ended.
        """
        self.check()
        found = conn.execute(
            "select exists (select from pgembed.workers where pid = %s and alive)",
            [self.pid],
        ).fetchone()
        return bool(found and found[0])

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        stop_process(self._process)

    def keep(self) -> None:
        """Leave it running when the context ends."""
        self._kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not (self._kept and exc is None):
            self.stop()


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Stop a service as its operator would, and wait until it has ended."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_pid(pid: int) -> bool:
    """Stop a service that an earlier demo left running.

    Returns:
        Whether there was one.
    """
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + _STOP_WITHIN_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return True
