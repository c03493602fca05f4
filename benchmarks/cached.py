"""An encoder that keeps its vectors in a file, so that long encoding is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAVE_EVERY = 200  # new vectors


class CachedEncoder:
    """Wraps an encoder; vectors of documents are looked up by the text's hash.

    Args:
        inner: What encodes the texts that are new.
        file: An .npz file; made when it is not there.
    """

    def __init__(self, inner: Any, file: Path) -> None:
        self._inner = inner
        self._file = file
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._unsaved = 0
        if file.exists():
            with np.load(file) as saved:
                if str(saved["fingerprint"]) == inner.fingerprint:
                    self._vectors = dict(
                        zip(saved["keys"].tolist(), saved["vectors"], strict=True)
                    )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode what is new, look up the rest."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        new = {
            key: text
            for key, text in zip(keys, texts, strict=True)
            if key not in self._vectors
        }
        if new:
            found = self._inner.encode_documents(list(new.values()))
            self._vectors.update(zip(new, found, strict=True))
            self._unsaved += len(new)
            if self._unsaved >= SAVE_EVERY:
                self.save()
        return np.array([self._vectors[key] for key in keys], dtype=np.float32)

    def save(self) -> None:
        """Write the file; a run that is broken off leaves a whole one."""
        if not self._unsaved:
            return
        part = self._file.with_suffix(".part.npz")
        np.savez(
            part,
            fingerprint=self._inner.fingerprint,
            keys=np.array(list(self._vectors)),
            vectors=np.array(list(self._vectors.values()), dtype=np.float32),
        )
        part.replace(self._file)
        self._unsaved = 0
