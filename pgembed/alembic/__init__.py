"""Embeddings in Alembic's migrations, written by autogenerate.

With Alembic 1.18 or newer nothing needs to be done: it finds this as a plugin. Before,
and where entry points are not used, one line in `env.py` does it:

    import pgembed.alembic  # noqa: F401

Operations: `op.install_pgembed()`, `op.uninstall_pgembed()`, `op.create_embedding()`,
`op.alter_embedding()`, `op.drop_embedding()`, `op.pause_embedding()` and
`op.resume_embedding()`.
"""

from __future__ import annotations

# Alembic imports this while it is imported itself: no module here may need more of
# it, when it is imported, than `operations` and `autogenerate.render`.
from pgembed.alembic import operations, plugin, render

__all__ = ["operations", "render"]

plugin.register()
