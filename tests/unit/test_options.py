"""The options of all functions: names, types, documentation, without a database."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pgembed
from pgembed import errors, options
from pgembed._client.arguments import CHECKS, LOCAL

ROOT = Path(__file__).parents[2]
NOBODY: Any = None  # what is wrong is said before anybody is asked

CALLS: dict[str, tuple[type, Callable[..., Any]]] = {
    "search": (
        options.HybridSearchOptions,
        lambda **given: pgembed.hybrid_search(NOBODY, "t", "tea", **given),
    ),
    "vector_search": (
        options.VectorSearchOptions,
        lambda **given: pgembed.vector_search(NOBODY, "t", "tea", **given),
    ),
    "bm25_search": (
        options.BM25SearchOptions,
        lambda **given: pgembed.bm25_search(NOBODY, "t", "tea", **given),
    ),
    "similar": (
        options.SimilarOptions,
        lambda **given: pgembed.similar(NOBODY, "t", 1, **given),
    ),
    "search_count": (
        options.CountOptions,
        lambda **given: pgembed.search_count(NOBODY, "t", "tea", **given),
    ),
    "search_facets": (
        options.FacetOptions,
        lambda **given: pgembed.search_facets(NOBODY, "t", "tea", ["c"], **given),
    ),
    "create_embedding": (
        options.NewEmbeddingOptions,
        lambda **given: pgembed.create_embedding(NOBODY, "t", "body", **given),
    ),
    "alter_embedding": (
        options.EmbeddingOptions,
        lambda **given: pgembed.alter_embedding(NOBODY, "t_embedding", **given),
    ),
    "register_model": (
        options.ModelOptions,
        lambda **given: pgembed.register_model(NOBODY, "m", 3, **given),
    ),
}
# An encoder is any object, and the time is looked at when it is needed.
ALL = [
    (function, name)
    for function, (known, _) in CALLS.items()
    for name in known.__annotations__
    if name not in ("encoder", "reranker", "timeout")
]


@pytest.mark.parametrize(("function", "name"), ALL)
def test_a_value_of_a_wrong_type_names_its_option(function: str, name: str) -> None:
    call = CALLS[function][1]
    wrong: tuple[object, ...] = (object(), ["x"], 1.5j)
    for value in wrong:
        with pytest.raises(errors.PgembedError, match=name) as caught:
            call(**{name: value})
        assert isinstance(
            caught.value,
            errors.InvalidParameter | errors.InvalidFilter | errors.InvalidQuery,
        )


@pytest.mark.parametrize("function", CALLS)
def test_an_unknown_option_is_named_with_the_nearest(function: str) -> None:
    known, call = CALLS[function]
    name = next(iter(known.__annotations__))
    with pytest.raises(TypeError, match=rf"'{name}s'.*Did you mean '{name}'"):
        call(**{f"{name}s": 1})


def test_every_option_has_a_check_and_a_description() -> None:
    for name in dir(options):
        found = getattr(options, name)
        if inspect.isclass(found) and hasattr(found, "__total__"):
            assert set(found.__annotations__) <= CHECKS.keys() | LOCAL | {"query_model"}
            assert all(options.described(found).values())


@pytest.mark.parametrize("function", CALLS)
def test_help_shows_each_option(function: str) -> None:
    known, _ = CALLS[function]
    shown = getattr(pgembed, function)
    names = inspect.signature(shown).parameters
    assert set(known.__annotations__) <= set(names)
    for name, text in options.described(known).items():
        assert f"{name}: {text[:20]}" in inspect.getdoc(shown)  # type: ignore[operator]


def test_the_synchronous_client_is_what_the_asynchronous_one_makes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_client", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
