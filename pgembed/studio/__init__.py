"""A page in the browser over the searches, and the same as an HTTP API.

`pgembed studio` serves it. Everything runs with the rights of the role that it connects
as, in transactions that only read.
"""

from __future__ import annotations

from pgembed.studio.app import create_app
from pgembed.studio.settings import StudioSettings

__all__ = ["StudioSettings", "create_app"]
