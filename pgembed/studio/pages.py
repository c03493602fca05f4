"""The pages that people see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pgembed.errors import InvalidParameter
from pgembed.studio import filters, searches, sources
from pgembed.studio.copies import copies
from pgembed.studio.forms import Form, fields_of, lines_of, number
from pgembed.studio.problems import Problem, problem_of
from pgembed.studio.render import page
from pgembed.studio.security import API, HEADERS
from pgembed.studio.shared import form_of, is_part, studio_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request


_NUMBERS = ("vector_weight", "bm25_weight", "min_score", "min_similarity")
_WHOLE_NUMBERS = ("k", "offset", "rrf_k", "candidates", "ef_search")
_TEXTS = ("embedding", "fusion", "syntax", "query_encoder")
_TRUTHS = ("exact", "fuzzy", "prefix")
DEFAULT_K = 10


@dataclass(slots=True)
class View(Form):
    """What the search page shows.

    Attributes:
        found: The rankings; None: nothing was asked yet.
        copies: The search in other languages, for each of the rankings.
        settings: JSON of the settings that are beside the search, or can be put there.
    """

    settings: str = ""
    found: searches.Found | None = None
    copies: Sequence[Mapping[str, str]] = ()


async def search_page(request: Request) -> Response:
    """Show the form, and what it finds; of a search by htmx only that."""
    view = View(fields_of(request), lines=lines_of(request))
    part = is_part(request)
    try:
        await _fill(request, view)
    except Exception as exc:
        view.problem = problem_of(exc)
    name = "_results.html" if part else "search.html"
    status = 200 if view.problem is None else view.problem.status
    answer = page(name, status=status, view=view, **vocabulary())
    answer.headers["Vary"] = "HX-Request"
    if view.problem is not None:
        answer.headers.update(view.problem.headers)
    return answer


async def source_part(request: Request) -> Response:
    """Show what depends on the table: its embeddings, and its columns."""
    studio = studio_of(request)
    view = View(fields_of(request))
    async with (
        studio.database.connection() as conn,
        studio.database.reading(conn),
    ):
        await view.look_up(conn)
    return page("_source.html", view=view, **vocabulary())


async def condition_part(request: Request) -> Response:
    """Give another line of the filter builder."""
    studio = studio_of(request)
    view = View(fields_of(request))
    async with (
        studio.database.connection() as conn,
        studio.database.reading(conn),
    ):
        await view.look_up(conn)
    line = filters.Condition()
    return page("_condition.html", view=view, line=line, **vocabulary())


async def login(request: Request) -> Response:
    """Take the token, and give a cookie for it."""
    keys = studio_of(request).keys
    given = request.query_params.get("token", "")
    if request.method == "POST":
        given = (await form_of(request)).get("token", "")
    if not keys.is_token(given):
        return page("closed.html", status=401)
    # A page that leads on, no redirection: of one that begins at another site, browsers
    # would not send the cookie along.
    answer = page("opened.html")
    answer.set_cookie(
        keys.cookie_name,
        keys.cookie,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


async def failed(request: Request, exc: Exception) -> Response:
    """Say what went wrong, and nothing else."""
    return _told(request, problem_of(exc))


async def refused(request: Request, exc: Exception) -> Response:
    """Say that there is no such page, or that it is not asked for this way."""
    assert isinstance(exc, HTTPException)
    return _told(request, Problem(exc.status_code, exc.detail.lower()))


def _told(request: Request, problem: Problem) -> Response:
    answer: Response
    if request.url.path.startswith(API):
        answer = JSONResponse(problem.as_openai(), problem.status)
    else:
        name = "_problem.html" if is_part(request) else "problem.html"
        answer = page(name, status=problem.status, problem=problem)
    # Of what nobody expected the guard does not see the answer.
    answer.headers.update({**HEADERS, **problem.headers})
    return answer


def vocabulary() -> dict[str, Any]:
    """Give what the form needs to know."""
    return {"operators": filters.OPERATORS, "default_k": DEFAULT_K}


async def _fill(request: Request, view: View) -> None:
    studio = studio_of(request)
    database = studio.database
    query = view.fields.get("q", "")
    async with database.connection() as conn:
        async with database.reading(conn):
            await view.look_up(conn)
            if view.table is None or not query:
                return
            view.read_filter()
            options = _options(view.fields)
            if view.filter is not None:
                options["filter"] = view.filter
            asked = [searches.Asked(query, options)]
            if other := _other(view, options):
                asked.append(searches.Asked(query, other, is_other=True))
            source = await sources.source(
                conn, view.table, view.columns, options.get("embedding")
            )
        seconds = studio.settings.encode_seconds
        view.found = await searches.search(database, conn, source, asked, seconds)
        kept = {name: value for name, value in options.items() if name != "filter"}
        view.settings = view.fields["beside"] or json.dumps(kept)
        view.copies = [
            copies(
                conn,
                view.table.name,
                ranking.function,
                ranking.asked,
                searches.FUNCTIONS[ranking.arm][1],
            )
            for ranking in view.found.rankings
        ]


def _other(view: View, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the options of the search that this one is compared with; None: of none.

    Raises:
        InvalidParameter: They are no settings of this page.
    """
    if not (beside := view.fields["beside"]):
        other = view.fields["other"]
        return {**options, "embedding": other} if other else None
    try:
        kept = json.loads(beside)
        fields = {
            name: "" if value is False else str(value) for name, value in kept.items()
        }
    except (ValueError, AttributeError, RecursionError) as exc:
        raise InvalidParameter(
            "beside is no JSON object of settings", hint='{"k": 10, "fusion": "rrf"}'
        ) from exc
    found = _options(fields)
    if unknown := kept.keys() - found.keys():
        raise InvalidParameter(f"beside has unknown settings: {', '.join(unknown)}")
    if "filter" in options:
        found["filter"] = options["filter"]
    return found


def _options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Read the knobs; those that are left empty are pgembed's own to choose.

    Raises:
        InvalidParameter: One is no number, or more hits are wanted than are shown.
    """
    given = {name: text.strip() for name, text in fields.items() if text.strip()}
    options: dict[str, Any] = {"k": DEFAULT_K}
    options |= {name: given[name] for name in _TEXTS if name in given}
    options |= {name: True for name in _TRUTHS if name in given}
    for names, kind in ((_NUMBERS, float), (_WHOLE_NUMBERS, int)):
        for name in names:
            if name in given:
                options[name] = number(name, given[name], kind)
    if options["k"] > searches.MOST_HITS:
        raise InvalidParameter(
            f"k is {options['k']}, and {searches.MOST_HITS} hits are shown at most",
            hint="The offset leaves out the first ones; the API gives more.",
        )
    return options
