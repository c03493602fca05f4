"""What the stored vectors of a table's rows say beyond searches.

    >>> from pgembed.analysis import find_clusters, name_clusters, read_vectors
    >>> with psycopg.connect("dbname=shop") as conn:  # doctest: +SKIP
    ...     vectors = read_vectors(conn, "article")
    ...     found = name_clusters(conn, vectors, find_clusters(vectors))
    ...     print([(one.label, one.rows) for one in found.clusters])

All is read with the rights of the caller: rows that policies hide are in no result.
"""

from __future__ import annotations

from pgembed.analysis.clusters import (
    Cluster,
    Clustering,
    ClusterOptions,
    find_clusters,
)
from pgembed.analysis.drift import (
    Drift,
    DriftCluster,
    DriftOptions,
    find_drift,
)
from pgembed.analysis.files import export_vectors
from pgembed.analysis.maps import MapOptions, make_map, place
from pgembed.analysis.models import Figure, ModelReport, evaluate_model
from pgembed.analysis.results import ResultTable, result_table
from pgembed.analysis.tasks import (
    Analogies,
    Labelled,
    Pairs,
    Wording,
    read_analogies,
    read_labelled,
    read_pairs,
    read_wording,
)
from pgembed.analysis.vectors import Vectors, read_vectors
from pgembed.analysis.words import name_clusters

__all__ = [
    "Analogies",
    "Cluster",
    "ClusterOptions",
    "Clustering",
    "Drift",
    "DriftCluster",
    "DriftOptions",
    "Figure",
    "Labelled",
    "MapOptions",
    "ModelReport",
    "Pairs",
    "ResultTable",
    "Vectors",
    "Wording",
    "evaluate_model",
    "export_vectors",
    "find_clusters",
    "find_drift",
    "make_map",
    "name_clusters",
    "place",
    "read_analogies",
    "read_labelled",
    "read_pairs",
    "read_vectors",
    "read_wording",
    "result_table",
]
