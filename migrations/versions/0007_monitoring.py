"""When a chunk's lease ran out, and which request made a walk; older code does without both."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("walks", sa.Column("trace", sa.Text(), nullable=True))
    op.add_column("chunks", sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("chunks", "lost_at")
    op.drop_column("walks", "trace")
