"""Walks that are past their retention leave their rows; older code does without, and says 404 of them."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("walk_id", sa.Uuid(), primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("expired_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.create_index("tombstones_age", "tombstones", ["expired_at"])
    op.add_column("walks", sa.Column("purge_after", sa.DateTime(timezone=True), nullable=True))
    gone = "deleted_at IS NOT NULL OR status = 'expired'"
    op.execute(f"CREATE INDEX walks_gone ON walks (purge_after NULLS FIRST) WHERE {gone}")
    op.drop_index("walks_deleted", "walks")


def downgrade() -> None:
    op.create_index("walks_deleted", "walks", ["deleted_at"], postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.drop_index("walks_gone", "walks")
    op.drop_column("walks", "purge_after")
    op.drop_table("tombstones")
