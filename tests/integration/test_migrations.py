import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from fastapi.testclient import TestClient
from sqlalchemy import Column, Enum, Integer, inspect, text

from momalisa.db.models import Base
from momalisa.db.session import engine
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT


@pytest.fixture
def alembic(services: LocalStack) -> Iterator[Config]:
    config = Config(ROOT / "alembic.ini")
    yield config
    command.upgrade(config, "head")


def test_the_models_equal_the_migrated_schema(alembic: Config) -> None:
    with engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_constraints_of_enumerations_allow_the_values_of_the_models(alembic: Config) -> None:
    """Alembic does not compare them."""
    enumerations = 0
    for table in Base.metadata.sorted_tables:
        rules = {rule["name"]: rule["sqltext"] for rule in inspect(engine()).get_check_constraints(table.name)}
        for column in table.columns:
            if isinstance(column.type, Enum):
                enumerations += 1
                allowed = rules[f"{table.name}_{column.type.name}_check"]
                assert set(re.findall(r"'([^']+)'", allowed)) == set(column.type.enums)
    assert enumerations


def test_every_migration_can_be_undone_and_repeated(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    assert set(inspect(engine()).get_table_names()) == {"alembic_version"}
    command.upgrade(alembic, "head")
    assert set(inspect(engine()).get_table_names()) == {"alembic_version", *Base.metadata.tables}


def test_older_code_works_after_each_migration(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    revisions = [script.revision for script in ScriptDirectory.from_config(alembic).walk_revisions()]
    for revision in reversed(revisions):
        before = tables()
        command.upgrade(alembic, revision)
        assert not broken(before, tables()), revision


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda op: op.drop_table("webhook_deliveries"), "webhook_deliveries is gone"),
        (lambda op: op.drop_column("walks", "traceparent"), "walks.traceparent is gone"),
        (lambda op: op.alter_column("walks", "traceparent", nullable=False), "walks.traceparent must be given"),
        (lambda op: op.alter_column("walks", "traceparent", new_column_name="span"), "walks.traceparent is gone"),
        (lambda op: op.add_column("walks", Column("span", Integer, nullable=False)), "walks.span must be given"),
        (
            lambda op: op.alter_column("frames", "content_hash", type_=Integer, postgresql_using="0"),
            "frames.content_hash is INTEGER",
        ),
        (lambda op: op.create_unique_constraint("one", "walks", ["traceparent"]), "walks has a new rule: one"),
        (
            lambda op: op.create_foreign_key("to", "walks", "walks", ["from_walk"], ["id"]),
            "walks has a new rule: to",
        ),
        (lambda op: op.create_index("one", "walks", ["traceparent"], unique=True), "walks has a new rule: one"),
    ],
)
def test_a_migration_that_breaks_older_code_is_detected(
    services: LocalStack,
    change: Any,
    complaint: str,
) -> None:
    before = tables()
    with engine().connect() as connection:
        change(Operations(MigrationContext.configure(connection)))
        assert broken(before, tables(connection)) == [complaint]
        connection.rollback()
    assert not broken(before, tables())


Table = tuple[dict[str, Any], set[str]]
"""The columns by name, and the names of the constraints."""


def tables(bind: Any = None) -> dict[str, Table]:
    """Return each table's definition from PostgreSQL's catalog."""
    inspector = inspect(bind or engine())
    found = {}
    for name in set(inspector.get_table_names()) - {"alembic_version"}:
        columns = {column["name"]: column for column in inspector.get_columns(name)}
        unique = [*inspector.get_unique_constraints(name), *(i for i in inspector.get_indexes(name) if i["unique"])]
        rules = {str(rule["name"]) for rule in [*unique, *inspector.get_foreign_keys(name)]}
        found[name] = (columns, rules)
    return found


def broken(before: dict[str, Table], after: dict[str, Table]) -> list[str]:
    """Return the changes that would break code written for the previous tables."""
    found = [f"{name} is gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        (old, old_rules), (new, rules) = before[name], after[name]
        found += [f"{name}.{column} is gone" for column in old.keys() - new.keys()]
        for column, description in new.items():
            if column in old and str(description["type"]) != str(old[column]["type"]):
                found.append(f"{name}.{column} is {description['type']}")
            optional = description["nullable"] or description["default"] is not None
            if not optional and (column not in old or old[column]["nullable"]):
                found.append(f"{name}.{column} must be given")
        found += [f"{name} has a new rule: {rule}" for rule in rules - old_rules]
    return found


def test_a_database_of_an_unknown_version_is_refused(alembic: Config) -> None:
    head = ScriptDirectory.from_config(alembic).get_current_head()
    stamp = text("UPDATE alembic_version SET version_num = :revision")
    with engine().begin() as connection:
        connection.execute(stamp, {"revision": "0020"})  # the last one before 0.1.0
    try:
        run = subprocess.run(
            [sys.executable, "-m", "momalisa", "migrate"], capture_output=True, text=True, check=False
        )
    finally:
        with engine().begin() as connection:
            connection.execute(stamp, {"revision": head})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("The database is at revision 0020, which this version does not know")
    assert ".momalisa" in run.stderr


def test_tables_that_change_often_are_vacuumed_early(services: LocalStack) -> None:
    with engine().connect() as connection:
        options = text("SELECT relname, reloptions FROM pg_class WHERE relname IN ('chunks', 'walks')")
        for name, given in connection.execute(options):
            assert "autovacuum_vacuum_scale_factor=0.01" in given, name


def test_the_api_is_not_ready_while_migrations_are_missing(alembic: Config, api: TestClient) -> None:
    def ready() -> tuple[int, str]:
        answer = api.get("/readyz")
        return answer.status_code, answer.json().get("detail", "")

    head = str(ScriptDirectory.from_config(alembic).get_current_head())
    command.downgrade(alembic, "base")
    status, detail = ready()
    assert status == 503
    assert "revision none" in detail
    assert f"{head} is needed. Run `momalisa migrate`." in detail
    command.upgrade(alembic, "head")
    assert ready()[0] == 200
    stamp = text("UPDATE alembic_version SET version_num = :revision")
    with engine().begin() as connection:
        connection.execute(stamp, {"revision": "9999"})  # migrated by newer code, while this version still runs
    assert ready()[0] == 200
    with engine().begin() as connection:
        connection.execute(stamp, {"revision": head})
