"""The pages that people see."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pgembed.errors import InvalidParameter
from pgembed.studio import filters, searches, sources
from pgembed.studio.copies import copies
from pgembed.studio.problems import Problem, problem_of
from pgembed.studio.render import page
from pgembed.studio.security import API, HEADERS
from pgembed.studio.shared import form_of, is_part, studio_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from pgembed.studio.database import Connection

_NUMBERS = ("vector_weight", "bm25_weight", "min_score", "min_similarity")
_WHOLE_NUMBERS = ("k", "offset", "rrf_k", "candidates", "ef_search")
_TEXTS = ("embedding", "fusion", "syntax", "query_encoder")
_TRUTHS = ("exact", "fuzzy", "prefix")
_BUILDER = ("column", "operator", "value")
DEFAULT_K = 10


@dataclass(slots=True)
class View:
    """What the search page shows.

    Attributes:
        fields: The fields of the form, as they were sent.
        tables: What can be chosen.
        table: What is chosen.
        columns: Of that table.
        lines: The filter builder's.
        filter: What became of them.
        found: The rankings; None: nothing was asked yet.
        problem: Why there are none.
        copies: The search in other languages, for each of the rankings.
    """

    fields: Mapping[str, str]
    tables: Sequence[sources.Table] = ()
    table: sources.Table | None = None
    columns: Sequence[sources.Column] = ()
    lines: Sequence[filters.Condition] = ()
    filter: Mapping[str, Any] | None = None
    found: searches.Found | None = None
    problem: Problem | None = None
    copies: Sequence[Mapping[str, str]] = ()


async def search_page(request: Request) -> Response:
    """Show the form, and what it finds; of a search by htmx only that."""
    view = View(_fields(request), lines=_lines(request))
    part = is_part(request)
    try:
        await _fill(request, view)
    except Exception as exc:
        view.problem = problem_of(exc)
    name = "_results.html" if part else "search.html"
    status = 200 if view.problem is None else view.problem.status
    answer = page(name, status=status, view=view, **_vocabulary())
    answer.headers["Vary"] = "HX-Request"
    if view.problem is not None:
        answer.headers.update(view.problem.headers)
    return answer


async def source_part(request: Request) -> Response:
    """Show what depends on the table: its embeddings, and its columns."""
    studio = studio_of(request)
    view = View(_fields(request))
    async with (
        studio.database.connection() as conn,
        studio.database.reading(conn),
    ):
        await _look_up(conn, view)
    return page("_source.html", view=view, **_vocabulary())


async def condition_part(request: Request) -> Response:
    """Give another line of the filter builder."""
    studio = studio_of(request)
    view = View(_fields(request))
    async with (
        studio.database.connection() as conn,
        studio.database.reading(conn),
    ):
        await _look_up(conn, view)
    line = filters.Condition()
    return page("_condition.html", view=view, line=line, **_vocabulary())


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


def _vocabulary() -> dict[str, Any]:
    return {"operators": filters.OPERATORS, "default_k": DEFAULT_K}


def _fields(request: Request) -> defaultdict[str, str]:
    """Read the fields of the form; one that was not sent is empty."""
    return defaultdict(str, request.query_params)


def _lines(request: Request) -> list[filters.Condition]:
    given = (request.query_params.getlist(name) for name in _BUILDER)
    return filters.conditions(*given)


async def _look_up(conn: Connection, view: View) -> None:
    view.tables = await sources.tables(conn)
    view.table = sources.chosen(view.tables, view.fields.get("table"))
    if view.table is not None:
        view.columns = await sources.columns(conn, view.table)


async def _fill(request: Request, view: View) -> None:
    studio = studio_of(request)
    database = studio.database
    query = view.fields.get("q", "")
    async with database.connection() as conn:
        async with database.reading(conn):
            await _look_up(conn, view)
            if view.table is None or not query:
                return
            text = view.fields.get("filter", "")
            view.filter = filters.filter_of(view.lines, text, view.columns)
            options = _options(view.fields)
            if view.filter is not None:
                options["filter"] = view.filter
            asked = searches.Asked(query, options, view.fields["other"] or None)
            source = await sources.source(
                conn, view.table, view.columns, asked.embedding
            )
        seconds = studio.settings.encode_seconds
        view.found = await searches.search(database, conn, source, asked, seconds)
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
                options[name] = _number(name, given[name], kind)
    if options["k"] > searches.MOST_HITS:
        raise InvalidParameter(
            f"k is {options['k']}, and {searches.MOST_HITS} hits are shown at most",
            hint="The offset leaves out the first ones; the API gives more.",
        )
    return options


def _number(name: str, text: str, kind: type[int | float]) -> int | float:
    try:
        return kind(text)
    except ValueError as exc:
        what = "a whole number" if kind is int else "a number"
        raise InvalidParameter(f"{name} must be {what}, not {text!r}") from exc
