"""The real model, loaded once."""

from __future__ import annotations

import pytest

from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEncoder:
    return SentenceTransformersEncoder("all-MiniLM-L6-v2")
