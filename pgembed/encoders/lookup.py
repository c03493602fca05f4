"""Where a model's files are: a local folder, an installed package, or the hub."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgembed.encoders.packaged import installed_folder, packaged_model, verify
from pgembed.encoders.weights import is_model_folder, weight_files
from pgembed.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

HUB_TIMEOUT: Final = 10.0  # seconds until an unreachable hub counts as such
_ORGANISATION: Final = "sentence-transformers"  # of a name without one
# Exports for other runtimes, and code: never loaded, so never downloaded.
_NEVER: Final = (
    "onnx/*",
    "openvino/*",
    "coreml/*",
    "*.onnx",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "*.gguf",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.py",
)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder and where it came from: `path`, `package` or `hub`."""

    folder: Path
    origin: str


def find_model(name: str) -> FoundModel:
    """Find a model's files, downloading them only when no copy is here.

    Looked up in this order: a local directory of that name, an installed package
    that carries the model (its weights are checked), the hub's local cache, the hub.
    The hub's own environment variables (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
    `SENTENCE_TRANSFORMERS_HOME`) are respected.

    Raises:
        ModelNotFound: None of them has it; lists what was tried and what helps.
        MissingExtra: The hub is needed and its client is not installed.
    """
    tried: list[str] = []
    path = Path(name).expanduser()
    if path.is_dir() and is_model_folder(path):
        return FoundModel(path.resolve(), "path")
    tried.append(
        f"local directory {name!r}: "
        + ("no model in it (no config.json)" if path.is_dir() else "there is none")
    )
    packaged = packaged_model(name)
    if packaged is not None:
        folder = installed_folder(packaged)
        if folder is not None:
            verify(packaged, folder)
            return FoundModel(folder, "package")
        tried.append(f"package {packaged.distribution}: not installed")
    else:
        tried.append("installed packages: none that pgembed knows carries it")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        tried.append("hub: not asked, this is a path and no model's name")
    else:
        repository = name if "/" in name else f"{_ORGANISATION}/{name}"
        hub = _from_hub(repository, tried)
        if hub is not None:
            return FoundModel(hub, "hub")
    ways = [f"pip install {packaged.distribution}"] if packaged else []
    ways += [
        "give the path of a directory that holds the model as its name",
        "point HF_HOME at a cache that holds it",
        "let this machine reach the hub: HF_HUB_OFFLINE unset, HF_TOKEN if private",
    ]
    raise ModelNotFound(
        f"model {name!r} was not found",
        detail="Tried: " + "; ".join(tried) + ".",
        hint="Any of these helps: " + "; ".join(ways) + ".",
    )


def _from_hub(repository: str, tried: list[str]) -> Path | None:
    """Take a model from the hub's cache, else from the hub; None: see `tried`."""
    try:
        import huggingface_hub
    except ImportError as exc:
        raise MissingExtra("encoder") from exc
    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    try:
        cached = Path(
            huggingface_hub.snapshot_download(
                repository, cache_dir=cache, local_files_only=True
            )
        )
        # A download that broke off leaves a snapshot without weights.
        if is_model_folder(cached) and weight_files(cached):
            return cached
        tried.append(f"hub cache: {cached} is incomplete")
    except Exception as exc:
        tried.append(f"hub cache: {repository} is not in it ({type(exc).__name__})")
    try:
        with _quiet_downloads():
            # One question with a short timeout first: the download itself would
            # retry for minutes where nothing answers.
            info = huggingface_hub.HfApi().model_info(repository, timeout=HUB_TIMEOUT)
            names = [file.rfilename for file in info.siblings or ()]
            has_safetensors = any(name.endswith(".safetensors") for name in names)
            return Path(
                huggingface_hub.snapshot_download(
                    repository,
                    revision=info.sha,
                    cache_dir=cache,
                    etag_timeout=HUB_TIMEOUT,
                    ignore_patterns=[*_NEVER, *(["*.bin"] if has_safetensors else [])],
                )
            )
    # Each version of the hub's client raises its own HTTP library's errors; what
    # they have in common is that this model did not come from the hub.
    except Exception as exc:
        reason = (str(exc).strip() or repr(exc)).splitlines()[0]
        tried.append(f"hub: {repository}: {type(exc).__name__}: {reason}")
        return None


@contextmanager
def _quiet_downloads() -> Iterator[None]:
    """Keep the hub's progress bars out of the service's log."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
