"""Models that people use, known by name: `cards.toml` has what their publishers say.

A card fills in what neither the user nor the model's own files say, and never has the
last word: what a service finds in the weights it loads counts.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pgembed.encoders.exports import INT8_SUFFIX, hub_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is published of a model; None where no source says it.

    Attributes:
        name: On the hub, or as litellm knows it.
        provider: As in `pgembed.model`.
        aliases: Other names of it.
        dimensions: Length of its vectors, by default.
        steps: Shorter lengths that it was trained or is published for (Matryoshka).
        shortest: It gives any length from this on.
        max_tokens: Longest input.
        pooling: `mean`, `cls` or `lasttoken`.
        normalized: Whether its vectors have unit length.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        languages: In words.
        license: SPDX's name in lower case; None for hosted ones.
        own_code: Published with code of its own, which pgembed never runs.
        price: US dollars for a million tokens.
        price_date: When that was read.
        sources: Where all of this was read.
    """

    name: str
    provider: str = "sentence-transformers"
    aliases: tuple[str, ...] = ()
    dimensions: int
    steps: tuple[int, ...] = ()
    shortest: int | None = None
    max_tokens: int | None = None
    pooling: str | None = None
    normalized: bool | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    languages: str | None = None
    license: str | None = None
    own_code: bool = False
    price: float | None = None
    price_date: dt.date | None = None
    sources: tuple[str, ...]


def cards() -> tuple[Card, ...]:
    """Give all cards, in the order of the file."""
    return tuple(_read())


def find_card(name: str) -> Card | None:
    """Find a model's card by its name, or by a path or address that ends with it.

    So a folder `/models/intfloat/e5-base-v2` is known, its variant of 8 bits, and
    `openai/intfloat/e5-base-v2` of a server that speaks OpenAI's API.
    """
    known = _by_name()
    name = name.removesuffix(INT8_SUFFIX)
    end = "/".join(name.replace("--", "/").rstrip("/").split("/")[-2:])
    return known.get(name) or known.get(hub_name(name)) or known.get(end)


@cache
def _read() -> list[Card]:
    text = files("pgembed.encoders").joinpath("cards.toml").read_text("utf-8")
    return [_card(one) for one in tomllib.loads(text)["model"]]


def _card(values: dict[str, Any]) -> Card:
    lists: dict[str, Any] = {k: tuple(v) for k, v in values.items() if type(v) is list}
    return Card(**(values | lists))


@cache
def _by_name() -> dict[str, Card]:
    return {name: one for one in _read() for name in (one.name, *one.aliases)}
