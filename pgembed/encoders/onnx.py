"""Exported models on onnxruntime: neither torch nor transformers is imported.

The same vectors as through sentence-transformers, in less memory, loaded sooner. What
is here is what lies around the network: the tokenizer, batches, pooling (in `pooling`).
On the CPU alone; for a GPU there is torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import (
    check_texts,
    truncate_vectors,
    unit_length,
)
from pgembed.encoders.batching import pack
from pgembed.encoders.exports import (
    AGREEMENT_FILE,
    MODEL_FILE,
    identify,
    transformer_part,
)
from pgembed.encoders.forks import onnx_is_used
from pgembed.encoders.lookup import find_export
from pgembed.encoders.pooling import Assumed, read_modules
from pgembed.encoders.prompts import choose_prompts
from pgembed.encoders.trust import list_modules, read_json
from pgembed.errors import (
    DimensionMismatch,
    EncoderUnavailable,
    MissingExtra,
    ModelNotFound,
    TextError,
)

try:
    import onnxruntime
    import tokenizers
except ImportError as exc:
    raise MissingExtra("onnx") from exc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.encoders.base import EncoderSettings
    from pgembed.encoders.exports import Agreement

# Padded. Two cores beside other work, MiniLM, docstrings, texts for a second of CPU:
# 256 tokens 25, 512 tokens 22, 1,024 tokens 20, 2,048 tokens 15; and less memory.
BATCH_TOKENS: Final = 256
AGREEMENT: Final = 0.99999  # least cosine to the vectors of the weights themselves
_BATCH_TEXTS: Final = 512
_OUT_OF_MEMORY_RETRY: Final = 30.0  # seconds
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUTS: Final = ("last_hidden_state", "token_embeddings")
_QUIET: Final = 4  # nothing but fatal errors goes to the process's standard error


class OnnxEncoder:
    """An exported sentence-transformers model on this machine's CPU.

    Attributes:
        name: The model's name.
        dimensions: Length of every vector.
        max_tokens: Longest input, special tokens included; longer is truncated.
        normalized: Whether every vector has unit length.
        fingerprint: Of the weights that it was exported from, where it agrees with
            them; else SHA-256 over the ONNX file.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        backend: `onnx`.
        device: Where it runs: `cpu`.
        origin: Where it was found: `path`, `export` or `hub`.
        agrees: Whether it was compared with the weights that it was made of.
    """

    backend = "onnx"
    device = "cpu"

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
        """Find and load an exported model.

        Args:
            name: A directory, the name of an exported model, or one on the hub.
            revision: Commit on the hub; None: whichever is found. See `find_export`.
            dimensions: Fewer than the model has: vectors are truncated and, where
                the model normalises, scaled to unit length again.
            query_prompt: None takes the model's own; '' is no prompt.
            document_prompt: None takes the model's own; '' is no prompt.
            settings: Where exports are, threads, batch size; None chooses all.

        Raises:
            ModelNotFound: No place has it, what is there cannot be loaded, is no longer
                what was compared with the weights, or gives other vectors than these.
            DimensionMismatch: The model has fewer dimensions than asked for.
        """
        wanted = settings.device if settings else None
        if wanted not in (None, "cpu"):
            raise ModelNotFound(
                f"model {name!r} was not loaded: the backend onnx runs on the CPU, not "
                f"on device {wanted!r}",
                hint="Set PGEMBED_DEVICE to cpu, or PGEMBED_BACKEND to torch.",
            )
        found = find_export(name, revision, settings=settings)
        folder = found.folder
        part = transformer_part(folder)
        self.name = name
        self.origin = found.origin
        self.fingerprint, agreement = identify(
            name, folder, local=found.origin != "hub"
        )
        self.agrees = agreement is not None
        self._pooling, self._steps = read_modules(name, folder)
        # A plain transformer's file of settings is not read by sentence-transformers.
        own = read_json(part / "sentence_bert_config.json")
        if not list_modules(folder):
            own = {}
            Assumed.of(name, folder).warn(name)
        self.max_tokens = _max_tokens(part, own)
        self._tokenizer, self._counter, self._pad = _tokenizers(
            part, self.max_tokens, lower_case=bool(own.get("do_lower_case"))
        )
        self._file = part / MODEL_FILE
        self._threads = (settings.threads if settings else None) or 0
        self._open()
        self._batch_tokens = (
            settings.batch_tokens if settings else None
        ) or BATCH_TOKENS
        config = read_json(folder / "config_sentence_transformers.json")
        prompts = config.get("prompts") or {}, config.get("default_prompt_name")
        self.query_prompt, self.document_prompt = choose_prompts(
            name, query_prompt, document_prompt, *prompts
        )
        self.normalized = False
        probe = self._probe(agreement)
        self.normalized = bool(np.allclose(np.linalg.norm(probe, axis=1), 1, atol=5e-3))
        whole = probe.shape[1]
        if dimensions is not None and not 1 <= dimensions <= whole:
            raise DimensionMismatch(
                f"model {name!r} has {whole} dimensions, not {dimensions}",
                hint=f"Declare it with {whole} dimensions, or fewer to truncate.",
            )
        self.dimensions = dimensions or whole

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
            EncoderUnavailable: There is not enough memory.
        """
        return self._encode(texts, self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to search with: shape (len(texts), dimensions).

        Raises:
            TextError: One of the texts cannot be encoded.
            EncoderUnavailable: There is not enough memory.
        """
        return self._encode(texts, self.query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens with special tokens and document prompt, untruncated.

        Raises:
            TextError: A text is not valid Unicode.
        """
        check_texts(texts)
        prompted = [self.document_prompt + text for text in texts]
        return [len(e.ids) for e in self._counter.encode_batch_fast(prompted)]

    def tokenizer_json(self) -> str | None:
        """Give the model's tokenizer, without truncation and padding, as JSON."""
        return str(self._counter.to_str())

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        check_texts(texts)
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        for batch in pack(
            [len(one.ids) for one in encodings], self._batch_tokens, _BATCH_TEXTS
        ):
            vectors[batch] = truncate_vectors(
                self._forward([encodings[i] for i in batch], prompt),
                self.dimensions,
                normalized=self.normalized,
            )
        return vectors

    def _forward(
        self, encodings: Sequence[tokenizers.Encoding], prompt: str
    ) -> NDArray[np.float32]:
        """Run one batch.

        Raises:
            TextError: The model cannot encode it, or gives what is no number.
            EncoderUnavailable: There is not enough memory.
        """
        inputs = self._inputs(encodings)
        session = self._of_this_process()
        try:
            (raw,) = session.run([self._output], {n: inputs[n] for n in self._names})
        # Each kind of failure has a class of its own, without a common one.
        except Exception as exc:
            raise _encoding_error(self.name, len(encodings), exc) from exc
        skipped = 0 if self._pooling.include_prompt else self._prompt_tokens(prompt)
        vectors = self._pooling(
            np.asarray(raw, dtype=np.float32), inputs["attention_mask"], skipped
        )
        for step in self._steps:
            vectors = step(vectors)
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise TextError(
                f"model {self.name!r} gives no finite vector for text {bad}"
            )
        return unit_length(vectors) if self.normalized else vectors

    def _inputs(
        self, encodings: Sequence[tokenizers.Encoding]
    ) -> dict[str, NDArray[np.int64]]:
        pad, left = self._pad
        shape = (len(encodings), max((len(one.ids) for one in encodings), default=0))
        ids = np.full(shape, pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(encodings):
            length = len(one.ids)
            there = slice(shape[1] - length, None) if left else slice(length)
            ids[row, there] = one.ids
            mask[row, there] = 1
            types[row, there] = one.type_ids
        return dict(zip(_INPUTS, (ids, mask, types), strict=True))

    def _prompt_tokens(self, prompt: str) -> int:
        """Count a prompt's tokens, but for a special one after it."""
        one = self._counter.encode(prompt)
        return len(one.ids) - sum(one.special_tokens_mask[-1:]) if prompt else 0

    def _open(self) -> None:
        """Load the network.

        Raises:
            ModelNotFound: It is damaged, or is none that takes texts.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = self._threads  # 0: one a core
        # Threads that wait would spin on cores that the server needs. Two cores,
        # MiniLM: a query costs 8 ms of them instead of 20, a batch a fifth less.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                self._file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            raise ModelNotFound(
                f"model {self.name!r} could not be loaded from {self._file}",
                detail=f"{type(exc).__name__}: {exc}",
                hint=f"Export it again: pgembed model export {self.name}",
            ) from exc
        self._names = [one.name for one in session.get_inputs()]
        outputs = [one.name for one in session.get_outputs()]
        known = [name for name in _OUTPUTS if name in outputs]
        if not (known and {"input_ids"} <= {*self._names} <= {*_INPUTS}):
            raise ModelNotFound(
                f"model {self.name!r} was not loaded: {self._file} takes "
                f"{', '.join(self._names)} and gives {', '.join(outputs)}",
                hint=f"It should take {', '.join(_INPUTS)} (or some of them) and give "
                f"{_OUTPUTS[0]}, as what `pgembed model export` writes.",
            )
        self._output = known[0]
        onnx_is_used(session)
        self._session, self._process = session, os.getpid()

    def _of_this_process(self) -> onnxruntime.InferenceSession:
        if self._process != os.getpid():
            self._open()
        return self._session

    def _probe(self, agreement: Agreement | None) -> NDArray[np.float32]:
        """Encode a few texts, and compare them with what the weights make of them.

        Raises:
            ModelNotFound: The vectors are others, or the model encodes nothing.
        """
        texts = ["a", "two words"] if agreement is None else agreement.texts
        try:
            vectors = self._forward(self._tokenizer.encode_batch_fast(texts), "")
        except TextError as exc:
            raise ModelNotFound(
                f"model {self.name!r} was not loaded: it encodes no text",
                detail=str(exc),
                hint=f"Export it again: pgembed model export {self.name}",
            ) from exc
        if agreement is not None:
            check_agreement(self.name, vectors, np.array(agreement.vectors))
        return vectors


def check_agreement(name: str, vectors: NDArray[Any], expected: NDArray[Any]) -> float:
    """Compare an export's vectors with those of the weights.

    Returns:
        The least cosine.

    Raises:
        ModelNotFound: They do not agree.
    """
    if vectors.shape != expected.shape:
        raise ModelNotFound(
            f"the export of model {name!r} gives {vectors.shape[1]} dimensions, its "
            f"weights give {expected.shape[1]}",
            hint="Export the model again, with its own files beside it: pgembed model "
            f"export {name}",
        )
    products = (unit_length(vectors) * unit_length(expected)).sum(axis=1)
    least = float(products.min())
    if not least >= AGREEMENT:
        raise ModelNotFound(
            f"the export of model {name!r} does not agree with its weights here: the "
            f"cosine is {least:.6f}, {AGREEMENT} is asked for",
            detail=f"Of {len(expected)} texts; see {AGREEMENT_FILE}.",
            hint="Load the weights themselves: PGEMBED_BACKEND=torch.",
        )
    return least


def _max_tokens(part: Path, config: dict[str, Any]) -> int | None:
    """Read how many tokens the model takes, as sentence-transformers does."""
    tokenizer = read_json(part / "tokenizer_config.json")
    for key in ("processor_kwargs", "tokenizer_args"):
        limit = (config.get(key) or {}).get("model_max_length")
        if limit is not None:
            break
    else:
        limit = config.get("max_seq_length")
    if limit is None:
        limits = (
            tokenizer.get("model_max_length"),
            read_json(part / "config.json").get("max_position_embeddings"),
        )
        limit = min((one for one in limits if one and one > 0), default=None)
    # Some tokenizers state 10**30: no limit.
    return int(limit) if limit and limit < 1 << 30 else None


def _tokenizers(
    part: Path, max_tokens: int | None, *, lower_case: bool
) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer, tuple[int, bool]]:
    """Load the tokenizer twice, and say how to fill up: one truncates, one counts.

    Raises:
        ModelNotFound: There is none, or it is damaged.
    """
    file = part / "tokenizer.json"
    config = read_json(part / "tokenizer_config.json")
    try:
        described = json.loads(file.read_bytes())
        _apply(config, described.get("normalizer"))
        text = json.dumps(described)
        counter = tokenizers.Tokenizer.from_str(text)
    except FileNotFoundError as exc:
        raise ModelNotFound(
            f"{part} has no tokenizer.json",
            hint="Copy the model's own there, or write all files anew: pgembed model "
            "export.",
        ) from exc
    # The library's errors are plain exceptions.
    except Exception as exc:
        raise ModelNotFound(
            f"{file} is damaged",
            detail=f"{type(exc).__name__}: {exc}",
            hint="Copy the model there again.",
        ) from exc
    if lower_case:
        lower = tokenizers.normalizers.Lowercase()
        own = counter.normalizer
        counter.normalizer = tokenizers.normalizers.Sequence(
            [lower] if own is None else [lower, own]
        )
    padding = counter.padding or {}
    counter.no_padding()
    counter.no_truncation()
    pad = config.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    number = counter.token_to_id(pad) if pad else padding.get("pad_id")
    side = config.get("padding_side", padding.get("direction", "right"))
    truncating = tokenizers.Tokenizer.from_str(counter.to_str())
    if max_tokens is not None:
        truncating.enable_truncation(
            max_tokens, direction=config.get("truncation_side", "right")
        )
    return truncating, counter, (number or 0, side == "left")


def _apply(config: dict[str, Any], normalizer: dict[str, Any] | None) -> None:
    """Let BERT's settings have the last word, as transformers does."""
    if normalizer is None or normalizer.get("type") != "BertNormalizer":
        return
    for key, own in (
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ):
        if key in config:
            normalizer[own] = config[key]


def _encoding_error(
    name: str, texts: int, exc: Exception
) -> TextError | EncoderUnavailable:
    what = f"{type(exc).__name__}: {exc}"
    if "alloc" in str(exc).lower() or isinstance(exc, MemoryError):
        return EncoderUnavailable(
            f"there is not enough memory to encode {texts} texts with model {name!r}",
            retry_after=_OUT_OF_MEMORY_RETRY,
            detail=what,
            hint="Free memory, or set PGEMBED_BATCH_TOKENS lower.",
        )
    one = "this text" if texts == 1 else f"one of {texts} texts"
    return TextError(f"the model cannot encode {one}", detail=what)
