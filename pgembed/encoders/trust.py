"""What a model's folder may hold: it comes from anywhere, and is not trusted.

A folder of sentence-transformers names Python classes (`modules.json`), arguments for
the libraries that load it (`sentence_bert_config.json`), functions (the activation of a
Dense layer), and may hold weights as pickle, which is a program. Everything of that is
looked at here, as JSON and file names, before any library sees the folder. What is not
known to be harmless is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pgembed.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LIBRARY: Final = "sentence_transformers"
_TRANSFORMERS: Final = frozenset({"Transformer", "CLIPModel", "MLMTransformer"})
_ROUTERS: Final = frozenset({"Router", "Asym"})
# Of these the library reads a file of weights, model.safetensors or a pickle.
_WITH_WEIGHTS: Final = frozenset(
    {"CNN", "Dense", "LSTM", "LayerNorm", "StaticEmbedding", "WeightedLayerPooling"}
    | {"WordEmbeddings"}
)
_WITHOUT: Final = frozenset(
    {"BoW", "Dropout", "LogitScore", "Normalize", "Pooling", "WordWeights"}
)
MODULE_CLASSES: Final = _TRANSFORMERS | _ROUTERS | _WITH_WEIGHTS | _WITHOUT
# Where the library has them, in all its versions: sentence_transformers.models.Dense,
# sentence_transformers.base.modules.dense.Dense.
_PACKAGES: Final = frozenset({"models", "modules"})
_WORD_TOKENIZERS: Final = frozenset({"WhitespaceTokenizer", "WordTokenizer"})

_IDENTIFIERS: Final = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
_ACTIVATION: Final = re.compile(r"torch\.nn\.(modules\.[a-z]+\.)?[A-Z]\w*", re.ASCII)

_TRANSFORMER_CONFIGS: Final = tuple(
    f"sentence_{kind}_config.json"
    for kind in (
        *("bert", "roberta", "distilbert", "camembert"),
        *("albert", "xlm-roberta", "xlnet"),
    )
)
# What such a file may hand on to the library that loads the weights, the tokenizer, the
# configuration. Others name files, other models, kernels from the hub, or switch off
# what protects from pickle.
_ARGUMENTS: Final = {
    "model_args": frozenset({"dtype", "torch_dtype", "attn_implementation"}),
    "tokenizer_args": frozenset(
        {"padding_side", "truncation_side", "model_max_length", "use_fast"}
        | {"do_lower_case", "add_bos_token", "add_eos_token"}
    ),
    "config_args": frozenset({"attn_implementation"}),
}
_NEWER_NAMES: Final = {
    "model_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "config_args": "config_kwargs",
}
# Not arguments, but paths of their own.
_PATHS: Final = ("tokenizer_name_or_path", "model_name_or_path", "cache_dir")
_IMPLEMENTATION: Final = ("_implementation", "_implementation_internal")


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a model: the class it names, and its folder below the model's."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class's own name."""
        return self.type.rpartition(".")[2]


def check_folder(name: str, folder: Path) -> None:
    """Refuse a model that would run code, or whose weights are pickle.

    Args:
        name: The model's name, for the message.
        folder: Where it is.

    Raises:
        ModelNotFound: The model names what is not known to be harmless, or has weights
            in another format than safetensors; names it and the model.
    """
    modules = list_modules(folder)
    for module in modules:
        _check_type(name, folder, module)
    for module in modules or [Module(f"{_LIBRARY}.models.Transformer", "")]:
        part = folder / module.path
        _check_weights(name, part, module)
        if module.kind in _TRANSFORMERS:
            _check_transformer(name, part)
        elif module.kind == "Dense":
            file = part / "config.json"
            _check_activation(name, file, read_json(file), "activation_function")
        elif module.kind == "WordEmbeddings":
            _check_tokenizer(name, part / "wordembedding_config.json")
    # Of cross-encoders, by version of the library.
    file = folder / "config_sentence_transformers.json"
    _check_activation(name, file, read_json(file), "activation_fn")
    file = folder / "config.json"
    config = read_json(file)
    _check_activation(name, file, config, "sbert_ce_default_activation_function")
    nested = config.get("sentence_transformers")
    if isinstance(nested, dict):
        _check_activation(name, file, nested, "activation_fn")


def library_arguments() -> dict[str, Any]:
    """Give what the library is told besides: it goes before the folder's settings."""
    return {
        "local_files_only": True,
        "trust_remote_code": False,
        "model_kwargs": {"use_safetensors": True, "weights_only": True},
    }


def list_modules(folder: Path) -> list[Module]:
    """List the modules that a model is made of, those inside of routers included.

    Raises:
        ModelNotFound: A file is damaged, or names a folder outside of the model's.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return []
    try:
        found = [
            Module(str(one["type"]), str(one["path"]))
            for one in json.loads(listing.read_bytes())
        ]
    except (ValueError, KeyError, TypeError) as exc:
        raise _damaged(listing, exc) from exc
    return _with_routes(folder, found)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file.

    Raises:
        ModelNotFound: The file is damaged.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise _damaged(file, exc) from exc
    return value if isinstance(value, dict) else {}


def conversion(folder: Path | str) -> str:
    """Say how weights become safetensors."""
    return (
        "Convert the weights to safetensors, where you trust who made them (reading a "
        'pickle can run a program): python -c "from sentence_transformers import '
        f"SentenceTransformer as S; S('{folder}').save_pretrained('NEW_FOLDER')\""
        "; then use NEW_FOLDER. Many models on the hub have safetensors in a newer "
        "revision."
    )


def pickled(names: Iterable[str]) -> list[str]:
    """Name the files among these that hold weights as pickle."""
    return [
        name
        for name in names
        if (stem := PurePosixPath(name).name).endswith((".bin", ".bin.index.json"))
        and stem.startswith(("pytorch_model", "adapter_model"))
    ]


def _with_routes(folder: Path, modules: list[Module]) -> list[Module]:
    found: list[Module] = []
    for module in modules:
        path = PurePosixPath(module.path)
        if path.is_absolute() or ".." in path.parts or "\\" in module.path:
            raise ModelNotFound(
                f"the model in {folder} has a module outside of it: {module.path!r}",
                hint="Such a model is not loaded: take it from its publisher.",
            )
        found.append(module)
        if module.kind in _ROUTERS:
            part = folder / module.path
            config = read_json(part / "router_config.json") or read_json(
                part / "config.json"
            )
            types = config.get("types")
            if not isinstance(types, dict):
                raise _damaged(part, "a router without types")
            inner = [Module(str(kind), str(path / key)) for key, kind in types.items()]
            if any(one.kind in _ROUTERS for one in inner):
                raise _damaged(part, "a router in a router")
            found += _with_routes(folder, inner)
    return found


def _check_type(name: str, folder: Path, module: Module) -> None:
    parts = module.type.split(".")
    if (
        _IDENTIFIERS.fullmatch(module.type)
        and parts[0] == _LIBRARY
        and not _PACKAGES.isdisjoint(parts[1:-1])
        and module.kind in MODULE_CLASSES
    ):
        return
    raise ModelNotFound(
        f"model {name!r} was not loaded: it is made of {module.type!r}, which is no "
        "module of sentence-transformers for texts",
        detail=f"In {folder}, folder {module.path or '.'!r}. pgembed never runs code "
        "that a model brings or chooses.",
        hint="Take a model of these modules: "
        + ", ".join(sorted(MODULE_CLASSES))
        + ".",
    )


def _check_weights(name: str, part: Path, module: Module) -> None:
    """Refuse a module whose weights would be read from a pickle."""
    safe = sorted(file.name for file in part.glob("*.safetensors"))
    if module.kind in _TRANSFORMERS:
        fine = bool(safe)
    elif module.kind in _WITH_WEIGHTS:
        fine = "model.safetensors" in safe
    else:
        return
    there = pickled(file.name for file in part.iterdir()) if part.is_dir() else []
    # A folder without any weights is for whoever reads them to complain about; but a
    # part that lacks its own would be looked for as a pickle.
    if fine or not (there or module.path):
        return
    raise ModelNotFound(
        f"model {name!r} was not loaded: {part} has no weights as safetensors",
        detail=f"Its weights there are pickle: {', '.join(there)}."
        if there
        else f"Module {module.kind} needs a file model.safetensors there.",
        hint=conversion(part if not module.path else part.parent),
    )


def _check_transformer(name: str, part: Path) -> None:
    for file_name in _TRANSFORMER_CONFIGS:
        config = read_json(part / file_name)
        for key in _PATHS:
            if key in config:
                raise _setting(name, part / file_name, key, config[key])
        for old, allowed in _ARGUMENTS.items():
            for key in (old, _NEWER_NAMES[old]):
                _check_arguments(name, part / file_name, key, config, allowed)
    config = read_json(part / "config.json")
    _check_kernels(name, part / "config.json", config)
    # The fingerprint is over the weights that lie here.
    weights = config.get("transformers_weights")
    if weights is not None and weights not in [
        file.name for file in part.glob("*.safetensors")
    ]:
        raise _setting(name, part / "config.json", "transformers_weights", weights)
    index = part / "model.safetensors.index.json"
    shards = read_json(index).get("weight_map") or {}
    for shard in set(map(str, shards.values())) if isinstance(shards, dict) else ():
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise _setting(name, index, "weight_map", shard)
    if (part / "adapter_config.json").exists():
        raise ModelNotFound(
            f"model {name!r} was not loaded: {part} holds an adapter, which loads "
            "another model below it",
            hint="Merge the adapter into its base model and save the result.",
        )


def _check_arguments(
    name: str,
    file: Path,
    key: str,
    config: Mapping[str, Any],
    allowed: frozenset[str],
) -> None:
    arguments = config.get(key) or {}
    if not isinstance(arguments, dict):
        raise _setting(name, file, key, arguments)
    for argument, value in arguments.items():
        # The library takes this one out by itself; a model that needs it says so
        # when it is loaded.
        if argument == "trust_remote_code":
            continue
        scalar = value is None or isinstance(value, str | int | float | bool)
        if argument not in allowed or not scalar:
            raise _setting(name, file, f"{key}.{argument}", value)
    _check_kernels(name, file, arguments)


def _check_kernels(name: str, file: Path, config: Mapping[str, Any]) -> None:
    """Refuse implementations that would be fetched from the hub, as compiled code."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_kernels(name, file, value)
        named = key.endswith(_IMPLEMENTATION) and value is not None
        if named and (not isinstance(value, str) or not value.isidentifier()):
            raise _setting(name, file, key, value)
        if "kernel" in key and value and key.startswith(("use_", "allow_", "kernel_c")):
            raise _setting(name, file, key, value)


def _check_activation(
    name: str, file: Path, config: Mapping[str, Any], key: str
) -> None:
    """Refuse a function that is no layer of torch's: it is imported and called."""
    value = config.get(key)
    if value is not None and not (
        isinstance(value, str) and _ACTIVATION.fullmatch(value)
    ):
        raise _setting(name, file, key, value)


def _check_tokenizer(name: str, file: Path) -> None:
    value = str(read_json(file).get("tokenizer_class"))
    known = value.rpartition(".")[2] in _WORD_TOKENIZERS
    if not (
        known and value.startswith(f"{_LIBRARY}.") and _IDENTIFIERS.fullmatch(value)
    ):
        raise _setting(name, file, "tokenizer_class", value)


def _setting(name: str, file: Path, key: str, value: object) -> ModelNotFound:
    return ModelNotFound(
        f"model {name!r} was not loaded: {file} sets {key} to {value!r}",
        detail="That may run code, or load something else than this model.",
        hint="Remove the setting from a copy of the model, if you know that it needs "
        "none of it; or take another model.",
    )


def _damaged(file: Path, why: object) -> ModelNotFound:
    return ModelNotFound(
        f"{file} is damaged: {why}", hint="Copy the model there again."
    )
