"""Who is asked to wait sends nothing meanwhile; clocks are the tests' own."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from pgembed.encoders.litellm import LitellmEncoder
from pgembed.errors import EncoderUnavailable
from pgembed.hosted import api
from pgembed.hosted.pauses import LONGEST_SECONDS, Pauses, retry_after
from tests.fixtures.hosted import ALLOWED, DIMENSIONS, MODELS, Answer, once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fixtures.hosted import HostedServer

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Refused(Exception):
    """What an HTTP library raises, as far as it matters."""

    def __init__(self, headers: Mapping[str, str], text: str = "") -> None:
        super().__init__(text)
        self.headers = headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:00 GMT"}, 0),  # over
        ({"retry-after": "Monday, 21-Sep-26 14:13:50 GMT"}, 30),
        # This machine's clock does not count where the provider's is told.
        (
            {
                "retry-after": "Mon, 21 Sep 2026 10:00:30 GMT",
                "date": "Mon, 21 Sep 2026 10:00:00 GMT",
            },
            30,
        ),
        ({"retry-after": "999999999"}, LONGEST_SECONDS),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, LONGEST_SECONDS),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "32 Foo 2026"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(Refused(headers), lambda: NOW) == seconds


def test_time_in_the_body_is_read() -> None:
    """As Google says it."""
    text = '{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34.5s"}]}}'
    assert retry_after(Refused({}, text)) == 34.5


def test_headers_of_an_error_that_another_was_made_of_count() -> None:
    outer = RuntimeError("no headers")
    outer.__cause__ = ValueError("none here either")
    outer.__cause__.__context__ = Refused({"retry-after": "3"})
    outer.__cause__.__context__.__context__ = outer  # a circle ends
    assert retry_after(outer) == 3


def test_pause_ends_by_itself_and_is_never_shortened() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    key, other = ("here", "model"), ("here", "other")
    assert pauses.seconds(key) == 0
    pauses.begin(key, 10)
    pauses.begin(key, 2)
    assert (pauses.seconds(key), pauses.seconds(other)) == (10, 0)
    clock.now += 9
    assert pauses.seconds(key) == 1
    clock.now += 1
    assert pauses.seconds(key) == 0
    pauses.begin(key, 1e9)
    assert pauses.seconds(key) == LONGEST_SECONDS


@pytest.fixture
def clock(hosted_api: HostedServer, monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(api, "PAUSES", Pauses(own))
    return own


def encoder(name: str = MODELS["openai"]) -> LitellmEncoder:
    return LitellmEncoder(name, dimensions=DIMENSIONS, settings=ALLOWED)


@pytest.mark.parametrize("name", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("as_date", [False, True])
def test_nothing_is_sent_before_the_time_is_over(
    hosted_api: HostedServer, clock: Clock, name: str, as_date: bool
) -> None:
    after = formatdate(time.time() + 30, usegmt=True) if as_date else "30"
    answer = Answer(429, {"message": "slow down"}, {"Retry-After": after})
    hosted_api.fault = once(answer)
    # Two of the same model: a pause is of the process, not of an object.
    for loaded in (encoder(name), encoder(name), encoder(name)):
        with pytest.raises(EncoderUnavailable) as caught:
            loaded.encode_queries(["x"])
        assert caught.value.retry_after == pytest.approx(30, abs=2)
        assert caught.value.back_pressure
    assert len(hosted_api.requests) == 1
    clock.now += 27
    with pytest.raises(EncoderUnavailable):
        loaded.encode_documents(["x"])
    clock.now += 4
    loaded.encode_documents(["x"])
    assert len(hosted_api.requests) == 2


def test_rate_limit_without_a_time_stops_those_beside_it(
    hosted_api: HostedServer, clock: Clock
) -> None:
    hosted_api.fault = once(Answer(429, {}))
    for _ in range(5):
        with pytest.raises(EncoderUnavailable):
            encoder().encode_documents(["x"])
    assert len(hosted_api.requests) == 1
    clock.now += 1
    encoder().encode_documents(["x"])


def test_other_models_go_on(hosted_api: HostedServer, clock: Clock) -> None:
    hosted_api.fault = once(Answer(429, {}, {"Retry-After": "30"}))
    with pytest.raises(EncoderUnavailable):
        encoder().encode_documents(["x"])
    for api_name in ("azure", "cohere", "voyage"):
        encoder(MODELS[api_name]).encode_documents(["x"])
    assert len(hosted_api.requests) == 4


@pytest.mark.usefixtures("clock")
def test_threads_do_not_hammer(hosted_api: HostedServer) -> None:
    """Those that are under way get their answer; none comes after it."""
    hosted_api.fault = lambda _request: Answer(429, {}, {"Retry-After": "30"})
    loaded = encoder()
    refused: list[Any] = []

    def work() -> None:
        for _ in range(20):
            try:
                loaded.encode_documents(["x"])
            except EncoderUnavailable as exc:
                refused.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 80
    assert len(hosted_api.requests) <= 4
