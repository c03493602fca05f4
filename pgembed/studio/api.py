"""The HTTP API: searches, vectors as OpenAI's API gives them, and what is fresh."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql
from psycopg.rows import tuple_row
from starlette.responses import JSONResponse, Response

from pgembed import aclient
from pgembed._client.arguments import checked, named_arguments
from pgembed._client.values import check_query, parse_vector
from pgembed.errors import InvalidParameter, InvalidQuery, NoEncoderService
from pgembed.options import DEFAULT_MODEL, HybridSearchOptions, QueryModelOptions
from pgembed.studio.shared import body_of, read_json, studio_of
from pgembed.studio.vectors import have_vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from pgembed.studio.database import Connection
    from pgembed.studio.shared import Studio

MOST_HITS = 1000
MOST_TEXTS = 256
FORMATS = ("float", "base64")
#: Arguments of pgembed.search() besides table and query, that a body may have.
SEARCH_OPTIONS = tuple(
    name
    for name in (
        *HybridSearchOptions.__annotations__,
        *QueryModelOptions.__annotations__,
    )
    if name
    in {
        *("k", "filter", "offset", "min_score", "min_similarity", "embedding"),
        *("query_embedding", "query_model", "syntax", "prefix", "fuzzy", "config"),
        *("snippets", "vector_weight", "bm25_weight", "query_encoder", "diversity"),
        "on_missing_query_embedding",
    }
)
_CASTS = {"query_embedding": sql.SQL("::pg_catalog.text")}
_SEARCH = sql.SQL(
    "select pg_catalog.to_jsonb(h)::pg_catalog.text from pgembed.search({}) as h"
)
_REQUEST = (
    "select pgembed._request_query(t.text, %(model)s, %(seconds)s)"
    " from pg_catalog.unnest(%(texts)s::pg_catalog.text[]) as t(text)"
)
_EMBED = (
    "select pgembed.embed(t.text, %(model)s)::pg_catalog.text"
    " from pg_catalog.unnest(%(texts)s::pg_catalog.text[])"
    " with ordinality as t(text, place) order by t.place"
)
_STATUS = (
    "select pg_catalog.to_jsonb(s)::pg_catalog.text from pgembed.search_status as s"
)
_MODELS = "select m.name, m.provider from pgembed.model as m order by m.name"


async def search(request: Request) -> Response:
    """Search a table: `pgembed.search` with a body for its arguments."""
    studio = studio_of(request)
    body = await _json_of(request)
    table, query = _text(body, "table"), body.pop("query", None)
    arguments = _search_arguments(body)
    if query is not None or "query_embedding" not in arguments:
        arguments["query"] = check_query(query)
    started = time.perf_counter()
    async with studio.database.connection() as conn:
        missing = await _have_vector(conn, studio, table, arguments)
        given = {name: _placeholder(name) for name in ("source", *arguments)}
        async with (
            studio.database.reading(conn),
            conn.cursor(row_factory=tuple_row) as cursor,
        ):
            try:
                await cursor.execute(
                    _SEARCH.format(named_arguments(given)),
                    {"source": table, **arguments},
                    prepare=False,
                )
            except Exception:
                # Why there is no vector was said before.
                if missing is not None:
                    raise missing from None
                raise
            rows = await cursor.fetchall()
    took = 1000 * (time.perf_counter() - started)
    # As the server wrote it: numbers stay what they are.
    hits = ",".join(row[0] for row in rows)
    return _raw(f'{{"hits":[{hits}],"milliseconds":{took:.1f}}}')


async def embeddings(request: Request) -> Response:
    """Encode texts, as queries, by a registered model: what OpenAI's API answers."""
    studio = studio_of(request)
    body = await _json_of(request)
    model = body.get("model") or DEFAULT_MODEL
    texts = _texts(body.get("input"))
    form = body.get("encoding_format") or "float"
    if not isinstance(model, str):
        raise InvalidParameter("model must be a name")
    if form not in FORMATS:
        raise InvalidParameter(
            f"encoding_format is {form!r}", hint=f"Known: {', '.join(FORMATS)}."
        )
    async with studio.database.connection() as conn:
        vectors = await _encode(conn, studio, texts, model)
    wanted = body.get("dimensions")
    if wanted is not None and wanted != len(vectors[0]):
        raise InvalidParameter(
            f"dimensions is {wanted}, and {model} has {len(vectors[0])}",
            hint="Leave it out.",
        )
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, form)}
        for index, vector in enumerate(vectors)
    ]
    # Nothing is billed here, so nothing is counted.
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return JSONResponse(
        {"object": "list", "data": data, "model": model, "usage": usage}
    )


async def models(request: Request) -> Response:
    """List the registered models, as OpenAI's API does."""
    rows = await _read(request, _MODELS)
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": provider}
        for name, provider in rows
    ]
    return JSONResponse({"object": "list", "data": data})


async def status(request: Request) -> Response:
    """Say of all that the role may search whether it is fresh."""
    rows = await _read(request, _STATUS)
    return _raw(f'{{"searched":[{",".join(row[0] for row in rows)}]}}')


async def _read(request: Request, query: str) -> list[tuple[Any, ...]]:
    database = studio_of(request).database
    async with (
        database.connection() as conn,
        database.reading(conn),
        conn.cursor(row_factory=tuple_row) as cursor,
    ):
        await cursor.execute(query.encode())
        return await cursor.fetchall()


async def _have_vector(
    conn: Connection, studio: Studio, table: str, arguments: Mapping[str, Any]
) -> NoEncoderService | None:
    """Have the query encoded where it must be; give the reason why it is not."""
    if "query_embedding" in arguments or arguments.get("vector_weight") == 0:
        return None
    options = {
        "embedding": arguments.get("embedding"),
        "query_encoder": arguments.get("query_encoder"),
        "timeout": studio.settings.encode_seconds,
    }
    try:
        database, query = studio.database, arguments["query"]
        await have_vector(database, conn, table, query, options)
    except NoEncoderService as exc:
        # The search may know another way, or go on by words alone.
        return exc
    return None


async def _encode(
    conn: Connection, studio: Studio, texts: Sequence[str], model: str
) -> list[list[float]]:
    """Have texts encoded by a service, all at once; those in the cache are there."""
    seconds = studio.settings.encode_seconds
    # In one order in all sessions, so that none waits for one that waits for it.
    asked = sorted(set(texts))
    request = {"texts": asked, "model": model, "seconds": seconds}
    deadline = time.monotonic() + seconds
    async with studio.database.primary(conn) as primary:
        await primary.execute(_REQUEST, request)
        for text in asked:
            left = max(0.1, deadline - time.monotonic())
            await aclient.encode(primary, text, model, timeout=left)
    async with (
        studio.database.reading(conn),
        conn.cursor(row_factory=tuple_row) as cursor,
    ):
        await cursor.execute(_EMBED, {"texts": list(texts), "model": model})
        return [parse_vector(row[0]) for row in await cursor.fetchall()]


def _search_arguments(body: Mapping[str, Any]) -> dict[str, object]:
    for name in body:
        if name not in SEARCH_OPTIONS:
            raise InvalidParameter(
                f"unknown argument {name!r}",
                hint=f"Known: table, query, {', '.join(SEARCH_OPTIONS)}.",
            )
    given = dict(body)
    model = given.pop("query_model", None)
    arguments = checked(given)
    if model is not None:
        arguments["query_model"] = _text({"query_model": model}, "query_model")
    k = arguments.get("k", 0)
    if isinstance(k, int) and k > MOST_HITS:
        raise InvalidParameter(f"k is {k}, and at most {MOST_HITS} hits are given")
    return arguments


def _placeholder(name: str) -> sql.Composable:
    return sql.Placeholder(name) + _CASTS.get(name, sql.SQL(""))


async def _json_of(request: Request) -> dict[str, Any]:
    body = read_json("body", await body_of(request))
    if not isinstance(body, dict):
        raise InvalidParameter("the body is no JSON object")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.pop(name, None)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidParameter(f"{name} must be a text, not {value!r}")
    return value


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise InvalidQuery("input must be a text, or a list of texts")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidQuery(
            "input must be texts",
            hint="Numbers of tokens are those of another model.",
        )
    if len(texts) > MOST_TEXTS:
        raise InvalidQuery(
            f"input has {len(texts)} texts, and {MOST_TEXTS} are encoded at most"
        )
    return [check_query(text) for text in texts]


def _written(vector: list[float], form: str) -> list[float] | str:
    if form == "float":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _raw(text: str) -> Response:
    return Response(text, media_type="application/json")
