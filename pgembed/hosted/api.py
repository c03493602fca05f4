"""Requests to a hosted model through litellm: the only module that imports it.

Which endpoint is asked and with which key comes from the process's environment only
(`OPENAI_API_KEY`, `OPENAI_API_BASE`, ... as litellm documents them): whoever may
declare a model in SQL can choose among the providers that the operator set up, and can
send texts nowhere else. No request is made unless the settings allow hosted models.

litellm's own retries and waiting are off: the service waits, and goes on with other
models meanwhile. Its errors are replaced by pgembed's, without a reference to them:
what they hold (headers, addresses, their frames' variables) may have a key in it.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, Protocol

from pgembed.errors import (
    EncoderError,
    EncoderUnavailable,
    MissingExtra,
    ModelNotFound,
    TextError,
)
from pgembed.hosted.pauses import Pauses, chain, retry_after
from pgembed.hosted.providers import PROVIDERS, UNKNOWN
from pgembed.hosted.secrets import guard_logs, redact
from pgembed.hosted.usage import Usage

PAUSES: Final = Pauses()
"""Of this process: all its threads and models."""

_DEFAULT_PAUSE: Final = 0.5  # seconds, where a rate limit names no time
_REFUSED_RETRY: Final = 300.0  # seconds; a wrong key does not mend by itself
_MOST_DETAIL: Final = 1000  # characters of a provider's own message
# What is wrong lies with the texts of the request.
_TEXT_STATUS: Final = frozenset({400, 413, 422})
# What is wrong lies with key, account or permissions: every text would fail.
_REFUSED_STATUS: Final = frozenset({401, 402, 403})
# The provider asks to wait, like 429, where it says for how long.
_WAIT_STATUS: Final = frozenset({502, 503, 529})
_COST_MAP: Final = "LITELLM_LOCAL_MODEL_COST_MAP"

# Each provider says in its own words that a request has too many texts or tokens in
# all; 413 says it too, often from a proxy before it.
_TOO_LARGE: Final = re.compile(
    r"max_tokens_per_request|tokens per request|split into more batches"
    r"|tokens in (the |a |this )?batch|(submitted|one|a single) batch"
    r"|too many (texts|inputs|documents|strings)|number of (texts|inputs|documents)"
    r"|batch size|payload too large|request (entity|body)? ?(is )?too large",
    re.IGNORECASE,
)
_TOO_LONG: Final = re.compile(
    r"context length|maximum input length|input is too long|too many tokens"
    r"|exceed\w* (the )?(maximum|max|context|input)|token limit|truncat",
    re.IGNORECASE,
)

TextFault = Literal["too large", "too long", "refused"]


class TextsRefused(TextError):
    """A provider refuses the texts of a request.

    Attributes:
        fault: `too large` (the request: fewer texts may do), `too long` (a text), or
            `refused` for any other reason.
    """

    def __init__(self, message: str, fault: TextFault, *, detail: str) -> None:
        super().__init__(message, detail=detail)
        self.fault: TextFault = fault


class HostedSettings(Protocol):
    """What is read of the process's settings."""

    @property
    def hosted_models(self) -> bool:
        """Whether texts may be sent to hosted models."""

    @property
    def request_timeout_seconds(self) -> float:
        """Longest wait for an answer, and for each part of it."""


class HostedModel:
    """One model of a provider.

    Attributes:
        name: As litellm knows it: `openai/text-embedding-3-small`.
        provider: What is declared of the provider's API.
        model: The name without the provider's.
        usage: What its requests have spent.
    """

    def __init__(self, name: str, settings: HostedSettings | None) -> None:
        """Prepare; no request is made.

        Args:
            name: The model's name as litellm knows it.
            settings: Must allow hosted models.

        Raises:
            EncoderError: The settings do not allow hosted models.
            MissingExtra: litellm is not installed.
            ModelNotFound: litellm knows no such provider.
        """
        if settings is None or not settings.hosted_models:
            raise EncoderError(
                f"model {name!r} is hosted, and this process does not send texts "
                "to hosted models",
                hint="Allow it in its environment: PGEMBED_HOSTED_MODELS=1.",
            )
        self.name = name
        self._litellm = _import_litellm()
        self._timeout = settings.request_timeout_seconds
        found = _attempt(lambda: self._litellm.get_llm_provider(name), self._not_found)
        self.model, self._provider_name = str(found[0]), str(found[1])
        self.provider = PROVIDERS.get(self._provider_name, UNKNOWN)
        self.usage = Usage()

    def known(self, fact: str) -> int | None:
        """Give a number that litellm knows of the model; None: it does not."""
        try:
            number = self._litellm.get_model_info(self.name).get(fact)
        # Raised, as plain Exception, for every model that litellm has no entry for.
        except Exception:
            return None
        return int(number) if number else None

    def embed(self, texts: list[str], parameters: Mapping[str, Any]) -> Any:
        """Ask for the vectors of texts; gives litellm's answer.

        Raises:
            TextsRefused: The provider refuses one of the texts, or their number.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
            ModelNotFound: The provider does not have the model.
        """
        return self._ask(
            self._litellm.embedding,
            self.provider.embed_address,
            len(texts),
            input=[self.provider.as_text(text) for text in texts],
            **parameters,
        )

    def rerank(self, query: str, documents: list[str]) -> Any:
        """Ask for the scores of documents; gives litellm's answer.

        Raises:
            TextsRefused: The provider refuses one of the texts, or their number.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
            ModelNotFound: The provider does not have the model.
        """
        return self._ask(
            self._litellm.rerank,
            self.provider.endpoint,
            len(documents),
            query=query,
            documents=documents,
            top_n=len(documents),
            return_documents=False,
        )

    def _ask(
        self,
        function: Callable[..., Any],
        address: Callable[[], str | None],
        texts: int,
        **arguments: Any,
    ) -> Any:
        """Make a request; its address, which may hold a password, is in no frame."""
        left = PAUSES.seconds(self._pause_key())
        if left > 0:
            raise self._waiting(left)
        self._litellm.set_verbose = False  # it prints addresses; LITELLM_LOG does not
        return _attempt(
            lambda: function(
                model=self.name,
                api_base=address(),
                timeout=self._timeout,
                num_retries=0,
                max_retries=0,
                **arguments,
            ),
            lambda exc: self._error(exc, texts),
        )

    def _pause_key(self) -> tuple[str, str]:
        return (self.provider.endpoint() or self._provider_name, self.name)

    def _waiting(self, left: float) -> EncoderUnavailable:
        return EncoderUnavailable(
            f"hosted model {self.name!r} does not answer now: it asked to wait, "
            f"{left:.1f} s more",
            retry_after=left,
            back_pressure=True,
        )

    def _error(self, exc: Exception, texts: int) -> EncoderError:
        """Make pgembed's error of litellm's, which share no root and are untyped."""
        detail = _detail(exc)
        status = _status(exc)
        if status == 404:
            return self._not_found(exc)
        wait = retry_after(exc)
        if status in _REFUSED_STATUS:
            PAUSES.begin(self._pause_key(), _DEFAULT_PAUSE)
            return EncoderUnavailable(
                f"hosted model {self.name!r} refuses the key",
                retry_after=wait or _REFUSED_RETRY,
                back_pressure=True,
                detail=detail,
                hint="Check the provider's key in the environment.",
            )
        if status == 429 or (status in _WAIT_STATUS and wait is not None):
            PAUSES.begin(self._pause_key(), _DEFAULT_PAUSE if wait is None else wait)
            return EncoderUnavailable(
                f"hosted model {self.name!r} does not answer now: it asks to wait"
                + ("" if wait is None else f" for {wait:g} s"),
                retry_after=wait,
                back_pressure=True,
                detail=detail,
            )
        # Connection errors carry status 500; timeouts 408.
        if status in _TEXT_STATUS:
            one = "this text" if texts == 1 else f"one of {texts} texts"
            return TextsRefused(
                f"hosted model {self.name!r} refuses {one}",
                _fault(status, detail),
                detail=detail,
            )
        return EncoderUnavailable(
            f"hosted model {self.name!r} does not answer now, or not as it should",
            retry_after=wait,
            detail=detail,
        )

    def _not_found(self, exc: Exception) -> ModelNotFound:
        return ModelNotFound(
            f"hosted model {self.name!r} was not found",
            detail=_detail(exc),
            hint="Name it as litellm does: 'provider/model'.",
        )


def _attempt(
    call: Callable[[], Any], failure: Callable[[Exception], EncoderError]
) -> Any:
    """Call litellm; its error does not come along as the cause of ours."""
    try:
        return call()
    except Exception as exc:
        error = failure(exc)
    raise error


def _status(error: Exception) -> int:
    """Find the answer's status; litellm says 500 for some that it does not know."""
    for one in chain(error):
        status = getattr(one, "status_code", None)
        if not isinstance(status, int):
            status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int) and status not in (200, 500):
            return status
    return 500


def _detail(exc: Exception) -> str:
    # litellm appends the traceback of what it did not foresee.
    text = f"{type(exc).__name__}: {exc}".partition("\nTraceback (most recent")[0]
    said = _body(exc)
    if said and said not in text:
        text = f"{text.strip()} - {said}"
    text = redact(text).strip()
    return text if len(text) <= _MOST_DETAIL else text[:_MOST_DETAIL] + " ..."


def _body(error: Exception) -> str:
    """Find what the provider answered, of which litellm's message may say nothing."""
    for one in chain(error):
        with suppress(Exception):  # it has none, or one that was not read
            text = one.response.text  # type: ignore[attr-defined] # of HTTP libraries
            if isinstance(text, str) and text.strip():
                return text.strip()
    return ""


def _fault(status: object, detail: str) -> TextFault:
    if status == 413 or _TOO_LARGE.search(detail):
        return "too large"
    return "too long" if _TOO_LONG.search(detail) else "refused"


def _import_litellm() -> Any:
    """Import litellm without the download that its import makes by default."""
    others = "litellm" in sys.modules  # which the program uses itself
    before = os.environ.get(_COST_MAP)
    os.environ.setdefault(_COST_MAP, "True")
    try:
        module: Any = importlib.import_module("litellm")
    except ImportError as exc:
        raise MissingExtra("api") from exc
    finally:
        if before is None:
            os.environ.pop(_COST_MAP, None)
    module.suppress_debug_info = True
    module.telemetry = False
    # Its OpenAI client takes max_retries=0 for "not given" and would retry twice.
    module.DEFAULT_MAX_RETRIES = 0
    guard_logs()
    if not others and not os.environ.get("LITELLM_LOG"):
        # It writes to stderr by itself; what is wrong is in our errors.
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return module
