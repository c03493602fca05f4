"""Where a model's files are: a local folder, an installed package, or the hub."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgembed.encoders.packaged import installed_folder, packaged_model, verify
from pgembed.encoders.trust import conversion, pickled
from pgembed.encoders.weights import is_model_folder, weight_files
from pgembed.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

HUB_TIMEOUT: Final = 10.0  # seconds until an unreachable hub counts as such
_ORGANISATION: Final = "sentence-transformers"  # of a name without one
# Exports for other runtimes, pickle and code: never loaded, so never downloaded.
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
    "*.bin",
    "*.pkl",
    "*.py",
)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder and where it came from: `path`, `package` or `hub`."""

    folder: Path
    origin: str


def find_model(name: str, revision: str | None = None) -> FoundModel:
    """Find a model's files, downloading them only when no copy is here.

    Looked up in this order: a local directory of that name, an installed package
    that carries the model (its weights are checked), the hub's local cache, the hub.
    The hub's own environment variables (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
    `SENTENCE_TRANSFORMERS_HOME`) are respected.

    Args:
        name: A directory, a packaged model's name, or a name on the hub.
        revision: A commit of the model's repository on the hub, which is then the one
            that is taken; a branch or a tag is taken as it is when it is first
            downloaded. Directories have none and are passed over, packages only count
            if they carry this one. None: whatever is found.

    Raises:
        ModelNotFound: None of them has it, or none has it in this revision; lists what
            was tried and what helps.
        MissingExtra: The hub is needed and its client is not installed.
    """
    tried: list[str] = []
    path = Path(name).expanduser()
    if not path.is_dir():
        tried.append(f"local directory {name!r}: there is none")
    elif not is_model_folder(path):
        tried.append(f"local directory {name!r}: no model in it (no config.json)")
    elif revision is not None:
        tried.append(f"local directory {name!r}: directories have no revisions")
    else:
        return FoundModel(path.resolve(), "path")
    packaged = packaged_model(name)
    if packaged is not None and revision not in (None, packaged.revision):
        tried.append(
            f"package {packaged.distribution}: carries revision {packaged.revision}"
        )
    elif packaged is not None:
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
        hub = _from_hub(repository, revision, tried)
        if hub is not None:
            return FoundModel(hub, "hub")
    ways = [f"pip install {packaged.distribution}"] if packaged else []
    if revision is not None:
        ways.append("register the model with a revision that its repository has")
    ways += [
        "give the path of a directory that holds the model as its name",
        "point HF_HOME at a cache that holds it",
        "let this machine reach the hub: HF_HUB_OFFLINE unset, HF_TOKEN if private",
    ]
    raise ModelNotFound(
        f"model {name!r} was not found"
        + ("" if revision is None else f" in revision {revision!r}"),
        detail="Tried: " + "; ".join(tried) + ".",
        hint="Any of these helps: " + "; ".join(ways) + ".",
    )


def _from_hub(repository: str, revision: str | None, tried: list[str]) -> Path | None:
    """Take a model from the hub's cache, else from the hub; None: see `tried`."""
    try:
        import huggingface_hub
    except ImportError as exc:
        raise MissingExtra("encoder") from exc
    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    try:
        cached = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, cache_dir=cache, local_files_only=True
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
            info = huggingface_hub.HfApi().model_info(
                repository, revision=revision, timeout=HUB_TIMEOUT
            )
            names = [file.rfilename for file in info.siblings or ()]
            if pickled(names) and not any(n.endswith(".safetensors") for n in names):
                raise ModelNotFound(
                    f"the weights of {repository!r} on the hub are pickle, and were "
                    "not loaded",
                    detail=f"There: {', '.join(pickled(names))}; no *.safetensors.",
                    hint=conversion(repository),
                )
            return Path(
                huggingface_hub.snapshot_download(
                    repository,
                    revision=info.sha,  # what was looked at, not what is new since
                    cache_dir=cache,
                    etag_timeout=HUB_TIMEOUT,
                    ignore_patterns=list(_NEVER),
                )
            )
    except ModelNotFound:
        raise
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
