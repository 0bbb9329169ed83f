"""Objects of walks that are no longer shown to everyone are moved; older code goes on under the names it knows."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("walks", sa.Column("secret_changed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("chunks", sa.Column("secret", sa.Text(), nullable=True))
    op.create_index(
        "walks_moving",
        "walks",
        ["secret_changed_at"],
        postgresql_where=sa.text("secret_changed_at IS NOT NULL"),
    )
    # What is private already has names that can be made from its id.
    op.execute(
        "UPDATE walks SET secret_changed_at = now()"
        " WHERE (NOT public OR hidden_at IS NOT NULL) AND deleted_at IS NULL AND purged_at IS NULL"
    )


def downgrade() -> None:
    op.drop_index("walks_moving", table_name="walks")
    op.drop_column("chunks", "secret")
    op.drop_column("walks", "secret_changed_at")
