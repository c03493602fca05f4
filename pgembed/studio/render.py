"""Pages from templates; whatever comes from a row is escaped."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

STATIC = Path(__file__).parent / "static"
_MARK = re.compile(r"(</?b>)")
_MARKS = {"<b>": Markup("<mark>"), "</b>": Markup("</mark>")}


def marked(snippet: str | None) -> Markup:
    """Escape an excerpt, but for the marks around its words."""
    shown = Markup()
    is_open = False
    for part in _MARK.split(snippet or ""):
        # A text may have marks of its own, which do not pair.
        if part not in _MARKS:
            shown += part
        elif is_open != (part == "<b>"):
            is_open = not is_open
            shown += _MARKS[part]
    return shown + _MARKS["</b>"] if is_open else shown


def coded(text: str) -> Markup:
    """Show what is between backticks as code."""
    shown = Markup()
    for place, part in enumerate(text.split("`")):
        shown += Markup("<code>{}</code>").format(part) if place % 2 else part
    return shown


def compact(value: object) -> str:
    """Write a value as JSON, for people."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def in_json(value: object) -> str:
    """Write a value as JSON, as PostgreSQL does."""
    return json.dumps(value, ensure_ascii=False)


def number(value: float | None) -> str:
    """Write a number with thousands apart."""
    return "–" if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Write a number of bytes."""
    if value is None:
        return "–"
    for unit in ("B", "kiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(value: timedelta | None) -> str:
    """Write how long something takes."""
    if value is None:
        return "–"
    seconds = value.total_seconds()
    if seconds < 60:
        return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds)))


_templates = Environment(
    loader=PackageLoader("pgembed.studio"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "marked": marked,
    "coded": coded,
    "compact": compact,
    "json": in_json,
    "number": number,
    "size": size,
    "duration": duration,
}


def page(name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Make a page, or a part of one."""
    return HTMLResponse(_templates.get_template(name).render(values), status)
