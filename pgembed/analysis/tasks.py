"""What models are measured on, from files: CSV, TSV or JSON lines, .gz too."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from pgembed.errors import EvaluationError
from pgembed.evaluation.files import json_row, read_lines

if TYPE_CHECKING:
    from _csv import Reader as _Reader
    from collections.abc import Callable, Iterator, Mapping, Sequence

_FIRST: Final = ("sentence1", "text1", "word1")
_SECOND: Final = ("sentence2", "text2", "word2")
_SCORE: Final = ("score", "similarity", "relatedness")
_TEXT: Final = ("text", "sentence", "body", "title", *_FIRST)
_LABEL: Final = ("label", "class", "category", "section", "topic")
_ANALOGY: Final = 4  # words

Row: TypeAlias = "Mapping[str, str]"
_Columns: TypeAlias = "Callable[[Sequence[str]], Sequence[str]]"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of sentences or words, and how similar people find them.

    Attributes:
        name: Of the file.
        first: One text of each.
        second: The other.
        scores: The higher, the more similar.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: list[float]


@dataclass(frozen=True, slots=True)
class Analogies:
    """Questions of the kind: a is to b as c is to what?

    Attributes:
        name: Of the file.
        questions: a, b, c and the answer.
    """

    name: str
    questions: list[tuple[str, str, str, str]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts, and what each is about.

    Attributes:
        name: Of the file.
        texts: The texts.
        labels: Theirs.
    """

    name: str
    texts: list[str]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Wording:
    """Texts to be worded otherwise.

    Attributes:
        name: Of the file.
        texts: Different ones.
    """

    name: str
    texts: list[str]


Task: TypeAlias = Pairs | Analogies | Labelled | Wording


def read_pairs(file: str | Path) -> Pairs:
    """Read pairs: two texts and a score, named in a header, or the score a number.

    Raises:
        EvaluationError: A line is bad, or there are fewer than three.
    """
    first, second, scores = [], [], []
    for where, row in _rows(Path(file), (_FIRST, _SECOND, _SCORE), _pair_columns):
        first.append(_field(row, _FIRST, where))
        second.append(_field(row, _SECOND, where))
        score = _field(row, _SCORE, where)
        try:
            scores.append(float(score))
        except ValueError:
            raise EvaluationError(
                f"{where}: the score is {score!r}, no number"
            ) from None
    _check_many(file, scores, 3)
    if len(set(scores)) == 1:
        raise EvaluationError(f"{file}: all pairs have the same score")
    return Pairs(_name(file), first, second, scores)


def read_analogies(file: str | Path) -> Analogies:
    """Read analogies: four words a line; lines that begin with a colon are titles.

    Raises:
        EvaluationError: A line is bad, or there is none.
    """
    questions = []
    for number, line in read_lines(Path(file)):
        words = line.split("\t") if "\t" in line else line.split()
        if line.startswith(":"):
            continue
        if len(words) != _ANALOGY:
            raise EvaluationError(
                f"{file}, line {number}: {len(words)} words, not {_ANALOGY}",
                hint="As in: Athens Greece Baghdad Iraq. Set apart by spaces or tabs.",
            )
        a, b, c, d = (word.strip() for word in words)
        questions.append((a, b, c, d))
    _check_many(file, questions, 1)
    return Analogies(_name(file), questions)


def read_labelled(file: str | Path) -> Labelled:
    """Read labelled texts: columns text and label, or these two without a header.

    Raises:
        EvaluationError: A line is bad, there are fewer than four, or one label only.
    """
    texts, labels = [], []
    for where, row in _rows(Path(file), (_TEXT, _LABEL), lambda _: ["text", "label"]):
        texts.append(_field(row, _TEXT, where))
        labels.append(_field(row, _LABEL, where))
    _check_many(file, texts, 4)
    if len(set(labels)) < 2:
        raise EvaluationError(f"{file}: all texts have the label {labels[0]!r}")
    return Labelled(_name(file), texts, labels)


def read_wording(file: str | Path) -> Wording:
    """Read texts: a column text, or one a line; of pairs both.

    Raises:
        EvaluationError: A line is bad, or there are fewer than three texts.
    """
    found: list[str] = []
    for where, row in _rows(Path(file), (_TEXT,), lambda parts: ["text", *parts[1:]]):
        found.append(_field(row, _TEXT, where))
        found += [row[name] for name in _SECOND if name in row]
    texts = list(dict.fromkeys(found))
    _check_many(file, texts, 3)
    return Wording(_name(file), texts)


def first_of(task: Task, many: int) -> Task:
    """Keep the first so many pairs, questions or texts of a task."""
    return replace(
        task,
        **{
            one.name: getattr(task, one.name)[:many]
            for one in fields(task)
            if one.name != "name"
        },
    )


def _rows(
    file: Path, wanted: Sequence[Sequence[str]], unnamed: _Columns
) -> Iterator[tuple[str, Row]]:
    """Give each line's fields by name, with its place for messages."""
    lines = list(read_lines(file))
    kind = file.with_suffix("") if file.suffix == ".gz" else file
    if lines and lines[0][1].lstrip().startswith("{"):
        for number, line in lines:
            where = f"{file}, line {number}"
            yield (
                where,
                {
                    name.lower(): "" if value is None else str(value)
                    for name, value in json_row(line, where).items()
                },
            )
        return
    delimiter = "," if kind.suffix.lower() == ".csv" else "\t"
    reader = csv.reader(
        [f"{line}\n" for _, line in lines],
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
    )
    header: Sequence[str] | None = None
    for where, parts in _parts(file, reader, [number for number, _ in lines]):
        if header is None:
            named = [part.lower() for part in parts]
            if all(set(named) & set(names) for names in wanted):
                header = named
                continue
            header = unnamed(parts)
        if len(parts) != len(header):
            raise EvaluationError(
                f"{where}: {len(parts)} columns, not {len(header)}",
                hint=f"Columns are: {', '.join(header)}; set apart by "
                + ("commas." if delimiter == "," else "one tab each."),
            )
        yield where, dict(zip(header, parts, strict=True))


def _parts(
    file: Path, reader: _Reader, numbers: Sequence[int]
) -> Iterator[tuple[str, list[str]]]:
    while True:
        try:
            parts = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise EvaluationError(f"{file} cannot be read: {exc}") from exc
        where = f"{file}, line {numbers[reader.line_num - 1]}"
        yield where, [part.strip() for part in parts]


def _pair_columns(parts: Sequence[str]) -> list[str]:
    """Name the columns of a line without a header: the number is the score."""
    numbers = [place for place, part in enumerate(parts) if _is_number(part)]
    place = numbers[0] if len(numbers) == 1 else 2
    names = [_FIRST[0], _SECOND[0]]
    names.insert(place, _SCORE[0])
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _field(row: Row, names: Sequence[str], where: str) -> str:
    for name in names:
        if name in row:
            text = row[name].replace("\0", " ")
            if not text.strip():
                raise EvaluationError(f"{where}: {name} is empty")
            return text
    raise EvaluationError(
        f"{where}: no column of {', '.join(names)}",
        detail=f"It has: {', '.join(row) or 'nothing'}.",
        hint="Name the columns in the first line.",
    )


def _check_many(file: str | Path, found: Sequence[object], least: int) -> None:
    if len(found) < least:
        raise EvaluationError(
            f"{file} has {len(found)} of what is read; {least} wanted"
        )


def _name(file: str | Path) -> str:
    path = Path(file)
    return (path.with_suffix("") if path.suffix == ".gz" else path).stem
