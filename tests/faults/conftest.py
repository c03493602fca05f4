"""Fixtures of the fault suite."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from tests.faults.poison import Provider, provider


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """Give a local provider of hosted models, and let litellm find it."""
    importlib.import_module("litellm")  # takes many seconds, which no query waits for
    with provider() as (state, url):
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_API_BASE", url)
        yield state
