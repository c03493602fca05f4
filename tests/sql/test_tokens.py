"""Texts are cut in PostgreSQL as by the tokenizers library, and averaged as there."""

from __future__ import annotations

import json
import random
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pgembed.encoders.sql_tokenizer import sql_tokenizer
from pgembed.token_vectors import store_tokenizer
from tests.fixtures.static_models import minilm_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

TEXTS = [
    "",
    " \t\r\n",
    "Cheap flights to Rome: 25% off!",
    "unaffable hyperparathyroidism xylographically",
    "a" * 100 + " " + "b" * 101,
    "Ein Flugzeug hebt gerade ab; Straße, GROẞE Öl",
    "Das ist naïve, ÅNGSTRÖM, Ǆ ǅ ﬁnance",
    "İstanbul IĞDIR ı",  # a capital with a dot: two characters in lower case
    "no-break\u00a0space, thin\u2009space, ideographic\u3000space, nel\u0085, \u2028",
    "飛行機が離陸しています。北京欢迎你 𠀀 豈 丽",
    "한국어 문장입니다",  # Hangul becomes its letters
    "≠ ≮ ; ` ´ ·",  # without accents these are other signs
    "zero\u200bwidth soft\u00adhyphen \ufeff \ufffd \u0600 \ue000",
    "\x01\x02 control\x0bvertical\x0cform\x7fdelete",
    "🤖 emoji 👩\u200d👩\u200d👧 𝔘nicode ½ ² ①",
    "नमस्ते दुनिया، مرحبا שָׁלוֹם ไทย",
    "[CLS] a [SEP] b[MASK]c [sep] [ SEP ] [UNK] [PAD]",
    "ΑΣ ὈΔΥΣΣΕΎΣ ᾳ",
    "e\u0301 a\u0328\u0301 q\u0307\u0323",
    "\u1c89 Ᲊ Ꟍ",  # capitals of Unicode 16
]


def _tokenizers() -> dict[str, str]:
    minilm = json.loads(minilm_tokenizer())
    found = {"uncased": minilm_tokenizer()}
    for name, normalizer in {
        "cased": {"lowercase": False, "strip_accents": None},
        "accents": {"lowercase": True, "strip_accents": False},
        "stripped": {"lowercase": False, "strip_accents": True},
        "as it is": {
            "lowercase": False,
            "clean_text": False,
            "handle_chinese_chars": False,
        },
    }.items():
        changed = minilm["normalizer"] | normalizer
        found[name] = json.dumps(minilm | {"normalizer": changed})
    words = Tokenizer(
        WordLevel({"cat": 0, "naïve": 1, "!": 2, "[UNK]": 3}, unk_token="[UNK]")
    )
    words.normalizer = BertNormalizer(strip_accents=False)
    words.pre_tokenizer = BertPreTokenizer()
    found["words"] = words.to_str()
    return found


def _library(tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
    loaded = Tokenizer.from_str(tokenizer)
    return [
        e.ids for e in loaded.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def _postgres(
    conn: psycopg.Connection, tokenizer_id: int, texts: Sequence[str]
) -> list[list[int]]:
    rows = conn.execute(
        "select pgembed._tokens(t, x) from pgembed.tokenizer as t,"
        " unnest(%s::text[]) with ordinality as u(x, n)"
        " where tokenizer_id = %s order by n",
        [list(texts), tokenizer_id],
    ).fetchall()
    return [row[0] for row in rows]


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("kind", _tokenizers())
def test_tokens_are_those_of_the_library(conn: psycopg.Connection, kind: str) -> None:
    tokenizer = _tokenizers()[kind]
    number = store_tokenizer(conn, sql_tokenizer(tokenizer))
    found = _postgres(conn, number, TEXTS)
    expected = _library(tokenizer, TEXTS)
    assert found == expected
    # Each alone too: no text changes what is made of the next.
    assert [_postgres(conn, number, [text])[0] for text in TEXTS] == expected


def _reordered(text: str) -> bool:
    """Whether the library changes the order of marks that stay; PostgreSQL does not."""
    kept = "".join(c for c in text if unicodedata.category(c) != "Mn")
    return unicodedata.normalize("NFD", kept) != "".join(
        unicodedata.normalize("NFD", c) for c in kept
    )


@pytest.mark.parametrize("kind", ["uncased", "cased", "as it is"])
def test_any_unicode_is_cut_as_by_the_library(
    conn: psycopg.Connection, kind: str
) -> None:
    tokenizer = _tokenizers()[kind]
    number = store_tokenizer(conn, sql_tokenizer(tokenizer))
    letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    near = st.sampled_from("aB éÉßİ\u0301\u0323.#[]界は한\u00a0\u200b\t")

    @given(st.lists(st.text(letters | near, max_size=40), min_size=20, max_size=20))
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    def look(texts: list[str]) -> None:
        texts = [text for text in texts if not _reordered(text)]
        assert _postgres(conn, number, texts) == _library(tokenizer, texts)

    look()


def test_every_character_is_treated_as_by_the_library(
    conn: psycopg.Connection,
) -> None:
    """All of Unicode, one by one, as the normalizer and the pre-tokenizer see it."""
    tokenizer = minilm_tokenizer()
    number = store_tokenizer(conn, sql_tokenizer(tokenizer))
    loaded = Tokenizer.from_str(tokenizer)
    # Beyond these planes is nothing but private use and unassigned.
    codes = [c for c in range(1, 0x32000) if not 0xD800 <= c <= 0xDFFF]
    for start in range(0, len(codes), 20_000):
        texts = [f"a{chr(code)}b" for code in codes[start : start + 20_000]]
        expected = [
            [
                part
                for part, _ in loaded.pre_tokenizer.pre_tokenize_str(
                    loaded.normalizer.normalize_str(text)
                )
            ]
            for text in texts
        ]
        found = conn.execute(
            "select pgembed._token_words(t, x) from pgembed.tokenizer as t,"
            " unnest(%s::text[]) with ordinality as u(x, n)"
            " where tokenizer_id = %s order by n",
            [texts, number],
        ).fetchall()
        differ = [
            (text, theirs, ours)
            for text, theirs, (ours,) in zip(texts, expected, found, strict=True)
            if ours != theirs
        ]
        assert differ == []


def test_unknown_words_take_no_more_time_than_their_number(
    conn: psycopg.Connection,
) -> None:
    """As long as a query may be. Time that grows by the square would take minutes."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=99_000)
    words = ["".join(letters[at : at + 99]) for at in range(0, len(letters), 99)]
    tokenizer = minilm_tokenizer()
    number = store_tokenizer(conn, sql_tokenizer(tokenizer))
    conn.execute("set statement_timeout = '60s'")
    text = " ".join(words)
    assert _postgres(conn, number, [text]) == _library(tokenizer, [text])


def test_the_locale_does_not_matter(conn: psycopg.Connection) -> None:
    """Lower case and classes of characters are those of the library."""
    tokenizer = minilm_tokenizer()
    number = store_tokenizer(conn, sql_tokenizer(tokenizer))
    names = conn.execute(
        "select format('%I.%I', collnamespace::regnamespace, collname)"
        " from pg_collation where collencoding in (-1, 6) and collisdeterministic"
    ).fetchall()
    assert len(names) > 2
    text = "TITLE \u0130I \u00c9t\u00e9, na\u00efve"
    for (name,) in names:
        row = conn.execute(
            f"select pgembed._tokens(t, %s collate {name})".encode()
            + b" from pgembed.tokenizer as t where tokenizer_id = %s",
            [text, number],
        ).fetchone()
        assert row == (_library(tokenizer, [text])[0],), name


def test_the_plans_read_tokens_by_their_index(conn: psycopg.Connection) -> None:
    number = store_tokenizer(conn, sql_tokenizer(minilm_tokenizer()))
    conn.execute("analyze pgembed.token")
    _postgres(conn, number, ["hyperparathyroidism of naïve zebrafish"])
    conn.commit()
    conn.execute("select pg_stat_force_next_flush()")
    row = conn.execute(
        "select seq_scan from pg_stat_user_tables where relname = 'token'"
        " and schemaname = 'pgembed'"
    ).fetchone()
    assert row == (0,)
