"""Walks, their chunks, frames and artifacts, and the keys under which they were submitted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "walks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "assembling",
                "succeeded",
                "failed",
                "canceled",
                "expired",
                name="walkstatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("frames_total", sa.BigInteger(), nullable=False),
        sa.Column("frames_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "warnings", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("frames_done BETWEEN 0 AND frames_total", name=op.f("walks_frames_done_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("walks_pkey")),
    )
    op.create_index(
        "walks_deadline", "walks", ["deadline_at"], unique=False, postgresql_where=sa.text("finished_at IS NULL")
    )
    op.create_index(
        "walks_deleted", "walks", ["deleted_at"], unique=False, postgresql_where=sa.text("deleted_at IS NOT NULL")
    )
    op.create_index(
        "walks_finished", "walks", ["finished_at"], unique=False, postgresql_where=sa.text("purged_at IS NULL")
    )
    op.create_index(
        "walks_gallery",
        "walks",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("public AND deleted_at IS NULL"),
    )
    op.create_table(
        "artifacts",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "gif",
                "mp4",
                "poster",
                "zip",
                name="artifactkind",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("crc32c", sa.Text(), nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["walk_id"], ["walks.id"], name=op.f("artifacts_walk_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("walk_id", "kind", name=op.f("artifacts_pkey")),
    )
    op.create_table(
        "chunks",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("render", "assemble", name="chunkkind", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "leased",
                "done",
                "failed",
                "dropped",
                name="chunkstatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'leased') = (lease_expires_at IS NOT NULL)", name=op.f("chunks_lease_expires_at_check")
        ),
        sa.CheckConstraint(
            "(status = 'leased') = (lease_token IS NOT NULL)", name=op.f("chunks_lease_token_check")
        ),
        sa.ForeignKeyConstraint(["walk_id"], ["walks.id"], name=op.f("chunks_walk_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("walk_id", "number", name=op.f("chunks_pkey")),
    )
    op.create_index(
        "chunks_done", "chunks", ["kind", "finished_at"], unique=False, postgresql_where=sa.text("status = 'done'")
    )
    op.create_index(
        "chunks_leased", "chunks", ["lease_expires_at"], unique=False, postgresql_where=sa.text("status = 'leased'")
    )
    op.create_index(
        "chunks_queued",
        "chunks",
        ["kind", "rank", "turn", "created_at"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "chunks_turns",
        "chunks",
        ["owner", "kind", "rank", "turn"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["walk_id"],
            ["walks.id"],
            name=op.f("idempotency_keys_walk_id_fkey"),
            ondelete="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.PrimaryKeyConstraint("caller", "key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at"], unique=False)
    op.create_index("idempotency_keys_walk", "idempotency_keys", ["walk_id"], unique=False)
    op.create_table(
        "frames",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Double(), nullable=False),
        sa.Column("chunk", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("crc32c", sa.Text(), nullable=True),
        sa.Column("rendered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "num_nulls(object, bytes, crc32c, rendered_at) IN (0, 4)",
            name=op.f("frames_recorded_whole_or_not_at_all_check"),
        ),
        sa.CheckConstraint("position BETWEEN 0 AND 1", name=op.f("frames_position_check")),
        sa.ForeignKeyConstraint(
            ["walk_id", "chunk"],
            ["chunks.walk_id", "chunks.number"],
            name=op.f("frames_walk_id_chunk_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["walk_id"], ["walks.id"], name=op.f("frames_walk_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("walk_id", "position", name=op.f("frames_pkey")),
    )
    op.create_index("frames_chunk", "frames", ["walk_id", "chunk"], unique=False)


def downgrade() -> None:
    op.drop_index("frames_chunk", table_name="frames")
    op.drop_table("frames")
    op.drop_index("idempotency_keys_walk", table_name="idempotency_keys")
    op.drop_index("idempotency_keys_age", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("chunks_turns", table_name="chunks", postgresql_where=sa.text("status = 'queued'"))
    op.drop_index("chunks_queued", table_name="chunks", postgresql_where=sa.text("status = 'queued'"))
    op.drop_index("chunks_leased", table_name="chunks", postgresql_where=sa.text("status = 'leased'"))
    op.drop_index("chunks_done", table_name="chunks", postgresql_where=sa.text("status = 'done'"))
    op.drop_table("chunks")
    op.drop_table("artifacts")
    op.drop_index("walks_gallery", table_name="walks", postgresql_where=sa.text("public AND deleted_at IS NULL"))
    op.drop_index("walks_finished", table_name="walks", postgresql_where=sa.text("purged_at IS NULL"))
    op.drop_index("walks_deleted", table_name="walks", postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.drop_index("walks_deadline", table_name="walks", postgresql_where=sa.text("finished_at IS NULL"))
    op.drop_table("walks")
