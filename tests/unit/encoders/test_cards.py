"""What is known of models by name, and what encoders make of it."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import tomllib
from dataclasses import fields
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ConfigDict, TypeAdapter

from pgembed.encoders import load_encoder
from pgembed.encoders.cards import Card, cards, find_card
from pgembed.settings import Backend, Settings

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["what is a fox", "A fox is an animal with a bushy tail."]
WEB_SEARCH = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the "
    "query"
)
TORCH = Settings(backend=Backend.TORCH, device="cpu")


@pytest.fixture
def place(transformer_folder: Path, tmp_path: Path) -> Any:
    """A plain transformer in a folder that is named as a model on the hub."""

    def copy(name: str) -> str:
        folder = tmp_path / name
        shutil.copytree(transformer_folder, folder)
        return str(folder)

    return copy


def test_every_card_is_complete() -> None:
    text = files("pgembed.encoders").joinpath("cards.toml").read_text("utf-8")
    raw = tomllib.loads(text)["model"]
    TypeAdapter(list[Card], config=ConfigDict(extra="forbid")).validate_python(raw)
    assert all(set(one) <= {field.name for field in fields(Card)} for one in raw)
    assert len(raw) == len(cards()) > 50
    names = [name for card in cards() for name in (card.name, *card.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_a_card_is_right_in_itself(card: Card) -> None:
    assert 1 <= card.dimensions <= 16_000
    assert list(card.steps) == sorted({s for s in card.steps if s < card.dimensions})
    assert card.shortest is None or card.shortest < card.dimensions
    assert card.max_tokens is None or card.max_tokens > 0
    assert card.pooling in (None, "mean", "cls", "lasttoken")
    assert card.sources
    assert all(source.startswith("https://") for source in card.sources)
    assert (card.price is None) == (card.price_date is None)
    if card.provider == "litellm":
        assert card.name.count("/") == 1
        assert card.license is None
        assert card.query_prompt is card.document_prompt is None
        assert card.price is None or 0 < card.price < 1
        assert card.price_date is None or card.price_date >= dt.date(2026, 1, 1)
    else:
        assert card.provider == "sentence-transformers"
        assert card.license
        assert card.license == card.license.lower()
        assert card.languages
        assert card.max_tokens
        assert card.price is None
    for prompt in (card.query_prompt, card.document_prompt):
        assert prompt is None or (prompt and prompt[0] != " ")


def test_prices_are_those_that_litellm_has() -> None:
    litellm = pytest.importorskip("litellm")
    for card in cards():
        if card.price is None:
            continue
        bare = card.name.partition("/")[2]
        entry = litellm.model_cost.get(card.name) or litellm.model_cost[bare]
        assert entry["input_cost_per_token"] * 1e6 == pytest.approx(card.price)
        assert entry["max_input_tokens"] == card.max_tokens
        assert entry.get("output_vector_size", card.dimensions) == card.dimensions


def test_a_card_is_found_by_what_people_write() -> None:
    def found(name: str) -> str | None:
        card = find_card(name)
        return None if card is None else card.name

    e5 = "intfloat/e5-base-v2"
    for name in (e5, f"/models/{e5}/", f"openai/{e5}", f"{e5}-int8"):
        assert found(name) == e5
    assert found("/cache/exports/intfloat--e5-base-v2") == e5
    assert found("all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    assert found("text-embedding-3-small") == "openai/text-embedding-3-small"
    # A name of the user's own, or somebody else's model.
    for other in ("e5-base-v2", "me/e5-base-v2", "/models/e5-base-v2", "", "/"):
        assert found(other) is None


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("nomic-ai/nomic-embed-text-v1", "search_query: ", "search_document: "),
        (
            "BAAI/bge-small-en-v1.5",
            "Represent this sentence for searching relevant passages: ",
            "",
        ),
        (
            "intfloat/e5-mistral-7b-instruct",
            f"{WEB_SEARCH}\nQuery: ",
            "",
        ),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            f"{WEB_SEARCH}\nQuery:",
            "",
        ),
    ],
)
def test_the_encoder_sees_the_published_prompts(
    place: Any, name: str, query: str, document: str
) -> None:
    folder = place(name)
    ours = load_encoder(folder, settings=TORCH)
    assert (ours.query_prompt, ours.document_prompt) == (query, document)
    bare = load_encoder(folder, query_prompt="", document_prompt="", settings=TORCH)
    np.testing.assert_allclose(
        ours.encode_queries(TEXTS),
        bare.encode_queries([query + text for text in TEXTS]),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        ours.encode_documents(TEXTS),
        bare.encode_documents([document + text for text in TEXTS]),
        atol=1e-6,
    )
    different = np.abs(ours.encode_queries(TEXTS) - bare.encode_queries(TEXTS))
    assert different.max() > 1e-4
    asked = load_encoder(folder, query_prompt="ask: ", settings=TORCH)
    assert (asked.query_prompt, asked.document_prompt) == ("ask: ", document)


def test_a_server_of_a_known_model_is_sent_its_prompts() -> None:
    settings = Settings(hosted_models=True)
    name = "openai/intfloat/e5-base-v2"
    known = load_encoder(name, "litellm", dimensions=3, settings=settings)
    assert (known.query_prompt, known.document_prompt) == ("query: ", "passage: ")
    bare = load_encoder(
        name, "litellm", dimensions=3, query_prompt="", settings=settings
    )
    assert (bare.query_prompt, bare.document_prompt) == ("", "passage: ")


def test_the_models_own_prompts_count_before_its_card(place: Any) -> None:
    from sentence_transformers import SentenceTransformer

    folder = place("intfloat/e5-base-v2")
    own = SentenceTransformer(folder, device="cpu", prompts={"query": "frage: "})
    own.save_pretrained(folder)
    loaded = load_encoder(folder, settings=TORCH)
    assert (loaded.query_prompt, loaded.document_prompt) == ("frage: ", "")


@pytest.mark.parametrize(
    ("name", "pooling", "normalized", "why"),
    [
        ("me/mine", "mean", False, "nothing is known of this model"),
        ("thenlper/gte-small", "mean", False, "nothing is known of this model"),
        ("intfloat/e5-base-v2", "mean", True, "as published"),
        ("BAAI/bge-small-en-v1.5", "cls", True, "as published"),
        ("Qwen/Qwen3-Embedding-0.6B", "lasttoken", True, "as published"),
    ],
)
def test_a_plain_transformer_is_pooled_as_published_and_says_so(
    place: Any,
    caplog: pytest.LogCaptureFixture,
    name: str,
    pooling: str,
    normalized: bool,
    why: str,
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = place(name)
    with caplog.at_level(logging.WARNING, "pgembed"):
        ours = load_encoder(folder, query_prompt="", document_prompt="", settings=TORCH)
    assert ours.normalized == normalized
    (told,) = [r.getMessage() for r in caplog.records if r.name.startswith("pgembed")]
    assert f"without modules.json: pooling {pooling!r}" in told
    assert ("unit length" in told) == normalized
    assert why in told
    steps = [modules.Transformer(folder), modules.Pooling(16, pooling)]
    steps += [modules.Normalize()] * normalized
    theirs = SentenceTransformer(modules=steps, device="cpu")
    np.testing.assert_allclose(
        ours.encode_documents(TEXTS),
        theirs.encode(TEXTS, show_progress_bar=False),
        atol=1e-6,
    )


def test_an_export_of_a_plain_transformer_keeps_what_was_assumed(
    place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pgembed.encoders.onnx_export import export

    folder = place("BAAI/bge-small-en-v1.5")
    out = tmp_path / "out/BAAI/bge-small-en-v1.5"
    done = export(folder, out, settings=TORCH)
    weights = load_encoder(folder, settings=TORCH)
    onnx = Settings(backend=Backend.ONNX)

    def loaded() -> tuple[Any, list[str]]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pgembed"):
            exported = load_encoder(done.name, settings=onnx)
        return exported, [r.getMessage() for r in caplog.records]

    exported, warned = loaded()
    assert not warned
    assert exported.normalized
    # As others export, without the modules.
    (out / "modules.json").unlink()
    plain, (warning,) = loaded()
    assert "pooling 'cls'" in warning
    for one in (exported, plain):
        np.testing.assert_allclose(
            one.encode_queries(TEXTS), weights.encode_queries(TEXTS), atol=1e-5
        )
