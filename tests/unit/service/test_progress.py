"""The rate moves with what has vectors, written or not."""

from __future__ import annotations

import pytest

from pgembed.service.progress import WINDOW_SECONDS, Progress


@pytest.fixture
def progress() -> Progress:
    progress = Progress()
    progress.sample({}, 0.0)
    return progress


def test_rows_in_hand_count_and_are_not_counted_again_when_written(
    progress: Progress,
) -> None:
    for second in range(1, 6):
        progress.sample({7: 10.0 * second}, float(second))
        assert progress.rates() == {7: 10.0}
    progress.add(7, 50)
    progress.sample({}, 6.0)
    assert progress.rates() == {7: pytest.approx(50 / 6, abs=0.01)}


def test_time_before_the_work_does_not_count(progress: Progress) -> None:
    for second in range(1, 21):
        progress.sample({7: 0.0}, float(second))
    assert progress.rates() == {}
    progress.sample({7: 5.0}, 21.0)
    assert progress.rates() == {7: 5.0}


def test_the_rate_is_that_of_the_last_half_minute_and_ends(progress: Progress) -> None:
    for second in range(1, 41):
        progress.sample({7: 100.0 * min(second, 10) + second}, float(second))
    assert progress.rates() == {7: pytest.approx(1.0, abs=0.01)}
    for second in range(41, 43 + int(WINDOW_SECONDS)):
        progress.sample({7: 1040.0}, float(second))
    assert progress.rates() == {}


def test_a_window_that_is_given_back_is_no_negative_rate(progress: Progress) -> None:
    progress.sample({7: 10.0}, 1.0)
    progress.sample({}, 2.0)
    assert progress.rates() == {}
    progress.sample({7: 4.0, 8: 2.0}, 3.0)
    assert progress.rates() == {7: 4.0, 8: 2.0}
