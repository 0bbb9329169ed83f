"""The chunks that wait, by an index."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX chunks_waiting ON chunks (walk_id) WHERE status = 'waiting'")


def downgrade() -> None:
    op.drop_index("chunks_waiting", "chunks")
