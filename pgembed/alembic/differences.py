"""What has to change so that an embedding is as it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgembed.alembic.reflect import (
    canonical_form,
    config_of_language,
    normalized_analyzer,
    unless,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from pgembed.alembic.reflect import Existing
    from pgembed.sqlalchemy.options import Declaration

#: Changes of these make another embedding.
_IDENTITY = ("storage", "column_name")

_COSTS = {
    "model": "Another model: all vectors are removed and made again; until then "
    "searches do not find the rows.",
    "dimensions": "Other dimensions: all vectors are removed and made again; until "
    "then searches do not find the rows.",
    "vector_type": "Another vector type: all vectors are removed and made again; "
    "until then searches do not find the rows.",
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
    "distance": "index",
    "index_options": "index",
    "bm25": "bm25_options",
}


def normalized(wanted: Declaration, existing: Existing) -> dict[str, Any]:
    """Write a declaration's options as those of `Existing.declaration` are written."""
    options = wanted.options
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
    options["bm25_options"] = {
        name: value
        for name, value in options["bm25_options"].items()
        if value != {"k1": 1.2, "b": 0.75}.get(name)
    }
    return options


def _default_chunking(options: Mapping[str, Any]) -> str:
    return "none" if options["storage"] == "column" else "sentences"


def is_another(wanted: Declaration, existing: Existing) -> bool:
    """Whether the declared embedding takes the place of the existing one."""
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
    new_model = "model" in found
    for name in ("dimensions", "distance", "vector_type"):
        if name not in found and not (new_model and options[name] is not None):
            continue
        # NULL is "as it is" there, unless the model is another one.
        found[name] = options[name]
        if options[name] is None:
            found[name] = None if new_model else _default(name, options, existing)
        if found[name] is None:
            del found[name]
    if found.get("chunking", "") is None:
        found["chunking"] = _default_chunking(options)
    if "index" in found:
        found["index_options"] = options["index_options"]
    if "bm25" in found and found["bm25"] is None:
        found["bm25"] = existing.bm25_possible
    found |= _bm25_changes(connection, options, found, existing)
    if _text_differs(connection, wanted, existing):
        found = {"text_expression": wanted.text_expression, **found}
    return found


def _default(name: str, options: Mapping[str, Any], existing: Existing) -> Any:
    if name == "dimensions":
        return existing.model_dimensions
    if name == "distance":
        return existing.model_distance
    dimensions = options["dimensions"] or existing.model_dimensions
    return "vector" if dimensions <= 2000 else "halfvec"


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
    if found.get("bm25") is False:
        return {}
    if not existing.effective["bm25"]:
        return {"bm25_options": wanted} if found.get("bm25") and wanted else {}
    was = dict(existing.declaration.options["bm25_options"])
    expression = wanted.get("config_expression")
    if expression is not None and expression != was.get("config_expression"):
        form = canonical_form(connection, existing, f"({expression})::text")
        if form is not None and form == was.get("config_expression"):
            wanted["config_expression"] = form
    changed: dict[str, Any] = {
        name: value for name, value in wanted.items() if was.get(name) != value
    }
    defaults = {"k1": 1.2, "b": 0.75}
    changed |= {name: defaults.get(name) for name in was if name not in wanted}
    return {"bm25_options": changed} if changed else {}


def _text_differs(
    connection: Connection, wanted: Declaration, existing: Existing
) -> bool:
    if wanted.text_expression.strip() == existing.declaration.text_expression.strip():
        return False
    form = canonical_form(connection, existing, wanted.text_expression)
    return form is None or form != existing.canonical


def undoing(changed: Iterable[str], existing: Existing) -> dict[str, Any]:
    """Give the arguments of `op.alter_embedding` that bring back what there is."""
    names = list(changed)
    if "model" in names:
        names += ["dimensions", "distance", "vector_type"]
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        if name == "text_expression":
            found[name] = existing.declaration.text_expression
        elif name == "bm25_options":
            found[name] = _bm25_undoing(existing)
        elif name in ("dimensions", "distance", "vector_type") and (
            "model" in names and existing.declaration.options[name] is None
        ):
            continue
        else:
            found[name] = existing.effective[name]
    if found.get("bm25") and "bm25_options" not in found:
        options = dict(existing.declaration.options["bm25_options"])
        found |= {"bm25_options": options} if options else {}
    return found


def _bm25_undoing(existing: Existing) -> dict[str, Any]:
    options = dict.fromkeys(("config", "config_expression", "analyzer", "fields"))
    options |= {"k1": 1.2, "b": 0.75}
    return options | dict(existing.declaration.options["bm25_options"])


def costs(changed: Mapping[str, Any]) -> list[str]:
    """Say what changes cost, for the migration's reader."""
    if changed.get("bm25") is False:
        changed = {n: v for n, v in changed.items() if not n.startswith("bm25")}
    keys = dict.fromkeys(_SAME_COST.get(name, name) for name in changed)
    if keys.keys() & {"model", "dimensions", "vector_type"}:
        # These are the largest: the vectors, and so the index, are made anew anyway.
        smaller = ("index", "chunking", "text_expression")
        keys = {key: None for key in keys if key not in smaller}
    return [_COSTS[key] for key in keys if key in _COSTS]
