"""Texts worded otherwise: with a typing error, or with the opposite meaning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_AUXILIARY: Final = re.compile(
    r"\b(is|are|was|were|am|can|could|will|would|should|must|may|might|has|have|had"
    r"|does|do|did)\b",
    re.IGNORECASE,
)
_NOT: Final = re.compile(r"(?: not\b|n['’]t\b)", re.IGNORECASE)


def with_typing_error(text: str, random: np.random.Generator) -> str | None:
    """Make one error in a word of four letters or more: two of them change places.

    The most frequent kind beside a letter that is missing, too many or another
    (Damerau, 1964); it keeps the word's letters. None: there is no such word.
    """
    words = [
        match
        for match in _WORD.finditer(text)
        if any(a != b for a, b in zip(match[0][1:-1], match[0][2:-1], strict=False))
    ]
    if not words:
        return None
    word = words[int(random.integers(len(words)))]
    places = [
        place
        for place in range(word.start() + 1, word.end() - 2)
        if text[place] != text[place + 1]
    ]
    place = places[int(random.integers(len(places)))]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def negated(text: str) -> str | None:
    """Say the opposite, in English: `not` comes after the first auxiliary, or goes.

    None: it has neither.
    """
    if _NOT.search(text):
        return _NOT.sub("", text, count=1)
    match = _AUXILIARY.search(text)
    if match is None:
        return None
    return f"{text[: match.end()]} not{text[match.end() :]}"
