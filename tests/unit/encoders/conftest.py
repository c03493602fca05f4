"""The real model, loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEncoder:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder("all-MiniLM-L6-v2")
