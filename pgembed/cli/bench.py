"""`pgembed model bench`: a model on this machine, by each backend that is here."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from pgembed.cli.common import AsJson, console, errors
from pgembed.errors import ModelNotFound, PgembedError
from pgembed.settings import Backend, Settings, let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_QUERIES: Final = 30
_BACKENDS: Final = (Backend.TORCH, Backend.ONNX)


@dataclass(frozen=True, slots=True)
class Speed:
    """What a model does on this machine.

    Attributes:
        backend: What computed; for a provider that has no backends, the provider.
        device: Where, as torch names it.
        start_s: Seconds to import the libraries and load the model.
        query_ms: Milliseconds for one short query; the median.
        texts_s: Documents a second, in batches as the service makes them.
        tokens_s: Tokens a second of these.
        memory_mib: The most memory of the process.
        of_peak: Share of the operations that the machine does a second at its best,
            multiplying large matrices; None where torch is not there to count them.
        agreement: The lowest cosine of a text's vector to the first backend's; None for
            that one.
    """

    backend: str
    device: str
    start_s: float
    query_ms: float
    texts_s: float
    tokens_s: float
    memory_mib: float
    of_peak: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class _Measured:
    speed: Speed
    vectors: NDArray[np.float32]
    operations: int | None
    """Of all texts; None: not counted."""
    peak: float | None


def _measure(
    name: str, provider: str, backend: Backend, texts: Sequence[str]
) -> _Measured:
    """Measure in this process, which has loaded nothing yet."""
    let_threads_sleep()
    began = time.perf_counter()
    from pgembed.encoders import load_encoder

    settings = replace(Settings.from_env(), backend=backend)
    encoder = load_encoder(name, provider, settings=settings)
    start = time.perf_counter() - began
    encoder.encode_documents(texts[:2])  # what is only done once
    queries = []
    for number in range(_QUERIES):
        began = time.perf_counter()
        encoder.encode_queries([f"how is setting {number} read from a file"])
        queries.append(time.perf_counter() - began)
    began = time.perf_counter()
    vectors = encoder.encode_documents(texts)
    seconds = time.perf_counter() - began
    local = provider == "sentence-transformers"
    device = str(getattr(encoder, "device", "cpu"))
    operations, best = None, None
    if local and backend is Backend.TORCH:
        from pgembed.encoders.operations import count, peak

        operations, best = count(encoder, texts), peak(device)
    speed = Speed(
        backend=backend.value if local else provider,
        device=device,
        start_s=start,
        query_ms=statistics.median(queries) * 1e3,
        texts_s=len(texts) / seconds,
        tokens_s=sum(encoder.count_tokens(texts)) / seconds,
        memory_mib=_most_memory(),
        of_peak=None,
        agreement=None,
    )
    return _Measured(speed, vectors, operations, best)


def _most_memory() -> float:
    """MiB of this process at its most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage has that of the process which started this one
        most = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if most:
            return int(most[1]) / 1024
    import resource  # not on Windows

    most_used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most_used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _in_new_process(
    name: str, provider: str, backend: Backend, texts: Sequence[str]
) -> _Measured:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, name, provider, backend, texts).result()


def _compared(found: Sequence[_Measured]) -> list[Speed]:
    """Fill in what needs more than one backend."""
    from pgembed.encoders.base import unit_length

    first = found[0]
    speeds = []
    for one in found:
        share, agreement = None, None
        if first.operations and first.peak and one.speed.device == first.speed.device:
            seconds = len(first.vectors) / one.speed.texts_s
            share = first.operations / seconds / first.peak
        if one is not first:
            both = unit_length(one.vectors) * unit_length(first.vectors)
            agreement = float(both.sum(axis=1).min())
        speeds.append(replace(one.speed, of_peak=share, agreement=agreement))
    return speeds


def bench(
    name: Annotated[str, typer.Argument(help="Name, or path, of the model.")],
    *,
    provider: Annotated[
        str, typer.Option(help="sentence-transformers, static or hashing.")
    ] = "sentence-transformers",
    texts: Annotated[
        int, typer.Option(min=1, help="Number of texts: docstrings of Python's own.")
    ] = 64,
    as_json: AsJson = False,
) -> None:
    """Measure a model on this machine: speed, memory, and whether backends agree.

    By torch and by onnxruntime, whichever are installed and have the model, each in a
    process of its own. Nothing is read from or written to a database. PGEMBED_THREADS,
    PGEMBED_DEVICE and the like count as for `pgembed serve`.
    """
    from pgembed.demo.corpus import corpus

    if provider == "litellm":
        raise ModelNotFound(
            "a hosted model is not measured",
            hint="Every text would be sent, and paid for: "
            "`pgembed create --dry-run` tells the price.",
        )
    documents = [row.text for row in corpus(limit=texts)]
    local = provider == "sentence-transformers"
    found: list[_Measured] = []
    failed: PgembedError | None = None
    for backend in _BACKENDS if local else (Backend.AUTO,):
        library = {"torch": "torch", "onnx": "onnxruntime"}.get(backend.value)
        if library and find_spec(library) is None:
            continue
        try:
            found.append(_in_new_process(name, provider, backend, documents))
        except PgembedError as error:
            failed = error
            errors.print(f"{backend.value}: {error}", markup=False, soft_wrap=True)
    if not found:
        if failed is not None:
            raise failed
        raise ModelNotFound(
            "neither torch nor onnxruntime is installed",
            hint="pip install 'pgembed-kit[encoder]', or [onnx] for exported models.",
        )
    speeds = _compared(found)
    if as_json:
        console.print_json(data=[asdict(one) for one in speeds])
        return
    _show(name, len(documents), speeds)


def _show(name: str, texts: int, speeds: Sequence[Speed]) -> None:
    console.print(f"{name}, {texts} texts", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in (
        "start",
        "a query",
        "texts/s",
        "tokens/s",
        "memory",
        "of peak",
        "cos",
    ):
        table.add_column(title, justify="right")
    for one in speeds:
        table.add_row(
            one.backend,
            f"{one.start_s:.1f} s",
            f"{one.query_ms:.1f} ms",
            f"{one.texts_s:,.0f}",
            f"{one.tokens_s:,.0f}",
            f"{one.memory_mib:,.0f} MiB",
            "-" if one.of_peak is None else f"{one.of_peak:.0%}",
            "-" if one.agreement is None else f"{one.agreement:.5f}",
        )
    console.print(table)
    console.print(
        "of peak: of what the machine does multiplying large matrices; cos: lowest "
        "cosine of a text's vector to the first line's",
        style="dim",
    )
