"""A small cross-encoder, saved and loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.cross_encoders import save_cross_encoder

if TYPE_CHECKING:
    from pgembed.rerankers.cross_encoder import CrossEncoderReranker


@pytest.fixture(scope="session")
def cross_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


@pytest.fixture(scope="session")
def reranker(cross_encoder_folder: Path) -> CrossEncoderReranker:
    from pgembed.rerankers.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker(str(cross_encoder_folder))
