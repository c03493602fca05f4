"""Re-rankers of providers (Cohere, Voyage, Jina and others), through litellm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pgembed.encoders.base import check_texts
from pgembed.encoders.batching import pack_sums
from pgembed.errors import InvalidParameter, RerankError, TextError
from pgembed.hosted.api import HostedModel, TextsRefused
from pgembed.hosted.tokens import estimate
from pgembed.hosted.usage import Spent
from pgembed.rerankers.base import check_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.encoders.base import EncoderSettings
    from pgembed.hosted.usage import Usage

PREFIX: Final = "litellm:"
"""Before a hosted re-ranker's name: without it, a name is a cross-encoder's."""


class HostedReranker:
    """A re-ranker of a provider; one request for as many texts as it takes.

    Attributes:
        name: As it was given: `litellm:cohere/rerank-v3.5`.
        concurrent: Several threads may use it at a time: they only wait.
    """

    concurrent = True

    def __init__(self, name: str, *, settings: EncoderSettings | None = None) -> None:
        """Prepare; no request is made.

        Args:
            name: `litellm:` and the model's name as litellm knows it.
            settings: Must allow hosted models.

        Raises:
            EncoderError: The settings do not allow hosted models.
            MissingExtra: litellm is not installed.
            ModelNotFound: litellm knows no such provider.
        """
        self.name = name
        self._api = HostedModel(name.removeprefix(PREFIX), settings)

    @property
    def usage(self) -> Usage:
        """What its requests have spent so far; see `Usage.listen` for each."""
        return self._api.usage

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score each text against the query.

        Args:
            query: What was searched for.
            texts: Longer ones than the model takes are truncated by the provider. One
                that is empty is not sent, and gets the lowest score of all.

        Returns:
            One number a text: larger answers better. Its scale is the model's.

        Raises:
            RerankError: The model gives no score for a text, or refuses one.
            TextError: A text is not valid Unicode.
            EncoderUnavailable: Rate limit, timeout, outage, or a refused key.
        """
        try:
            check_texts([query, *texts])
        except TextError as exc:
            raise TextError(f"cannot re-rank: {exc.message}", hint=exc.hint) from exc
        scores: dict[int, float] = {}
        said = [i for i, text in enumerate(texts) if text.strip()]
        for batch in reversed(self._plan(query, [texts[i] for i in said])):
            self._score(query, texts, [said[i] for i in batch], scores)
        lowest = min(scores.values(), default=0.0)
        return [scores.get(i, lowest) for i in range(len(texts))]

    def _plan(self, query: str, texts: Sequence[str]) -> list[list[int]]:
        limits = self._api.provider
        asked = estimate(query)
        return pack_sums(
            [asked + estimate(text) for text in texts],
            limits.most_rerank_tokens,
            limits.most_documents,
        )

    def _score(
        self,
        query: str,
        texts: Sequence[str],
        batch: list[int],
        scores: dict[int, float],
    ) -> None:
        """Make one request; two of half the size if it is too large."""
        try:
            answer = self._api.rerank(query, [texts[i] for i in batch])
        except TextsRefused as exc:
            if exc.fault == "too large" and len(batch) > 1:
                half = (len(batch) + 1) // 2
                self._score(query, texts, batch[:half], scores)
                self._score(query, texts, batch[half:], scores)
                return
            raise RerankError(
                f"re-ranker {self.name!r} refuses the query, or one of {len(batch)} "
                "texts",
                detail=exc.detail,
            ) from None
        self._count(answer, query, [texts[i] for i in batch])
        found = self._read(answer, len(batch))
        scores.update(zip(batch, found, strict=True))

    def _count(self, answer: Any, query: str, texts: list[str]) -> None:
        meta = getattr(answer, "meta", None) or {}
        units = meta.get("billed_units") or {}
        searches = int(units.get("search_units") or 0)
        told = units.get("total_tokens") or (meta.get("tokens") or {}).get(
            "input_tokens"
        )
        # Who is charged by searches is told of no tokens.
        guess = sum(map(estimate, texts)) + estimate(query) * len(texts)
        tokens = int(told or (0 if searches else guess))
        estimated = not (told or searches)
        self.usage.add(
            Spent(self._api.name, "rerank", len(texts), tokens, estimated, searches)
        )

    def _read(self, answer: Any, count: int) -> list[float]:
        """Put the scores, which come best first, into the order of the texts."""
        try:
            found = [
                (int(row["index"]), row["relevance_score"]) for row in answer.results
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise RerankError(
                f"re-ranker {self.name!r} gave no scores for {count} texts",
                detail=f"{type(exc).__name__}: {exc}",
            ) from exc
        found.sort(key=lambda row: row[0])
        if [index for index, _ in found] != list(range(count)):
            raise RerankError(
                f"re-ranker {self.name!r} gave {len(found)} scores for {count} texts, "
                "or scores of other texts"
            )
        return check_scores(self.name, (score for _, score in found), count)


def check_name(name: str) -> None:
    """Refuse a name that is nothing but the prefix, or has no provider.

    Raises:
        InvalidParameter: It is.
    """
    provider, _, model = name.removeprefix(PREFIX).partition("/")
    if not (provider and model):
        raise InvalidParameter(
            f"{name!r} does not name a hosted re-ranker",
            hint="Name provider and model: 'litellm:cohere/rerank-v3.5'.",
        )
