"""The demo's searches: questions that share no word with their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "HYBRID_QUERIES",
    "SEARCHES",
    "Search",
    "possible_searches",
]


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
