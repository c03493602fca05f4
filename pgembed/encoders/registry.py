"""From a model's name and provider to a loaded encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgembed.encoders.hashing import DEFAULT_DIMENSIONS, HashingEncoder
from pgembed.errors import ModelNotFound
from pgembed.settings import Backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgembed.encoders.base import Encoder, EncoderSettings

PROVIDERS: Final = ("sentence-transformers", "static", "hashing", "litellm")


def load_encoder(
    name: str,
    provider: str = "sentence-transformers",
    *,
    revision: str | None = None,
    dimensions: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    settings: EncoderSettings | None = None,
) -> Encoder:
    """Load a model; imports its provider's libraries only now.

    Args:
        name: The model's name as declared.
        provider: One of `PROVIDERS`.
        revision: Commit of the model on the hub; None: whichever is found. Only models
            of the hub have one.
        dimensions: Length of the vectors; None: as many as the model has.
        query_prompt: Put before queries; None: the model's own, '': none.
        document_prompt: Put before documents; None: the model's own, '': none.
        settings: Backend, device, precision, hosted models allowed; None: the
            defaults.

    Raises:
        ModelNotFound: No such provider, model or revision, or it cannot be loaded here.
        MissingExtra: The provider's libraries are not installed.
        DimensionMismatch: The model cannot give vectors of that length.
        EncoderUnavailable: A hosted model does not answer now.

    Example:
        >>> load_encoder("test", "hashing", dimensions=8).encode_queries(["hi"]).shape
        (1, 8)
    """
    if revision is not None and provider in ("hashing", "litellm"):
        raise ModelNotFound(
            f"model {name!r} of provider {provider!r} has no revision {revision!r}",
            hint="Only models of the hub have revisions: register it without one.",
        )
    if provider == "hashing":
        return HashingEncoder(
            name,
            DEFAULT_DIMENSIONS if dimensions is None else dimensions,
            query_prompt=query_prompt or "",
            document_prompt=document_prompt or "",
        )
    if provider == "sentence-transformers":
        return _local_class(name, revision, settings)(
            name,
            revision=revision,
            dimensions=dimensions,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            settings=settings,
        )
    if provider == "static":
        from pgembed.encoders.static import StaticEncoder

        return StaticEncoder(
            name,
            revision=revision,
            dimensions=dimensions,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
        )
    if provider == "litellm":
        from pgembed.encoders.litellm import LitellmEncoder
        from pgembed.encoders.prompts import choose_prompts

        query, document = choose_prompts(name, query_prompt, document_prompt, {}, None)
        return LitellmEncoder(
            name,
            dimensions=dimensions,
            query_prompt=query,
            document_prompt=document,
            settings=settings,
        )
    raise ModelNotFound(
        f"model {name!r} has the unknown provider {provider!r}",
        hint=f"Register it with one of: {', '.join(PROVIDERS)}.",
    )


def _local_class(
    name: str, revision: str | None, settings: EncoderSettings | None
) -> Callable[..., Encoder]:
    from pgembed.encoders.backends import choose_backend

    if choose_backend(name, revision, settings) == Backend.ONNX:
        from pgembed.encoders.onnx import OnnxEncoder

        return OnnxEncoder
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder
