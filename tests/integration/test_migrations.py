from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from momalisa.database import engine
from momalisa.local import System
from momalisa.settings import ROOT
from momalisa.tables import Base


@pytest.fixture
def alembic(services: System) -> Iterator[Config]:
    config = Config(ROOT / "alembic.ini")
    yield config
    command.upgrade(config, "head")


def test_the_tables_are_what_the_migrations_make(alembic: Config) -> None:
    with engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_migration_can_be_undone_and_done_again(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    assert set(inspect(engine()).get_table_names()) == {"alembic_version"}
    command.upgrade(alembic, "head")
    assert set(inspect(engine()).get_table_names()) == {"alembic_version", *Base.metadata.tables}
