"""Classes and words by vectors, against NumPy on the same vectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from pgembed import token_vectors
from pgembed.encoders.static import StaticEncoder
from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import build_indexes, declare, make_vectors, put_chunks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Connection = psycopg.Connection[Any]
DIMENSIONS = 8
ROWS = 90

pytestmark = pytest.mark.rolled_back


def make_documents(conn: Connection) -> None:
    """Make a table with one chunk in each row, and one row without a vector."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, 'body ' || i from generate_series(0, %s) as i",
        [ROWS],
    )
    declare(conn, "doc", "body", dimensions=DIMENSIONS, chunking="none")
    put_chunks(
        conn,
        "doc_embedding",
        (
            ((i,), 0, "chunk", v)
            for i, v in enumerate(make_vectors(ROWS, DIMENSIONS).astype(np.float16))
        ),
    )
    build_indexes(conn)


@pytest.fixture
@prepared_by(make_documents)
def doc(conn: Connection) -> Connection:
    """Give the table."""
    return conn


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Scale vectors to length 1."""
    scaled: NDArray[np.float64] = vectors.astype(float) / np.linalg.norm(
        vectors, axis=-1, keepdims=True
    )
    return scaled


VECTORS = unit(make_vectors(ROWS, DIMENSIONS).astype(np.float16))


def check(conn: Connection, labels: NDArray[Any], call: str, value: Any) -> None:
    """Compare what is said of each row with the best two of all products."""
    rows = conn.execute(
        f"select key::int, label, score, margin from pgembed.{call} order by 1",
        [json.dumps(value)],
    ).fetchall()
    alike = VECTORS @ unit(labels).T
    best = np.sort(alike, axis=1)[:, ::-1]
    assert [row[0] for row in rows] == list(range(ROWS))
    assert [row[1] for row in rows] == [f"label {i}" for i in alike.argmax(axis=1)]
    assert [row[2] for row in rows] == pytest.approx(best[:, 0].tolist(), abs=1e-3)
    if len(labels) > 1:
        margins = (best[:, 0] - best[:, 1]).tolist()
        assert [row[3] for row in rows] == pytest.approx(margins, abs=2e-3)
    else:
        assert {row[3] for row in rows} == {None}


@pytest.mark.parametrize("many", [1, 2, 9])
def test_rows_get_the_label_whose_vector_is_nearest(doc: Connection, many: int) -> None:
    labels = make_vectors(many, DIMENSIONS, seed=3)
    value = {f"label {i}": vector.tolist() for i, vector in enumerate(labels)}
    check(doc, labels, "classify(null::doc, labels => %s)", value)


def test_examples_stand_for_a_label_by_their_mean(doc: Connection) -> None:
    examples = [[1, 2, 3], [10, 11], [40]]
    labels = np.array([VECTORS[keys].mean(axis=0) for keys in examples])
    value = {f"label {i}": keys for i, keys in enumerate(examples)}
    check(doc, labels, "classify(null::doc, examples => %s)", value)


def test_examples_that_cancel_each_other_out(doc: Connection) -> None:
    doc.execute(
        "update doc_embedding set embedding = (select array_agg(-u.x)::vector"
        " from (select unnest(embedding::vector::real[]) as x from doc_embedding"
        " where id = 1) as u) where id = 2"
    )
    with pytest.raises(psycopg.Error, match="zero, which has no direction"):
        doc.execute(
            "select * from pgembed.classify(null::doc, examples => '{\"a\": [1, 2]}')"
        )


def test_labels_of_any_length(doc: Connection) -> None:
    labels = make_vectors(3, DIMENSIONS, seed=3)
    value = {f"label {i}": (v * 1e25).tolist() for i, v in enumerate(labels)}
    check(doc, labels, "classify(null::doc, labels => %s)", value)


def test_conditions(doc: Connection) -> None:
    for condition in (
        """filter => '{"id": {"$lt": 5}}'""",
        "where_sql => 's.id < 5'",
    ):
        rows = doc.execute(
            "select key::int from pgembed.classify(null::doc, examples =>"
            f""" '{{"a": [1], "b": [2]}}', {condition}) order by 1"""
        ).fetchall()
        assert rows == [(0,), (1,), (2,), (3,), (4,)]


LABELS = """'{"a": [1, 0, 0, 0, 0, 0, 0, 0]}'"""


@pytest.mark.parametrize(
    ("sqlstate", "arguments", "says"),
    [
        ("PE009", "", "by one of them"),
        ("PE009", f"""{LABELS}, examples => '{{"a": [1]}}'""", "by one of them"),
        ("PE009", "labels => '[1]'", "not an object of labels: [1]"),
        ("PE009", "labels => 'null'", "not an object of labels"),
        ("PE007", "labels => '{}'", "has 0 labels"),
        (
            "PE007",
            "labels => (select jsonb_object_agg(i, i) from generate_series(1, 1001) i)",
            "1001",
        ),
        ("PE009", """labels => '{"a": "x", "b": "x"}'""", '"a" and "b" mean the same'),
        (
            "PE009",
            """labels => '{"a": 5}'""",
            'label "a" has neither a text nor a vector: 5',
        ),
        ("PE009", """labels => '{"a": "  "}'""", "empty"),
        ("PE006", """labels => '{"a": [1, 2]}'""", "2 dimensions"),
        ("PE009", """labels => '{"a": ["x"]}'""", 'label "a" has neither'),
        ("PE009", """labels => '{"a": []}'""", 'label "a" has neither'),
        ("PE009", """labels => '"x"'""", 'labels is not an object of labels: "x"'),
        ("PE009", """examples => '{"a": "x"}'""", 'examples of "a" is not a list'),
        ("PE009", """labels => '{"a": [0, 0, 0, 0, 0, 0, 0, 0]}'""", "zero"),
        ("PE009", """examples => '{"a": []}'""", 'label "a" has no examples'),
        ("PE009", """examples => '{"a": [1000]}'""", '"1000"'),
        ("PE009", """examples => '{"a": 1}'""", 'examples of "a"'),
        (
            "PE010",
            """labels => '{"a": "about ''a''", "b": "about b"}'""",
            "CALL pgembed.encode('about ''a''', 'test-8');"
            " CALL pgembed.encode('about b', 'test-8');",
        ),
    ],
)
def test_what_is_no_set_of_labels(
    doc: Connection, sqlstate: str, arguments: str, says: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        doc.execute(
            "select * from pgembed.classify(null::doc"
            + (f", {arguments}" if arguments else "")
            + ")"
        )
    assert refused.value.sqlstate == sqlstate
    said = (refused.value.diag.message_primary, refused.value.diag.message_hint)
    assert says in " ".join(filter(None, said))


WORDS = {
    "king": [0.9, 0.8, 0.1],
    "queen": [0.9, -0.8, 0.12],
    "man": [0.1, 0.8, 0.1],
    "woman": [0.1, -0.8, 0.12],
    "apple": [-0.2, 0.1, 0.9],
    "pear": [-0.25, 0.05, 0.85],
    "...": [0.9, -0.8, 0.11],
}


@pytest.fixture
def words(conn: Connection, tmp_path: Path) -> Connection:
    """Give a static model of a few words."""
    path = tmp_path / "v.txt"
    path.write_text(
        "".join(f"{word} {' '.join(map(str, v))}\n" for word, v in WORDS.items())
    )
    encoder = StaticEncoder(str(path))
    encoder.name = "words"
    token_vectors.import_model(conn, encoder, vector_type="vector")
    return conn


def cosine(a: Any, b: Any) -> float:
    return float(unit(np.array(a)) @ unit(np.array(b)))


def test_words_that_are_like_a_word(words: Connection) -> None:
    given = words.execute(
        "select * from pgembed.nearest_words('Apple', k => 2)"
    ).fetchall()
    assert [word for word, _ in given] == ["pear", "man"]
    assert given[0][1] == pytest.approx(cosine(WORDS["apple"], WORDS["pear"]), abs=1e-6)


def test_king_is_to_man_as_queen_is_to_woman(words: Connection) -> None:
    ((word, similarity),) = words.execute(
        "select * from"
        " pgembed.analogy('king', 'man', 'woman', k => 1, model => 'words')"
    ).fetchall()
    a, b, c = (unit(np.array(WORDS[w])) for w in ("king", "man", "woman"))
    assert word == "queen"
    assert similarity == pytest.approx(cosine(a - b + c, WORDS["queen"]), abs=1e-6)


def test_how_alike_two_texts_are(words: Connection) -> None:
    row = words.execute(
        "select pgembed.similarity('king queen', 'apple', 'words')"
    ).fetchone()
    mean = np.mean([WORDS["king"], WORDS["queen"]], axis=0)
    assert row == (pytest.approx(cosine(mean, WORDS["apple"]), abs=1e-6),)


def test_a_text_is_classified(words: Connection) -> None:
    given = words.execute(
        "select * from pgembed.classify_text('pear', %s, 'words')",
        ['{"fruit": "apple", "royal": "king queen", "people": [0.1, 0, 0.1]}'],
    ).fetchall()
    scores = {
        "fruit": cosine(WORDS["pear"], WORDS["apple"]),
        "royal": cosine(WORDS["pear"], np.add(WORDS["king"], WORDS["queen"])),
        "people": cosine(WORDS["pear"], [0.1, 0, 0.1]),
    }
    ranked = sorted(scores, key=lambda label: -scores[label])
    assert [label for label, *_ in given] == ranked
    assert [score for _, score, _ in given] == pytest.approx(
        [scores[label] for label in ranked], abs=1e-6
    )
    best, second, third = (scores[label] for label in ranked)
    assert [margin for *_, margin in given] == pytest.approx(
        [best - second, second - best, third - best], abs=1e-6
    )


@pytest.mark.parametrize(
    ("sqlstate", "call", "says"),
    [
        ("PE009", "nearest_words('qwerty')", '"qwerty"'),
        ("PE009", "nearest_words('')", "empty"),
        ("PE007", "nearest_words('king', 0)", "not 0"),
        ("PE009", "analogy('king', 'man', 'qwerty')", '"qwerty"'),
        ("PE005", "analogy('king', 'man', 'woman', model => 'none')", '"none"'),
        (
            "PE005",
            "nearest_words('king', model => 'all-MiniLM-L6-v2')",
            'the words of model "all-MiniLM-L6-v2" are not stored here',
        ),
        ("PE009", "similarity('king', 'qwerty', 'words')", "knows no word"),
        ("PE009", "similarity('', 'king', 'words')", "empty"),
        ("PE010", "similarity('king', 'queen')", "not at hand"),
        ("PE009", "classify_text('king', '[]', 'words')", "not an object"),
        (
            "PE006",
            """classify_text('king', '{"a": [1, 2]}', 'words')""",
            'label "a" has 2 dimensions',
        ),
        (
            "PE009",
            """classify_text('king', '{"a": [0, 0, 0]}', 'words')""",
            'label "a" is zero',
        ),
        (
            "PE009",
            """classify_text('king', '{"a": {"z": 1}}', 'words')""",
            'label "a" has neither',
        ),
    ],
)
def test_words_that_are_not_known(
    words: Connection, sqlstate: str, call: str, says: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        words.execute(f"select * from pgembed.{call}")
    assert refused.value.sqlstate == sqlstate
    assert says in str(refused.value)


def test_a_model_has_to_be_named_where_there_is_none(conn: Connection) -> None:
    with pytest.raises(psycopg.Error, match="model is missing") as refused:
        conn.execute("select * from pgembed.nearest_words('king')")
    assert refused.value.sqlstate == "PE005"
    assert "pgembed model import" in str(refused.value.diag.message_hint)
