"""The document that describes the API."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import pgembed
from pgembed.options import HybridSearchOptions, QueryModelOptions, described
from pgembed.studio.api import FORMATS, MOST_HITS, MOST_TEXTS, SEARCH_OPTIONS
from pgembed.studio.render import page

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_WHOLE = {"type": "integer", "minimum": 0}
_TRUTH = {"type": "boolean"}
_VECTOR = {"type": "array", "items": _NUMBER}
_TYPES: dict[str, dict[str, Any]] = {
    "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS},
    "filter": {"type": "object"},
    "offset": _WHOLE,
    "query_embedding": _VECTOR,
    **dict.fromkeys(("min_score", "min_similarity"), _NUMBER),
    **dict.fromkeys(("vector_weight", "bm25_weight"), _NUMBER),
    **dict.fromkeys(("prefix", "fuzzy", "snippets"), _TRUTH),
}


async def document(_: Request) -> Response:
    """Give the document."""
    return JSONResponse(_document())


async def documentation(_: Request) -> Response:
    """Show it to people."""
    return page("docs.html", document=_document())


def _document() -> dict[str, Any]:
    about = described(HybridSearchOptions) | described(QueryModelOptions)
    asked = {
        "table": {**_TEXT, "description": "The table, written as in SQL."},
        "query": {**_TEXT, "description": "Words to search for."},
        **{
            name: {**_TYPES.get(name, _TEXT), "description": about[name]}
            for name in SEARCH_OPTIONS
        },
    }
    hit = {
        "key": {"description": "Primary key; an array where it is composite."},
        "doc": {"type": "object", "description": "The row."},
        "score": _NUMBER,
        "vector_rank": _or_null(_WHOLE),
        "bm25_rank": _or_null(_WHOLE),
        "content": _or_null(_TEXT),
        "snippet": {**_or_null(_TEXT), "description": "Not escaped for HTML."},
        "encoded_by": _or_null(_TEXT),
    }
    texts = {"type": "array", "items": _TEXT, "maxItems": MOST_TEXTS}
    encoded = {
        "input": {"anyOf": [_TEXT, texts], "description": "Texts, encoded as queries."},
        "model": {**_TEXT, "description": "A registered model."},
        "encoding_format": {"type": "string", "enum": list(FORMATS)},
        "dimensions": {**_WHOLE, "description": "The model's own, or nothing."},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pgembed",
            "version": pgembed.__version__,
            "description": "Searches of pgembed, and the vectors of queries.",
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _object({"error": _object(_error())})},
        },
        "security": [{"token": []}],
        "paths": {
            "/v1/search": _post(
                "search",
                "Search a table by words, by meaning, by both.",
                _object(asked, "table"),
                {"hits": _list(_object(hit)), "milliseconds": _NUMBER},
            ),
            "/v1/embeddings": _post(
                "embeddings",
                "Encode texts, as OpenAI's API does.",
                _object(encoded, "input", "model"),
                {
                    "object": _TEXT,
                    "model": _TEXT,
                    "data": _list(_object({"index": _WHOLE, "embedding": {}})),
                    "usage": {"type": "object"},
                },
            ),
            "/v1/models": _get("models", "List the registered models.", "data"),
            "/v1/status": _get(
                "status", "Say whether what was written can be found.", "searched"
            ),
        },
    }


def _error() -> dict[str, Any]:
    nothing = _or_null(_TEXT)
    return {"message": _TEXT, "type": _TEXT, "param": nothing, "code": nothing}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _operation(
    name: str, summary: str, properties: dict[str, Any], wrong: dict[str, str]
) -> dict[str, Any]:
    error = _content({"$ref": "#/components/schemas/Error"})
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {
                "description": "What was asked for",
                **_content(_object(properties)),
            },
            **{code: {"description": why, **error} for code, why in wrong.items()},
        },
    }


_ALWAYS = {"401": "The token is missing or wrong", "503": "Try again: Retry-After"}


def _post(
    name: str, summary: str, body: dict[str, Any], properties: dict[str, Any]
) -> dict[str, Any]:
    wrong = {"400": "What is asked for is not in order", **_ALWAYS}
    operation = _operation(name, summary, properties, wrong)
    return {"post": {**operation, "requestBody": {"required": True, **_content(body)}}}


def _get(name: str, summary: str, result: str) -> dict[str, Any]:
    properties = {result: _list({"type": "object"})}
    return {"get": _operation(name, summary, properties, _ALWAYS)}
