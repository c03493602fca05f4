"""How many services a fleet has."""

import pytest

from pgembed.errors import InvalidParameter
from pgembed.fleet import Load, Scaling


@pytest.mark.parametrize(
    ("load", "running", "wanted"),
    [
        (Load(0, None, 0), 0, 0),
        (Load(0, None, 0), 5, 0),
        (Load(1, 0.0, 0), 0, 1),
        (Load(1000, 1.0, 0), 1, 1),
        (Load(1001, 1.0, 0), 1, 2),
        (Load(10**9, 1.0, 0), 1, 6),
        # Too old: one more than there are, however few rows there are.
        (Load(5, 31.0, 0), 3, 4),
        (Load(50, 31.0, 0), 6, 6),
        # One row that nobody can work on needs no second service.
        (Load(1, 5000.0, 0), 1, 1),
        # Encoded just now, and nothing waits.
        (Load(5, None, 0), 3, 1),
        # A query waits for its vector: somebody has to be there.
        (Load(0, None, 1), 0, 1),
        (Load(0, None, 500), 0, 1),
        # An index is to be built; whoever builds it is not stopped.
        (Load(0, None, 0, 1), 0, 1),
        (Load(0, None, 0, 1), 4, 4),
    ],
)
def test_services_by_depth_age_and_queries(
    load: Load, running: int, wanted: int
) -> None:
    assert Scaling(max=6).wanted(load, running) == wanted


def test_who_was_just_started_is_waited_for() -> None:
    scaling = Scaling(max=6)
    late = Load(50, 31.0, 0)
    assert scaling.wanted(late, 2, settled=False) == 2
    assert scaling.wanted(late, 2, settled=True) == 3
    assert scaling.wanted(Load(5000, 31.0, 0), 2, settled=False) == 5


def test_at_least_the_fewest() -> None:
    assert Scaling(min=2, max=6).wanted(Load(0, None, 0), 0) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"min": -1},
        {"min": 5, "max": 4},
        {"min": 0, "max": 0},
        {"rows": 0},
        {"age_seconds": -1.0},
        {"idle_seconds": float("nan")},
    ],
)
def test_sizes_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidParameter):
        Scaling(**wrong)  # type: ignore[arg-type]
