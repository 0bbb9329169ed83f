"""Whoever listens is told which walk changed; older code does not listen."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
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


def downgrade() -> None:
    op.execute("DROP TRIGGER walk_changed ON walks")
    op.execute("DROP FUNCTION tell_of_walk")
