"""The first schema."""

from pgembed.rawsql import run_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables: nothing has been released with fewer."""
    run_tables("010_catalog.sql", "020_queue.sql", "030_bm25.sql")
    run_tables("040_tokens.sql", "041_characters.sql")
    run_tables("050_judgement.sql")
