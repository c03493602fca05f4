"""Words that no document has are read as the likeliest ones that documents have."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgembed import schema
from tests.fixtures.bm25_reference import fetch_lexemes
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.bm25_steps import Indexed, make_doc
from tests.sql.steps import value

# Most tests only read.
pytestmark = pytest.mark.rolled_back

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


def is_tried(typed: str, word: str) -> bool:
    """Tell whether letters are put in the place of others: accents beside accents."""
    return word.isascii() or not typed.isascii()


def meant(typed: str, frequency: dict[str, int]) -> str | None:
    """Choose among all words of a vocabulary, one by one."""
    choices = [
        (
            not (edits == 1 and is_tried(typed, word)),
            edits,
            not is_likely(typed, word),
            word[0] != typed[0],
            -df,
            word,
        )
        for word, df in frequency.items()
        if df > 0
        and not any(c.isdigit() for c in word)
        and 0 < (edits := osa(typed, word)) <= allowed(typed)
        and (word[0] == typed[0] or (edits == 1 and is_tried(typed, word)))
    ]
    best = min(choices, default=None)
    return None if best is None else best[-1]


def fuzzy(doc: Indexed, query: str, k: int = 10, **options: Any) -> Found:
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


def read_as(doc: Indexed, query: str, **options: Any) -> dict[str, str] | None:
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


def make_castles(conn: psycopg.Connection) -> None:
    """Make a few texts in English, packed."""
    conn.execute("create table doc (id int primary key, body text, n int default 0)")
    doc = Indexed(conn, config="english")
    doc.put(CASTLES)
    doc.create()
    doc.settle()


@pytest.fixture
@prepared_by(make_castles)
def castles(conn: psycopg.Connection) -> Indexed:
    """Give a few texts in English, packed."""
    return Indexed(conn, config="english")


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


@pytest.mark.parametrize(
    "query", ["K2101", "CVE-2031-88124", "CVX-2031", "2032", "ca", "xyzzy"]
)
def test_codes_and_short_words_are_never_read_as_others(
    castles: Indexed, query: str
) -> None:
    assert fuzzy(castles, query) == [
        (key, score, None) for key, score in castles.search(query)
    ]


def test_joined_words(castles: Indexed) -> None:
    assert read_as(castles, "casle/harbuor") == {"casle": "castl", "harbuor": "harbour"}
    assert read_as(castles, "cable-car") is None  # though cablecar is nowhere
    assert read_as(castles, "caslé") == {"casle": "castl"}
    hits = fuzzy(castles, "cabel-car", syntax="websearch")
    assert [key for key, _, _ in hits] == [1]


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


def test_counts_and_facets(castles: Indexed) -> None:
    count = "select pgembed.search_count(null::doc, %s, fuzzy => %s)"
    for query, fuzzy_too, rows in (
        ("casle", False, 0),
        ("casle", True, 3),
        ("castle", True, 3),
        ("xyzzy", True, 0),
    ):
        assert value(castles.conn, count, query, fuzzy_too) == rows
    facets = castles.conn.execute(
        "select value, count from pgembed.search_facets(null::doc, 'casle',"
        " columns => '{n}', fuzzy => true)"
    ).fetchall()
    assert facets == [(0, 3)]


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
    return ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(300)]


def frequencies(doc: Indexed) -> dict[str, int]:
    """Count the documents of each word, accents and all."""
    documents = fetch_lexemes(
        doc.conn, doc.table, doc.expression, doc.config, analyzer={"fold": False}
    )
    return Counter(word for lexemes in documents.values() for word in lexemes)


def check_vocabulary(
    doc: Indexed, letters: str, rng: random.Random, count: int = 60
) -> int:
    """Compare with the choice among all words; count those that were replaced."""
    frequency = frequencies(doc)
    replaced = 0
    for word in rng.sample(sorted(frequency), count):
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
    doc = make_doc(conn, texts, analyzer={"fold": False})
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


def meant_beginning(typed: str, frequency: dict[str, int]) -> str | None:
    """Choose among the beginnings of all words, and all words."""
    beginnings: dict[str, int] = {}
    for word, df in frequency.items():
        for size in range(len(typed) - 1, min(len(typed) + 1, len(word)) + 1):
            beginnings[word[:size]] = max(df, beginnings.get(word[:size], 0))
    best: tuple[bool, bool, bool, int, str] | None = min(
        (
            (
                not is_likely(typed, begun),
                begun[-1] != typed[-1],
                len(begun) < len(typed),
                -df,
                begun,
            )
            for begun, df in beginnings.items()
            if df > 0 and osa(typed, begun) == 1
        ),
        default=None,
    )
    whole = meant(typed, frequency)
    if best is None:
        return whole
    if whole and osa(typed, whole) == 1 and frequency[whole] > -best[3]:
        return whole
    return best[4]


def test_beginnings_as_chosen_among_all(conn: psycopg.Connection) -> None:
    rng = random.Random(7)
    letters = "abcdefgh"
    words = _words(letters, rng)
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(200)]
    doc = make_doc(conn, texts)
    replaced = 0
    for step in range(3):
        frequency = frequencies(doc)
        for word in rng.sample(sorted(frequency), 60):
            typed = _misspell(word[: rng.randint(3, 9)], letters, rng)
            if len(typed) < 3 or any(w.startswith(typed) for w in frequency):
                continue
            expected = meant_beginning(typed, frequency)
            assert read_as(doc, typed, k=1, prefix=True) == (
                None if expected is None else {typed: expected}
            ), typed
            replaced += expected is not None
        doc.settle()
        if step == 0:
            doc.put(texts[:40], first=1000)
    assert replaced > 40


@pytest.mark.parametrize(
    ("encoding", "letters"),
    [("UTF8", "abcdeéèö"), ("LATIN1", "abcdefgh"), ("SQL_ASCII", "abcdefgh")],
)
def test_where_the_locale_is_c(dsn: str, encoding: str, letters: str) -> None:
    name = f"pgembed_test_{os.getpid()}_fuzzy_{encoding.lower()}"
    rng = random.Random(3)
    words = [word for word in _words(letters, rng) if word[0].isascii()]
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            f"create database {name} encoding '{encoding}' locale 'C'"
            " template template0"
        )
        try:
            other = make_conninfo(dsn, dbname=name, client_encoding="UTF8")
            schema.install(other)
            with psycopg.connect(other, autocommit=True) as conn:
                texts = [" ".join(rng.choices(words, k=12)) for _ in range(200)]
                doc = make_doc(conn, texts, analyzer={"fold": False})
                assert check_vocabulary(doc, letters, rng) > 10
                doc.settle()
                assert check_vocabulary(doc, letters, rng) > 10
                assert read_as(doc, words[0] + "zz", prefix=True) is not None
        finally:
            admin.execute(f"drop database {name} with (force)")


@pytest.mark.parametrize("fuzzy_too", [False, True])
@pytest.mark.parametrize("syntax", ["words", "websearch"])
def test_long_words_and_many(castles: Indexed, syntax: str, *, fuzzy_too: bool) -> None:
    options: dict[str, Any] = {"syntax": syntax, "fuzzy": fuzzy_too}
    for size in (2046, 2047, 3000, 90_000):
        query = "castle " + "a" * size
        assert {key for key, _, _ in fuzzy(castles, query, **options)} <= {0, 3, 4}
        if size == 2046:
            fuzzy(castles, query, prefix=True, **options)
        else:
            with pytest.raises(psycopg.Error) as caught:
                fuzzy(castles, query, prefix=True, **options)
            assert caught.value.sqlstate == "PE009"
            assert str(size) in str(caught.value)
    many = " ".join("".join(w) for w in itertools.product("bcdfghjklm", repeat=4))
    for prefix in (False, True):
        with pytest.raises(psycopg.Error) as caught:
            fuzzy(castles, many, prefix=prefix, **options)
        assert caught.value.sqlstate == "PE009"
        fuzzy(castles, many[:4500], prefix=prefix, **options)
        fuzzy(castles, "casle " * 10_000, prefix=prefix, **options)


def test_ten_words_are_read_as_others(castles: Indexed) -> None:
    typed = [f"castl{letter}e" for letter in "abcdfghijkmn"]
    words = read_as(castles, " ".join(typed))
    assert words is not None
    assert len(words) == 10
    assert set(words.values()) == {"castl"}


def test_with_another_configuration(castles: Indexed) -> None:
    assert read_as(castles, "casles", config="simple") is None
    assert read_as(castles, "casles") == {"casles": "castl"}


PREFIX = f"pgembed_test_{os.getpid()}_fuzzy_"
ANN = PREFIX + "ann"
BOB = PREFIX + "bob"


def test_under_row_security(dsn: str, conn: psycopg.Connection) -> None:
    """What a caller is told, and not told, is of the rows that it sees."""
    rng = random.Random(11)
    letters = "abcdefgh"
    words = {ANN: _words(letters, rng), BOB: _words(letters, rng)}
    with new_roles(dsn, ANN, BOB):
        conn.execute("create table doc (id int primary key, body text, who text)")
        conn.execute(
            "alter table doc enable row level security;"
            "create policy mine on doc using (who = current_user)"
        )
        for number in range(100):
            who = (ANN, BOB)[number % 2]
            text = " ".join(rng.choices(words[who], k=12))
            conn.execute("insert into doc values (%s, %s, %s)", [number, text, who])
        for role in (ANN, BOB):
            conn.execute(
                sql.SQL("grant select, insert, delete on doc to {}").format(
                    sql.Identifier(role)
                )
            )
            conn.execute("select pgembed.grant_usage(%s)", [role])
        doc = Indexed(conn).create()
        conn.execute("select pgembed._reconcile_v1()")
        doc.settle()
        for who in (ANN, BOB):
            with acting_as(dsn, who) as app:
                mine = doc.on(app)
                assert check_vocabulary(mine, letters, rng, 20) > 5
                app.execute("delete from doc where id % 3 = 0")
                text = " ".join(rng.choices(words[who], k=30))
                app.execute(
                    "insert into doc select %s::int + 1000 * i, %s, current_user"
                    " from generate_series(1, 3) as i",
                    [int(who == ANN), text],
                )
                assert check_vocabulary(mine, letters, rng, 20) > 5
                check_nothing_is_told(mine, words, doc.number)
        # The owner has all, and the fast way.
        assert check_vocabulary(doc, letters, rng) > 10


def check_nothing_is_told(
    mine: Indexed, words: dict[str, list[str]], number: int
) -> None:
    """Ask for each word of all, a letter wrong; and ask the index itself."""
    seen = frequencies(mine)
    for word in words[ANN][:15] + words[BOB][:15]:
        for prefix in (False, True):
            told = read_as(mine, word + "x", prefix=prefix)
            for meant_word in (told or {}).values():
                assert any(w.startswith(meant_word) for w in seen)
    for function, state in (("top", "PE013"), ("rank", "42501"), ("near", None)):
        name = f"_bm25_{number}_{function}" + ("_spelling" if state else "")
        arguments = (
            "row('cadb', 'simple', '{cadb}', null, null, null), '{cadb}'"
            if state
            else "'cadb', '{}', '{}', false"
        )
        with pytest.raises(psycopg.Error) as caught:
            mine.conn.execute(f"select pgembed.{name}({arguments})")
        assert caught.value.sqlstate == (state or "42501")


def test_a_dropped_part_is_named(castles: Indexed) -> None:
    number = castles.number
    castles.conn.execute(
        f"drop function pgembed._bm25_{number}_top_spelling"
        "(pgembed._bm25_words, text[])"
    )
    with pytest.raises(psycopg.Error) as caught:
        fuzzy(castles, "casle")
    assert caught.value.sqlstate == "PE016"
    castles.conn.execute("select pgembed.repair('doc_bm25')")
    assert read_as(castles, "casle") == {"casle": "castl"}
