"""What is put before queries and documents: as asked for, the model's, its card's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgembed.encoders.cards import find_card

if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order in which sentence-transformers itself looks for them.
_DOCUMENT: Final = ("document", "passage", "corpus")
_QUERY: Final = ("query",)


def choose_prompts(
    name: str,
    query: str | None,
    document: str | None,
    prompts: Mapping[str, str | None],
    default_name: str | None,
) -> tuple[str, str]:
    """Choose the prompts of a model, for queries and for documents.

    Args:
        name: The model's name: its card counts where its own files give no prompt.
        query: What was asked for; '' is no prompt, None leaves it to the model.
        document: The same for documents.
        prompts: The model's own, by name.
        default_name: Name of the one that is for all texts.
    """
    own_query = _first(prompts, default_name, _QUERY)
    own_document = _first(prompts, default_name, _DOCUMENT)
    card = None if own_query or own_document else find_card(name)
    if card is not None:
        own_query = card.query_prompt or ""
        own_document = card.document_prompt or ""
    return (
        own_query if query is None else query,
        own_document if document is None else document,
    )


def _first(
    prompts: Mapping[str, str | None], default_name: str | None, names: tuple[str, ...]
) -> str:
    if default_name is not None:
        names = (*names, default_name)
    return next((text for name in names if (text := prompts.get(name))), "")
