"""Health server: /healthz, /readyz and /metrics, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Check = Callable[[], tuple[bool, str]]


class HealthServer:
    """Answers probes while the service runs. Tells no texts, keys or names of rows."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthy: Check,
        ready: Check,
        registry: CollectorRegistry,
    ) -> None:
        """Bind.

        Args:
            host: Address to listen on.
            port: 0 chooses a free one; see `port`.
            healthy: Whether the process should live on, and a line that says why.
            ready: Whether it does its work, and a line that says why not.
            registry: What /metrics shows.

        Raises:
            OSError: The address is taken, or not ours.
        """
        self._server = ThreadingHTTPServer(
            (host, port), _handler(healthy, ready, registry)
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pgembed-health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(
    healthy: Check, ready: Check, registry: CollectorRegistry
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds; a client that sends nothing must not hold a thread
        server_version = "pgembed"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.split("?", 1)[0]
            if path in ("/healthz", "/readyz"):
                good, reason = (healthy if path == "/healthz" else ready)()
                self._answer(200 if good else 503, f"{reason}\n".encode())
            elif path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            else:
                self._answer(404, b"/healthz, /readyz, /metrics\n")

        def _answer(
            self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: probes come every second."""

    return Handler
