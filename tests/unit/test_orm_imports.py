"""Importing what is for SQLAlchemy and Alembic, in every order and with little."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_models_need_no_greenlet_and_no_model() -> None:
    python(
        "import sys; sys.modules['greenlet'] = None\n"
        "import pgembed.sqlalchemy\n"
        "from pgembed.sqlalchemy.execution import _in_thread\n"
        "assert _in_thread(lambda: 5) == 5\n"
        "assert not {'torch', 'alembic', 'sentence_transformers'} & set(sys.modules)\n"
    )


@pytest.mark.parametrize(
    "first",
    [
        "alembic",
        "alembic.op",
        "alembic.operations",
        "alembic.runtime.plugins",
        "pgembed.alembic",
        "pgembed.schema",
    ],
)
@pytest.mark.parametrize("entry_point", [True, False])
def test_the_plugin_is_registered_once(first: str, entry_point: bool) -> None:
    """Alembic loads its plugins while it is imported itself."""
    points = (
        "metadata.EntryPoint('alembic.autogenerate.pgembed',"
        " 'pgembed.alembic.plugin', 'alembic.plugins')"
    )
    python(
        "from importlib import metadata\n"
        "original = metadata.entry_points\n"
        f"points = [{points if entry_point else ''}]\n"
        "def entry_points(**selected):\n"
        "    if selected.get('group') == 'alembic.plugins':\n"
        "        return points\n"
        "    return original(**selected)\n"
        "metadata.entry_points = entry_points\n"
        f"import {first}\n"
        "import alembic.op\n"
        "if points:\n"
        "    import sys\n"
        "    assert 'sqlalchemy.orm' not in sys.modules, 'plugins should be light'\n"
        "import pgembed.alembic\n"
        "from alembic.operations import Operations\n"
        "assert hasattr(Operations, 'create_embedding')\n"
        "from pgembed.alembic import plugin\n"
        "assert len(plugin._registered) == 1\n"
    )
