"""Rate limits: who was asked to wait sends nothing until the time is over."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_SECONDS: Final = 3600.0
"""However long a provider asks to wait: after that it is asked again, once."""

# Google names the time in the answer's body.
_RETRY_DELAY: Final = re.compile(r'retryDelay\\?"\s*:\s*\\?"(\d+(?:\.\d+)?)s')


class Pauses:
    """Until when nothing is sent, by model; shared by all threads of the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[tuple[str, str], float] = {}

    def begin(self, key: tuple[str, str], seconds: float) -> None:
        """Send nothing for some seconds; a longer pause that is on stays."""
        until = self._clock() + min(seconds, LONGEST_SECONDS)
        with self._lock:
            self._until[key] = max(until, self._until.get(key, 0.0))

    def seconds(self, key: tuple[str, str]) -> float:
        """Seconds that are left of a pause; 0: there is none."""
        with self._lock:
            left = self._until.get(key, 0.0) - self._clock()
            if left <= 0:
                self._until.pop(key, None)
            return max(0.0, left)


def retry_after(
    error: BaseException, clock: Callable[[], float] = time.time
) -> float | None:
    """Find for how many seconds the provider asks to wait; None: it does not say.

    Args:
        error: What litellm raised. Not all of its errors carry the answer's headers;
            one that they were made of does.
        clock: Seconds since the epoch: for a date, where the answer has none itself.
    """
    for one in chain(error):
        headers = _headers(one)
        seconds = _number(headers.get("retry-after-ms"), 0.001)
        if seconds is None:
            seconds = _number(headers.get("retry-after"))
        if seconds is None:
            seconds = _until(headers.get("retry-after"), headers.get("date"), clock)
        if seconds is None and (found := _RETRY_DELAY.search(str(one))):
            seconds = float(found[1])
        if seconds is not None:
            return min(seconds, LONGEST_SECONDS)
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error, and those that it was made of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _headers(error: BaseException) -> dict[str, str]:
    response = getattr(error, "response", None)
    for headers in (
        getattr(response, "headers", None),
        getattr(error, "litellm_response_headers", None),
        getattr(error, "headers", None),
    ):
        if isinstance(headers, Mapping) and headers:
            return {str(k).lower(): str(v) for k, v in headers.items()}
    return {}


def _number(text: str | None, unit: float = 1.0) -> float | None:
    """Read seconds; what is no number, or none that makes sense, is None."""
    try:
        seconds = float(text or "") * unit
    except ValueError:
        return None
    # NaN is not, either.
    return seconds if 0 <= seconds < float("inf") else None


def _until(
    date: str | None, now: str | None, clock: Callable[[], float]
) -> float | None:
    """Read an HTTP date; the provider's own clock counts, where it tells the time."""
    try:
        then = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    try:
        since = parsedate_to_datetime(now or "").timestamp()
    except ValueError:
        since = clock()
    return max(0.0, then - since)
