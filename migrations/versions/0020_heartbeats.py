"""A heartbeat changes nothing that is indexed, so that it writes no index; older code does not notice."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

LEASED = sa.text("status = 'leased'")


def upgrade() -> None:
    op.drop_index("chunks_leased", table_name="chunks", postgresql_where=LEASED)
    op.create_index("chunks_leased", "chunks", ["kind", "model"], postgresql_where=LEASED)


def downgrade() -> None:
    op.drop_index("chunks_leased", table_name="chunks", postgresql_where=LEASED)
    op.create_index("chunks_leased", "chunks", ["lease_expires_at"], postgresql_where=LEASED)
