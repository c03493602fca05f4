"""Hosted and OpenAI-compatible models through litellm.

Which endpoint is asked and with which key comes from the service's environment only
(`OPENAI_API_KEY`, `OPENAI_API_BASE`, ... as litellm documents them): whoever may
declare a model in SQL can choose among the providers that the service's operator set
up, and can send texts nowhere else. The whole provider is off unless the settings
allow hosted models.
"""

from __future__ import annotations

import importlib
import math
import os
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import check_texts, truncate_vectors, unit_length
from pgembed.encoders.batching import pack
from pgembed.errors import (
    DimensionMismatch,
    EncoderError,
    EncoderUnavailable,
    MissingExtra,
    ModelNotFound,
    TextError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.encoders.base import EncoderSettings

DEFAULT_TIMEOUT: Final = 60.0  # seconds for one request
_REFUSED_RETRY: Final = 300.0  # seconds; a wrong key does not mend by itself
_BATCH_TEXTS: Final = 96  # providers take between 96 (Cohere) and 2,048 (OpenAI)
_BATCH_TOKENS: Final = 50_000  # well below the 300,000 of OpenAI
_CHARACTERS_PER_TOKEN: Final = 4
# What is wrong lies with the texts of the request.
_TEXT_STATUS: Final = frozenset({400, 413, 422})
# What is wrong lies with key, account or permissions: every text would fail.
_REFUSED_STATUS: Final = frozenset({401, 402, 403})
# The provider asks to wait, like 429, where it says for how long.
_WAIT_STATUS: Final = frozenset({502, 503, 529})
_COST_MAP: Final = "LITELLM_LOCAL_MODEL_COST_MAP"


class LitellmEncoder:
    """A hosted model, one request a batch, never retried here.

    Vectors are scaled to unit length, whatever the provider does, so that they fit
    any distance.

    Attributes:
        name: The model's name as litellm knows it: `openai/text-embedding-3-small`.
        dimensions: Length of every vector.
        max_tokens: Longest input as far as litellm knows it.
        normalized: Always True.
        fingerprint: SHA-256 over the name: a provider's weights cannot be seen.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        usage: What was billed so far.
    """

    normalized = True

    def __init__(
        self,
        name: str,
        *,
        dimensions: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        settings: EncoderSettings | None = None,
    ) -> None:
        """Prepare a hosted model; without `dimensions` one request is made.

        Args:
            name: The model's name as litellm knows it.
            dimensions: Length of the vectors; fewer than the model's truncates them.
                None asks the model once.
            query_prompt: Put before every query.
            document_prompt: Put before every document.
            settings: Must allow hosted models.

        Raises:
            EncoderError: The settings do not allow hosted models.
            MissingExtra: litellm is not installed.
            ModelNotFound: The provider does not have the model.
            EncoderUnavailable: It does not answer, or refuses the key.
        """
        if settings is None or not settings.hosted_models:
            raise EncoderError(
                f"model {name!r} is hosted, and this service does not send texts "
                "to hosted models",
                hint="Allow it in the service's environment: PGEMBED_HOSTED_MODELS=1.",
            )
        self.name = name
        self._litellm = _import_litellm()
        self._check_provider()
        self._timeout = settings.request_timeout_seconds
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.fingerprint = sha256(f"litellm: {name}".encode()).hexdigest()
        self.usage = _Usage()
        self.max_tokens = self._known_limit()
        self.dimensions = dimensions or self._request(["dimensions"]).shape[1]

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts into requests that every provider takes."""
        return pack(self.count_tokens(texts), _BATCH_TOKENS, _BATCH_TEXTS)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions).

        Raises:
            TextError: The provider refuses one of the texts.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
        """
        return self._encode(texts, self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions).

        Raises:
            TextError: The provider refuses one of the texts.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
        """
        return self._encode(texts, self.query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimate tokens, four characters each; the tokenizer is the provider's."""
        check_texts(texts)
        prompt = len(self.document_prompt)
        return [(prompt + len(text)) // _CHARACTERS_PER_TOKEN + 1 for text in texts]

    def tokenizer_json(self) -> str | None:
        """Give None: the tokenizer is the provider's."""
        return None

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for batch in self.plan(texts):
            raw = self._request([prompt + texts[i] for i in batch])
            if raw.shape[1] < self.dimensions:
                raise DimensionMismatch(
                    f"model {self.name!r} gives {raw.shape[1]} dimensions, "
                    f"not {self.dimensions}",
                    hint=f"Declare it with {raw.shape[1]} dimensions or fewer.",
                )
            vectors[batch] = truncate_vectors(raw, self.dimensions, normalized=True)
        return vectors

    def _request(self, texts: list[str]) -> NDArray[np.float32]:
        """Make one request; vectors of unit length, in the order of the texts."""
        try:
            # max_retries=0: waiting is the service's work, which goes on with other
            # models meanwhile.
            response = self._litellm.embedding(
                model=self.name,
                input=texts,
                timeout=self._timeout,
                num_retries=0,
                max_retries=0,
            )
        # litellm's errors share no root of its own; all are told apart by status.
        except Exception as exc:
            raise self._error(exc, len(texts)) from exc
        self.usage.add(_told(response) or sum(self.count_tokens(texts)))
        try:
            # The API may answer out of order: `index` says which text it was.
            rows = sorted(response.data, key=lambda row: int(row["index"]))
            vectors = np.asarray([row["embedding"] for row in rows], dtype=np.float32)
            indices = [int(row["index"]) for row in rows]
        except (KeyError, TypeError, ValueError) as exc:
            raise TextError(
                f"model {self.name!r} gave no vectors to {len(texts)} texts, or "
                "vectors of unlike lengths",
                detail=f"{type(exc).__name__}: {exc}",
            ) from exc
        if vectors.ndim != 2 or indices != list(range(len(texts))):
            raise TextError(
                f"model {self.name!r} gave {len(rows)} vectors to {len(texts)} texts"
            )
        if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
            raise TextError(
                f"model {self.name!r} gave a vector of zeros or of no numbers"
            )
        return unit_length(vectors)

    def _error(self, exc: Exception, texts: int) -> EncoderError:
        detail = f"{type(exc).__name__}: {exc}"
        status = getattr(exc, "status_code", None)
        if status == 404:
            return self._not_found(exc)
        if status in _REFUSED_STATUS:
            return EncoderUnavailable(
                f"hosted model {self.name!r} refuses this service's key",
                retry_after=_retry_after(exc) or _REFUSED_RETRY,
                back_pressure=True,
                detail=detail,
                hint="Check the provider's key in the service's environment.",
            )
        # Connection errors carry status 500; timeouts 408.
        if status in _TEXT_STATUS:
            one = "this text" if texts == 1 else f"one of {texts} texts"
            return TextError(f"hosted model {self.name!r} refuses {one}", detail=detail)
        wait = _retry_after(exc)
        return EncoderUnavailable(
            f"hosted model {self.name!r} does not answer now",
            retry_after=wait,
            back_pressure=status == 429
            or (status in _WAIT_STATUS and wait is not None),
            detail=detail,
        )

    def _check_provider(self) -> None:
        try:
            self._litellm.get_llm_provider(self.name)
        # Raised as a bad request, which for a real request is the text's fault.
        except Exception as exc:
            raise self._not_found(exc) from exc

    def _not_found(self, exc: Exception) -> ModelNotFound:
        return ModelNotFound(
            f"hosted model {self.name!r} was not found",
            detail=f"{type(exc).__name__}: {exc}",
            hint="Name it as litellm does: 'provider/model'.",
        )

    def _known_limit(self) -> int | None:
        try:
            limit = self._litellm.get_model_info(self.name).get("max_input_tokens")
        # Raised, as plain Exception, for every model that litellm has no entry for.
        except Exception:
            return None
        return int(limit) if limit else None


class _Usage:
    """Adds up what was billed: a thread at a time, but for calls that take long."""

    def __init__(self) -> None:
        self.tokens = 0
        self._lock = threading.Lock()

    def add(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens


def _told(response: Any) -> int | None:
    """Read how many tokens a request was billed for; None: it is not said."""
    tokens = getattr(getattr(response, "usage", None), "total_tokens", None)
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def _import_litellm() -> Any:
    """Import litellm without the download that its import makes by default."""
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
    return module


def _retry_after(exc: Exception) -> float | None:
    """Read the provider's Retry-After header, in seconds."""
    headers = getattr(getattr(exc, "response", None), "headers", None) or getattr(
        exc, "litellm_response_headers", None
    )
    try:
        seconds = float((headers or {}).get("retry-after", ""))
    except (TypeError, ValueError):  # not given, or given as a date
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
