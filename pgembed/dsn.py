"""Connection strings: checked before libpq sees them, opened, and never echoed.

A connection string may hold a password, and what is wrong with it is often just that: a
character that had to be written otherwise. libpq quotes the place ('invalid
percent-encoded token: "..."'), or takes a part of the password for a host, a port or a
database and names that. So strings that cannot be read, or can be read in two ways, are
refused here, without quoting anything of them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgembed.errors import InvalidParameter, UnsupportedEnvironment

_SCHEMES: Final = ("postgresql://", "postgres://")
_HIDDEN: Final = "…"
_HINT: Final = (
    "Write postgresql://USER@HOST:PORT/DATABASE, or host=… user=… dbname=…, and leave "
    "the password to PGPASSWORD, ~/.pgpass or a service file. In a URI the characters "
    "/ @ : ? # % and spaces of a password are percent-encoded: %2F %40 %3A %3F %23 %25 "
    "%20; elsewhere it stands between single quotes if it has spaces. (What cannot be "
    "read may be a part of a password, so nothing of it is shown.)"
)
# The beginnings of libpq's messages, up to what it quotes.
_REASONS: Final = {
    "invalid percent-encoded token": "a % is not followed by two hexadecimal digits",
    "forbidden value %00": "%00 cannot be part of a value",
    "unexpected spaces": "there is a space that is not written as %20",
    'missing "="': "a word is neither a setting (name=value) nor a URI",
    "unterminated quoted string": "a quote is not closed",
    "invalid connection option": "it has a setting that libpq does not know",
    "invalid URI query parameter": "it has a setting that libpq does not know",
    "missing key/value separator": "what follows ? is no setting (name=value)",
    "extra key/value separator": "what follows ? is no setting (name=value)",
    "end of string reached": "a [ is not closed",
    "IPv6 host address": "the address between [ and ] is none",
    "unexpected character": "an unexpected character follows the host",
}
_URI_PASSWORD: Final = re.compile(r"(?<=://)[^\s/@]*:.*@")
# Up to the end of the line: quoted once more, nobody knows where it ends.
_KEY_PASSWORD: Final = re.compile(
    r"(?P<key>\b\w*(?:password|secret)\s*=\s*).+", re.IGNORECASE
)
# In words typed by hand nobody knows where the password ends: so all the rest.
_TYPED: Final = re.compile(r"(?:\w*:)?//.*|\bpass\w*\s*=.*", re.IGNORECASE | re.DOTALL)
_SHORT: Final = 4  # characters; such a password is a part of many words
# In messages anyway; nobody learns that it is the password, unless it is missing there.
_WORDS: Final = frozenset({"pgembed", "postgres", "postgresql", "password"})


def check(conninfo: str) -> str:
    """Give back a connection string that can be read in one way only.

    Raises:
        InvalidParameter: It cannot; the message has nothing of it.
    """
    try:
        # NUL would end it for libpq, which then quotes the rest as a value.
        parsed = conninfo_to_dict(_without_nul(conninfo))
    except UnicodeError:
        raise _unreadable("it is not valid Unicode") from None
    except psycopg.Error as exc:
        raise _unreadable(_reason(conninfo, str(exc))) from None
    text = {key: str(value) for key, value in parsed.items() if value is not None}
    if any(not _is_port(port) for port in text.get("port", "").split(",")):
        raise _unreadable("the port is no number")
    if any("@" in host[1:] for host in text.get("host", "").split(",")):
        raise _unreadable("the host has an @ in it")
    for key in ("host", "hostaddr", "dbname", "user", "service"):
        if "://" in text.get(key, ""):
            raise _unreadable(f"the {key} looks like a URI")
    if conninfo.startswith(_SCHEMES) and _has_stray_at(conninfo.partition("://")[2]):
        raise _unreadable("it has an @ that is not the one before the host")
    return conninfo


def connect(conninfo: str, **options: Any) -> psycopg.Connection[Any]:
    """Open a connection.

    Args:
        conninfo: Connection string; empty for libpq's own environment.
        options: As psycopg.connect takes them.

    Raises:
        InvalidParameter: The connection string cannot be read.
        UnsupportedEnvironment: PostgreSQL cannot be reached, or refuses.
    """
    check(conninfo)
    try:
        return psycopg.connect(conninfo, **options)
    except psycopg.Error as exc:
        reason = redact(str(exc).strip(), conninfo)
    # Outside, so that no traceback shows the driver's own message.
    raise UnsupportedEnvironment(
        "cannot connect to PostgreSQL",
        detail=reason,
        hint="Check the connection string (--dsn or PGEMBED_DSN, else libpq's "
        "PGHOST, PGPORT, PGDATABASE, PGUSER).",
    )


def redact(text: str, conninfo: str = "") -> str:
    """Take passwords out of a text.

    Args:
        text: A message, a line of a log.
        conninfo: The connection string whose secrets may be in it; besides, whatever
            looks like a connection string is cleaned.
    """
    for secret in _secrets(conninfo):
        text = _without(text, secret)
    text = _URI_PASSWORD.sub(f"{_HIDDEN}@", text)
    return _KEY_PASSWORD.sub(rf"\g<key>{_HIDDEN}", text)


def redact_typed(text: str) -> str:
    """Cut a message off where a connection string or a password seems to begin."""
    return _TYPED.sub(_HIDDEN, text)


def shown(conninfo: str) -> str:
    """Write a connection string without its secrets, to be shown to people."""
    parsed = conninfo_to_dict(check(conninfo))
    for key in _secret_settings():
        parsed.pop(key, None)
    return make_conninfo("", **parsed)


@cache
def _secret_settings() -> frozenset[str]:
    """Name the settings that libpq itself would not show."""
    return frozenset(
        option.keyword.decode()
        for option in pq.Conninfo.get_defaults()
        if option.dispchar == b"*"
    ) | {"password"}


def _secrets(conninfo: str) -> list[str]:
    try:
        parsed = conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError):
        # Nothing is known of it but that it must not be shown.
        return [conninfo]
    public = {str(parsed[key]) for key in ("user", "dbname", "host") if key in parsed}
    public |= _WORDS
    found = {str(parsed[key]) for key in _secret_settings() if parsed.get(key)}
    # As it was written, too; the longest first.
    written = conninfo.partition("://")[2].rpartition("@")[0].partition(":")[2]
    found |= {written} if written else set()
    return sorted(found - public, key=len, reverse=True)


def _without(text: str, secret: str) -> str:
    pattern = re.escape(secret)
    if len(secret) < _SHORT:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return re.sub(pattern, _HIDDEN, text)


def _without_nul(conninfo: str) -> str:
    if "\0" in conninfo:
        raise _unreadable("it has a character NUL")
    return conninfo


def _is_port(port: str) -> bool:
    return not port.strip() or (port.strip().isdecimal() and port.isascii())


def _has_stray_at(body: str) -> bool:
    """Whether a URI, from its // on, has an @ that may be meant as another's."""
    at, slash = body.find("@"), body.find("/")
    has_user = at >= 0 and (slash < 0 or at < slash)
    rest = body[at + 1 :] if has_user else body
    # Behind ? are settings, and their values may have one.
    return "@" in rest.partition("?")[0]


def _reason(conninfo: str, message: str) -> str:
    if re.match(r"\s*(jdbc:|\w+\+\w+:|https?:)", conninfo):
        return "it is a URI of another program; libpq's begin with postgresql://"
    reasons = (why for start, why in _REASONS.items() if message.startswith(start))
    return next(reasons, "libpq cannot read it")


def _unreadable(why: str) -> InvalidParameter:
    return InvalidParameter(f"the connection string cannot be read: {why}", hint=_HINT)
