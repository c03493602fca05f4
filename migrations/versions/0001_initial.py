"""The first schema."""

from pgembed.rawsql import run_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the catalog and the queue."""
    run_tables("010_catalog.sql", "020_queue.sql")
