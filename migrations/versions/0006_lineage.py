"""The walks that start from a walk, by an index."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = ("from_walk", "created_at DESC", "id DESC")


def upgrade() -> None:
    op.execute(f"CREATE INDEX walks_children ON walks ({', '.join(COLUMNS)}) WHERE from_walk IS NOT NULL")


def downgrade() -> None:
    op.drop_index("walks_children", "walks")
