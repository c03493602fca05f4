"""What the encoder service and the client ask of an encoder, and shared checks.

How the service keeps queries quick while it encodes many documents:

    for batch in encoder.plan(texts):            # each is one short forward pass
        vectors = encoder.encode_documents([texts[i] for i in batch])
        ...                                      # answer waiting queries here

`plan` orders and groups; each batch is encoded by itself, so a batch that fails
does not take the others with it. `encode_documents(texts)` on many texts does the
same walk in one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from pgembed.errors import InvalidParameter, TextError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.settings import Backend

LEARNT_FROM = 20_000  # vectors, for a projection
_AT_ONCE = 1000  # vectors that are held as 64-bit numbers


class Encoder(Protocol):
    """Text to vectors.

    One instance is used by one thread at a time, but for a call that takes longer
    than a second: another one may go on beside it.

    Errors of `encode_documents`, `encode_queries`:
        TextError: The text cannot be encoded. With several texts in the call it
            is one of them: halve the batch to find it.
        EncoderUnavailable: The encoder itself seems out of order for now (outage, no
            memory on the device), and with `back_pressure` it is (rate limit, refused
            key): try again after `retry_after` seconds.

    Whoever calls takes any other error for one of the texts' too, and tells by
    another text whether it is.
    """

    @property
    def name(self) -> str:
        """The model's name as declared in `pgembed.model`."""

    @property
    def dimensions(self) -> int:
        """Length of every vector."""

    @property
    def max_tokens(self) -> int | None:
        """Longest input in tokens, special tokens included; None: no limit known.

        What is longer is truncated by the model, not refused.
        """

    @property
    def normalized(self) -> bool:
        """Whether every vector has unit length."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the weights (or what stands for them)."""

    @property
    def query_prompt(self) -> str:
        """What is put before every query."""

    @property
    def document_prompt(self) -> str:
        """What is put before every document."""

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts into batches of one forward pass each.

        Returns:
            Indices into `texts`, each exactly once, similar lengths together.

        Raises:
            TextError: A text is not valid Unicode.
        """

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions), in their order."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions)."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens with special tokens and document prompt, untruncated."""

    def tokenizer_json(self) -> str | None:
        """Give the Hugging Face fast tokenizer as JSON, None where there is none.

        Without truncation and padding, so that it counts what is really there.
        """


class Usage(Protocol):
    """What a hosted model was sent so far."""

    @property
    def tokens(self) -> int:
        """Tokens, as its provider counts them; an estimate where it does not say."""


@runtime_checkable
class Billed(Protocol):
    """An encoder that somebody else runs, for each token."""

    @property
    def usage(self) -> Usage:
        """What it was sent so far."""


@runtime_checkable
class ImageEncoder(Protocol):
    """What an encoder has besides that may encode images, into the space of texts."""

    @property
    def images(self) -> bool:
        """Whether the model does encode images: of some the weights decide."""

    def encode_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Encode image files, given their bytes: shape (len(images), dimensions).

        Raises:
            ImageError: One of them cannot be decoded; a `TextError`.
        """


class EncoderSettings(Protocol):
    """What encoders read from the service's settings."""

    @property
    def backend(self) -> Backend:
        """What computes the vectors of a local model."""

    @property
    def exports(self) -> str | None:
        """Folder of exported models; None: in the user's cache folder."""

    @property
    def model_folder(self) -> str | None:
        """Folder of models of one's own; None: in the user's folder of data."""

    @property
    def device(self) -> str | None:
        """`cuda`, `cuda:1`, `mps`, `cpu`; None chooses the best there is."""

    @property
    def half_precision(self) -> bool:
        """Whether a CUDA device computes in 16 bits."""

    @property
    def threads(self) -> int | None:
        """Threads that a local model computes with on the CPU; None: one a core."""

    @property
    def batch_tokens(self) -> int | None:
        """Most padded tokens in a batch; None: the device's default."""

    @property
    def hosted_models(self) -> bool:
        """Whether texts may be sent to hosted models (provider `litellm`)."""

    @property
    def request_timeout_seconds(self) -> float:
        """Longest wait for a hosted model's answer."""


def image_encoder(encoder: Encoder) -> ImageEncoder:
    """Give an encoder, if it encodes images.

    Raises:
        InvalidParameter: It encodes texts only.
    """
    if isinstance(encoder, ImageEncoder) and encoder.images:
        return encoder
    raise InvalidParameter(
        f"model {encoder.name!r} encodes no images",
        hint="Take a model of images and texts, such as clip-ViT-B-32.",
    )


def encodes_images(encoder: Encoder) -> bool:
    """Whether an encoder encodes images."""
    return isinstance(encoder, ImageEncoder) and encoder.images


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what cannot be written as UTF-8.

    Raises:
        TextError: A text holds a lone surrogate; names its index.
    """
    for index, text in enumerate(texts):
        # isascii() is a flag lookup; encoding is what finds surrogates.
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise TextError(
                f"text {index} is not valid Unicode: a lone surrogate "
                f"U+{ord(text[exc.start]):04X} at character {exc.start}",
                hint="Decode the source as UTF-8 with errors='replace'.",
            ) from exc


def check_vectors(vectors: object, texts: int, encoder: Encoder) -> NDArray[np.float32]:
    """Give what an encoder returned, if it is what it should be.

    Raises:
        TextError: There are too few or too many vectors, or of other dimensions, or
            one holds what is no number.
        TypeError, ValueError: These are no vectors at all.
    """
    checked = np.asarray(vectors, dtype=np.float32)
    if checked.shape != (texts, encoder.dimensions):
        raise TextError(
            f"model {encoder.name!r} gave vectors of shape {checked.shape} "
            f"for {texts} texts of {encoder.dimensions} dimensions"
        )
    if not np.isfinite(checked).all():
        raise TextError(f"model {encoder.name!r} gave a vector that is not finite")
    return checked


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every row to length 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return np.asarray(vectors / norms, dtype=np.float32)


def truncate_vectors(
    vectors: NDArray[np.float32], dimensions: int, *, normalized: bool
) -> NDArray[np.float32]:
    """Keep the first `dimensions` of each vector (Matryoshka models).

    Args:
        vectors: Shape (n, at least `dimensions`).
        dimensions: How many to keep.
        normalized: Scale what is left to unit length again.
    """
    if vectors.shape[1] == dimensions:
        return vectors
    kept = np.ascontiguousarray(vectors[:, :dimensions])
    return unit_length(kept) if normalized else kept


def project_vectors(
    vectors: NDArray[np.float32], axes: NDArray[np.float32], *, normalized: bool
) -> NDArray[np.float32]:
    """Give vectors along the axes of a projection; shorter ones are projected already.

    Args:
        vectors: Shape (n, m).
        axes: A row a dimension that is wanted, as long as the model's vectors.
        normalized: Scale them to unit length again.
    """
    if vectors.shape[1] != axes.shape[1]:
        return vectors
    made = np.asarray(vectors @ axes.T, dtype=np.float32)
    return unit_length(made) if normalized else made


def main_axes(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Find the directions in which vectors are longest, the longest first.

    These are the first right singular vectors: principal components without the mean
    taken off, so that inner products are kept as far as can be.

    Args:
        vectors: Shape (n, m).
        dimensions: How many directions.

    Returns:
        A row a direction: shape (dimensions, m).
    """
    gram = np.zeros((vectors.shape[1],) * 2)
    for first in range(0, len(vectors), _AT_ONCE):
        some = vectors[first : first + _AT_ONCE].astype(np.float64)
        gram += some.T @ some
    _, axes = np.linalg.eigh(gram)
    return np.ascontiguousarray(axes[:, ::-1][:, :dimensions].T, dtype=np.float32)
