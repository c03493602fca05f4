"""Exit with 0 when the encoder service says that it is well, else say why not.

    python3 -S -E healthcheck.py [/readyz | /healthz]

For HEALTHCHECK and for Kubernetes, in an image that has no curl and on a port that
nobody else can reach. Only the standard library, and of it as little as possible: this
runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection

connection = HTTPConnection(
    "127.0.0.1", int(os.environ.get("PGEMBED_HEALTH_PORT") or 8080), timeout=3
)
try:
    connection.request("GET", sys.argv[1] if len(sys.argv) > 1 else "/readyz")
    answer = connection.getresponse()
    print(answer.read(500).decode(errors="replace").strip())
except OSError as exc:
    sys.exit(f"no answer: {exc}")
sys.exit(answer.status != 200)
