"""Rows of a schema without, and of one with, a column for the model's revision."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pgembed.service.models import _differs
from pgembed.service.records import Embedding, Model

COMMIT = "1" * 40
WITHOUT: dict[str, Any] = {
    one.name: None for one in fields(Embedding) if one.name != "model_revision"
}


@pytest.mark.parametrize("more", [{}, {"model_revision": COMMIT}])
def test_the_revision_reaches_the_model(more: dict[str, Any]) -> None:
    model = Embedding(**WITHOUT, **more).its_model()
    assert model.model_revision == more.get("model_revision")


def test_another_revision_is_another_model_to_load() -> None:
    values = (1, "m", "sentence-transformers", 8, None, None, None)
    assert _differs(Model(*values), Model(*values, COMMIT))
    assert not _differs(Model(*values, COMMIT), Model(*values, COMMIT))
