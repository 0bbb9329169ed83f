"""Every walk has a secret that is part of the names of its objects; older code writes names without one."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    secret = sa.text("(gen_random_uuid())::text")  # drawn for each walk that is there, too
    op.add_column("walks", sa.Column("secret", sa.Text(), server_default=secret, nullable=False))


def downgrade() -> None:
    op.drop_column("walks", "secret")
