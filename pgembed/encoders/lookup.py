"""Where a model's files are: a local folder, one's own, a package, or the hub."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgembed.encoders.exports import (
    AGREEMENT_FILE,
    MODEL_FILE,
    Agreement,
    check_weights,
    export_folder,
    hub_name,
    is_export,
    own_folder,
    transformer_part,
)
from pgembed.encoders.packaged import installed_folder, packaged_model, verify
from pgembed.encoders.trust import conversion, pickled
from pgembed.encoders.weights import is_model_folder, weight_files
from pgembed.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgembed.encoders.base import EncoderSettings

HUB_TIMEOUT: Final = 10.0  # seconds until an unreachable hub counts as such
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
# With an ONNX file the weights stay where they are, but for those of a Dense module.
_OF_ONNX: Final = ("*.json", f"{MODEL_FILE}*", "*_Dense/model.safetensors")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder and where it is: `path`, `package`, `export` or `hub`."""

    folder: Path
    origin: str


def find_model(
    name: str, revision: str | None = None, settings: EncoderSettings | None = None
) -> FoundModel:
    """Find a model's files, downloading them only when no copy is here.

    Looked up in this order: a local directory of that name, the folder of one's own
    models, an installed package that carries the model (its weights are checked), the
    hub's local cache, the hub.
    The hub's own environment variables (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
    `SENTENCE_TRANSFORMERS_HOME`) are respected.

    Args:
        name: A directory, a packaged model's name, or a name on the hub.
        revision: A commit of the model's repository on the hub, which is then the one
            that is taken; a branch or a tag is taken as it is when it is first
            downloaded. Directories have none and are passed over, packages only count
            if they carry this one. None: whatever is found.
        settings: Where one's own models are; None: where they are by default.

    Raises:
        ModelNotFound: None of them has it, or none has it in this revision; lists what
            was tried and what helps.
        MissingExtra: The hub is needed and its client is not installed.
    """
    tried: list[str] = []
    path = Path(name).expanduser()
    local = _local_model(name, settings)
    if local is not None and revision is None:
        return FoundModel(local, "path")
    if local is not None:
        tried.append(f"local directory {name!r}: directories have no revisions")
    elif path.is_dir():
        tried.append(f"local directory {name!r}: no model in it (no config.json)")
    else:
        tried.append(f"local directory {name!r}: there is none")
    tried += [f"own models: no {one}" for one in _local_folders(name, settings)[1:]]
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
        hub = _from_hub(hub_name(name), revision, tried)
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


def find_export(
    name: str,
    revision: str | None = None,
    *,
    settings: EncoderSettings | None = None,
    download: bool = True,
) -> FoundModel:
    """Find a model's ONNX file and what belongs to it.

    Looked up in this order: a local directory of that name, what `pgembed model export`
    wrote for it, the hub's local cache, the hub. A model that an installed package
    carries is not asked for on the hub: it is there to be exported.

    Args:
        name: A directory, or a model's name.
        revision: A commit of the model's repository on the hub; see `find_model`.
        settings: Where exports are; None: where they are by default.
        download: Whether the hub may be asked.

    Raises:
        ModelNotFound: None of them has it; lists what was tried and what helps.
        MissingExtra: The hub is needed and its client is not installed.
    """
    tried: list[str] = []
    local = None if revision is not None else _local_model(name, settings)
    if local is not None:
        if is_export(local):
            return FoundModel(local, "path")
        tried.append(f"local directory {name!r}: has no {MODEL_FILE}")
    exported = export_folder(name, settings)
    packaged = packaged_model(name)
    if exported is None and not tried:
        tried.append(f"local directory {name!r}: no model in it, and no name of one")
    if exported is not None and not tried:
        if _is_current(name, revision, exported):
            return FoundModel(exported, "export")
        tried.append(f"exports: none of this model in {exported}")
        if packaged is None or installed_folder(packaged) is None:
            hub = _from_hub(
                hub_name(name), revision, tried, onnx=True, download=download
            )
            if hub is not None:
                return FoundModel(hub, "hub")
    raise ModelNotFound(
        f"model {name!r} has no ONNX file here"
        + ("" if revision is None else f" of revision {revision!r}"),
        detail="Tried: " + "; ".join(tried) + ".",
        hint=f"Write it, where torch is installed: pgembed model export {name}. Or "
        "load the weights themselves: PGEMBED_BACKEND=torch.",
    )


def _local_folders(name: str, settings: EncoderSettings | None) -> list[Path]:
    """Give the directory of that name, and that among one's own models."""
    folders = [Path(name).expanduser()]
    with suppress(MissingExtra):
        folders += filter(None, [own_folder(name, settings)])
    return folders


def _local_model(name: str, settings: EncoderSettings | None) -> Path | None:
    """Find a model in one of these."""
    folders = _local_folders(name, settings)
    return next((one.resolve() for one in folders if is_model_folder(one)), None)


def _is_current(name: str, revision: str | None, folder: Path) -> bool:
    """Tell whether an export is of the revision that is wanted.

    Raises:
        ModelNotFound: It is of other weights than a package carries.
    """
    if not is_export(folder):
        return False
    agreement = Agreement.read(transformer_part(folder))
    if revision is not None and (agreement is None or agreement.revision != revision):
        return False
    packaged = packaged_model(name)
    if packaged is not None and agreement is not None:
        check_weights(name, folder, agreement, packaged.sha256)
    return True


def _from_hub(
    repository: str,
    revision: str | None,
    tried: list[str],
    *,
    onnx: bool = False,
    download: bool = True,
) -> Path | None:
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
        there = is_export(cached) if onnx else bool(weight_files(cached))
        if is_model_folder(cached) and there:
            return cached
        tried.append(f"hub cache: {cached} is incomplete")
    except Exception as exc:
        tried.append(f"hub cache: {repository} is not in it ({type(exc).__name__})")
    if not download:
        return None
    try:
        with _quiet_downloads():
            # One question with a short timeout first: the download itself would
            # retry for minutes where nothing answers.
            info = huggingface_hub.HfApi().model_info(
                repository, revision=revision, timeout=HUB_TIMEOUT
            )
            names = [file.rfilename for file in info.siblings or ()]
            if onnx and not any(n.endswith(MODEL_FILE) for n in names):
                tried.append(f"hub: {repository} has no {MODEL_FILE}")
                return None
            if (
                not onnx
                and pickled(names)
                and not any(n.endswith(".safetensors") for n in names)
            ):
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
                    allow_patterns=list(_OF_ONNX) if onnx else None,
                    ignore_patterns=[AGREEMENT_FILE] if onnx else list(_NEVER),
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
