"""Where and why the attempts at a chunk failed, and whether claims are paused."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "chunks", sa.Column("failed_by", postgresql.ARRAY(sa.Text()), nullable=False, server_default="{}")
    )
    op.add_column("chunks", sa.Column("history", postgresql.JSONB(), nullable=False, server_default="[]"))
    op.create_table(
        "pauses",
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("since", name=op.f("pauses_pkey")),
    )


def downgrade() -> None:
    op.drop_table("pauses")
    op.drop_column("chunks", "history")
    op.drop_column("chunks", "failed_by")
