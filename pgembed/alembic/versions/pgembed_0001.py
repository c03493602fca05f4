"""pgembed's schema, revision 0001."""

from alembic import op

revision = "pgembed_0001"
down_revision = None
branch_labels = ("pgembed",)
depends_on = None


def upgrade() -> None:
    """Make the schema."""
    op.install_pgembed()  # type: ignore[attr-defined]  # registered


def downgrade() -> None:
    """Remove it; embeddings must have been dropped before."""
    op.uninstall_pgembed()  # type: ignore[attr-defined]
