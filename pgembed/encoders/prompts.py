"""Which of a model's own prompts are for queries, and which for documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order in which sentence-transformers itself looks for them.
DOCUMENT_PROMPTS: Final = ("document", "passage", "corpus")
QUERY_PROMPTS: Final = ("query",)


def own_prompt(
    given: str | None,
    prompts: Mapping[str, str | None],
    default_name: str | None,
    names: tuple[str, ...],
) -> str:
    """Give the prompt that was asked for, else the model's own, else none.

    Args:
        given: What was asked for; '' is no prompt.
        prompts: The model's own, by name.
        default_name: Name of the one that is for all texts.
        names: Which names count, best first.
    """
    if given is not None:
        return given
    if default_name is not None:
        names = (*names, default_name)
    return next((text for name in names if (text := prompts.get(name))), "")
