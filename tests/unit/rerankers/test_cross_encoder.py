from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pgembed.errors import InvalidParameter, ModelNotFound, RerankError, TextError
from pgembed.rerankers import as_reranker, load_reranker
from tests.fixtures.cross_encoders import ENCODER_FOLDER, save_cross_encoder

if TYPE_CHECKING:
    from pgembed.rerankers.cross_encoder import CrossEncoderReranker


def test_scores_equal_the_library_in_the_callers_order(
    reranker: CrossEncoderReranker, cross_encoder_folder: Path
) -> None:
    from sentence_transformers import CrossEncoder

    rng = random.Random(3)
    words = ["open", "file", "socket", "parse", "config", "thread"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 90))) for _ in range(50)]
    ours = reranker.score("read a file", texts)
    library = CrossEncoder(str(cross_encoder_folder), device=reranker.device)
    theirs = [float(library.predict([("read a file", text)])[0]) for text in texts]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len({round(score, 4) for score in ours}) > 10


def test_the_query_counts(reranker: CrossEncoderReranker) -> None:
    texts = ["open a file", "play the violin"]
    assert reranker.score("a", texts) != reranker.score("parse the config", texts)


def test_nothing_to_score(reranker: CrossEncoderReranker) -> None:
    assert reranker.score("query", []) == []


@pytest.mark.parametrize("text", ["", " ", "漢字" * 300, "x " * 10_000])
def test_odd_and_long_texts_have_a_score(
    reranker: CrossEncoderReranker, text: str
) -> None:
    assert len(reranker.score("query", [text, "plain"])) == 2
    assert reranker.max_tokens == 128


def test_lone_surrogate_is_a_text_error(reranker: CrossEncoderReranker) -> None:
    with pytest.raises(TextError, match=r"cannot re-rank: .*U\+DFFF"):
        reranker.score("query", ["fine", "\udfff"])


def test_out_of_memory_halves_the_batches(
    cross_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgembed.rerankers.cross_encoder import CrossEncoderReranker

    reranker = CrossEncoderReranker(str(cross_encoder_folder))
    expected = reranker.score("query", ["a", "b", "c"])
    predict = reranker._model.predict
    sizes: list[int] = []

    def full(pairs: list[tuple[str, str]], **options: Any) -> Any:
        sizes.append(options["batch_size"])
        if options["batch_size"] > 4:
            raise RuntimeError("out of memory")
        return predict(pairs, **options)

    monkeypatch.setattr(reranker._model, "predict", full)
    assert reranker.score("query", ["a", "b", "c"]) == pytest.approx(expected)
    assert sizes[-1] == 4


def test_an_encoder_is_no_reranker() -> None:
    with pytest.raises(ModelNotFound, match="no cross-encoder") as caught:
        load_reranker(str(ENCODER_FOLDER))
    assert "BertModel" in str(caught.value)


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    save_cross_encoder(tmp_path, outputs=3)
    with pytest.raises(ModelNotFound, match="3 numbers for a pair"):
        load_reranker(str(tmp_path))


def test_a_saved_cross_encoder_is_accepted(
    cross_encoder_folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross_encoder_folder)).save_pretrained(str(tmp_path))
    assert len(load_reranker(str(tmp_path)).score("q", ["a"])) == 1


@pytest.mark.parametrize("name", ["/no/such/folder", "./none"])
def test_missing_model_says_what_was_tried(name: str) -> None:
    with pytest.raises(ModelNotFound, match="was not found"):
        load_reranker(name)


def test_damaged_model_says_which(cross_encoder_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(cross_encoder_folder, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_reranker(str(folder))


def test_a_cross_encoder_object_is_taken(cross_encoder_folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross_encoder_folder))
    reranker = as_reranker(model)
    assert reranker.name == "CrossEncoder"
    assert len(reranker.score("query", ["a", "b"])) == 2
    assert reranker.score("query", []) == []
    assert as_reranker(reranker) is reranker


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0], "1 scores for 2 texts"),
        ([1.0, float("nan")], "score nan for text 1"),
        ([[1.0, 2.0], [3.0, 4.0]], "one number for each text"),
    ],
)
def test_a_wrong_answer_is_refused(answer: list[Any], words: str) -> None:
    class Own:
        def predict(self, pairs: list[Any]) -> list[Any]:
            assert len(pairs) == 2
            return answer

    with pytest.raises(RerankError, match=words):
        as_reranker(Own()).score("query", ["a", "b"])


def test_what_an_own_reranker_raises_is_told() -> None:
    class Own:
        def predict(self, pairs: list[Any]) -> list[float]:
            raise ValueError(f"no such layer for {len(pairs)}")

    with pytest.raises(RerankError, match="no such layer"):
        as_reranker(Own()).score("query", ["a"])


def test_other_objects_are_refused() -> None:
    from sentence_transformers import CrossEncoder

    for given in (None, 3, CrossEncoder, object()):
        with pytest.raises(InvalidParameter, match="reranker must be"):
            as_reranker(given)


def test_importing_rerankers_loads_no_heavy_library() -> None:
    script = (
        "import sys, pgembed.rerankers;"
        "heavy = {'torch', 'sentence_transformers', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
