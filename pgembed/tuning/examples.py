"""What to learn from: judgements, pairs and triples, from files and from rows.

However they come, they become queries, documents by id, and how relevant each document
is to a query: 0 is not, more is. A text in the place of an id is its own id.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.errors import EvaluationError, InvalidParameter
from pgembed.evaluation import (
    JudgedQueries,
    find_data,
    load_data,
    read_documents,
)
from pgembed.evaluation.files import json_row, judged, read_lines, read_score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Fewer queries say nothing of what others will ask.
LEAST_QUERIES: Final = 50
LEAST_HELD_OUT: Final = 10
_QUERIES: Final = ("query", "anchor", "question")
_POSITIVES: Final = ("positive", "passage", "answer")
_NEGATIVE: Final = "negative"  # and negative_1, ...
_IDS: Final = (
    *("document_id", "doc_id", "doc-id", "docid", "docno"),
    *("corpus-id", "corpus_id", "id"),
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Queries with judged documents.

    Attributes:
        data: The queries, and their documents' relevance.
        texts: Texts of documents, by id; those of rows are not known yet.
        are_rows: Whether the ids may be those of rows: they are no texts.
    """

    data: JudgedQueries
    texts: Mapping[str, str]
    are_rows: bool = True

    def with_texts(self, more: Mapping[str, str]) -> Examples:
        """Put texts to the documents; one that has none is left out.

        Raises:
            EvaluationError: No query has a relevant document with a text.
        """
        texts = {k: text for k, text in {**self.texts, **more}.items() if text.strip()}
        known = {
            query: {key: score for key, score in documents.items() if key in texts}
            for query, documents in self.data.judgements.items()
        }
        return replace(self, data=judged(self.data.queries, known), texts=texts)

    def only(self, queries: Iterable[str]) -> JudgedQueries:
        """Give some of the queries."""
        kept = list(queries)
        return JudgedQueries(
            {key: self.data.queries[key] for key in kept},
            {key: self.data.judgements[key] for key in kept},
        )


def read_examples(path: str | Path, split: str = "train") -> Examples:
    """Read a folder in BEIR's layout, or a file of judgements, pairs or triples.

    Args:
        path: A folder as `find_data` reads it; its corpus has the documents, where it
            has one. Or a file, `.jsonl`, `.csv` or `.tsv`, also with `.gz`, with fields
            as `examples_of` wants them.
        split: Which judgements of a folder.

    Raises:
        EvaluationError: A file is bad; names the line.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return examples_of(_rows(path))
    files = find_data(path, split)
    data = load_data(files)
    if files.documents is None:
        return Examples(data, {})
    texts = {
        one.id: f"{one.title} {one.text}".strip()
        for one in read_documents(files.documents)
    }
    return Examples(data, texts)


def examples_of(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Examples:
    """Read rows by the names of their fields.

    Args:
        rows: Each with its place, for messages, and its fields: `query`, and either
            `positive` and perhaps `negative`, which are texts, or `document_id`, which
            is that of a row; and perhaps `score`, a whole number, 1 if it is missing.

    Raises:
        EvaluationError: A row lacks a field, a text is empty, a score is none, or a
            pair has two; or no query has a relevant document.
    """
    judgements: dict[str, dict[str, int]] = defaultdict(dict)
    texts: dict[str, str] = {}
    by_id: bool | None = None
    for where, row in rows:
        query = _text(row, _QUERIES, where)
        has_id = not any(name in row for name in _POSITIVES)
        if by_id not in {None, has_id}:
            raise EvaluationError(f"{where}: texts and ids of documents are mixed")
        by_id = has_id
        found = {
            _text(row, _IDS if by_id else _POSITIVES, where): read_score(row, where)
        }
        if not by_id:
            negatives = (
                str(v) for n, v in row.items() if n.startswith(_NEGATIVE) and v
            )
            found = dict.fromkeys(filter(str.strip, negatives), 0) | found
            texts |= {text: text for text in found}
        for document, score in found.items():
            if judgements[query].setdefault(document, score) != score:
                raise EvaluationError(
                    f"{where}: query {query[:80]!r} and document {document[:80]!r} "
                    f"have two scores, {judgements[query][document]} and {score}"
                )
    if not judgements:
        raise EvaluationError(
            "there are no judgements",
            hint="Give rows with query and positive, or query and document_id.",
        )
    data = judged({query: query for query in judgements}, judgements)
    return Examples(data, texts, are_rows=bool(by_id))


def split_queries(
    data: JudgedQueries, share: float, seed: int, without: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Hold some queries out; the same text is never on both sides.

    Args:
        data: The queries.
        share: Of them that is held out.
        seed: Of which.
        without: Texts of queries that are on neither side: the test's.

    Returns:
        The queries to train on, and those held out.

    Raises:
        InvalidParameter: There are too few queries, or the share is none.
    """
    if not 0 < share <= 0.5:
        raise InvalidParameter(
            f"held_out is {share}", hint="Give a share: more than 0, at most 0.5."
        )
    same: dict[str, list[str]] = defaultdict(list)
    for key, text in data.queries.items():
        same[_folded(text)].append(key)
    for text in without:
        same.pop(_folded(text), None)
    if len(same) < LEAST_QUERIES:
        raise InvalidParameter(
            f"{len(same)} different queries have a relevant document",
            hint=f"Fine-tuning wants {LEAST_QUERIES} or more, better hundreds: with "
            "fewer, whether it helps cannot be measured.",
        )
    groups = list(same.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    count = max(LEAST_HELD_OUT, round(len(groups) * share))
    sides = order[count:], order[:count]
    train, held = ([key for n in side for key in groups[n]] for side in sides)
    return train, held


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give each line's fields by name, with its place."""
    lines = read_lines(file)
    kind = next((one for one in file.suffixes[::-1] if one != ".gz"), "")
    if kind in {".jsonl", ".json", ".ndjson"}:
        for number, line in lines:
            where = f"{file}, line {number}"
            yield where, json_row(line, where)
        return
    if kind not in {".csv", ".tsv"}:
        raise EvaluationError(
            f"{file} is no file of judgements, pairs or triples",
            hint="Its name ends with .jsonl, .csv or .tsv, or one of these and .gz; or "
            "give a folder in BEIR's layout.",
        )
    reader = csv.DictReader(
        (f"{line}\n" for _, line in lines), delimiter="\t" if kind == ".tsv" else ","
    )
    for row in reader:
        where = f"{file}, row {reader.line_num}"
        if None in row or None in row.values():
            raise EvaluationError(
                f"{where}: not {len(reader.fieldnames or ())} columns as in the header",
                hint="The first line names the columns.",
            )
        yield where, row


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise EvaluationError(
            f"{where}: none of the fields {', '.join(names)}",
            detail=f"It has: {', '.join(map(str, row)) or 'nothing'}.",
            hint="Wanted are query and positive (texts), or query and document_id.",
        )
    text = "" if row[name] is None else str(row[name]).replace("\0", " ").strip()
    if not text:
        raise EvaluationError(f"{where}: {name} is empty")
    return text
