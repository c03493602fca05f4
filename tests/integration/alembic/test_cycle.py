"""init, autogenerate, upgrade, change, downgrade: with the real command."""

from __future__ import annotations
