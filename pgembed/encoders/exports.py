"""Models exported to ONNX: their files, and whether they agree with the weights.

`pgembed model export` writes the hub's layout, `onnx/model.onnx` beside the model's
other files, and `onnx/agreement.json`: which weights it was made of, the checksum of
what was written, and vectors of some texts by these weights. An export counts as the
model itself, with the same fingerprint, only by that file: as long as the checksums are
what they were, and the vectors come out again on the machine that loads it. Without it
(somebody else's export) the ONNX file has a fingerprint of its own.

Nothing here needs onnxruntime.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pgembed.encoders.trust import list_modules
from pgembed.encoders.weights import checksum, fingerprint, weight_files
from pgembed.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    from pgembed.encoders.base import EncoderSettings

MODEL_FILE: Final = "onnx/model.onnx"
AGREEMENT_FILE: Final = "onnx/agreement.json"
ORGANISATION: Final = "sentence-transformers"  # of a name on the hub without one
INT8_SUFFIX: Final = "-int8"  # of the name under which a quantised variant is found

# In protocol buffers: the name of a file that holds tensors of a large model.
_LOCATION: Final = b"\x0a\x08location\x12"
_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What an export was made of, and what comes out of it.

    Attributes:
        weights: Fingerprint of the weights that it was made of.
        revision: Their commit on the hub; None: not known.
        files: Checksum of what is loaded instead of them.
        texts: Texts, to be encoded without a prompt.
        vectors: Their vectors by the weights, of all dimensions.
    """

    weights: str
    revision: str | None
    files: str
    texts: list[str]
    vectors: list[list[float]]

    @classmethod
    def read(cls, part: Path) -> Agreement | None:
        """Read the file in a transformer's folder; None: there is none.

        Raises:
            ModelNotFound: The file is damaged.
        """
        file = part / AGREEMENT_FILE
        if not file.is_file():
            return None
        try:
            read = cls(**json.loads(file.read_bytes()))
            fine = (
                all(isinstance(one, str) for one in (read.weights, read.files))
                and 0 < len(read.texts) == len(read.vectors)
                and all(isinstance(text, str) for text in read.texts)
                and len({len(vector) for vector in read.vectors}) == 1
                and all(math.isfinite(x) for vector in read.vectors for x in vector)
            )
        except (OSError, ValueError, TypeError) as exc:
            raise _damaged(file, str(exc)) from exc
        if not fine:
            raise _damaged(file, "not what an export writes")
        return read

    def write(self, part: Path) -> None:
        """Write the file into a transformer's folder."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        (part / AGREEMENT_FILE).write_text(f"{text}\n", encoding="utf-8")


def transformer_part(folder: Path) -> Path:
    """Give the folder that the transformer of a model lies in: mostly the model's."""
    modules = list_modules(folder)
    return folder / modules[0].path if modules else folder


def is_export(folder: Path) -> bool:
    """Tell whether a model's folder has an ONNX file."""
    return (transformer_part(folder) / MODEL_FILE).is_file()


def runtime_files(folder: Path) -> list[Path]:
    """List the files that the weights come from when the ONNX file is loaded.

    Raises:
        ModelNotFound: There is no ONNX file, or one that it needs is elsewhere.
    """
    part = transformer_part(folder)
    file = part / MODEL_FILE
    if not file.is_file():
        raise ModelNotFound(
            f"{folder} holds no ONNX file ({file.relative_to(folder)})",
            hint=f"Write it: pgembed model export {folder}",
        )
    others = [one for one in weight_files(folder) if one.parent != part]
    return [file, *_tensor_files(file), *others]


def identify(name: str, folder: Path, *, local: bool) -> tuple[str, Agreement | None]:
    """Give the fingerprint of an ONNX file, and with what it has to agree.

    Args:
        name: The model's name, for messages.
        folder: Where it is.
        local: Whether the folder was put there by whoever runs this process: an
            agreement counts only then.

    Raises:
        ModelNotFound: It is not what was compared with the weights, or these have
            changed since.
    """
    files = checksum(runtime_files(folder))
    part = transformer_part(folder)
    agreement = Agreement.read(part) if local else None
    if agreement is None:
        return files, None
    if agreement.files != files:
        raise ModelNotFound(
            f"model {name!r} was not loaded: {part / MODEL_FILE} is not the file that "
            "was compared with the model's weights",
            detail=f"SHA-256: {files}, when it was compared: {agreement.files}",
            hint=_export_again(name),
        )
    if any(one.parent == part for one in weight_files(folder)):
        check_weights(name, folder, agreement, fingerprint(folder))
    return agreement.weights, agreement


def check_weights(name: str, folder: Path, agreement: Agreement, actual: str) -> None:
    """Refuse an export of other weights than those a model has now.

    Raises:
        ModelNotFound: It is one.
    """
    if agreement.weights != actual:
        raise ModelNotFound(
            f"model {name!r} was not loaded: the export in {folder} was made of other "
            "weights than the model has now",
            detail=f"SHA-256 of the weights: {actual}, when exported: "
            f"{agreement.weights}",
            hint=_export_again(name),
        )


def hub_name(name: str) -> str:
    """Give the whole name of a model on the hub."""
    return name if "/" in name else f"{ORGANISATION}/{name}"


def export_folder(name: str, settings: EncoderSettings | None) -> Path | None:
    """Choose where the export of a model is kept, by its name on the hub.

    Returns:
        A folder that may not be there; None: a path, or else no name on the hub.

    Raises:
        MissingExtra: The settings name no folder, and platformdirs is not there.
    """
    if not _HUB_NAME.fullmatch(name):
        return None
    if settings is not None and settings.exports is not None:
        exports = Path(settings.exports).expanduser()
    else:
        try:
            from platformdirs import user_cache_path
        except ImportError as exc:
            raise MissingExtra("onnx") from exc
        exports = user_cache_path("pgembed", appauthor=False) / "exports"
    return exports / hub_name(name).replace("/", "--")


def own_folder(name: str, settings: EncoderSettings | None) -> Path | None:
    """Choose where a model of one's own is kept, by its name: what was tuned.

    Returns:
        A folder that may not be there; None: a path, or no name for one.

    Raises:
        MissingExtra: The settings name no folder, and platformdirs is not there.
    """
    if not _HUB_NAME.fullmatch(name):
        return None
    if settings is not None and settings.model_folder is not None:
        return Path(settings.model_folder).expanduser() / name
    try:
        from platformdirs import user_data_path
    except ImportError as exc:
        raise MissingExtra("encoder") from exc
    return user_data_path("pgembed", appauthor=False) / "models" / name


def _tensor_files(file: Path) -> list[Path]:
    """List the files beside an ONNX file that hold its tensors.

    Raises:
        ModelNotFound: One is named that is not beside it.
    """
    if not file.stat().st_size:
        raise ModelNotFound(
            f"{file} is empty", hint="Copy the model there again, or export it."
        )
    found: set[str] = set()
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        at = data.find(_LOCATION)
        while at >= 0:
            start = at + len(_LOCATION) + 1
            found.add(data[start : start + data[start - 1]].decode(errors="replace"))
            at = data.find(_LOCATION, start)
    for name in found:
        if Path(name).name != name or not (file.parent / name).is_file():
            raise ModelNotFound(
                f"{file} takes weights from {name!r}, which is not beside it",
                hint="Copy the model there again, all files of its folder onnx.",
            )
    return [file.parent / name for name in sorted(found)]


def _export_again(name: str) -> str:
    return (
        f"Export it again: pgembed model export {name}. Or load the weights "
        "themselves: PGEMBED_BACKEND=torch."
    )


def _damaged(file: Path, why: Any) -> ModelNotFound:
    return ModelNotFound(
        f"{file} is damaged: {why}", hint="Export the model again: pgembed model export"
    )
