"""Keys of providers, which no message, log or traceback may show."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN: Final = "[secret]"
_SHORTEST: Final = 8  # characters: what is shorter is no key, and may be any word
_MASKED: Final = 4  # characters of a key that libraries show before asterisks
_NAMES: Final = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?|_PAT)(_ID)?$", re.IGNORECASE
)
_ADDRESSES: Final = re.compile(r"_(BASE|URL|ENDPOINT|DSN)$", re.IGNORECASE)
_USER: Final = re.compile(r"://[^/\s@]+@")  # and password, in an address
_LOGGERS: Final = (
    *("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "litellm"),
    *("openai", "openai._base_client", "openai._legacy_response"),
    *("httpx", "httpcore", "httpcore.connection", "httpcore.proxy"),
    *("httpcore.http11", "httpcore.http2", "httpcore.socks"),
)


def secrets(environ: Mapping[str, str] | None = None) -> list[str]:
    """List what must not be shown: longest first, in each way it may be written.

    Args:
        environ: Where to look; None: the process's environment. Every variable whose
            name says so counts, whoever it is for, and passwords and parameters in
            addresses.
    """
    found: set[str] = set()
    for name, value in (os.environ if environ is None else environ).items():
        if _NAMES.search(name):
            found.add(value.strip())
        elif _ADDRESSES.search(name):
            found.update(_of_address(value))
    written = {form for one in found for form in (one, quote(one, safe=""))}
    return sorted(
        (one for one in written if len(one) >= _SHORTEST), key=len, reverse=True
    )


def _of_address(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
        password = parts.password
    except ValueError:
        return
    if password:
        yield unquote(password)
        yield password
    for name, value in parse_qsl(parts.query):
        if _NAMES.search(name) or name.lower() in ("code", "sig"):
            yield value


def redact(text: str) -> str:
    """Give a text without secrets, nor beginnings of them that are masked otherwise."""
    text = _USER.sub(f"://{HIDDEN}@", text)
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
        if secret[:_MASKED] in text:
            text = re.sub(rf"{re.escape(secret[:_MASKED])}\S*?\*\*+\S*", HIDDEN, text)
    return text


class _RedactingFilter(logging.Filter):
    """Takes secrets out of records before any handler sees them."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record; none is left out."""
        try:
            record.msg, record.args = redact(record.getMessage()), None
        except Exception:  # arguments that do not fit: show neither
            record.msg, record.args = HIDDEN, None
        if record.exc_info:
            record.exc_text = self._formatter.formatException(record.exc_info)
            record.exc_info = None
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


_filter: Final = _RedactingFilter()


def guard_logs() -> None:
    """Take secrets out of what the libraries log, at any level; may be called again.

    litellm recognises keys by their looks, which not all of them have.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_filter)  # no second time
