"""A corpus that every machine has: the docstrings of Python's standard library.

The source files are parsed, never imported: importing the standard library
would open windows, start threads and print poems.
"""

from __future__ import annotations

import ast
import gc
import os
import sysconfig
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TEXT_LIMIT", "Kind", "Row", "corpus"]

Kind: TypeAlias = Literal["module", "class", "function", "method"]
_Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: Longest text of a row, in characters; longer docstrings are cut at a line's end.
TEXT_LIMIT = 1000

#: Folders that hold tests, other people's packages or generated data. Names that
#: start with an underscore, a dot, `config-` or `lib-` are skipped as well.
_SKIPPED_FOLDERS = frozenset(
    {
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
_SKIPPED_PREFIXES = ("_", ".", "config-", "lib-")

#: The widest things first, so that a small corpus still covers every topic.
_KIND_ORDER: dict[Kind, int] = {"module": 0, "class": 1, "function": 2, "method": 3}


@dataclass(frozen=True, slots=True)
class Row:
    """One documented thing of the standard library.

    Attributes:
        name: Qualified name, such as `configparser.ConfigParser.read`.
        kind: What it is.
        module: Dotted name of its module.
        text: Its docstring without indentation, at most `TEXT_LIMIT` characters.
    """

    name: str
    kind: Kind
    module: str
    text: str


def corpus(limit: int | None = None, *, root: Path | None = None) -> list[Row]:
    """Read the docstrings of the standard library's public names.

    The order is the same on every run: modules first, then classes, functions
    and methods, each by name.

    Args:
        limit: At most this many rows; all of them by default.
        root: Folder to read instead of the running Python's standard library.

    Returns:
        The rows, with unique names. Python 3.11 has about 5,000.
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    rows: dict[str, Row] = {}
    with _no_garbage_collection():
        for path in _source_files(folder):
            for row in _rows_of_file(path, _module_name(path.relative_to(folder))):
                rows.setdefault(row.name, row)
    ordered = sorted(rows.values(), key=lambda row: (_KIND_ORDER[row.kind], row.name))
    return ordered if limit is None else ordered[:limit]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A syntax tree is a million small objects without cycles worth collecting
    # early: without the collector the standard library parses 1.3 times faster.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _source_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS and not name.startswith(_SKIPPED_PREFIXES)
        )
        for name in sorted(files):
            private = name.startswith("_") and name != "__init__.py"
            if name.endswith(".py") and not private:
                yield Path(place, name)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _rows_of_file(path: Path, module: str) -> Iterator[Row]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # templates and deliberately broken sources
        return
    text = _docstring(tree)
    if text:
        yield Row(module, "module", module, text)
    for node in tree.body:
        yield from _rows_of_definition(node, module, module, inside_class=False)


def _rows_of_definition(
    node: ast.stmt, prefix: str, module: str, *, inside_class: bool
) -> Iterator[Row]:
    if not isinstance(node, _Definition) or node.name.startswith("_"):
        return
    name = f"{prefix}.{node.name}"
    kind: Kind
    if isinstance(node, ast.ClassDef):
        kind = "class"
    else:
        kind = "method" if inside_class else "function"
    text = _docstring(node)
    if text:
        yield Row(name, kind, module, text)
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            yield from _rows_of_definition(child, name, module, inside_class=True)


def _docstring(node: ast.Module | _Definition) -> str:
    # PostgreSQL's text cannot hold NUL, and a lone surrogate is not UTF-8.
    text = (ast.get_docstring(node) or "").replace("\0", " ").strip()
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= TEXT_LIMIT:
        return text
    cut = text[:TEXT_LIMIT]
    return (cut[: cut.rfind("\n")] if "\n" in cut else cut).rstrip()
