"""Contact sheets and animated WebP; frames that are flagged and not shown."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("artifacts_artifactkind_check"), "artifacts", type_="check")
    op.create_check_constraint(
        op.f("artifacts_artifactkind_check"),
        "artifacts",
        sa.column("kind").in_(["gif", "mp4", "webp", "poster", "sheet", "zip"]),
    )
    op.add_column("frames", sa.Column("flagged", sa.String(16), nullable=True))
    op.create_check_constraint(op.f("frames_flag_check"), "frames", sa.column("flagged").in_(["unsafe", "black"]))


def downgrade() -> None:
    op.drop_column("frames", "flagged")
    op.execute("DELETE FROM artifacts WHERE kind IN ('webp', 'sheet')")
    op.drop_constraint(op.f("artifacts_artifactkind_check"), "artifacts", type_="check")
    op.create_check_constraint(
        op.f("artifacts_artifactkind_check"), "artifacts", sa.column("kind").in_(["gif", "mp4", "poster", "zip"])
    )
