"""From what a caller names to a re-ranker that can score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pgembed.errors import InvalidParameter, RerankError
from pgembed.rerankers.base import Reranker, SupportsPredict, check_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.encoders.base import EncoderSettings

#: Small and quick, trained on questions and passages in English.
DEFAULT_RERANKER: Final = "cross-encoder/ms-marco-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """An object with `predict`, such as a CrossEncoder of the caller's own."""

    model: SupportsPredict
    name: str

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score each text against the query."""
        if not texts:
            return []
        try:
            scores = self.model.predict([(query, text) for text in texts])
        # The caller's own code: whatever it raises is about this call.
        except Exception as exc:
            raise RerankError(
                f"re-ranker {self.name!r} failed on {len(texts)} texts",
                detail=f"{type(exc).__name__}: {exc}",
            ) from exc
        return check_scores(self.name, scores, len(texts))


def load_reranker(name: str, *, settings: EncoderSettings | None = None) -> Reranker:
    """Load a re-ranker; imports its libraries only now.

    Args:
        name: A cross-encoder's directory or name on the hub; or `litellm:` and a
            hosted re-ranker's provider and model: `litellm:cohere/rerank-v3.5`.
        settings: Device, precision and batch size; None chooses all. Hosted models
            must be allowed by them.

    Raises:
        MissingExtra: The extra `encoder` is not installed; for a hosted one, `api`.
        ModelNotFound: No place has it, it cannot be loaded, or is no cross-encoder.
        EncoderError: The settings do not allow hosted models.
        InvalidParameter: The name of a hosted one has no provider or no model.
    """
    from pgembed.rerankers.hosted import PREFIX, HostedReranker, check_name

    if name.startswith(PREFIX):
        check_name(name)
        return HostedReranker(name, settings=settings)
    from pgembed.rerankers.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker(name, settings=settings)


def as_reranker(given: object) -> Reranker:
    """Accept a `Reranker`, or an object with `predict` over pairs.

    Raises:
        InvalidParameter: It is neither.
    """
    # A class has these methods too, but no instance to call them on.
    if not isinstance(given, type):
        if isinstance(given, Reranker):
            return given
        if isinstance(given, SupportsPredict):
            return _Wrapped(given, type(given).__name__)
    raise InvalidParameter(
        f"reranker must be a model's name, or an object that scores, not {given!r}",
        hint="Give a CrossEncoder's name or path, a CrossEncoder, or an object with "
        "the methods of pgembed.rerankers.Reranker.",
    )
