"""Exit with 0 when the encoder service is ready, else say why not.

For HEALTHCHECK, in an image that has no curl. Only the standard library, and of it as
little as possible: this runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection

connection = HTTPConnection(
    "127.0.0.1", int(os.environ.get("PGEMBED_HEALTH_PORT") or 8080), timeout=3
)
try:
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    print(answer.read(500).decode(errors="replace").strip())
except OSError as exc:
    sys.exit(f"no answer: {exc}")
sys.exit(answer.status != 200)
