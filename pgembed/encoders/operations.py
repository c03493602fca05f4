"""How much a model computes, and how much a machine can."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pgembed.errors import MissingExtra

try:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
except ImportError as exc:
    raise MissingExtra("encoder") from exc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.encoders.base import Encoder

_SIZE: Final = 2048  # of the matrices: large enough that memory is not what limits
_ROUNDS: Final = 3


def count(encoder: Encoder, texts: Sequence[str]) -> int:
    """Count what an encoder of torch computes for texts, padding included.

    Matrix products, convolutions and attention, as `FlopCounterMode` of torch counts
    them: a multiplication and an addition are two.
    """
    with FlopCounterMode(display=False) as counter:
        encoder.encode_documents(texts)
    return int(counter.get_total_flops())


def peak(device: str) -> float:
    """Measure how many operations a second this device does at its best.

    Args:
        device: As torch names it, such as `cpu` or `cuda:0`.

    Returns:
        Those of a product of two large matrices; the best of three. In 16 bits on a
        CUDA device, in 32 elsewhere.
    """
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    one = torch.randn(_SIZE, _SIZE, device=device, dtype=dtype)
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return 2.0 * _SIZE**3 / min(seconds)
