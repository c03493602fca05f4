"""The real model, loaded and exported once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgembed.settings import Backend, Settings

if TYPE_CHECKING:
    from pgembed.encoders.onnx import OnnxEncoder
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEncoder:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a folder of exports that has the model."""
    from pgembed.encoders.onnx_export import export

    settings = Settings(
        backend=Backend.ONNX, exports=str(tmp_path_factory.mktemp("exports"))
    )
    export("all-MiniLM-L6-v2", settings=settings)
    return settings


@pytest.fixture(scope="session")
def exported(exports: Settings) -> Path:
    """The folder of the exported model: to be copied, not changed."""
    return Path(str(exports.exports)) / "sentence-transformers--all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def onnx_minilm(exports: Settings) -> OnnxEncoder:
    from pgembed.encoders.onnx import OnnxEncoder

    return OnnxEncoder("all-MiniLM-L6-v2", settings=exports)
