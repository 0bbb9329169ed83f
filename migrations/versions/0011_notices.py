"""Processes tell of walks that change after their commits, not within them; older code looks twice a second."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP TRIGGER walk_changed ON walks")
    op.execute("DROP FUNCTION tell_of_walk")


def downgrade() -> None:
    op.execute(
        """
        CREATE FUNCTION tell_of_walk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('walks', NEW.id::text);
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER walk_changed AFTER UPDATE OF revision ON walks FOR EACH ROW EXECUTE FUNCTION tell_of_walk()"
    )
