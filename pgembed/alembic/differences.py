"""What has to change so that an embedding is as it is declared."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pgembed.alembic.reflect import (
    BM25_DEFAULTS,
    canonical_form,
    config_of_language,
    normalized_analyzer,
    unless,
)
from pgembed.options import BM25, DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from pgembed.alembic.reflect import Existing
    from pgembed.sqlalchemy.options import Declaration, Kind

#: Changes of these make another embedding.
_IDENTITY = ("storage", "column_name")
_OF_EMBEDDING = ("bm25_options", "bm25_options.")

#: Of another model these are its own, unless others are declared.
_OF_MODEL = ("dimensions", "reduction", "distance", "vector_type")
_PROJECTION = "projection"
_VECTORS = frozenset({"model", *_OF_MODEL, _PROJECTION, "partitions"})
_BESIDE = (
    "all rows are encoded again, beside the vectors that searches use, which are "
    "replaced when all are there. They stay as the previous generation until that is "
    "dropped: room for both is needed."
)
_COSTS = {
    "model": f"Another model: {_BESIDE}",
    "dimensions": f"Other dimensions: {_BESIDE}",
    _PROJECTION: "Projected vectors: they are made of the whole ones, beside these, "
    "without encoding, as soon as there are enough to learn from. Those stay as the "
    "previous generation until that is dropped: room for both is needed.",
    "vector_type": f"Another vector type: {_BESIDE}",
    "distance": f"Another distance: {_BESIDE}",
    "partitions": "Other partitions: the vectors are copied, not encoded, beside those "
    "that searches use, which are replaced when all are there. They stay as the "
    "previous generation until that is dropped: room for both is needed.",
    "switch": "Vectors in a column: all are removed and made again; until then "
    "searches by meaning do not find the rows.",
    "chunking": "Every row is cut and encoded again, while searches go on.",
    "text_expression": "Rows whose text becomes another are encoded again, while "
    "searches go on.",
    "index": "The vector index is built anew; until then searches compare with every "
    "row.",
    "bm25_options": "The word index is built anew, before the migration goes on.",
}
_SAME_COST = {
    "chunk_size": "chunking",
    "chunk_overlap": "chunking",
    "reduction": "dimensions",
    "index_options": "index",
    "bm25": "bm25_options",
}


def normalized(wanted: Declaration, existing: Existing) -> dict[str, Any]:
    """Write a declaration's options as those of `Existing.declaration` are written."""
    options = wanted.options
    options["bm25_options"] = {
        name: value
        for name, value in options["bm25_options"].items()
        if value != BM25_DEFAULTS.get(name)
    }
    # Not of one alone: another one that takes it over changes it.
    options["is_default"] = existing.declaration.is_default
    if wanted.kind == "bm25":
        return options
    was = existing.declaration.options["model"]
    if options["model"] != was:
        options["model"] = options["model"].removeprefix("sentence-transformers/")
    if options["model"] == was:
        options["dimensions"] = unless(options["dimensions"], existing.model_dimensions)
        options["distance"] = unless(options["distance"], existing.model_distance)
    options["column_name"] = unless(options["column_name"], "embedding")
    options["chunking"] = unless(options["chunking"], _default_chunking(options))
    dimensions = options["dimensions"] or existing.model_dimensions
    options["vector_type"] = unless(
        options["vector_type"], "vector" if dimensions <= 2000 else "halfvec"
    )
    options["bm25"] = unless(options["bm25"], existing.bm25_possible)
    return options


def _default_chunking(options: Mapping[str, Any]) -> str:
    return "none" if options["storage"] == "column" else "sentences"


def is_another(wanted: Declaration, existing: Existing) -> bool:
    """Whether the declared embedding takes the place of the existing one."""
    if wanted.kind != existing.declaration.kind:
        return True
    options = normalized(wanted, existing)
    return any(
        options[name] != existing.declaration.options[name] for name in _IDENTITY
    )


def changes(
    connection: Connection, wanted: Declaration, existing: Existing
) -> dict[str, Any]:
    """Give the arguments of `op.alter_embedding`; none: nothing has changed."""
    options = normalized(wanted, existing)
    was = existing.declaration.options
    found = {
        name: value
        for name, value in options.items()
        if name != "bm25_options" and value != was[name]
    }
    if "model" in found:
        for name in _OF_MODEL:
            # The new model's, unless others are declared.
            found[name] = options[name]
            if options[name] == DEFAULTS[name]:
                del found[name]
    if "index" in found:
        found["index_options"] = options["index_options"]
    if found.keys() & _VECTORS and was["storage"] == "column":
        found["switch"] = "in_place"
    found["bm25_options"] = _bm25_changes(connection, options, found, existing)
    if _text_differs(connection, wanted, existing):
        found = {"text_expression": wanted.text_expression, **found}
    return _arguments(found, wanted.kind)


def _arguments(found: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Write options as `op.alter_embedding` takes them: None is to be reset."""
    # Those of a BM25 index of its own are all there is.
    name_of, prefix = ("options", "") if kind == "bm25" else _OF_EMBEDDING
    given = {name: value for name, value in found.items() if value is not None}
    reset = [name for name, value in found.items() if value is None]
    bm25 = given.pop("bm25_options", {})
    reset += [f"{prefix}{name}" for name, value in bm25.items() if value is None]
    bm25 = {name: value for name, value in bm25.items() if value is not None}
    given |= {name_of: bm25} if bm25 else {}
    return given | ({"reset": reset} if reset else {})


def _options(changed: Mapping[str, Any]) -> dict[str, None]:
    """Name the options that arguments of `op.alter_embedding` change."""
    of_index = [one.name for one in fields(BM25)]
    reset = [name.partition(".")[0] for name in changed.get("reset", ())]
    names = [*(name for name in changed if name != "reset"), *reset]
    return dict.fromkeys(
        "bm25_options" if name in ("options", *of_index) else name for name in names
    )


def _bm25_changes(
    connection: Connection,
    options: Mapping[str, Any],
    found: Mapping[str, Any],
    existing: Existing,
) -> dict[str, Any]:
    wanted: dict[str, Any] = dict(options["bm25_options"])
    if "config" in wanted:
        wanted["config"] = config_of_language(connection, wanted["config"]) or wanted[
            "config"
        ].removeprefix("pg_catalog.")
        if f"pg_catalog.{wanted['config']}" == existing.default_config:
            del wanted["config"]
    wanted["analyzer"] = normalized_analyzer(wanted.get("analyzer"))
    if not wanted["analyzer"]:
        del wanted["analyzer"]
    is_wanted = found.get("bm25", existing.effective["bm25"])
    if not (existing.bm25_possible if is_wanted is None else is_wanted):
        return {}
    if not existing.effective["bm25"]:
        return wanted
    was = dict(existing.declaration.options["bm25_options"])
    expression = wanted.get("config_expression")
    if expression is not None and expression != was.get("config_expression"):
        form = canonical_form(connection, existing, f"({expression})::text")
        if form is not None and form == was.get("config_expression"):
            wanted["config_expression"] = form
    changed: dict[str, Any] = {
        name: value for name, value in wanted.items() if was.get(name) != value
    }
    return changed | {name: None for name in was if name not in wanted}


def _text_differs(
    connection: Connection, wanted: Declaration, existing: Existing
) -> bool:
    if wanted.text_expression.strip() == existing.declaration.text_expression.strip():
        return False
    form = canonical_form(connection, existing, wanted.text_expression)
    return form is None or form != existing.canonical


def undoing(changed: Mapping[str, Any], existing: Existing) -> dict[str, Any]:
    """Give the arguments of `op.alter_embedding` that bring back what there is."""
    names = _options(changed)
    if "model" in names:
        names |= dict.fromkeys(_OF_MODEL)
    found: dict[str, Any] = {}
    for name in names:
        if name == "switch":
            found[name] = changed[name]
        elif name == "text_expression":
            found[name] = existing.declaration.text_expression
        elif name == "bm25_options":
            if existing.effective["bm25"]:
                found[name] = _bm25_undoing(existing)
        elif name in _OF_MODEL and (
            "model" in names and existing.declaration.options[name] == DEFAULTS[name]
        ):
            continue
        else:
            found[name] = existing.effective[name]
    if found.get("bm25") and "bm25_options" not in found:
        found["bm25_options"] = dict(existing.declaration.options["bm25_options"])
    return _arguments(found, existing.declaration.kind)


def _bm25_undoing(existing: Existing) -> dict[str, Any]:
    options = dict.fromkeys(one.name for one in fields(BM25))
    return options | dict(existing.declaration.options["bm25_options"])


def costs(changed: Mapping[str, Any]) -> list[str]:
    """Say what changes cost, for the migration's reader."""
    keys = dict.fromkeys(_SAME_COST.get(name, name) for name in _options(changed))
    if changed.get("bm25") is False:
        keys.pop("bm25_options")
    if changed.get("reduction") == "pca":
        keys = {_PROJECTION if k == "dimensions" else k: None for k in keys}
    if of_vectors := [key for key in keys if key in _VECTORS]:
        # These are the largest: the vectors, and so the index, are made anew anyway.
        others = of_vectors if "switch" in keys else of_vectors[1:]
        smaller = ("index", "chunking", "text_expression", *others)
        keys = {key: None for key in keys if key not in smaller}
    return [_COSTS[key] for key in keys if key in _COSTS]
