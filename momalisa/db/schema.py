"""Whether the schema of the database is what this code needs."""

from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session

from momalisa.errors import StoreUnavailableError
from momalisa.settings import ROOT


def check(session: Session) -> None:
    """Look at the revision of the schema; one that this code does not know is newer, which it can work with.

    Raises:
        StoreUnavailableError: if migrations are missing.
    """
    head, older = _revisions()
    made = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    revision = session.scalar(text("SELECT version_num FROM alembic_version")) if made else None
    if revision is None or revision in older:
        raise StoreUnavailableError(
            f"The schema of the database is behind: it is at revision {revision or 'none'}, and {head} is needed. "
            "Run `momalisa migrate`."
        )


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """Return the newest revision that this code knows, and all older ones."""
    scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    head = scripts.get_current_head()
    assert head
    return head, frozenset(each.revision for each in scripts.walk_revisions()) - {head}
