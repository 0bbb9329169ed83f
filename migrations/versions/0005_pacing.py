"""What frames look like and show, to pace walks evenly and to take frames over; walks that start from others."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("walks", sa.Column("from_walk", sa.Uuid(), nullable=True))
    op.add_column("frames", sa.Column("signature", sa.LargeBinary(), nullable=True))
    op.add_column("frames", sa.Column("key", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("frames", "key")
    op.drop_column("frames", "signature")
    op.drop_column("walks", "from_walk")
