"""Writes a model's ONNX file, once, with torch, and compares it with the weights."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgembed.encoders.base import unit_length
from pgembed.encoders.exports import (
    AGREEMENT_FILE,
    INT8_SUFFIX,
    MODEL_FILE,
    Agreement,
    export_folder,
    runtime_files,
    transformer_part,
)
from pgembed.encoders.lookup import find_model
from pgembed.encoders.onnx import OnnxEncoder, check_agreement
from pgembed.encoders.packaged import packaged_model
from pgembed.encoders.pooling import Assumed, read_modules
from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
from pgembed.encoders.trust import list_modules
from pgembed.encoders.weights import checksum, is_model_folder
from pgembed.errors import InvalidParameter, MissingExtra, ModelNotFound
from pgembed.settings import Settings

try:
    import onnx as _onnx  # noqa: F401 - what torch writes the file with
    import onnxscript as _onnxscript  # noqa: F401
    import torch
except ImportError as exc:
    raise MissingExtra("export") from exc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pgembed.encoders.lookup import FoundModel

OPSET: Final = 18
LEAST_INT8_COSINE: Final = 0.9  # below that the file is broken, not only coarse
_OUTPUT: Final = "last_hidden_state"
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
# A protocol buffer has at most 2 GiB; larger models have their tensors beside it.
_ONE_FILE_BYTES: Final = 1_500_000_000

# Encoded again whenever the export is loaded: a batch of a few hundredths of a second.
_KEPT: Final = (
    "a",
    "",
    "Read the settings of a program from a file in the INI format.",
    "Überraschung: der Zug kommt pünktlich. Ça va?",
    "数据库中的全文搜索",
    "データベースの検索 и поиск по базе данных",
    "def parse(path: str) -> dict[str, int]: ...",
)
_SENTENCE: Final = "The quick brown fox jumps over the lazy dog, twice. "
_COMPARED: Final = (
    *_KEPT,
    " ",
    "👩‍👩‍👧‍👦 emoji",
    "ПРОПИСНЫЕ И строчные, İstanbul, ΣΊΣΥΦΟΣ",
    "البحث في قاعدة البيانات",
    "ค้นหาข้อมูล",
    "데이터베이스 검색",
    "\x01\x7f\u200b",
    *(_SENTENCE * times for times in (1, 3, 9, 27, 81)),
    "漢字" * 400,  # over the limit of nearly all models
    "x" * 2000,
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        name: What the model is called from now on.
        fingerprint: As it is loaded from there.
        megabytes: Size of the ONNX file, in MiB.
        cosine: Least cosine to the vectors of the weights.
        texts: Number of texts that were compared.
    """

    folder: Path
    name: str
    fingerprint: str
    megabytes: float
    cosine: float
    texts: int


def export(
    name: str,
    out: Path | None = None,
    *,
    revision: str | None = None,
    int8: bool = False,
    settings: Settings | None = None,
) -> Exported:
    """Write a model's ONNX file and what is needed beside it.

    It is compared with the weights before it takes its place; an earlier export stays
    until then.

    Args:
        name: A directory, a packaged model's name, or a name on the hub.
        out: Where to; None: for a directory that directory itself, else the folder of
            exports, where the model is found by its name.
        revision: Commit on the hub; None: whichever is found.
        int8: Quantise the weights to 8 bits: another model, with vectors and a
            fingerprint of its own, named with `-int8` at the end.
        settings: Where exports are; None: where they are by default.

    Raises:
        ModelNotFound: The model cannot be loaded or exported, or the export does not
            agree with it.
        InvalidParameter: The variant of 8 bits needs another folder.
    """
    settings = settings or Settings()
    found = find_model(name, revision, settings)
    read_modules(name, found.folder)
    own_name = name + INT8_SUFFIX if int8 else name
    folder = _choose_folder(own_name, found, out, settings, int8=int8)
    encoder = SentenceTransformersEncoder(
        name,
        revision=revision,
        query_prompt="",
        document_prompt="",
        settings=Settings(device="cpu", model_folder=settings.model_folder),
    )
    expected = encoder.encode_documents(_COMPARED)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as made:
        new = Path(made) / "model"
        _copy_descriptions(found.folder, new)
        if not list_modules(found.folder):
            Assumed.of(name, found.folder).write(new, encoder.transformer_dimensions)
        part = transformer_part(new)
        _write_tokenizer(encoder, part)
        _write_model(name, encoder, part / MODEL_FILE, int8=int8)
        vectors = OnnxEncoder(
            str(new), query_prompt="", document_prompt=""
        ).encode_documents(_COMPARED)
        if int8:
            cosine = _check_int8(name, vectors, expected)
        else:
            cosine = check_agreement(name, vectors, expected)
            Agreement(
                encoder.fingerprint,
                _commit(name, found),
                checksum(runtime_files(new)),
                list(_KEPT),
                [[float(f"{x:.8g}") for x in v] for v in expected[: len(_KEPT)]],
            ).write(part)
        _put(new, folder, all_of_it=folder != found.folder)
    # As it is loaded from now on.
    loaded = OnnxEncoder(str(folder), query_prompt="", document_prompt="")
    size = (transformer_part(folder) / MODEL_FILE).stat().st_size
    return Exported(
        folder,
        str(folder) if found.origin == "path" or out is not None else own_name,
        loaded.fingerprint,
        size / (1 << 20),
        cosine,
        len(_COMPARED),
    )


def _choose_folder(
    name: str, found: FoundModel, out: Path | None, settings: Settings, *, int8: bool
) -> Path:
    if out is not None:
        chosen = out.expanduser().resolve()
        if chosen.is_dir() and any(chosen.iterdir()) and not is_model_folder(chosen):
            raise InvalidParameter(
                f"{chosen} is a folder with something else than a model in it",
                hint="Give a new folder, or that of the model.",
            )
    elif found.origin == "path":
        chosen = found.folder
    else:
        exported = export_folder(name, settings)
        assert exported is not None  # what is no path is a name
        return exported
    if int8 and chosen == found.folder:
        raise InvalidParameter(
            "the variant of 8 bits is another model, and needs a folder of its own",
            hint="Give one: --out FOLDER.",
        )
    return chosen


def _copy_descriptions(source: Path, target: Path) -> None:
    """Copy what is needed beside the ONNX file: no weights but those of Dense."""
    part = transformer_part(source)
    parts = {source, part, *(source / one.path for one in list_modules(source))}
    # Normalize has no files, and in some copies no folder.
    for folder in filter(Path.is_dir, parts):
        into = target / folder.relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            weights = file.suffix == ".safetensors" and folder != part
            described = file.suffix in (".json", ".txt", ".md", ".model")
            if file.is_file() and (weights or described):
                shutil.copyfile(file, into / file.name)
    (transformer_part(target) / MODEL_FILE).parent.mkdir(exist_ok=True)


def _write_tokenizer(encoder: SentenceTransformersEncoder, part: Path) -> None:
    """Write the fast tokenizer where the model has only the files of a slow one."""
    file = part / "tokenizer.json"
    if file.exists():
        return
    text = encoder.tokenizer_json()
    if text is None:
        raise ModelNotFound(
            f"model {encoder.name!r} has no fast tokenizer, and was not exported",
            hint="Load it with torch: PGEMBED_BACKEND=torch.",
        )
    file.write_text(text, encoding="utf-8")


def _write_model(
    name: str, encoder: SentenceTransformersEncoder, file: Path, *, int8: bool
) -> None:
    transformer: Any = encoder.transformer
    # Two of unlike length: nothing may be taken for always so.
    features = transformer.tokenizer(
        ["a", "two words and more"], padding=True, return_tensors="pt"
    )
    names = [one for one in _INPUTS if one in features]
    network = _Network(transformer.auto_model, names).eval()
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                network,
                tuple(features[one] for one in names),
                file,
                input_names=names,
                output_names=[_OUTPUT],
                dynamic_shapes=(tuple(shape for _ in names),),
                opset_version=OPSET,
                dynamo=True,
                external_data=size > _ONE_FILE_BYTES,
                verbose=False,
            )
            if int8:
                _quantise(file)
    # Tracing runs the model's code of three libraries.
    except Exception as exc:
        raise ModelNotFound(
            f"model {name!r} could not be exported",
            detail=f"{type(exc).__name__}: {exc}",
            hint="Load it with torch: PGEMBED_BACKEND=torch.",
        ) from exc


class _Network(torch.nn.Module):
    """A transformer with positional inputs and one output."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        states: torch.Tensor = self.model(**given, return_dict=True).last_hidden_state
        return states


def _quantise(file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = file.with_name("full.onnx")
    file.rename(full)
    quantize_dynamic(
        full,
        file,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Without VNNI a CPU adds pairs of products in 16 bits, which 8 bits overflow.
        reduce_range=True,
    )
    full.unlink()


def _check_int8(
    name: str, vectors: NDArray[np.float32], expected: NDArray[np.float32]
) -> float:
    cosine = float((unit_length(vectors) * unit_length(expected)).sum(axis=1).min())
    if not cosine >= LEAST_INT8_COSINE:
        raise ModelNotFound(
            f"model {name!r} does not stand 8 bits: the cosine to its own vectors is "
            f"{cosine:.3f}",
            hint="Export it without --int8.",
        )
    return cosine


def _commit(name: str, found: FoundModel) -> str | None:
    packaged = packaged_model(name)
    if found.origin == "package" and packaged is not None:
        return packaged.revision
    return found.folder.name if found.origin == "hub" else None


def _put(new: Path, folder: Path, *, all_of_it: bool) -> None:
    """Put files in their place; a model's own folder keeps its own.

    The agreement goes first and comes last: what is in between is not taken for the
    model itself.
    """
    agreement = transformer_part(new) / AGREEMENT_FILE
    (transformer_part(folder) / AGREEMENT_FILE).unlink(missing_ok=True)
    files = [file for file in new.rglob("*") if file.is_file() and file != agreement]
    for file in [*files, *([agreement] if agreement.exists() else [])]:
        target = folder / file.relative_to(new)
        if target.exists() and not (all_of_it or target.parent.name == "onnx"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' reports out of the command's output."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    root = logging.getLogger()
    was = root.level
    logger.setLevel(logging.ERROR)
    root.setLevel(max(was, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        root.setLevel(was)
