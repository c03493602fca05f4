"""The SQL that pgembed ships: loaded, ordered and hashed.

`sql/tables/` holds files that run once, in order, and never change after a
release (`sql/frozen.txt` has their hashes). `sql/functions/` holds files that
run again after every upgrade, in a folder for each part of the system.
`sql/queries.sql` holds the statements of the
encoder service by name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_PACKAGE = "pgembed.sql"
# Functions may call what comes later: their bodies are looked at when they run. Views
# and grants come last.
FUNCTION_FOLDERS = (
    "capture",
    "models",
    "embedding",
    "bm25",
    "bm25/stages",
    "bm25/packer",
    "search",
    "analysis",
    "service",
    "status",
)
_QUERY_NAME = re.compile(r"^-- ([a-z][a-z0-9_]*) --$")


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file of `sql/`.

    Attributes:
        name: Path inside `sql/`, with forward slashes: `tables/010_catalog.sql`.
        text: Its content, byte for byte as UTF-8.
    """

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hex digest of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _root() -> Traversable:
    return resources.files(_PACKAGE)


@cache
def load(name: str) -> SqlFile:
    """Read one file.

    Args:
        name: Path inside `sql/`.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    # Read as bytes: text mode would translate line ends and so change the hash.
    return SqlFile(name, _root().joinpath(name).read_bytes().decode())


@cache
def folder(name: Literal["tables", "functions"]) -> tuple[SqlFile, ...]:
    """Read a folder's files in the order in which they run.

    Tables by name; functions folder by folder (`FUNCTION_FOLDERS`), by name in each,
    and what grants privileges at the end.
    """
    if name == "tables":
        return _files("tables")
    files = [file for part in FUNCTION_FOLDERS for file in _files(f"functions/{part}")]
    last = load("functions/status/privileges.sql")
    return (*(file for file in files if file != last), last)


def renewal() -> tuple[SqlFile, ...]:
    """Give what makes all functions anew, in order: those of before are gone then."""
    before, after = load("functions_before.sql"), load("functions_after.sql")
    *functions, privileges = folder("functions")
    return (before, *functions, after, privileges)


def _files(folder_name: str) -> tuple[SqlFile, ...]:
    names = sorted(
        entry.name
        for entry in _root().joinpath(folder_name).iterdir()
        if entry.name.endswith(".sql")
    )
    return tuple(load(f"{folder_name}/{file}") for file in names)


@cache
def functions_digest() -> str:
    """Hash all re-runnable files: tells whether a database has these functions.

    Returns:
        The first 16 hex digits of a SHA-256 over names and contents.
    """
    digest = hashlib.sha256()
    for file in folder("functions"):
        digest.update(f"{file.sha256}  {file.name}\n".encode())
    return digest.hexdigest()[:16]


@cache
def tables_digest() -> str:
    """Hash the run-once files: tells development versions of a revision apart."""
    return hashlib.sha256(load("frozen.txt").text.encode()).hexdigest()[:16]


def frozen() -> dict[str, str]:
    """Read `sql/frozen.txt`: SHA-256 of each run-once file, by name."""
    lines = load("frozen.txt").text.splitlines()
    return {name: digest for digest, name in (line.split() for line in lines if line)}


@cache
def queries() -> dict[str, str]:
    """Read `sql/queries.sql`: statements by name, without comments around them."""
    return parse_queries(load("queries.sql").text)


def parse_queries(text: str) -> dict[str, str]:
    r"""Split a file of named statements.

    Each begins with a line `-- name --`; comment lines right after it say what it
    is for. What comes before the first name is the file's own comment.

    Raises:
        ValueError: A name occurs twice, or has no statement.

    Example:
        >>> parse_queries("-- one --\n-- Gives one.\nselect 1\n")
        {'one': 'select 1'}
    """
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        match = _QUERY_NAME.match(line)
        if match:
            if match[1] in found:
                raise ValueError(f"queries.sql names {match[1]!r} twice")
            current = found[match[1]] = []
        elif current is not None and not (not current and line.startswith("--")):
            current.append(line)
    statements = {name: "\n".join(lines).strip() for name, lines in found.items()}
    empty = [name for name, statement in statements.items() if not statement]
    if empty:
        raise ValueError(f"queries.sql has no statement for {', '.join(empty)}")
    return statements
