"""Where the fixtures are."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.faults.world")
pytest_plugins = [
    "tests.fixtures.exports",
    "tests.fixtures.hosted",
    "tests.fixtures.image_model",
    "tests.fixtures.postgres",
    "tests.fixtures.skips",
]
# Has a command of its own, scripts/containers, which builds the images first.
collect_ignore = [] if "PGEMBED_TEST_ENCODER_IMAGE" in os.environ else ["containers"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault suite run for long."""
    parser.addoption("--rounds", default="1", help="of each disruption in tests/faults")


@pytest.fixture(autouse=True)
def only_its_own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget a test's own modules: `models` of the next one are others."""
    yield
    own = (
        str(tmp_path_factory.getbasetemp()),
        str(Path(__file__).parents[1] / "examples"),
    )
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(own):
            del sys.modules[name]
