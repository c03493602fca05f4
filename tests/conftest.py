"""Where the fixtures are."""

import os

import pytest

pytest.register_assert_rewrite("tests.faults.world")
pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.skips"]
# Has a command of its own, scripts/containers, which builds the images first.
collect_ignore = [] if "PGEMBED_TEST_ENCODER_IMAGE" in os.environ else ["containers"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault suite run for long."""
    parser.addoption("--rounds", default="1", help="of each disruption in tests/faults")
