"""Keys are in no message, log, traceback or output, whatever goes wrong."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from pgembed.encoders.litellm import LitellmEncoder
from pgembed.errors import PgembedError
from pgembed.hosted.secrets import HIDDEN, redact, secrets
from pgembed.rerankers import load_reranker
from tests.fixtures.hosted import (
    ALLOWED,
    DIMENSIONS,
    KEY,
    MODELS,
    RERANKERS,
    Answer,
    once,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.hosted import HostedServer

ROOT = Path(__file__).parents[3]
PASSWORD = "pass%2Fword-of-a-gateway"
URL = f"https://user:{PASSWORD}@gate.example/v1?api_key=query-key-0123&region=europe"


def test_which_variables_hold_secrets() -> None:
    found = secrets(
        {
            "OPENAI_API_KEY": "sk-0123456789",
            "AWS_SECRET_ACCESS_KEY": "aws/0123456789",
            "SOME_TOKEN": "token-0123456789",
            "OPENAI_API_BASE": URL,
            "OLLAMA_API_BASE": "http://localhost:11434",
            "BROKEN_URL": "http://[::1",
            "SHORT_KEY": "test",
            "HOME": "/home/somebody",
        }
    )
    assert set(found) == {
        *("sk-0123456789", "aws/0123456789", "aws%2F0123456789", "token-0123456789"),
        *(PASSWORD, "pass/word-of-a-gateway", quote(PASSWORD, safe="")),
        "query-key-0123",
    }


def test_secrets_are_hidden_in_each_way_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_BASE", URL)
    for text in (
        f"bad key {KEY}!",
        f"?key={quote(KEY, safe='')}&a=b",
        f"{KEY[:8]}********",
        f"asked {URL}",
        "http://me:pw@localhost:1/v1",  # too short to be known as one
    ):
        shown = redact(text)
        assert HIDDEN in shown
        assert "sekret" not in shown
        assert "gateway" not in shown
        assert "query-key" not in shown
        assert "pw@" not in shown
    assert redact("nothing to hide") == "nothing to hide"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Give all that is logged, from the lowest level on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root, litellm = logging.getLogger(), logging.getLogger("LiteLLM")
    before = root.level, litellm.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    litellm.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before[0])
    litellm.setLevel(before[1])


def _ask(name: str) -> None:
    if name in MODELS.values():
        LitellmEncoder(name, dimensions=DIMENSIONS, settings=ALLOWED).encode_documents(
            ["a text"]
        )
    else:
        load_reranker(f"litellm:{name}", settings=ALLOWED).score("a query", ["a text"])


def _frames(error: BaseException) -> str:
    """Format a traceback with the variables of the frames, as error trackers do."""
    own = error.__traceback__
    return "".join(
        traceback.TracebackException(
            type(error), error, own.tb_next if own else None, capture_locals=True
        ).format()
    )


@pytest.mark.parametrize("name", [*MODELS.values(), *RERANKERS.values()])
def test_nothing_shows_a_key(
    hosted_api: HostedServer,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    logged: io.StringIO,
) -> None:
    """Though the provider's own messages have it, and litellm's debug output is on."""
    monkeypatch.setenv("LITELLM_LOG", "DEBUG")
    for variable, value in hosted_api.environment().items():
        if variable.endswith("_BASE"):
            address = value.replace("//", f"//user:{PASSWORD}@")
            monkeypatch.setenv(variable, address)
    said = f"the key {KEY} is no good"
    body = {"error": {"message": said}, "message": said, "detail": said}
    shown = []
    for status in (200, 400, 401, 403, 404, 413, 429, 500, 503):
        hosted_api.fault = once() if status == 200 else once(Answer(status, body))
        try:
            _ask(name)
        except PgembedError as exc:
            shown.append(_frames(exc))
            assert status != 200
    hosted_api.stop()
    with pytest.raises(PgembedError) as caught:
        _ask(name)
    shown.append(_frames(caught.value))
    everything = "".join([*shown, logged.getvalue(), *capfd.readouterr()])
    assert HIDDEN in everything
    for part in (KEY, quote(KEY, safe=""), KEY[:10], PASSWORD, "word-of-a-gateway"):
        assert part not in everything


def test_errors_come_without_the_librarys(hosted_api: HostedServer) -> None:
    """What litellm raised would bring its frames along, where keys are variables."""
    hosted_api.fault = lambda _request: Answer(500, {})
    with pytest.raises(PgembedError) as caught:
        _ask(MODELS["openai"])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_library_is_silent_by_itself(hosted_api: HostedServer) -> None:
    """It writes to stderr and stdout unless told otherwise: in a process of its own."""
    program = (
        "import sys\n"
        "from pgembed.rerankers import load_reranker\n"
        "from pgembed.settings import Settings\n"
        "from pgembed.errors import PgembedError\n"
        "reranker = load_reranker(sys.argv[1], settings=Settings(hosted_models=True))\n"
        "try:\n    reranker.score('a', ['b'])\n"
        "except PgembedError: print('refused')\n"
    )
    hosted_api.fault = lambda _request: Answer(500, {"message": "no"})
    run = subprocess.run(
        [sys.executable, "-c", program, f"litellm:{RERANKERS['cohere']}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*_path(), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("refused\n", "")


def _path() -> list[str]:
    return [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]


def test_records_that_cannot_be_formatted_are_hidden(
    hosted_api: HostedServer, logged: io.StringIO
) -> None:
    _ask(MODELS["openai"])  # which guards the library's loggers
    logger = logging.getLogger("LiteLLM")
    logger.warning("%s and %s", KEY)  # noqa: PLE1206 # on purpose
    try:
        raise ValueError(KEY)
    except ValueError:
        logger.exception("with a traceback")
    record: Any = logged.getvalue()
    assert KEY not in record
    assert "ValueError: [secret]" in record
