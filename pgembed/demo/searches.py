"""The demo's searches: questions that share no word with their answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "HYBRID_QUERIES",
    "SEARCHES",
    "Search",
    "possible_searches",
    "shared_words",
]

_GLUE = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "do",
        "for",
        "from",
        "how",
        "i",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "not",
        "of",
        "on",
        "or",
        "so",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "this",
        "to",
        "too",
        "up",
        "what",
        "when",
        "where",
        "which",
        "who",
        "will",
        "with",
        "without",
        "you",
        "your",
    ]
)
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDINGS = ("ing", "ies", "ied", "es", "ed", "ly", "s", "e")


@dataclass(frozen=True, slots=True)
class Search:
    """A question and where in the standard library its answer is.

    Attributes:
        query: What is searched for.
        answer: The answer's qualified name; its members answer as well.
    """

    query: str
    answer: str

    def is_answered_by(self, name: str) -> bool:
        """Whether the row of this name is an answer."""
        return name == self.answer or name.startswith(f"{self.answer}.")


#: Chosen so that the answer is first for every corpus of 3,000 rows or more.
SEARCHES = (
    Search("program settings written in ini syntax", "configparser"),
    Search("shuffle cards", "random"),
    Search("remember previous results to avoid computing twice", "functools.cache"),
    Search("ask for a passphrase secretly", "getpass"),
    Search("nearest spelling", "difflib.get_close_matches"),
    Search("give up when an operation lasts too long", "asyncio.timeouts.Timeout"),
    Search("duplicate everything inside", "copy"),
)

#: Numbers, which vectors blur and words find, and a question of which it is the other
#: way round.
HYBRID_QUERIES = ("RFC 4122 ids", "PEP 3333 server", "shuffle cards")


def possible_searches(names: Collection[str]) -> list[Search]:
    """Choose the searches whose answer is among the loaded names."""
    return [search for search in SEARCHES if search.answer in names]


def shared_words(query: str, text: str) -> set[str]:
    """Words of meaning that two texts share, in any inflection.

    Names such as `getpass.win_getpass` or `WeakSet` are split into their words.
    """
    return _stems(query) & _stems(text)


def _stems(text: str) -> set[str]:
    words = _WORD.findall(_CAMEL.sub(" ", text).lower())
    return {_stem(word) for word in words if word not in _GLUE}


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
