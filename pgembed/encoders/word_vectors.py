"""Word vectors: word2vec's text and binary format, GloVe's text format.

A file alone is averaged as it is. How it is weighted is said in a folder with it, by
`static.json`:

    {"vectors": "glove.6B.100d.txt", "weighting": "sif", "counts": "counts.txt"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Final, Literal

import numpy as np

from pgembed.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SETTINGS: Final = "static.json"
MOST_WORDS: Final = 5_000_000
_LONGEST_WORD: Final = 2000  # bytes, in a binary file: more is another format
_LONGEST_LINE: Final = 1 << 20  # bytes
_KEYS: Final = frozenset(
    {"vectors", "weighting", "a", "counts", "documents", "words"}
    | {"lowercase", "normalize"}
)


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Words and their vectors, weights multiplied in; and what they were read from.

    One vector more than words: zeros, for what is unknown.
    """

    words: list[str]
    vectors: NDArray[np.float32]
    lowercase: bool
    normalize: bool
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Settings:
    """What `static.json` says; see docs/static-models.md."""

    vectors: str
    weighting: Literal["mean", "sif", "idf"] = "mean"
    a: float = 1e-3
    counts: str | None = None
    documents: int | None = None
    words: int | None = None
    lowercase: bool | None = None
    normalize: bool = True


def read_word_vectors(name: str, path: Path, most_bytes: int) -> WordVectors:
    """Read a file of word vectors, or a folder with `static.json` and such a file.

    Args:
        name: The model's name, for messages.
        path: The file, or the folder.
        most_bytes: Most memory for the vectors.

    Raises:
        ModelNotFound: The file has no known format, is damaged, or is too large.
    """
    files: tuple[Path, ...] = (path,)
    if path.is_file():
        settings, folder = _Settings(path.name), path.parent
    else:
        settings, folder = _read_settings(path / SETTINGS), path
        named = filter(None, (settings.vectors, settings.counts))
        files = (path / SETTINGS, *(_inside(path, file) for file in named))
    reader = _Reader(name, _inside(folder, settings.vectors), settings.words)
    words, vectors = reader.read(most_bytes)
    if settings.weighting != "mean":
        vectors[:-1] *= _weights(settings, folder, words)[:, None]
    lowercase = settings.lowercase
    if lowercase is None:
        lowercase = all(word == word.lower() for word in islice(words, 100_000))
    return WordVectors(words, vectors, lowercase, settings.normalize, files)


def _read_settings(file: Path) -> _Settings:
    try:
        found = json.loads(file.read_bytes())
        unknown = set(found) - _KEYS
        settings = None if unknown else _Settings(**found)
    except (ValueError, TypeError) as exc:
        raise ModelNotFound(
            f"{file} is damaged: {exc}",
            hint='For example {"vectors": "glove.txt", "weighting": "sif"}.',
        ) from exc
    if settings is None or not _is_possible(settings):
        raise ModelNotFound(
            f"{file} says what is not possible: {sorted(unknown) or settings}",
            hint=f"Keys are {', '.join(sorted(_KEYS))}; weighting is mean, sif or idf; "
            "a, documents and words are numbers above 0.",
        )
    if settings.weighting == "idf" and not (settings.counts and settings.documents):
        raise ModelNotFound(
            f"{file} asks for idf without counts",
            hint='Give "counts", a file with a word and the number of documents that '
            'have it in each line, and "documents", how many there are.',
        )
    return settings


def _is_possible(settings: _Settings) -> bool:
    numbers = (settings.a, settings.documents, settings.words)
    return (
        settings.weighting in ("mean", "sif", "idf")
        and isinstance(settings.vectors, str)
        and isinstance(settings.counts, str | None)
        and all(n is None or (isinstance(n, int | float) and n > 0) for n in numbers)
    )


def _inside(folder: Path, file: str) -> Path:
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ModelNotFound(
            f"there is no file {file!r} in {folder}",
            hint=f"Files that {SETTINGS} names lie in its folder.",
        )
    return path


def _weights(
    settings: _Settings, folder: Path, words: list[str]
) -> NDArray[np.float32]:
    """Give a weight for each word.

    sif: a / (a + p), where p is the word's share of the running text (Arora, Liang and
    Ma, 2017); without counts by Zipf's law, since the files are sorted by frequency.
    idf: the logarithm of all documents by those that have the word.
    """
    counts = _read_counts(folder, settings.counts, words)
    if settings.weighting == "idf":
        assert settings.documents is not None
        return np.log(np.maximum(settings.documents / counts, 1)).astype(np.float32)
    share = counts / counts.sum()
    return np.asarray(settings.a / (settings.a + share), dtype=np.float32)


def _read_counts(
    folder: Path, file: str | None, words: list[str]
) -> NDArray[np.float64]:
    if file is None:
        return 1 / np.arange(2, len(words) + 2)
    found: dict[str, float] = {}
    path = _inside(folder, file)
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            word, _, count = line.rstrip("\n").rpartition(" ")
            try:
                found[word] = float(count)
            except ValueError:
                found[word] = 0
            if not word or not 0 < found[word] < np.inf:
                raise ModelNotFound(
                    f"line {number} of {path} is no word and its count: {line[:80]!r}",
                    hint="Each line is a word, a space and a number above 0.",
                )
    # Whoever counted has not seen the others: as rare as the rarest.
    rarest = min(found.values(), default=1)
    return np.array([found.get(word, rarest) for word in words], dtype=np.float64)


class _Reader:
    """Reads one file, in bounded memory."""

    def __init__(self, name: str, file: Path, words: int | None) -> None:
        self._name = name
        self._file = file
        self._wanted = words

    def read(self, most_bytes: int) -> tuple[list[str], NDArray[np.float32]]:
        with self._file.open("rb") as stream:
            first = stream.readline(_LONGEST_LINE)
            header = _header(first)
            if header is None:
                stream.seek(0)
                columns = len(first.split()) - 1
                rows, entries = 0, self._text(stream, columns)
            else:
                rows, columns = header
                binary = self._is_binary(stream, columns)
                entries = (self._binary if binary else self._text)(stream, columns)
            if columns < 1:
                raise self._unknown(1, "neither a header nor a word and its numbers")
            if self._wanted is not None:
                rows, entries = self._wanted, islice(entries, self._wanted)
            most = min(most_bytes // (4 * columns), MOST_WORDS)
            if rows > most:
                raise self._too_many(rows, columns, most)
            return self._collect(entries, columns, most)

    def _collect(
        self,
        entries: Iterator[tuple[bytes, NDArray[np.float32]]],
        columns: int,
        most: int,
    ) -> tuple[list[str], NDArray[np.float32]]:
        rows: dict[str, int] = {}
        blocks: list[NDArray[np.float32]] = []
        block: list[NDArray[np.float32]] = []
        for raw, vector in entries:
            # A word twice: the first counts, as in gensim.
            word = raw.decode("utf-8", errors="replace")
            if word in rows:
                continue
            if len(rows) == most:
                raise self._too_many(None, columns, most)
            rows[word] = len(rows)
            block.append(vector)
            if len(block) == 4096:
                blocks.append(np.stack(block))
                block.clear()
        if block:
            blocks.append(np.stack(block))
        if not rows:
            raise self._unknown(1, "no words")
        return list(rows), _joined(blocks, len(rows) + 1)

    def _text(
        self, stream: IO[bytes], columns: int
    ) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        number = 0
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            # From the right: some words have spaces.
            parts = line.rstrip().rsplit(b" ", columns)
            if len(parts) != columns + 1:
                raise self._unknown(number, f"{len(parts) - 1} numbers, not {columns}")
            try:
                vector = np.array(parts[1:], dtype=np.float32)
            except ValueError as exc:
                raise self._unknown(number, str(exc)) from exc
            yield parts[0], vector

    def _binary(
        self, stream: IO[bytes], columns: int
    ) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        size = 4 * columns
        buffer, at, number = b"", 0, 0
        while True:
            if len(buffer) - at < _LONGEST_WORD + size:
                buffer, at = buffer[at:] + stream.read(1 << 20), 0
            if len(buffer) - at <= 1 and buffer[at:] in (b"", b"\n"):
                return
            number += 1
            end = buffer.find(b" ", at, at + _LONGEST_WORD) + 1
            if not end or len(buffer) < end + size:
                raise self._unknown(number, "no vector of that many numbers")
            vector = np.frombuffer(buffer, "<f4", columns, end)
            yield buffer[at : end - 1].lstrip(b"\n"), vector
            at = end + size

    def _is_binary(self, stream: IO[bytes], columns: int) -> bool:
        at = stream.tell()
        line = stream.readline(_LONGEST_LINE)
        stream.seek(at)
        parts = line.rstrip().rsplit(b" ", columns)
        try:
            return len([float(part) for part in parts[1:]]) != columns
        except ValueError:
            return True

    def _unknown(self, number: int, why: str) -> ModelNotFound:
        return ModelNotFound(
            f"{self._file} holds no word vectors: entry {number} has {why}",
            hint="Known formats: word2vec's text and binary, GloVe's text, "
            "uncompressed. Save gensim's own format by save_word2vec_format().",
        )

    def _too_many(self, rows: int | None, columns: int, most: int) -> ModelNotFound:
        number = "more" if rows is None else f"{rows:,}"
        return ModelNotFound(
            f"model {self._name!r} has {number} words of {columns} dimensions, and may "
            f"have {most:,}",
            hint="The file is sorted by frequency: keep the first words of it, with "
            f'{{"vectors": "{self._file.name}", "words": 400000}} in a file '
            f"{SETTINGS} beside it, and give the folder.",
        )


def _joined(blocks: list[NDArray[np.float32]], rows: int) -> NDArray[np.float32]:
    """Put blocks together, each freed at once; rows that are left are zeros."""
    joined = np.zeros((rows, blocks[0].shape[1]), dtype=np.float32)
    at = 0
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        joined[at : at + len(block)] = block
        at += len(block)
    return joined


def _header(line: bytes) -> tuple[int, int] | None:
    """Read word2vec's first line: how many words, and of how many dimensions."""
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None
