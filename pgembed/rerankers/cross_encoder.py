"""Cross-encoders through sentence-transformers; imports torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pgembed.encoders.base import check_texts
from pgembed.encoders.forks import torch_is_used
from pgembed.encoders.lookup import find_model
from pgembed.encoders.trust import check_folder, library_arguments, read_json
from pgembed.encoders.weights import fingerprint
from pgembed.errors import (
    EncoderUnavailable,
    MissingExtra,
    ModelNotFound,
    RerankError,
    TextError,
)
from pgembed.rerankers.base import check_scores

try:
    import sentence_transformers
    import torch
    import transformers
except ImportError as exc:
    raise MissingExtra("encoder") from exc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.encoders.base import EncoderSettings

log = logging.getLogger(__name__)

# Pairs in a batch; the library sorts them by length first. More only add padding on
# a CPU, a GPU is busier with them.
_BATCH_PAIRS: Final = {"cpu": 16, "mps": 64, "cuda": 128}
_OUT_OF_MEMORY_RETRY: Final = 30.0  # seconds
_ORGANISATION: Final = "cross-encoder"  # of a hub name without one
_ARCHITECTURES: Final = ("ForSequenceClassification", "ForCausalLM")


class CrossEncoderReranker:
    """A cross-encoder on the best device of this machine.

    Attributes:
        name: The model's name.
        fingerprint: SHA-256 over the weight files.
        device: Where it runs: `cuda:0`, `mps`, `cpu`.
        max_tokens: Longest pair, special tokens included; longer is truncated.
    """

    def __init__(self, name: str, *, settings: EncoderSettings | None = None) -> None:
        """Find and load a model; takes seconds, or a download.

        Args:
            name: A directory, or a name on the hub.
            settings: Device, precision and batch size; None chooses all.

        Raises:
            ModelNotFound: No place has it, it cannot or must not be loaded, or is no
                cross-encoder.
        """
        path = Path(name).expanduser()
        plain = (
            "/" not in name and not name.startswith((".", "~")) and not path.is_dir()
        )
        found = find_model(f"{_ORGANISATION}/{name}" if plain else name)
        self.name = name
        _check_is_cross_encoder(name, found.folder)
        check_folder(name, found.folder)
        self.fingerprint = fingerprint(found.folder)
        device = _choose_device(settings.device if settings else None)
        try:
            with _Quiet():
                self._model = sentence_transformers.CrossEncoder(
                    str(found.folder),
                    device=device,
                    **library_arguments(),
                )
        # Loading runs the code of three libraries over files from anywhere.
        except Exception as exc:
            raise ModelNotFound(
                f"re-ranker {name!r} could not be loaded from {found.folder} "
                f"to device {device!r}",
                detail=f"{type(exc).__name__}: {exc}",
                hint="Check that the directory holds a complete cross-encoder that "
                "needs no code of its own, and that the device exists.",
            ) from exc
        outputs = self._model.num_labels
        if outputs != 1:
            raise ModelNotFound(
                f"{name!r} is no re-ranker: it gives {outputs} numbers for a pair",
                hint="Take a cross-encoder with one output; a model that classifies "
                "pairs (as for entailment) does not say how well a text answers.",
            )
        self._model.eval()
        torch_is_used()
        self.device = str(self._model.device)
        kind = self._model.device.type
        if kind == "cuda" and (settings is None or settings.half_precision):
            self._model.half()
        self._batch_pairs = _BATCH_PAIRS.get(kind, _BATCH_PAIRS["cpu"])
        limit = self._model.max_seq_length
        self.max_tokens = int(limit) if limit and limit < 1 << 30 else None

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score each text against the query, in batches of similar length.

        Args:
            query: What was searched for.
            texts: Longer ones than the model takes are truncated, not refused.

        Returns:
            One number a text: larger answers better. Its scale is the model's.

        Raises:
            RerankError: The model gives no score for a text.
            TextError: A text is not valid Unicode.
            EncoderUnavailable: The device is out of memory or out of order.
        """
        if not texts:
            return []
        try:
            check_texts([query, *texts])
        except TextError as exc:
            raise TextError(f"cannot re-rank: {exc.message}", hint=exc.hint) from exc
        return check_scores(self.name, self._predict(query, texts), len(texts))

    def _predict(self, query: str, texts: Sequence[str]) -> Any:
        pairs = [(query, text) for text in texts]
        while True:
            try:
                return self._model.predict(
                    pairs, batch_size=self._batch_pairs, show_progress_bar=False
                )
            except (RuntimeError, MemoryError) as exc:
                if not _is_out_of_memory(exc):
                    raise self._error(texts, exc) from exc
                if self._batch_pairs == 1:
                    raise EncoderUnavailable(
                        f"{self.device} has not enough memory to score one text with "
                        f"re-ranker {self.name!r}",
                        retry_after=_OUT_OF_MEMORY_RETRY,
                        hint="Free memory on the device, or choose another: "
                        "PGEMBED_DEVICE.",
                    ) from exc
            # Whatever else a model's code raises, it is about these texts.
            except Exception as exc:
                raise self._error(texts, exc) from exc
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._batch_pairs //= 2
            log.warning(
                "%s is out of memory: batches now have %d pairs",
                self.device,
                self._batch_pairs,
            )

    def _error(self, texts: Sequence[str], exc: Exception) -> RerankError:
        return RerankError(
            f"re-ranker {self.name!r} cannot score these {len(texts)} texts",
            detail=f"{type(exc).__name__}: {exc}",
        )


def _check_is_cross_encoder(name: str, folder: Path) -> None:
    """Refuse an encoder: it would be loaded with random weights on top, silently.

    Raises:
        ModelNotFound: The folder's own description says it is something else.
    """
    if read_json(folder / "config_sentence_transformers.json").get("model_type") == (
        "CrossEncoder"
    ):
        return
    architectures = read_json(folder / "config.json").get("architectures") or []
    if any(str(each).endswith(_ARCHITECTURES) for each in architectures):
        return
    raise ModelNotFound(
        f"{name!r} is no cross-encoder",
        detail=f"Architecture in {folder / 'config.json'}: "
        f"{', '.join(map(str, architectures)) or 'none'}.",
        hint="A re-ranker reads query and text together and gives one score, such as "
        "'cross-encoder/ms-marco-MiniLM-L6-v2'; a model for embeddings cannot.",
    )


def _choose_device(wanted: str | None) -> str:
    if wanted:
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _is_out_of_memory(exc: BaseException) -> bool:
    # MPS and the CPU allocator raise plain RuntimeError.
    return (
        isinstance(exc, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in str(exc)
        or "can't allocate memory" in str(exc)
    )


class _Quiet:
    """Keeps the library's progress bars and reports out of the caller's output."""

    def __enter__(self) -> None:
        self._logging: Any = transformers.utils.logging
        self._verbosity = self._logging.get_verbosity()
        self._bars = self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        self._logging.set_verbosity(self._verbosity)
        if self._bars:
            self._logging.enable_progress_bar()
