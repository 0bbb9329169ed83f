"""Frames that are interpolated between others."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATUSES = ("queued", "leased", "done", "failed", "dropped")
NO, ZERO = sa.text("false"), sa.text("0")


def upgrade() -> None:
    op.add_column("chunks", sa.Column("interpolated", sa.Boolean(), nullable=False, server_default=NO))
    op.add_column("chunks", sa.Column("pass_start", sa.BigInteger(), nullable=False, server_default=ZERO))
    op.add_column("frames", sa.Column("interpolated", sa.Boolean(), nullable=False, server_default=NO))
    op.add_column("frames", sa.Column("copied", sa.Boolean(), nullable=False, server_default=NO))
    op.add_column("frames", sa.Column("latents", sa.Boolean(), nullable=False, server_default=NO))
    op.add_column("frames", sa.Column("check", postgresql.JSONB()))
    op.add_column("frames", sa.Column("error", sa.Float()))
    _allow("waiting", *STATUSES)


def downgrade() -> None:
    op.execute("UPDATE chunks SET status = 'queued' WHERE status = 'waiting'")
    _allow(*STATUSES)
    for column in ("error", "check", "latents", "copied", "interpolated"):
        op.drop_column("frames", column)
    for column in ("pass_start", "interpolated"):
        op.drop_column("chunks", column)


def _allow(*statuses: str) -> None:
    name = op.f("chunks_chunkstatus_check")
    op.drop_constraint(name, "chunks", type_="check")
    op.create_check_constraint(name, "chunks", f"status IN {statuses}")
