"""The real model, loaded once by each backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgembed.encoders.onnx import OnnxEncoder
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
    from pgembed.settings import Settings


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEncoder:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def onnx_minilm(exports: Settings) -> OnnxEncoder:
    from pgembed.encoders.onnx import OnnxEncoder

    return OnnxEncoder("all-MiniLM-L6-v2", settings=exports)
