"""Workers say that they are there; those of older code do not."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        sa.PrimaryKeyConstraint("name", name="workers_pkey"),
    )


def downgrade() -> None:
    op.drop_table("workers")
