"""What Alembic's plugin system loads; see `pyproject.toml` for the entry point."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.operations.ops import UpgradeOps

_registered: list[object] = []


def setup(plugin: Any) -> None:
    """Register with Alembic 1.18 or newer."""
    from alembic.util import DispatchPriority

    _registered.append(plugin)
    plugin.add_autogenerate_comparator(
        _prepare, "schema", priority=DispatchPriority.FIRST
    )
    # After the tables: it completes, and corrects, what those need.
    plugin.add_autogenerate_comparator(
        _compare, "schema", priority=DispatchPriority.LAST
    )


def register() -> None:
    """Register where no plugin system did."""
    autogenerate = sys.modules.get("alembic.autogenerate.compare")
    comparators: Any = getattr(autogenerate, "comparators", None)
    if _registered or comparators is None:
        # Without comparators, Alembic is loading its plugins: setup() follows.
        return
    _registered.append(comparators)
    try:
        from alembic.util import DispatchPriority
    except ImportError:  # Alembic before 1.18 runs them in the order of registration
        comparators.dispatch_for("schema")(_compare)
    else:
        comparators.dispatch_for("schema", priority=DispatchPriority.LAST)(_compare)


def _prepare(*_: Any) -> Any:
    # For its types: side tables are reflected without a warning then.
    import pgvector.sqlalchemy  # noqa: F401
    from alembic.util import PriorityDispatchResult

    return PriorityDispatchResult.CONTINUE


def _compare(autogen_context: Any, upgrade_ops: UpgradeOps, schemas: Any) -> Any:
    from pgembed.alembic.compare import compare

    compare(autogen_context, upgrade_ops, schemas)
    try:
        from alembic.util import PriorityDispatchResult
    except ImportError:
        return None
    return PriorityDispatchResult.CONTINUE
