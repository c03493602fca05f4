"""Encoders: text to vectors. Importing this package imports no model library."""

from __future__ import annotations

from pgembed.encoders.base import Encoder, EncoderSettings, truncate_vectors
from pgembed.encoders.registry import PROVIDERS, load_encoder

__all__ = [
    "PROVIDERS",
    "Encoder",
    "EncoderSettings",
    "load_encoder",
    "truncate_vectors",
]
