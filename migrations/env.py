"""Alembic's environment: it uses the settings of MoMALisa, and runs one migration at a time."""

from alembic import context
from sqlalchemy import text

from momalisa.db.models import Base
from momalisa.db.session import engine

MIGRATION_LOCK = 0x6D6F6D62  # two processes must not migrate concurrently

with engine().connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        for timeout in ("lock_timeout", "statement_timeout"):  # these timeouts are for requests
            connection.execute(text(f"SET LOCAL {timeout} = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        context.run_migrations()
