"""Measures and charts."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pgembed.errors import EvaluationError, MissingExtra
from pgembed.evaluation import RecallReport, Report, save_chart, score_run
from pgembed.evaluation.compare import ModeReport
from pgembed.evaluation.latency import percentiles
from pgembed.evaluation.recall import RecallPoint

JUDGED = {"q1": {"a": 2, "b": 1}, "q2": {"c": 1}, "q3": {"d": 1}}


def test_measures_are_those_worked_out_by_hand() -> None:
    found = score_run({"q1": ["x", "a"], "q2": ["c"]}, JUDGED)
    ideal = 2 + 1 / math.log2(3)
    assert found["nDCG@10"]["q1"] == pytest.approx(2 / math.log2(3) / ideal)
    assert found["MRR@10"] == {"q1": 0.5, "q2": 1.0, "q3": 0.0}
    assert found["recall@100"] == {"q1": 0.5, "q2": 1.0, "q3": 0.0}
    assert found["MAP"] == {"q1": 0.25, "q2": 1.0, "q3": 0.0}


def test_the_rankings_order_counts_not_the_ids() -> None:
    first = score_run({"q2": ["c", "a", "z"]}, {"q2": {"c": 1}}, ["MRR@10"])
    last = score_run({"q2": ["z", "a", "c"]}, {"q2": {"c": 1}}, ["MRR@10"])
    assert first["MRR@10"]["q2"] == 1
    assert last["MRR@10"]["q2"] == pytest.approx(1 / 3)


def test_nothing_found_is_zero() -> None:
    assert score_run({}, JUDGED, ["nDCG@10"]) == {
        "nDCG@10": {"q1": 0.0, "q2": 0.0, "q3": 0.0}
    }


def test_one_measure_by_two_names() -> None:
    found = score_run({"q2": ["c"]}, {"q2": {"c": 1}}, ["MRR@10", "RR@10", "P@1"])
    assert found == {"MRR@10": {"q2": 1}, "RR@10": {"q2": 1}, "P@1": {"q2": 1}}


@pytest.mark.parametrize("name", ["nosuch", "nDCG@x", "", "@10"])
def test_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(EvaluationError, match="unknown measure"):
        score_run({}, JUDGED, [name])


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pgembed-kit\[eval\]"):
        score_run({}, JUDGED)
    with pytest.raises(MissingExtra, match=r"pgembed-kit\[eval\]"):
        save_chart(REPORT, tmp_path / "chart.png")


def test_percentiles_are_times_that_were_measured() -> None:
    latency = percentiles([float(ms) for ms in range(1, 101)])
    assert (latency.p50, latency.p95, latency.p99) == (50, 95, 99)
    assert latency.mean == 50.5
    one = percentiles([3.0])
    assert (one.p50, one.p95, one.p99, one.mean) == (3, 3, 3, 3)


REPORT = Report(
    table="doc",
    embedding="doc_embedding",
    model="hashing",
    queries=3,
    judged_documents=4,
    missing_documents=0,
    depth=100,
    encode_ms=1.5,
    modes=[
        ModeReport("bm25", {"nDCG@10": 0.5, "MAP": 0.25}, percentiles([1.0]), {}, 0),
        ModeReport("hybrid", {"nDCG@10": 0.75, "MAP": 0.5}, percentiles([2.0]), {}, 0),
    ],
    warnings=[],
)
RECALL = RecallReport(
    embedding="doc_embedding",
    index="hnsw",
    setting="hnsw.ef_search",
    k=10,
    queries=3,
    exact=percentiles([9.0]),
    points=[
        RecallPoint(20, 0.9, 0.7, percentiles([1.0])),
        RecallPoint(40, 0.97, 0.9, percentiles([2.0])),
    ],
    target=0.95,
    suggestion=40,
)


@pytest.mark.parametrize("report", [REPORT, RECALL], ids=["modes", "recall"])
def test_charts_are_written(tmp_path: Path, report: Report | RecallReport) -> None:
    png = save_chart(report, tmp_path / "chart.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    svg = save_chart(report, tmp_path / "chart.SVG")
    text = "".join(ET.parse(svg).getroot().itertext())
    assert "doc_embedding" in text
    assert ("nDCG@10" if isinstance(report, Report) else "hnsw.ef_search") in text


def test_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no chart's name"):
        save_chart(REPORT, tmp_path / "chart.gif")
    with pytest.raises(EvaluationError, match="no folder"):
        save_chart(REPORT, tmp_path / "nosuch" / "chart.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(EvaluationError, match="cannot be written"):
        save_chart(REPORT, tmp_path / "taken.png")
