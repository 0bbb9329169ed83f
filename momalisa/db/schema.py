"""Checking and migrating the schema of the database."""

from functools import cache

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session

from momalisa.db.session import transaction
from momalisa.errors import SchemaError, StoreUnavailableError
from momalisa.settings import ROOT


def check(session: Session) -> None:
    """Check that the schema is new enough. An unknown revision is newer, and newer schemas are compatible.

    Raises:
        StoreUnavailableError: if migrations are missing.
    """
    head, older = _revisions()
    revision = _revision(session)
    if revision is None or revision in older:
        raise StoreUnavailableError(
            f"The schema of the database is behind: it is at revision {revision or 'none'}, and {head} is needed. "
            "Run `momalisa migrate`."
        )


def migrate() -> None:
    """Migrate the schema to the newest revision.

    Raises:
        SchemaError: if the database was made by a version that this one does not know.
        StoreUnavailableError: if it cannot be reached.
    """
    head, older = _revisions()
    with transaction() as session:
        revision = _revision(session)
    if revision is not None and revision not in {head, *older}:
        raise SchemaError(
            f"The database is at revision {revision}, which this version does not know: it was made by a newer "
            "version, or by one from before 0.1.0. Use that version; or start with an empty database: remove the "
            "data folder of `momalisa up` (.momalisa), or the database and the bucket of a server."
        )
    command.upgrade(Config(ROOT / "alembic.ini"), "head")


def _revision(session: Session) -> str | None:
    """Return the revision of the schema, or None if there is no schema."""
    exists = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    return session.scalar(text("SELECT version_num FROM alembic_version")) if exists else None


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """Return the newest revision that this code knows, and all older ones."""
    scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    head = scripts.get_current_head()
    assert head
    return head, frozenset(each.revision for each in scripts.walk_revisions()) - {head}
