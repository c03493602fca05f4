"""Local models through sentence-transformers; the only module that imports torch."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import (
    check_texts,
    truncate_vectors,
    unit_length,
)
from pgembed.encoders.batching import pack
from pgembed.encoders.forks import torch_is_used
from pgembed.encoders.images import open_image
from pgembed.encoders.lookup import find_model
from pgembed.encoders.pooling import Assumed
from pgembed.encoders.prompts import choose_prompts
from pgembed.encoders.trust import check_folder, library_arguments, list_modules
from pgembed.encoders.weights import fingerprint
from pgembed.errors import (
    DimensionMismatch,
    EncoderUnavailable,
    MissingExtra,
    ModelNotFound,
    TextError,
)

try:
    import sentence_transformers
    import tokenizers
    import torch
    import transformers
except ImportError as exc:
    raise MissingExtra("encoder") from exc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

    from pgembed.encoders.base import EncoderSettings

    _Inputs = list[str] | list[Image]

log = logging.getLogger(__name__)

# Padded tokens in a batch. On a CPU a batch must be short, for a waiting query waits
# for it. Two cores, MiniLM, 600 docstrings, against model.encode(batch_size=32):
# 1,024 tokens 1.41 times as fast (0.17 s a batch), 2,048 1.46, 4,096 1.3, 8,192 1.0.
# A GPU needs more to be busy; out of memory halves it.
BATCH_TOKENS: Final = {"cpu": 1024, "mps": 8192, "cuda": 32768}
_BATCH_TEXTS: Final = 512
_OUT_OF_MEMORY_RETRY: Final = 30.0  # seconds
_CHARACTERS_PER_TOKEN: Final = 4  # estimate for models without a fast tokenizer


class SentenceTransformersEncoder:
    """A sentence-transformers model on the best device of this machine.

    Attributes:
        name: The model's name.
        dimensions: Length of every vector.
        max_tokens: Longest input, special tokens included; longer is truncated.
        normalized: Whether every vector has unit length.
        fingerprint: SHA-256 over the weight files.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        backend: `torch`.
        device: Where it runs: `cuda:0`, `mps`, `cpu`.
        origin: Where it was found: `path`, `package` or `hub`.
        images: Whether it encodes images too.
    """

    backend = "torch"

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        dimensions: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        settings: EncoderSettings | None = None,
    ) -> None:
        """Find and load a model; takes seconds, or a download.

        Args:
            name: A directory, a packaged model's name, or a name on the hub.
            revision: Commit on the hub; None: whichever is found. See `find_model`.
            dimensions: Fewer than the model has: vectors are truncated and, where
                the model normalises, scaled to unit length again.
            query_prompt: None takes the model's own; '' is no prompt.
            document_prompt: None takes the model's own; '' is no prompt.
            settings: Device, precision, threads, batch size; None chooses all.

        Raises:
            ModelNotFound: No place has it, or what is there cannot be loaded, or must
                not be: see `pgembed.encoders.trust`.
            DimensionMismatch: The model has fewer dimensions than asked for.
        """
        found = find_model(name, revision, settings)
        self.name = name
        self.origin = found.origin
        # Before loading: all is checked first, executed after.
        check_folder(name, found.folder)
        self.fingerprint = fingerprint(found.folder)
        device = _choose_device(settings.device if settings else None)
        with quiet():
            try:
                self._model = sentence_transformers.SentenceTransformer(
                    str(found.folder), device=device, **library_arguments()
                )
            # Loading runs the code of three libraries over files from anywhere.
            except Exception as exc:
                raise ModelNotFound(
                    f"model {name!r} could not be loaded from {found.folder} "
                    f"to device {device!r}",
                    detail=f"{type(exc).__name__}: {exc}",
                    hint="Check that the directory holds a complete "
                    "sentence-transformers model that needs no code of its own "
                    "(pgembed never runs a model's own code), and that the device "
                    "exists.",
                ) from exc
        if not list_modules(found.folder) and len(self._model) > 1:
            self._assume(Assumed.of(name, found.folder))
        self._model.eval()
        torch_is_used()
        if settings is not None and settings.threads is not None:
            torch.set_num_threads(settings.threads)  # of the whole process
        self._set_precision(settings.half_precision if settings else True)
        self.device = str(self._model.device)
        self._batch_tokens = (
            settings.batch_tokens if settings else None
        ) or BATCH_TOKENS.get(self._model.device.type, BATCH_TOKENS["cpu"])
        prompts = self._model.prompts, self._model.default_prompt_name
        self.query_prompt, self.document_prompt = choose_prompts(
            name, query_prompt, document_prompt, *prompts
        )
        limit = self._model.max_seq_length
        # Static models state infinity, some tokenizers 10**30: no limit.
        self.max_tokens = int(limit) if limit and limit < 1 << 30 else None
        self._tokenizer = _fast_tokenizer(self._model)
        self.images = bool(self._model.supports("image"))
        self.normalized = False
        probe = self._forward(["a", "two words"], "", "document")
        self.normalized = bool(np.allclose(np.linalg.norm(probe, axis=1), 1, atol=5e-3))
        own = probe.shape[1]
        if dimensions is not None and not 1 <= dimensions <= own:
            raise DimensionMismatch(
                f"model {name!r} has {own} dimensions, not {dimensions}",
                hint=f"Declare it with {own} dimensions, or fewer to truncate.",
            )
        self.dimensions = dimensions or own

    @property
    def library_model(self) -> sentence_transformers.SentenceTransformer:
        """The library's model, which training changes."""
        return self._model

    @property
    def transformer(self) -> Any:
        """The library's module that turns texts into token vectors."""
        return self._model[0]

    @property
    def transformer_dimensions(self) -> int:
        """Length of a token's vector."""
        return int(self.transformer.get_embedding_dimension())

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Group texts by real token length into batches of a bounded padded size."""
        lengths = self.count_tokens(texts)
        if self.max_tokens is not None:
            lengths = [min(length, self.max_tokens) for length in lengths]
        return pack(lengths, self._batch_tokens, _BATCH_TEXTS)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to store: shape (len(texts), dimensions).

        Raises:
            TextError: One of the texts cannot be encoded.
            EncoderUnavailable: The device is out of memory or out of order.
        """
        return self._encode(texts, self.document_prompt, "document")

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions).

        Raises:
            TextError: One of the texts cannot be encoded.
            EncoderUnavailable: The device is out of memory or out of order.
        """
        return self._encode(texts, self.query_prompt, "query")

    def encode_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Encode image files, given their bytes: shape (len(images), dimensions).

        Raises:
            ImageError: One of them cannot be decoded.
            TextError: One of them cannot be encoded.
            EncoderUnavailable: The device is out of memory or out of order.
        """
        pixels = [open_image(image) for image in images]
        return truncate_vectors(
            self._forward(pixels, None, "document"),
            self.dimensions,
            normalized=self.normalized,
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens with special tokens and document prompt, untruncated.

        Raises:
            TextError: A text is not valid Unicode.
        """
        check_texts(texts)
        prompted = [self.document_prompt + text for text in texts]
        if self._tokenizer is None:
            return [len(text) // _CHARACTERS_PER_TOKEN + 1 for text in prompted]
        return [len(e.ids) for e in self._tokenizer.encode_batch_fast(prompted)]

    def tokenizer_json(self) -> str | None:
        """Give the model's tokenizer, without truncation and padding, as JSON."""
        return None if self._tokenizer is None else str(self._tokenizer.to_str())

    def _encode(
        self, texts: Sequence[str], prompt: str, task: str
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        # A single text, the usual query, needs no plan.
        batches = [[0]] if len(texts) == 1 else self.plan(texts)
        for batch in batches:
            batch_texts = [texts[i] for i in batch]
            check_texts(batch_texts)
            vectors[batch] = truncate_vectors(
                self._forward(batch_texts, prompt, task),
                self.dimensions,
                normalized=self.normalized,
            )
        return vectors

    def _forward(
        self, texts: _Inputs, prompt: str | None, task: str
    ) -> NDArray[np.float32]:
        """Run one batch; halve it for as long as the device has no room for it."""
        encode = (
            self._model.encode_query if task == "query" else self._model.encode_document
        )
        try:
            with torch.inference_mode():
                raw = encode(
                    texts, prompt=prompt, batch_size=len(texts), show_progress_bar=False
                )
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise _encoding_error(texts, exc) from exc
            memory_error = exc
        # Whatever else a model's code raises, it is about these texts.
        except Exception as exc:
            raise _encoding_error(texts, exc) from exc
        else:
            return self._checked(texts, np.asarray(raw, dtype=np.float32), prompt, task)
        return self._forward_halves(texts, prompt, task, memory_error)

    def _forward_halves(
        self, texts: _Inputs, prompt: str | None, task: str, cause: BaseException
    ) -> NDArray[np.float32]:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(texts) == 1:
            raise EncoderUnavailable(
                f"{self.device} has not enough memory to encode one text "
                f"with model {self.name!r}",
                retry_after=_OUT_OF_MEMORY_RETRY,
                hint="Free memory on the device, or choose another: PGEMBED_DEVICE.",
            ) from cause
        half = len(texts) // 2
        smallest = self.max_tokens or 1
        self._batch_tokens = max(self._batch_tokens // 2, smallest)
        log.warning(
            "%s is out of memory: batches now have at most %d tokens",
            self.device,
            self._batch_tokens,
        )
        return np.concatenate(
            [
                self._forward(texts[:half], prompt, task),
                self._forward(texts[half:], prompt, task),
            ]
        )

    def _checked(
        self,
        texts: _Inputs,
        vectors: NDArray[np.float32],
        prompt: str | None,
        task: str,
    ) -> NDArray[np.float32]:
        if np.isfinite(vectors).all():
            # Again, in 32 bits: a half-precision length is 1 only to three digits.
            return unit_length(vectors) if self.normalized else vectors
        if self._model.dtype != torch.float32:
            # Some models overflow 16 bits; their vectors are fine in 32.
            log.warning(
                "model %r overflows in half precision: using 32 bits", self.name
            )
            self._model.float()
            return self._forward(texts, prompt, task)
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise TextError(f"model {self.name!r} gives no finite vector for text {bad}")

    def _assume(self, assumed: Assumed) -> None:
        """Pool a plain transformer's token vectors as its card says."""
        from sentence_transformers.sentence_transformer import modules

        assumed.warn(self.name)
        self._model[1] = modules.Pooling(self.transformer_dimensions, assumed.pooling)
        if assumed.normalized:
            self._model.append(modules.Normalize())

    def _set_precision(self, half: bool) -> None:
        if self._model.device.type == "cuda" and half:
            # bfloat16 models were trained beyond the range of float16.
            if self._model.dtype != torch.bfloat16:
                self._model.half()
        else:
            self._model.float()


def _choose_device(wanted: str | None) -> str:
    if wanted:
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _fast_tokenizer(
    model: sentence_transformers.SentenceTransformer,
) -> tokenizers.Tokenizer | None:
    """Copy the model's fast tokenizer, so that counting is not truncated."""
    own = getattr(model, "tokenizer", None)
    fast = getattr(own, "backend_tokenizer", own)
    if not isinstance(fast, tokenizers.Tokenizer):
        return None
    copy = tokenizers.Tokenizer.from_str(fast.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell whether a library raised this because a device's memory is full."""
    # MPS and the CPU allocator raise plain RuntimeError.
    return (
        isinstance(exc, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in str(exc)
        or "can't allocate memory" in str(exc)
    )


def _encoding_error(
    texts: _Inputs, exc: BaseException
) -> TextError | EncoderUnavailable:
    what = f"{type(exc).__name__}: {exc}"
    if "CUDA error" in str(exc) or "CUBLAS" in str(exc) or "CUDNN" in str(exc):
        # After these the process's CUDA context is unusable, whatever the text.
        return EncoderUnavailable(
            "the GPU is out of order",
            retry_after=_OUT_OF_MEMORY_RETRY,
            detail=what,
            hint="Restart the encoder service.",
        )
    one = "this text" if len(texts) == 1 else f"one of {len(texts)} texts"
    return TextError(f"the model cannot encode {one}", detail=what)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and reports out of the service's log."""
    logging_of: Any = transformers.utils.logging
    verbosity, bars = logging_of.get_verbosity(), logging_of.is_progress_bar_enabled()
    logging_of.set_verbosity_error()
    logging_of.disable_progress_bar()
    try:
        yield
    finally:
        logging_of.set_verbosity(verbosity)
        if bars:
            logging_of.enable_progress_bar()
