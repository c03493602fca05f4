"""Models of providers, asked over HTTP through litellm: for encoders and re-rankers."""

from __future__ import annotations

from pgembed.hosted.usage import Spent, Usage

__all__ = ["Spent", "Usage"]
