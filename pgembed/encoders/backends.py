"""Which library computes a local model's vectors: torch or onnxruntime."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgembed.encoders.exports import identify
from pgembed.encoders.lookup import FoundModel, find_export
from pgembed.encoders.weights import weight_files
from pgembed.errors import MissingExtra, ModelNotFound
from pgembed.settings import Backend

if TYPE_CHECKING:
    from pgembed.encoders.base import EncoderSettings

log = logging.getLogger(__name__)

_TORCH: Final = ("sentence_transformers", "torch")
_ONNX: Final = ("onnxruntime", "tokenizers")
# Made by the driver; neither torch nor a program need be started to ask.
_NVIDIA: Final = Path("/dev/nvidiactl")


def choose_backend(
    name: str, revision: str | None, settings: EncoderSettings | None
) -> Backend:
    """Choose what a model is loaded with: `torch` or `onnx`.

    `auto` is onnx where an export is known to agree with the model's weights, where
    there are no other weights, and where torch is not installed. It is torch where
    there is a GPU for it.
    """
    wanted = Backend.AUTO if settings is None else settings.backend
    if wanted != Backend.AUTO:
        return Backend(wanted)
    if not _installed(_ONNX):
        return Backend.TORCH
    if not _installed(_TORCH):
        return Backend.ONNX
    if _has_gpu(None if settings is None else settings.device):
        return Backend.TORCH
    try:
        found = find_export(name, revision, settings=settings, download=False)
    except (ModelNotFound, MissingExtra):
        return Backend.TORCH
    return Backend.ONNX if _counts(name, found) else Backend.TORCH


def _counts(name: str, found: FoundModel) -> bool:
    """Whether an export may stand for the model, or is all there is of it."""
    if found.origin == "hub":
        return False
    try:
        _, agreement = identify(name, found.folder, local=True)
    except ModelNotFound as exc:
        # The weights may be newer, and are there.
        log.warning("%s", exc)
        return False
    return agreement is not None or not weight_files(found.folder)


def _installed(packages: tuple[str, ...]) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _has_gpu(device: str | None) -> bool:
    if device is not None:
        return device != "cpu"
    return sys.platform == "darwin" or _NVIDIA.exists()
