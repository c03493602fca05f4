"""Queries, judgements and documents from files, in the layouts that are about.

Understood are JSON lines and tab-separated values, each with .gz too: BEIR's folders
(`queries.jsonl`, `qrels/test.tsv`), flat ones (`queries.jsonl.gz`, `qrels.tsv`) and
TREC's four columns of judgements.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from pgembed.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Queries: TypeAlias = dict[str, str]
"""A query's id to its text."""
Judgements: TypeAlias = dict[str, dict[str, int]]
"""A query's id to its documents' ids and how relevant each is: 0 is not at all."""

_QUERY_IDS: Final = ("_id", "id", "query-id", "query_id", "qid", "queryid")
_DOCUMENT_IDS: Final = ("corpus-id", "corpus_id", "doc_id", "doc-id", "docid", "docno")
_SCORES: Final = ("score", "relevance", "rel", "label", "code")
_TEXTS: Final = ("text", "query", "question", "title")
_ENDINGS: Final = ("jsonl", "jsonl.gz", "tsv", "tsv.gz", "txt", "txt.gz")
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Where the parts of a collection are."""

    queries: Path
    judgements: Path
    documents: Path | None = None


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries that have at least one relevant document.

    Attributes:
        queries: Their texts by id.
        judgements: For each of them.
        unjudged: How many more queries the file has, without a relevant document.
        unknown: How many more queries are judged, without a text.
    """

    queries: Queries
    judgements: Judgements
    unjudged: int = 0
    unknown: int = 0


def find_data(folder: str | Path, split: str = "test") -> DataFiles:
    """Find queries and judgements in a folder.

    Args:
        folder: With `queries.jsonl` and `qrels/<split>.tsv` as in BEIR, or with
            `qrels.tsv` or `qrels_<split>.tsv`; `.gz` is fine everywhere.
        split: Which judgements: `test`, `train`, `dev`.

    Raises:
        EvaluationError: A part is missing; says what was looked for.
    """
    base = Path(folder).expanduser()
    if not base.is_dir():
        raise EvaluationError(
            f"there is no folder {base}",
            hint="Give a folder in BEIR's layout, or --queries and --qrels.",
        )
    judgements = [f"qrels/{split}", f"qrels_{split}", f"qrels.{split}"]
    if split == "test":
        judgements.append("qrels")
    return DataFiles(
        queries=_first(base, [f"queries_{split}", f"queries.{split}", "queries"]),
        judgements=_first(base, judgements),
        documents=_first_or_none(base, ["corpus"]),
    )


def load_data(files: DataFiles) -> JudgedQueries:
    """Read queries and judgements and put them together.

    Raises:
        EvaluationError: A file is bad, or they have no query in common.
    """
    return judged(read_queries(files.queries), read_judgements(files.judgements))


def judged(
    queries: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]]
) -> JudgedQueries:
    """Keep the queries that have a relevant document.

    Raises:
        EvaluationError: There is none.
    """
    relevant = {
        query: dict(documents)
        for query, documents in judgements.items()
        if any(score > 0 for score in documents.values())
    }
    both = [query for query in queries if query in relevant]
    if not both:
        raise EvaluationError(
            "no query has both a text and a relevant document",
            detail=f"{len(queries)} queries, such as {_some(queries)}; "
            f"{len(relevant)} with a relevant document, such as {_some(relevant)}.",
            hint="Do the files belong together, and is it the right split?",
        )
    return JudgedQueries(
        queries={query: queries[query] for query in both},
        judgements={query: relevant[query] for query in both},
        unjudged=len(queries) - len(both),
        unknown=len(relevant) - len(both),
    )


def read_queries(path: str | Path) -> Queries:
    """Read queries: JSON lines with `_id` and `text`, or id and text by a tab.

    Raises:
        EvaluationError: A line is bad; names file and line.
    """
    file = Path(path)
    queries: Queries = {}
    for where, row in _rows(file, ("qid", "text")):
        key, text = _field(row, _QUERY_IDS, where), _field(row, _TEXTS, where)
        if not text.strip():
            raise EvaluationError(f"{where}: query {key!r} is empty")
        if queries.setdefault(key, text) != text:
            raise EvaluationError(f"{where}: query {key!r} is there twice")
    if not queries:
        raise EvaluationError(f"{file} has no queries")
    return queries


def read_judgements(path: str | Path) -> Judgements:
    """Read judgements: query, document and score by tabs, TREC's columns, or JSON.

    Raises:
        EvaluationError: A line is bad, or a pair has two scores; names the line.
    """
    file = Path(path)
    judgements: Judgements = {}
    for where, row in _rows(file, ("qid", "docid", "score")):
        query = _field(row, _QUERY_IDS, where)
        document = _field(row, _DOCUMENT_IDS, where)
        score = read_score(row, where)
        documents = judgements.setdefault(query, {})
        if documents.setdefault(document, score) != score:
            raise EvaluationError(
                f"{where}: query {query!r} and document {document!r} have two scores, "
                f"{documents[document]} and {score}"
            )
    if not judgements:
        raise EvaluationError(f"{file} has no judgements")
    return judgements


def read_documents(path: str | Path) -> Iterator[Document]:
    """Read a corpus: JSON lines with `_id`, `text` and perhaps `title`.

    Raises:
        EvaluationError: A line is bad; names file and line.
    """
    for where, row in _rows(Path(path), ("id", "text")):
        yield Document(
            id=_field(row, _QUERY_IDS, where),
            title=str(row.get("title") or ""),
            text=_field(row, ("text",), where),
        )


def _rows(
    file: Path, columns: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Give each line's fields by name, with its place for messages."""
    header: Sequence[str] | None = None
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        if line.lstrip().startswith("{"):
            yield where, json_row(line, where)
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) == 1 and len(columns) > 2:  # TREC's are set apart by spaces
            parts = line.split()
        if header is None:
            header = _header(parts)
            if header is not None:
                continue
            header = _columns(parts, columns, where)
        if len(parts) != len(header):
            raise EvaluationError(
                f"{where}: {len(parts)} columns, not {len(header)} as in the lines "
                "before",
                detail=f"The line: {line[:200]!r}",
                hint="Columns are set apart by one tab each.",
            )
        yield where, dict(zip(header, parts, strict=True))


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Give each line that is not blank, with its number.

    Raises:
        EvaluationError: The file cannot be read, or is not UTF-8.
    """
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig")
            if file.suffix == ".gz"
            else file.open(encoding="utf-8-sig")
        ) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise EvaluationError(f"{file} cannot be read: {reason}") from exc
    except UnicodeDecodeError as exc:
        raise EvaluationError(
            f"{file} is not UTF-8: byte 0x{exc.object[exc.start]:02x}",
            hint="Convert it, for instance: iconv -f latin1 -t utf-8.",
        ) from exc


def json_row(line: str, where: str) -> Mapping[str, object]:
    """Read one line as a JSON object.

    Raises:
        EvaluationError: It is none.
    """
    try:
        row = dict(json.loads(line))
    except (TypeError, ValueError) as exc:
        raise EvaluationError(
            f"{where}: not a JSON object: {exc}", detail=f"The line: {line[:200]!r}"
        ) from exc
    return {str(name): value for name, value in row.items()}


def _header(parts: Sequence[str]) -> list[str] | None:
    names = [part.lower() for part in parts]
    if names[0] in _QUERY_IDS and any(name in _TEXTS + _DOCUMENT_IDS for name in names):
        return names
    return None


def _columns(parts: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """Name the columns of a file without a header."""
    if len(parts) == len(columns):
        return list(columns)
    if columns[-1] == "score" and len(parts) == len(columns) + 1:
        return ["qid", "iteration", "docid", "score"]
    if columns[-1] == "score" and len(parts) == len(columns) - 1:
        return list(columns[:-1])
    raise EvaluationError(
        f"{where}: {len(parts)} columns, and no header that names them",
        hint=f"Wanted, set apart by tabs: {', '.join(columns)}.",
    )


def _field(row: Mapping[str, object], names: Sequence[str], where: str) -> str:
    for name in names:
        if name in row:
            value = row[name]
            if isinstance(value, str | int) and not isinstance(value, bool):
                text = str(value)
                if text and "\0" not in text:
                    return text
            if not isinstance(value, str | int):
                raise EvaluationError(f"{where}: {name} is {value!r}, not text")
            if name not in _TEXTS:
                raise EvaluationError(f"{where}: {name} is {value!r}")
            return str(value).replace("\0", " ")
    raise EvaluationError(
        f"{where}: none of the fields {', '.join(names)}",
        detail=f"It has: {', '.join(row) or 'nothing'}.",
    )


def read_score(row: Mapping[str, object], where: str) -> int:
    """Read how relevant a document is; 1 where a row does not say.

    Raises:
        EvaluationError: It is no whole number.
    """
    value = next((row[name] for name in _SCORES if name in row), 1)
    try:
        number = float(str(value))
    except ValueError:
        number = 0.5
    if not number.is_integer():
        raise EvaluationError(
            f"{where}: the score is {value!r}, not a whole number",
            hint="0 is not relevant; 1, 2, ... more and more so.",
        )
    return int(number)


def _first(base: Path, names: Sequence[str]) -> Path:
    found = _first_or_none(base, names)
    if found is None:
        there = sorted(
            str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()
        )
        raise EvaluationError(
            f"{base} has none of: {', '.join(names)} (.{', .'.join(_ENDINGS)})",
            detail=f"It has: {', '.join(there[:20]) or 'nothing'}.",
            hint="Name another split, or give the files with --queries and --qrels.",
        )
    return found


def _first_or_none(base: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        for ending in _ENDINGS:
            path = base / f"{name}.{ending}"
            if path.is_file():
                return path
    return None


def _some(ids: Mapping[str, object]) -> str:
    return ", ".join(repr(key) for key in list(ids)[:_SHOWN]) or "none"
