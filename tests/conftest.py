"""Where the fixtures are."""

import pytest

pytest.register_assert_rewrite("tests.faults.world")
pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.skips"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault suite run for long."""
    parser.addoption("--rounds", default="1", help="of each disruption in tests/faults")
