"""The schema of 0.1.0."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
        CREATE FUNCTION walk_grams(prompts jsonb) RETURNS tsvector
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
        DECLARE
            prompt text;
            letters text[];
            grams text[] := '{}';
        BEGIN  -- three letters from each place of each prompt on, or as many as are left there
            FOR prompt IN SELECT lower(p COLLATE "pg_c_utf8") FROM jsonb_array_elements_text(prompts) AS p LOOP
                letters := string_to_array(prompt, NULL) || ARRAY['', ''];
                FOR i IN 1 .. cardinality(letters) - 2 LOOP
                    grams := grams || (letters[i] || letters[i + 1] || letters[i + 2]);
                END LOOP;
            END LOOP;
            RETURN array_to_tsvector(grams);
        END
        $$
        """
    )
    op.execute(
        r"""
        CREATE FUNCTION walk_query(word text) RETURNS tsquery
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
        DECLARE
            letters text[] := string_to_array(lower(word COLLATE "pg_c_utf8"), NULL);
            gram text;
            query text := '';
        BEGIN  -- each three letters of the word; one or two begin such three
            FOR i IN 1 .. greatest(cardinality(letters) - 2, 1) LOOP
                gram := array_to_string(letters[i : i + 2], '');
                query := query || ' & ''' || replace(replace(gram, '\', '\\'), '''', '''''') || '''';
            END LOOP;
            RETURN substr(query, 4) || CASE WHEN cardinality(letters) < 3 THEN ':*' ELSE '' END;
        END
        $$
        """
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
    )
    op.create_table(
        "pauses",
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("since", name=op.f("pauses_pkey")),
    )
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("next_virtual_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", name=op.f("tenants_pkey")),
    )
    op.create_table(
        "tombstones",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("expired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("walk_id", name=op.f("tombstones_pkey")),
    )
    op.create_index("tombstones_age", "tombstones", ["expired_at"])
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
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("secret_changed_at", sa.DateTime(timezone=True)),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        sa.Column("from_walk", sa.Uuid()),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.BigInteger(), nullable=False),
        sa.Column("frames_total", sa.BigInteger(), nullable=False),
        sa.Column("frames_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("warnings", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("webhook_url", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("deadline_at", sa.DateTime(timezone=True)),
        sa.Column("hidden_at", sa.DateTime(timezone=True)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("purged_at", sa.DateTime(timezone=True)),
        sa.Column("purge_after", sa.DateTime(timezone=True)),
        sa.Column("traceparent", sa.Text()),
        sa.CheckConstraint("frames_done BETWEEN 0 AND frames_total", name=op.f("walks_frames_done_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("walks_pkey")),
    )
    op.create_index("walks_deadline", "walks", ["deadline_at"], postgresql_where=sa.text("finished_at IS NULL"))
    op.create_index("walks_finished", "walks", ["finished_at"], postgresql_where=sa.text("purged_at IS NULL"))
    op.create_index(
        "walks_gallery",
        "walks",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("public AND hidden_at IS NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "walks_gallery_status",
        "walks",
        ["status", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("public AND hidden_at IS NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "walks_gone",
        "walks",
        [sa.literal_column("purge_after NULLS FIRST")],
        postgresql_where=sa.text("deleted_at IS NOT NULL OR status = 'expired'"),
    )
    op.create_index(
        "walks_moving", "walks", ["secret_changed_at"], postgresql_where=sa.text("secret_changed_at IS NOT NULL")
    )
    op.create_index(
        "walks_owner", "walks", ["owner", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")]
    )
    op.create_index(
        "walks_owner_status",
        "walks",
        ["owner", "status", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
    )
    op.create_index(
        "walks_words", "walks", [sa.literal_column("walk_grams(spec -> 'prompts')")], postgresql_using="gin"
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("render", "assemble", name="chunkkind", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("workers_pkey")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", postgresql.JSONB(), nullable=False),
        sa.Column("described_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("models_pkey")),
    )
    op.create_table(
        "artifacts",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "gif",
                "mp4",
                "webp",
                "poster",
                "sheet",
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
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("virtual_time", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("secret", sa.Text()),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("failed_on", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("history", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True)),
        sa.Column("lease_lost_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "(status = 'leased') = (lease_expires_at IS NOT NULL)", name=op.f("chunks_lease_expires_at_check")
        ),
        sa.CheckConstraint(
            "(status = 'leased') = (lease_token IS NOT NULL)", name=op.f("chunks_lease_token_check")
        ),
        sa.ForeignKeyConstraint(["walk_id"], ["walks.id"], name=op.f("chunks_walk_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("walk_id", "number", name=op.f("chunks_pkey")),
    )
    op.create_index("chunks_done", "chunks", ["kind", "finished_at"], postgresql_where=sa.text("status = 'done'"))
    op.create_index("chunks_leased", "chunks", ["kind", "model"], postgresql_where=sa.text("status = 'leased'"))
    op.create_index(
        "chunks_queued",
        "chunks",
        ["kind", "model", "virtual_time", "priority", "created_at"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "chunks_tenant",
        "chunks",
        ["tenant", "kind", "model", "virtual_time"],
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
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("caller", "key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at"])
    op.create_index("idempotency_keys_walk", "idempotency_keys", ["walk_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column(
            "event",
            sa.Enum(
                "walk.succeeded",
                "walk.failed",
                "walk.canceled",
                name="webhookevent",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "delivered",
                "given_up",
                name="deliverystatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="pending",
            nullable=False,
        ),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("wait_seconds", sa.Double(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "(status = 'pending') = (finished_at IS NULL)", name=op.f("webhook_deliveries_finished_at_check")
        ),
        sa.ForeignKeyConstraint(
            ["walk_id"], ["walks.id"], name=op.f("webhook_deliveries_walk_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("webhook_deliveries_pkey")),
        sa.UniqueConstraint("walk_id", name=op.f("webhook_deliveries_walk_id_key")),
    )
    op.create_index(
        "webhook_deliveries_pending",
        "webhook_deliveries",
        ["scheduled_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "webhook_deliveries_sending",
        "webhook_deliveries",
        ["tenant", "host"],
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )
    op.create_table(
        "frames",
        sa.Column("walk_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Double(), nullable=False),
        sa.Column("chunk", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text()),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("crc32c", sa.Text()),
        sa.Column("rendered_at", sa.DateTime(timezone=True)),
        sa.Column(
            "flagged", sa.Enum("unsafe", "black", name="flag", native_enum=False, create_constraint=True, length=16)
        ),
        sa.Column("thumbnail", sa.LargeBinary()),
        sa.Column("content_hash", sa.Text()),
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
    op.create_index("frames_chunk", "frames", ["walk_id", "chunk"])
    for table in ("chunks", "walks"):  # by default, a fifth of all rows may be dead before a vacuum
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, "
            "autovacuum_analyze_scale_factor = 0.02, fillfactor = 85)"
        )


def downgrade() -> None:
    for table in (
        "frames",
        "webhook_deliveries",
        "idempotency_keys",
        "chunks",
        "artifacts",
        "workers",
        "walks",
        "models",
        "tombstones",
        "tenants",
        "pauses",
        "api_keys",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION walk_query")
    op.execute("DROP FUNCTION walk_grams")
