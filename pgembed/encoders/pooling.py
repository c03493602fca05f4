"""From token vectors to a text's vector, by the module files of sentence-transformers.

What its modules Pooling, Dense and Normalize do, in NumPy.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import unit_length
from pgembed.encoders.cards import find_card
from pgembed.encoders.trust import list_modules, read_json
from pgembed.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pgembed.encoders.trust import Module

    Floats = NDArray[np.float32]

log = logging.getLogger(__name__)

# As sentence-transformers concatenates them when there are several.
_MODES: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token vectors to one vector a text.

    Attributes:
        modes: Names of what is concatenated.
        include_prompt: Whether the tokens of the prompt count.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __call__(self, tokens: Floats, mask: NDArray[np.int64], prompt: int) -> Floats:
        """Pool.

        Args:
            tokens: Shape (texts, tokens, dimensions).
            mask: 1 where a token is of the text, 0 where it fills up.
            prompt: Number of tokens of the prompt.
        """
        first = mask.argmax(axis=1)
        place = np.arange(mask.shape[1]) - first[:, None]
        if not self.include_prompt:
            mask = np.where(place < prompt, 0, mask)
        parts = [_pool(mode, tokens, mask, place) for mode in self.modes]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _pool(
    mode: str, tokens: Floats, mask: NDArray[np.int64], place: NDArray[np.int64]
) -> Floats:
    texts = np.arange(len(tokens))
    if mode == "cls":
        first: Floats = tokens[texts, mask.argmax(axis=1)]
        return first
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        latest: Floats = tokens[texts, last]
        return latest
    if mode == "max":
        highest: Floats = np.where(mask[..., None] == 0, -np.inf, tokens).max(axis=1)
        return highest
    weights = mask.astype(np.float32)
    if mode == "weightedmean":
        weights *= place + 1
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    if mode == "mean_sqrt_len_tokens":
        total = np.sqrt(total)
    # Without BLAS, whose threads would wait for each other.
    pooled: Floats = np.einsum("bs,bsd->bd", weights, tokens, optimize=False) / total
    return pooled


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer with an activation."""

    weight: Floats
    bias: Floats | None
    activation: Callable[[Floats], Floats]

    def __call__(self, vectors: Floats) -> Floats:
        """Project vectors."""
        projected = vectors @ self.weight.T
        return self.activation(
            projected if self.bias is None else projected + self.bias
        )


@dataclass(frozen=True, slots=True)
class Assumed:
    """How a plain transformer, which has no modules, is taken to make a text's vector.

    Attributes:
        pooling: As in a card.
        normalized: Whether the vector is scaled to unit length then.
        reason: Why.
    """

    pooling: str
    normalized: bool
    reason: str

    @classmethod
    def of(cls, name: str, folder: Path) -> Assumed:
        """Say what is assumed: what the model's card says, else what is usual."""
        card = find_card(name)
        if card is not None and card.pooling is not None:
            return cls(card.pooling, bool(card.normalized), "as published")
        kinds = read_json(folder / "config.json").get("architectures") or [""]
        if str(kinds[0]).endswith("ForCausalLM"):
            return cls("lasttoken", False, "usual for a model that reads forwards")
        return cls("mean", False, "the usual one, for nothing is known of this model")

    def warn(self, name: str) -> None:
        """Say it: such a model's vectors may be of no use."""
        log.warning(
            "model %r is a plain transformer without modules.json: pooling %r%s is "
            "assumed, %s",
            name,
            self.pooling,
            ", and unit length," if self.normalized else "",
            self.reason,
        )

    def write(self, folder: Path, dimensions: int) -> None:
        """Write it down as sentence-transformers does."""
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.normalized else [])]
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {
                "idx": place,
                "name": str(place),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for place, (kind, path) in enumerate(zip(kinds, paths, strict=False))
        ]
        config = {
            "word_embedding_dimension": dimensions,
            **{key: mode == self.pooling for key, mode in _MODES.items()},
        }
        for path in paths[1 : len(kinds)]:
            (folder / path).mkdir(exist_ok=True)
        (folder / "modules.json").write_text(json.dumps(modules, indent=2))
        (folder / "1_Pooling/config.json").write_text(json.dumps(config, indent=2))


def read_modules(
    name: str, folder: Path
) -> tuple[Pooling, list[Callable[[Floats], Floats]]]:
    """Read how a model makes a text's vector, and what is done with it then.

    Raises:
        ModelNotFound: A module is not done here, or its files are damaged.
    """
    modules = list_modules(folder)
    if not modules:
        assumed = Assumed.of(name, folder)
        return Pooling((assumed.pooling,)), [unit_length] * assumed.normalized
    kinds = [one.kind for one in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise _not_done(name, f"modules {', '.join(kinds)}")
    steps: list[Callable[[Floats], Floats]] = []
    for module in modules[2:]:
        if module.kind == "Normalize":
            steps.append(unit_length)
        elif module.kind == "Dense":
            steps.append(_dense(name, folder, module))
        elif module.kind != "Dropout":  # nothing is dropped but in training
            raise _not_done(name, f"module {module.kind}")
    return _pooling(name, folder / modules[1].path), steps


def _pooling(name: str, part: Path) -> Pooling:
    config = read_json(part / "config.json")
    given = config.get("pooling_mode")
    if given is None:
        modes = tuple(mode for key, mode in _MODES.items() if config.get(key))
    else:
        modes = (given,) if isinstance(given, str) else tuple(given)
    if unknown := [mode for mode in modes if mode not in _MODES.values()]:
        raise _not_done(name, f"pooling {unknown[0]!r}")
    return Pooling(modes or ("mean",), config.get("include_prompt") is not False)


def _dense(name: str, folder: Path, module: Module) -> Dense:
    part = folder / module.path
    config = read_json(part / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    plain = config.get("module_input_name", "sentence_embedding")
    if (
        activation not in _ACTIVATIONS
        or config.get("use_residual")
        or plain != "sentence_embedding"
        or config.get("module_output_name") not in (None, plain)
    ):
        raise _not_done(name, f"a Dense module with the settings {config}")
    try:
        from safetensors.numpy import load_file
    except ImportError as exc:
        raise MissingExtra("onnx") from exc
    try:
        weights = load_file(part / "model.safetensors")
        weight = weights["linear.weight"].astype(np.float32)
        bias = weights.get("linear.bias")
    # The package's own errors have no common class but this.
    except Exception as exc:
        raise ModelNotFound(
            f"model {name!r} was not loaded: its Dense module in {part} is damaged",
            detail=f"{type(exc).__name__}: {exc}",
            hint="Copy the whole model there again.",
        ) from exc
    return Dense(
        weight,
        None if bias is None else bias.astype(np.float32),
        _ACTIVATIONS[activation],
    )


def _not_done(name: str, what: str) -> ModelNotFound:
    return ModelNotFound(
        f"model {name!r} was not loaded: the backend onnx does not do {what}",
        hint="Load it with torch: PGEMBED_BACKEND=torch.",
    )
