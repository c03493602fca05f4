"""Where the fixtures are."""

pytest_plugins = ["tests.fixtures.postgres"]
