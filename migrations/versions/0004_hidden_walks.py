"""Walks that an operator took out of the gallery."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NEWEST_FIRST = [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")]


def upgrade() -> None:
    op.add_column("walks", sa.Column("hidden_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("walks_gallery", table_name="walks")
    op.create_index(
        "walks_gallery",
        "walks",
        NEWEST_FIRST,
        postgresql_where=sa.text("public AND hidden_at IS NULL AND deleted_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("walks_gallery", table_name="walks")
    op.create_index(
        "walks_gallery", "walks", NEWEST_FIRST, postgresql_where=sa.text("public AND deleted_at IS NULL")
    )
    op.drop_column("walks", "hidden_at")
