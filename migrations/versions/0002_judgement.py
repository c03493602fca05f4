"""Judgements of what searches find."""

from pgembed.rawsql import run_tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of judgements."""
    run_tables("050_judgement.sql")
