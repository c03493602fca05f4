"""What commands tell of models that are known by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgembed.encoders.cards import Card

# What `register_model` may take from a card.
_TAKEN: Final = (
    *("provider", "dimensions", "normalized", "max_tokens"),
    *("query_prompt", "document_prompt"),
)


def take_from_card(card: Card | None, given: dict[str, Any]) -> dict[str, Any]:
    """Give what a card says and the user did not, as options of `register_model`."""
    if card is None or given.get("provider") in {"hashing", "static"}:
        return {}
    said = {key: getattr(card, key) for key in _TAKEN if key not in given}
    return {key: value for key, value in said.items() if value is not None}


def told(options: dict[str, Any]) -> str:
    """Say what was taken from a card."""
    parts = []
    if "dimensions" in options:
        parts.append(f"{options['dimensions']} dimensions")
    if "max_tokens" in options:
        parts.append(f"{options['max_tokens']} tokens")
    parts += [
        f"{kind} prompt {options[key]!r}"
        for kind in ("query", "document")
        if (key := f"{kind}_prompt") in options
    ]
    return ", ".join(parts)


def warnings(card: Card, dimensions: int) -> Iterator[str]:
    """Say what a user of the model should know before it is used."""
    if card.own_code:
        yield (
            "It is published with code of its own, which pgembed never runs: it loads "
            "only where transformers knows its architecture."
        )
    shorter = dimensions < card.dimensions and dimensions not in card.steps
    if shorter and not (card.shortest and dimensions >= card.shortest):
        yield f"It is not published for {dimensions} dimensions: {lengths(card)}."
    if card.license is not None and "-nc-" in card.license:
        yield f"Its license, {card.license}, allows no commercial use."


def lengths(card: Card) -> str:
    """Say which lengths its vectors may have."""
    if card.shortest is not None:
        return f"{card.shortest} to {card.dimensions} dimensions"
    return " or ".join(
        [", ".join(map(str, card.steps))] * bool(card.steps)
        + [f"{card.dimensions} dimensions"]
    )


def summary(card: Card) -> str:
    """Describe a model in a line."""
    parts = [lengths(card)]
    parts += [] if card.max_tokens is None else [f"{card.max_tokens} tokens"]
    parts += [one for one in (card.languages, card.license) if one]
    if card.price is not None:
        parts.append(f"${card.price:g} a million tokens ({card.price_date})")
    return ", ".join(parts)


def plain(card: Card) -> dict[str, Any]:
    """Give a card as JSON has it."""
    date = card.price_date and card.price_date.isoformat()
    return asdict(card) | {"price_date": date}


def details(card: Card) -> Iterator[str]:
    """Describe what `summary` leaves out, a line each."""
    if card.pooling is not None:
        yield f"pooling: {card.pooling}"
    for kind, prompt in (
        ("query", card.query_prompt),
        ("document", card.document_prompt),
    ):
        if prompt is not None:
            yield f"{kind} prompt: {prompt!r}"
    yield from warnings(card, card.dimensions)
    for source in card.sources:
        yield f"source: {source}"
