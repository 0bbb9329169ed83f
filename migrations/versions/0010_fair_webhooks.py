"""Whose turn a webhook takes, where it goes and how long it waits; older code does without."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhook_deliveries", sa.Column("host", sa.Text(), nullable=True))
    op.add_column("webhook_deliveries", sa.Column("party", sa.Text(), nullable=True))
    op.add_column(
        "webhook_deliveries",
        # Longer than any pause that older code makes: what it writes is due at its time.
        sa.Column("wait_seconds", sa.Float(), nullable=False, server_default="9000"),
    )
    op.create_index(
        "webhook_deliveries_sending",
        "webhook_deliveries",
        ["party", "host"],
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("webhook_deliveries_sending", table_name="webhook_deliveries")
    op.drop_column("webhook_deliveries", "wait_seconds")
    op.drop_column("webhook_deliveries", "party")
    op.drop_column("webhook_deliveries", "host")
