"""How many tokens a text has, without the provider's tokenizer: an estimate."""

from __future__ import annotations

from typing import Final

_CHARACTERS_PER_TOKEN: Final = 4  # of English


def estimate(text: str) -> int:
    """Estimate tokens: four ASCII characters make one, any other character is one.

    Tokenizers of providers split other scripts more finely, at worst into bytes.
    """
    if text.isascii():
        return len(text) // _CHARACTERS_PER_TOKEN + 1
    plain = len(text.encode("ascii", "ignore"))
    return plain // _CHARACTERS_PER_TOKEN + len(text) - plain + 1
