"""Words that no document has are read as the likeliest ones that documents have."""

from __future__ import annotations

import json
import os
import random
import string
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgembed import schema
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.bm25_steps import Indexed, make_doc
from tests.sql.steps import value

Found = list[tuple[int, float, dict[str, str] | None]]


def osa(one: str, other: str) -> int:
    """Count edits, two swapped neighbours as one: optimal string alignment."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            edits = min(
                rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a != b)
            )
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                edits = min(edits, rows[i - 2][j - 2] + 1)
            row.append(edits)
        rows.append(row)
    return rows[-1][-1]


def is_likely(typed: str, word: str) -> bool:
    """Tell whether one edit is a swap, or a letter doubled or not."""
    swapped = {
        typed[:i] + typed[i + 1 : i + 2] + typed[i : i + 1] + typed[i + 2 :]
        for i in range(len(typed) - 1)
    }
    shorter, longer = sorted((typed, word), key=len)
    doubled = {shorter[: i + 1] + shorter[i:] for i in range(len(shorter))}
    return word in swapped or (len(longer) == len(shorter) + 1 and longer in doubled)


def allowed(word: str) -> int:
    """Give how many edits a word may be wrong by."""
    if len(word) < 3 or any(c.isdigit() for c in word):
        return 0
    return 1 if len(word) < 6 else 2


def is_reached(typed: str, word: str) -> bool:
    """Tell whether a first letter is tried: accents are where some are typed."""
    return word[0].isascii() or not typed.isascii() or len(word) < len(typed)


def meant(typed: str, frequency: dict[str, int]) -> str | None:
    """Choose among all words of a vocabulary, one by one."""
    choices = [
        (edits, not is_likely(typed, word), word[0] != typed[0], -df, word)
        for word, df in frequency.items()
        if df > 0
        and not any(c.isdigit() for c in word)
        and 0 < (edits := osa(typed, word)) <= allowed(typed)
        and (word[0] == typed[0] or (edits == 1 and is_reached(typed, word)))
    ]
    best = min(choices, default=None)
    return None if best is None else best[-1]


def fuzzy(doc: Indexed, query: str, k: int = 10, **options: object) -> Found:
    """Search with typing errors; give keys, scores and what was read as what."""
    options = {"fuzzy": True, "embedding": doc.name, **options}
    named = sql.SQL("").join(
        sql.SQL(", {} => {}").format(sql.Identifier(n), sql.Literal(v))
        for n, v in options.items()
    )
    statement = sql.SQL(
        "select (h.doc).id, h.score, h.read_as"
        " from pgembed.bm25_search(null::{}, {}, {}{}) as h"
    ).format(sql.SQL(doc.table), query, k, named)
    return doc.conn.execute(statement).fetchall()


def read_as(doc: Indexed, query: str, **options: object) -> dict[str, str] | None:
    """Give what a search read as what."""
    found = fuzzy(doc, query, **options)
    return found[0][2] if found else None


CASTLES = [
    "The castle on the rock above the town",
    "A cable car climbs to the observatory",
    "Lighthouse and harbour, with a café",
    "Information about castles and their walls",
    "Cast iron, wood and stone, by castle builders",
    "Order CVE-2031-88123 of part K2100",
]


@pytest.fixture
def castles(conn: psycopg.Connection) -> Indexed:
    """Give a few texts in English, packed."""
    conn.execute("create table doc (id int primary key, body text, n int default 0)")
    doc = Indexed(conn, config="english")
    doc.put(CASTLES)
    doc.create()
    doc.settle()
    return doc


def test_a_word_that_no_document_has_is_read_as_another(castles: Indexed) -> None:
    assert castles.search("casle") == []
    hits = fuzzy(castles, "Casle")
    assert {key for key, _, _ in hits} == {0, 3, 4}
    assert all(words == {"Casle": "castl"} for _, _, words in hits)
    assert [hit[:2] for hit in hits] == castles.search("castle")
    # An ending that is misspelt keeps the word from its stem.
    assert read_as(castles, "informtaion") == {"informtaion": "inform"}
    assert read_as(castles, "ligthouse harbuor") == {
        "ligthouse": "lighthous",
        "harbuor": "harbour",
    }


def test_what_documents_have_stays(castles: Indexed) -> None:
    assert fuzzy(castles, "castle") == [
        (key, score, None) for key, score in castles.search("castle")
    ]
    assert read_as(castles, "cast") is None
    hits = fuzzy(castles, "castle wals")
    assert {words["wals"] for _, _, words in hits if words} == {"wall"}


@pytest.mark.parametrize("query", ["K2101", "CVE-2031-88124", "2032", "ca", "xyzzy"])
def test_codes_and_short_words_are_never_read_as_others(
    castles: Indexed, query: str
) -> None:
    assert fuzzy(castles, query) == [
        (key, score, None) for key, score in castles.search(query)
    ]


def test_websearch(castles: Indexed) -> None:
    def found(query: str) -> set[int]:
        return {key for key, _, _ in fuzzy(castles, query, syntax="websearch")}

    assert found("casle wlls") == {3}
    assert found('"casle builers"') == {4}
    assert found("casle or harbuor") == {0, 2, 3, 4}
    # What must not occur is meant as it is written.
    assert found("casle -wlls") == {0, 3, 4}
    assert found("castle -casle") == {0, 3, 4}
    assert found("casle -casle") == set()
    assert found('castle -"casle builders"') == {0, 3, 4}


def test_as_you_type(castles: Indexed) -> None:
    for typed, beginning in (
        ("cadtl", "castl"),
        ("casl", "castl"),
        ("ligth", "light"),
        ("obserbat", "observat"),
        ("rock cadtl", "castl"),
    ):
        words = read_as(castles, typed, prefix=True)
        assert words == {typed.split()[-1]: beginning}, typed
    assert read_as(castles, "cas", prefix=True) is None
    assert read_as(castles, "informtaion", prefix=True) == {"informtaion": "inform"}
    hits = fuzzy(castles, "wals cadtl", prefix=True, syntax="websearch")
    assert [key for key, _, _ in hits] == [3]
    assert hits[0][2] == {"wals": "wall", "cadtl": "castl"}


def test_snippets_mark_what_was_meant(castles: Indexed) -> None:
    row = castles.conn.execute(
        "select snippet from pgembed.bm25_search(null::doc, 'casle', 1,"
        " snippets => true, fuzzy => true, filter => '{\"id\": 0}')"
    ).fetchone()
    assert row is not None
    assert "<b>castle</b>" in row[0]


def _misspell(word: str, letters: str, rng: random.Random) -> str:
    place = rng.randrange(len(word) + 1)
    head, tail = word[:place], word[place:]
    return rng.choice(
        (
            head + tail[1:],
            head + rng.choice(letters) + tail,
            head + rng.choice(letters) + tail[1:],
            head + tail[1:2] + tail[:1] + tail[2:],
        )
    )


def _words(letters: str, rng: random.Random) -> list[str]:
    return [
        "".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(300)
    ]


def check_vocabulary(doc: Indexed, letters: str, rng: random.Random) -> int:
    """Compare with the choice among all words; count those that were replaced."""
    frequency: dict[str, int] = {}
    for lexemes in doc.lexemes().values():
        for word in lexemes:
            frequency[word] = frequency.get(word, 0) + 1
    replaced = 0
    for word in rng.sample(sorted(frequency), 60):
        typed = _misspell(word, letters, rng)
        if rng.random() < 0.3:
            typed = _misspell(typed, letters, rng)
        if typed in frequency or not typed:
            continue
        expected = meant(typed, frequency)
        assert read_as(doc, typed, k=1) == (
            None if expected is None else {typed: expected}
        ), typed
        replaced += expected is not None
    return replaced


ALPHABETS = {
    "latin": "abcdefgh",
    "accents": "aeéèoöüz",
    "cyrillic": "абвгдежя",
    "greek": "αβγδεζηθ",
}


@pytest.mark.parametrize("letters", ALPHABETS.values(), ids=list(ALPHABETS))
def test_as_chosen_among_all_words(conn: psycopg.Connection, letters: str) -> None:
    rng = random.Random(letters)
    words = _words(letters, rng)
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(200)]
    doc = make_doc(conn, texts)
    assert check_vocabulary(doc, letters, rng) > 10
    doc.settle()
    # Part of it packed, part new, part deleted.
    doc.put([" ".join(rng.choices(words, k=12)) for _ in range(60)], first=1000)
    conn.execute("delete from doc where id % 3 = 0")
    assert check_vocabulary(doc, letters, rng) > 10
    doc.settle()
    assert check_vocabulary(doc, letters, rng) > 10
    conn.execute("truncate doc")
    doc.put([" ".join(rng.choices(words, k=12)) for _ in range(40)])
    assert check_vocabulary(doc, letters, rng) > 5
