"""Which files hold a model's weights, and their fingerprint."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from pgembed.encoders.trust import conversion, list_modules, pickled
from pgembed.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BLOCK_BYTES: Final = 1 << 20

_known: dict[tuple[tuple[str, int, int], ...], str] = {}


def is_model_folder(path: Path) -> bool:
    """Tell whether a directory looks like a saved model."""
    return any((path / name).is_file() for name in ("modules.json", "config.json"))


def weight_files(folder: Path) -> list[Path]:
    """List the files that a model's weights are loaded from, sorted by name.

    The folder itself and the folders of its modules are looked into; exports for
    other runtimes (`onnx/`, `openvino/`) and pickle (`pytorch_model.bin`) are not what
    is loaded and do not count.
    """
    parts = {folder, *(folder / one.path for one in list_modules(folder))}
    found = [file for part in parts for file in part.glob("*.safetensors")]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def fingerprint(folder: Path) -> str:
    """Compute the SHA-256 over a model's weight files, one after the other.

    With one file, as most models have, this is that file's own checksum, which can
    be compared with what the model's publisher states.

    Raises:
        ModelNotFound: The folder holds no weights.
    """
    files = weight_files(folder)
    if not files:
        if there := pickled(file.name for file in folder.iterdir()):
            raise ModelNotFound(
                f"the weights in {folder} are pickle ({', '.join(sorted(there))}), and "
                "were not loaded",
                hint=conversion(folder),
            )
        raise ModelNotFound(
            f"{folder} holds no model weights (*.safetensors)",
            hint="Copy the whole model there, weights included; files that are only "
            "pointers into Git LFS are no weights.",
        )
    return checksum(files)


def checksum(files: Sequence[Path]) -> str:
    """Compute the SHA-256 over files, one after the other.

    Files whose size and time of change are the same as before are not read again in
    this process.
    """
    stats = [(file, file.stat()) for file in files]
    key = tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
    if key not in _known:
        hashed = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    hashed.update(block)
        _known[key] = hashed.hexdigest()
    return _known[key]
