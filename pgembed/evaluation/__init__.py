"""How good a search is: judged queries, and the recall of a vector index.

    >>> from pgembed.evaluation import evaluate, find_data, load_data
    >>> with psycopg.connect("dbname=shop") as conn:  # doctest: +SKIP
    ...     report = evaluate(conn, "doc", load_data(find_data("scifact")))
    ...     print(report.modes[0].measures)

`evaluate` compares the ways to search over a table that is there, `measure_recall`
an approximate vector index with the exact order, `tune_index` tries which index suits
the vectors of an embedding. `chart` draws what they found.
"""

from __future__ import annotations

from pgembed.evaluation.chart import save_chart
from pgembed.evaluation.compare import EvaluationOptions, Report, evaluate
from pgembed.evaluation.files import (
    DataFiles,
    Document,
    JudgedQueries,
    find_data,
    load_data,
    read_documents,
    read_judgements,
    read_queries,
)
from pgembed.evaluation.generations import JudgedComparison, compare_judged
from pgembed.evaluation.measures import DEFAULT_MEASURES, score_run
from pgembed.evaluation.recall import RecallOptions, RecallReport, measure_recall
from pgembed.evaluation.stored import stored_judgements
from pgembed.evaluation.tuning import (
    TuningOptions,
    TuningPlan,
    TuningReport,
    plan_tuning,
    tune_index,
)

__all__ = [
    "DEFAULT_MEASURES",
    "DataFiles",
    "Document",
    "EvaluationOptions",
    "JudgedComparison",
    "JudgedQueries",
    "RecallOptions",
    "RecallReport",
    "Report",
    "TuningOptions",
    "TuningPlan",
    "TuningReport",
    "compare_judged",
    "evaluate",
    "find_data",
    "load_data",
    "measure_recall",
    "plan_tuning",
    "read_documents",
    "read_judgements",
    "read_queries",
    "save_chart",
    "score_run",
    "stored_judgements",
    "tune_index",
]
