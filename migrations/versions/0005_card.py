"""The card of a walk."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BEFORE = ("gif", "mp4", "webp", "poster", "sheet", "zip", "large", "large_still")


def upgrade() -> None:
    _allow(*BEFORE, "card")


def downgrade() -> None:
    op.execute("DELETE FROM artifacts WHERE kind = 'card'")
    _allow(*BEFORE)


def _allow(*kinds: str) -> None:
    name = op.f("artifacts_artifactkind_check")
    op.drop_constraint(name, "artifacts", type_="check")
    op.create_check_constraint(name, "artifacts", f"kind IN {kinds}")
