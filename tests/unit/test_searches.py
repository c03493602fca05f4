"""The demo claims that its questions share no word with their answers."""

from __future__ import annotations

from pgembed.demo.corpus import corpus
from pgembed.demo.searches import SEARCHES, possible_searches
from tests.fixtures.shared_words import shared_words


def test_shared_words_sees_through_inflection_and_compound_names() -> None:
    assert shared_words("copying files", "copy a file") == {"copy", "fil"}
    assert shared_words("weak sets", "WeakSet") == {"weak", "set"}
    assert shared_words("what is it for", "for what it is") == set()


def test_every_answer_is_in_the_default_corpus_and_shares_no_word() -> None:
    rows = {row.name: row for row in corpus(3000)}
    assert len(possible_searches(rows)) == len(SEARCHES)
    for search in SEARCHES:
        answer = rows[search.answer]
        assert shared_words(search.query, f"{answer.name} {answer.text}") == set()


def test_a_small_corpus_gets_the_searches_it_can_answer() -> None:
    names = {row.name for row in corpus(320)}
    answers = {search.answer for search in possible_searches(names)}
    assert {"configparser", "random", "copy"} <= answers
    assert "functools.cache" not in answers
