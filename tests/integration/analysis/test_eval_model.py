"""`pgembed eval-model`: models measured on files, side by side."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import v_measure_score
from typer.testing import Result

from pgembed import analysis, errors
from pgembed.analysis.models import purity
from pgembed.analysis.wording import negated, with_typing_error
from pgembed.encoders.hashing import HashingEncoder
from tests.fixtures.cli import invoke

STSB = Path(__file__).parents[4] / "shared" / "data" / "stsb" / "stsb-en-test.tsv.gz"
PAIRS = (
    "score\tsentence1\tsentence2\n5\ta red fox\ta red fox\n"
    "3\ta red fox\ta red hen\n0\ta red fox\tcold tea\n"
)


class Known:
    """Knows the vectors of some texts."""

    name = "known"
    dimensions = 2

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self._vectors = vectors
        self.asked: list[str] = []

    def encode_documents(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([self._vectors[text] for text in texts], np.float32)


def known(vectors: Mapping[str, Sequence[float]]) -> Any:
    return Known(vectors)


def values(report: analysis.ModelReport) -> dict[str, float]:
    return {figure.measure: figure.value for figure in report.figures}


def run(*words: object) -> Result:
    return invoke(["eval-model", *map(str, words)], env={"COLUMNS": "100"})


def test_pairs_are_ranked_as_people_rank_them(tmp_path: Path) -> None:
    file = tmp_path / "sts.tsv"
    file.write_text(PAIRS)
    model = HashingEncoder("hashing", 256)
    report = analysis.evaluate_model(model, [analysis.read_pairs(file)])
    first = model.encode_documents(["a red fox"] * 3)
    second = model.encode_documents(["a red fox", "a red hen", "cold tea"])
    expected = spearmanr((first * second).sum(axis=1), [5, 3, 0]).statistic
    assert report.figures == [analysis.Figure("sts", "spearman", expected, 3)]
    assert expected == 1


def test_each_format_of_pairs_is_read(tmp_path: Path) -> None:
    rows = [("a, b", "c", 1.5), ("d", "e", 0.0), ("f", "g", 3.0)]
    files = {
        "with.csv": "word1,word2,similarity\n"
        + "".join(f'"{a}",{b},{s}\n' for a, b, s in rows),
        "without.tsv": "".join(f"{a}\t{b}\t{s}\n" for a, b, s in rows),
        "first.tsv": "".join(f"{s}\t{a}\t{b}\n" for a, b, s in rows),
        "lines.jsonl": "".join(
            json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n"
            for a, b, s in rows
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        found = analysis.read_pairs(tmp_path / name)
        assert list(zip(found.first, found.second, found.scores, strict=True)) == rows
    with gzip.open(tmp_path / "zipped.csv.gz", "wt") as stream:
        stream.write(files["with.csv"])
    assert analysis.read_pairs(tmp_path / "zipped.csv.gz").scores == [1.5, 0, 3]


def test_analogies_are_found_among_the_words_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(": family\nman king woman queen\nman queen woman king\n")
    model = known(
        {"man": [1, 0], "woman": [0, 1], "king": [2, 1], "queen": [1, 2]},
    )
    (figure,) = analysis.evaluate_model(model, [analysis.read_analogies(file)]).figures
    # The second asks for what is never given: one of its own three words is nearest.
    assert (figure.value, figure.count) == (1.0, 2)


def test_labels_are_learnt_and_found(tmp_path: Path) -> None:
    texts = [f"{topic} {number}" for topic in ("tea", "fox") for number in range(20)]
    file = tmp_path / "labels.csv"
    file.write_text("text,label\n" + "".join(f"{t},{t[:3]}\n" for t in texts))
    angles = np.random.default_rng(0).normal(0, 0.1, len(texts))
    angles[20:] += 1.5
    model = known(
        {t: [np.cos(a), np.sin(a)] for t, a in zip(texts, angles, strict=True)}
    )
    task = analysis.read_labelled(file)
    found = values(analysis.evaluate_model(model, [task]))
    assert found == {"accuracy": 1, "purity": 1, "v_measure": 1}


def test_purity_counts_the_most_frequent_label_of_each_cluster() -> None:
    clusters, labels = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    assert purity(clusters, labels) == pytest.approx(3 / 5)
    assert 0 < v_measure_score(labels, clusters) < 1


def test_a_wording_changes_the_neighbour_or_not() -> None:
    texts = ["tea is good", "tea is bad", "foxes sleep"]
    random = np.random.default_rng(0)
    assert with_typing_error("tea is bad", random) is None
    vectors: dict[str, list[float]] = {
        "tea is good": [1, 0],
        "tea is bad": [0.9, 0.1],
        "foxes sleep": [0, 1],
        "tea is not good": [0.1, 0.9],
        "tea is not bad": [0.9, 0.2],
    }
    for text in ("fxoes sleep", "foexs sleep", "foxes selep"):
        vectors[text] = [0, 1]
    model = known(vectors)
    task = analysis.Wording("texts", texts)
    report = analysis.evaluate_model(model, [task])
    by_measure = {figure.measure: figure for figure in report.figures}
    # One of the two that can be negated is then nearest to what the foxes are.
    assert by_measure["negation"].value == 0.5
    assert by_measure["negation"].count == 2
    assert by_measure["typos"].value == 0
    assert by_measure["typos"].count == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tea is good.", "The tea is not good."),
        ("It does not work", "It does work"),
        ("It isn't here", "It is here"),
        ("Red foxes", None),
    ],
)
def test_negated(text: str, expected: str | None) -> None:
    assert negated(text) == expected


def test_a_typing_error_swaps_two_letters_within_a_word() -> None:
    random = np.random.default_rng(3)
    for text in ("library of foxes", "überall"):
        wrong = with_typing_error(text, random)
        assert wrong is not None
        assert wrong != text
        assert sorted(wrong) == sorted(text)
        assert (wrong[0], wrong[-1]) == (text[0], text[-1])
    assert with_typing_error("a xx aaaaa", random) is None


def test_models_are_shown_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "sts.tsv").write_text(PAIRS)
    chart = tmp_path / "models.svg"
    options = ["--pairs", tmp_path / "sts.tsv", "--wording", tmp_path / "sts.tsv"]
    done = run("hashing:one", "hashing:two", *options, "--chart", chart)
    assert done.exit_code == 0, done.output
    assert "hashing:two" in done.output
    assert "sts spearman" in done.output
    assert "hashing:two" in chart.read_text()
    told = run("one", "--provider", "hashing", *options, "--json", "--limit", 3)
    (report,) = json.loads(told.stdout)
    assert report["model"] == "one"
    assert report["figures"][0]["count"] == 3


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--pairs", "a\tb\tc\n", "the score is 'c', no number"),
        ("--pairs", "a\tb\t1\nc\td\n", "line 2: 2 columns, not 3"),
        ("--pairs", "a\tb\t1\n", "1 of what is read; 3 wanted"),
        ("--pairs", "a\tb\t1\n" * 3, "all pairs have the same score"),
        ("--pairs", "", "has 0 of what is read"),
        ("--pairs", "\\xff", "is not UTF-8"),
        ("--analogies", "a b c\n", "3 words, not 4"),
        ("--labels", "text\tlabel\na\tx\nb\tx\nc\tx\nd\tx\n", "all texts have the"),
        ("--labels", "a\tx\nb\tx\nc\tx\nd\ty\n", "only one text has the label 'y'"),
        ("--labels", '{"text": "x"}\n', "no column of label"),
        ("--labels", "text\tlabel\n\tx\n", "text is empty"),
        ("--wording", "same\nsame\nsame\n", "has 1 of what is read"),
    ],
)
def test_bad_files_are_refused_with_their_line(
    tmp_path: Path, option: str, text: str, message: str
) -> None:
    file = tmp_path / "given.tsv"
    file.write_bytes(text.replace("\\xff", "\xff").encode("latin1"))
    done = run("hashing:one", option, file)
    assert done.exit_code == 1
    assert message in done.output.replace("\n", " ")


def test_too_few_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sts.tsv").write_text(PAIRS)
    (tmp_path / "labels.tsv").write_text("a\tx\nb\tx\nc\tx\nd\ty\ne\ty\n")
    few = run("hashing:one", "--pairs", tmp_path / "sts.tsv", "--limit", 2)
    assert "sts: 2 lines are too few; at least 3 are needed" in few.output
    alike = run("hashing:one", "--labels", tmp_path / "labels.tsv", "--limit", 3)
    assert "labels: all texts have the label 'x'" in alike.output
    assert (few.exit_code, alike.exit_code) == (1, 1)


def test_nothing_to_measure_on_and_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert "there is nothing to measure on" in run("hashing:one").output
    (tmp_path / "sts.tsv").write_text(PAIRS)
    missing = run("static:nowhere/nothing", "--pairs", tmp_path / "sts.tsv")
    assert missing.exit_code == 1
    assert "nothing" in missing.output
    with pytest.raises(errors.EvaluationError, match="cannot be read"):
        analysis.read_pairs(tmp_path / "gone.tsv")


@pytest.mark.slow
def test_a_real_model_beats_hashing_on_real_pairs() -> None:
    if not STSB.exists():
        pytest.skip("the STS benchmark is not here")
    pytest.importorskip("torch", reason="the extra `encoder` is missing")
    options = ["--pairs", STSB, "--limit", 60, "--json"]
    done = run("all-MiniLM-L6-v2", "hashing:words", *options)
    assert done.exit_code == 0, done.output
    real, words = (report["figures"][0]["value"] for report in json.loads(done.stdout))
    assert real > 0.75
    assert real > words + 0.1
