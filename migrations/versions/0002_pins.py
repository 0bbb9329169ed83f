"""What rendered a chunk, so that a walk can be made again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chunks", sa.Column("batch_size", sa.BigInteger()))
    op.add_column("chunks", sa.Column("made_with", postgresql.JSONB()))
    op.add_column("walks", sa.Column("made_with", postgresql.JSONB()))


def downgrade() -> None:
    op.drop_column("walks", "made_with")
    op.drop_column("chunks", "made_with")
    op.drop_column("chunks", "batch_size")
