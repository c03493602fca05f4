"""Results as files: CSV, JSON lines or Parquet, by the ending of the name."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pgembed.errors import AnalysisError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pgembed.analysis.vectors import Vectors

FORMATS: Final = (".csv", ".jsonl", ".parquet")
_READ: Final[dict[str, Callable[[str], Any]]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "real": float,
    "double precision": float,
    "boolean": "t".__eq__,
}


def check_file(path: str | Path) -> Path:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        AnalysisError: Its ending is no known format, or its folder is not there.
        MissingExtra: It is Parquet, and pyarrow is not installed.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in FORMATS:
        raise AnalysisError(
            f"{file} is of no known format", hint=f"End it with {', '.join(FORMATS)}."
        )
    if not file.parent.is_dir():
        raise AnalysisError(f"there is no folder {file.parent} to write {file.name} to")
    if file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtra("analysis")
    return file


def write_file(
    path: str | Path,
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float32] | None = None,
    *,
    vector_name: str = "",
) -> Path:
    """Write columns of equal length.

    Args:
        path: File; one that is there is replaced.
        columns: Values by name.
        vectors: A line a row, as a last column: lists of 32-bit numbers.
        vector_name: Its name.

    Raises:
        AnalysisError: The file cannot be written.
    """
    file = check_file(path)
    write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    try:
        write[file.suffix.lower()](file, columns, vectors, vector_name)
    except OSError as exc:
        raise AnalysisError(f"{file} cannot be written: {exc.strerror or exc}") from exc
    return file


def values_of(kind: str, values: Sequence[str | None]) -> list[Any]:
    """Give what PostgreSQL wrote as numbers and truth values, else as it is.

    Args:
        kind: The type, as SQL.
        values: As PostgreSQL writes them.
    """
    read = _READ.get(kind, str)
    return [None if value is None else read(value) for value in values]


def key_columns(vectors: Vectors) -> dict[str, list[Any]]:
    """Give the values of each column of the key."""
    source = vectors.source
    return {
        name: values_of(kind, [key[place] for key in vectors.keys])
        for place, (name, kind) in enumerate(
            zip(source.key, source.key_types, strict=True)
        )
    }


def export_vectors(vectors: Vectors, path: str | Path) -> Path:
    """Write keys, the columns that were read, and vectors.

    The vectors are in a column named as the embedding is.

    Args:
        vectors: The rows.
        path: File: .parquet, .csv or .jsonl; one that is there is replaced.

    Raises:
        AnalysisError: There are no rows, or the file cannot be written.
        MissingExtra: It is Parquet, and pyarrow is not installed.
    """
    if not len(vectors):
        raise AnalysisError(
            "there are no rows with a vector",
            hint="Does a row match the filter, and may your role see any?",
        )
    columns = {
        name: values_of(vectors.column_types[name], values)
        for name, values in vectors.columns.items()
    }
    return write_file(
        path,
        key_columns(vectors) | columns,
        vectors.matrix,
        vector_name=vectors.source.embedding,
    )


def _write_csv(
    file: Path,
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float32] | None,
    vector_name: str,
) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*columns, *([] if vectors is None else [vector_name])])
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            vector = [] if vectors is None else [json.dumps(_numbers(vectors, number))]
            writer.writerow([*row, *vector])


def _write_jsonl(
    file: Path,
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float32] | None,
    vector_name: str,
) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            line = dict(zip(columns, row, strict=True))
            if vectors is not None:
                line[vector_name] = _numbers(vectors, number)
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_parquet(
    file: Path,
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float32] | None,
    vector_name: str,
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {name: pa.array(values) for name, values in columns.items()}
    if vectors is not None:
        flat = pa.array(vectors.reshape(-1), pa.float32())
        arrays[vector_name] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    parquet.write_table(pa.table(arrays), file)


def _numbers(vectors: NDArray[np.float32], row: int) -> list[float]:
    # As few digits as tell 32-bit numbers apart.
    return [float(str(number)) for number in vectors[row]]
