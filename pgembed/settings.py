"""Settings of a process, read from its environment.

Endpoints and keys come from here and never from SQL, so that a role that may
write to the database cannot redirect a service.
"""

from __future__ import annotations

import math
import os
import types
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Backend(StrEnum):
    """What computes the vectors of a local model."""

    AUTO = "auto"
    TORCH = "torch"
    ONNX = "onnx"


def let_threads_sleep() -> None:
    """Have threads of torch sleep while they wait for each other.

    Else they spin, and take the cores from the server beside them: 2.6 times the CPU
    for a batch, 8 times for a query. Counts when torch is loaded, which has to be
    later. Whoever has set `OMP_WAIT_POLICY` otherwise is heard.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process that encodes may be told.

    Attributes:
        backend: What computes the vectors of a local model: `torch`, `onnx`
            (onnxruntime, on the CPU), or `auto`, which takes onnxruntime where an
            export is known to agree with the model, or torch is not installed.
        exports: Folder of exported models; None: `exports` in the user's cache folder
            for pgembed.
        model_folder: Folder of models of one's own, which are found in it by their
            names: where `pgembed tune` writes; None: `models` in the user's folder of
            data for pgembed.
        device: Where models run: `cuda`, `cuda:1`, `mps`, `cpu`; None chooses the
            best there is.
        half_precision: Whether a CUDA device computes in 16 bits.
        threads: Threads that a local model computes with on the CPU; None: one a core.
        batch_tokens: Most tokens in one batch, padding included; None: the
            device's default.
        hosted_models: Whether texts may be sent to hosted models: what
            `pgembed serve --allow-provider` switches on.
        request_timeout_seconds: Longest wait for a hosted model's answer.
    """

    backend: Backend = Backend.AUTO
    exports: str | None = None
    model_folder: str | None = None
    device: str | None = None
    half_precision: bool = True
    threads: int | None = None
    batch_tokens: int | None = None
    hosted_models: bool = False
    request_timeout_seconds: float = 60.0

    @classmethod
    def from_env(
        cls, prefix: str = "PGEMBED_", environ: Mapping[str, str] | None = None
    ) -> Self:
        """Read each field from the variable of its name in capitals after `prefix`.

        A variable that is missing or empty leaves the default. Several values are
        separated by commas.

        Args:
            prefix: Put before each name.
            environ: Where to look; None: the process's environment.

        Raises:
            InvalidParameter: A value is not of its field's type; names the variable.

        Example:
            >>> Settings.from_env(environ={"PGEMBED_DEVICE": "cpu"}).device
            'cpu'
        """
        source = os.environ if environ is None else environ
        kinds = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = prefix + field.name.upper()
            text = source.get(variable, "").strip()
            if text:
                kind = kinds[field.name]
                several = get_origin(kind) is tuple
                values[field.name] = (
                    tuple(filter(None, map(str.strip, text.split(","))))
                    if several
                    else _parse(text, kind, variable)
                )
        return cls(**values)


def _parse(text: str, kind: Any, variable: str) -> str | bool | int | float:
    if get_origin(kind) is types.UnionType:
        kind = next(arm for arm in get_args(kind) if arm is not types.NoneType)
    if issubclass(kind, StrEnum):
        if text.lower() not in tuple(kind):
            raise _invalid(variable, text, f"Give one of: {', '.join(kind)}.")
        member: str = kind(text.lower())
        return member
    if kind is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise _invalid(variable, text, "Give true or false.")
    if kind is int:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise _invalid(variable, text, "Give a whole number above 0.")
        return number
    if kind is float:
        try:
            amount = float(text)
        except ValueError:
            amount = math.nan
        if not (math.isfinite(amount) and amount > 0):
            raise _invalid(variable, text, "Give a number above 0.")
        return amount
    return text


def _invalid(variable: str, text: str, hint: str) -> InvalidParameter:
    return InvalidParameter(f"{variable} is {text!r}", hint=hint)
