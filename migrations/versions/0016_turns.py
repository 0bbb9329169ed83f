"""One fair clock for each model, and the model on the chunk; older code does without both."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    op.create_table(
        "parties",
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("next_turn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("party", "model", name="parties_pkey"),
    )
    op.add_column("chunks", sa.Column("model", sa.Text(), nullable=True))
    op.execute(
        """
        UPDATE chunks SET model = CASE chunks.kind WHEN 'render' THEN walks.model ELSE '' END
        FROM walks WHERE walks.id = chunks.walk_id AND chunks.status IN ('queued', 'leased')
        """
    )
    op.drop_index("chunks_queued", table_name="chunks", postgresql_where=QUEUED)
    op.create_index(
        "chunks_queued", "chunks", ["kind", "model", "turn", "rank", "created_at"], postgresql_where=QUEUED
    )
    op.drop_index("chunks_turns", table_name="chunks", postgresql_where=QUEUED)
    op.create_index("chunks_turns", "chunks", ["owner", "kind", "model", "turn"], postgresql_where=QUEUED)


def downgrade() -> None:
    op.drop_index("chunks_turns", table_name="chunks", postgresql_where=QUEUED)
    op.create_index("chunks_turns", "chunks", ["owner", "kind", "rank", "turn"], postgresql_where=QUEUED)
    op.drop_index("chunks_queued", table_name="chunks", postgresql_where=QUEUED)
    op.create_index("chunks_queued", "chunks", ["kind", "rank", "turn", "created_at"], postgresql_where=QUEUED)
    op.drop_column("chunks", "model")
    op.drop_table("parties")
