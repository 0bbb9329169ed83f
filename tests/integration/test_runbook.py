"""What docs/operations.md says to type for an alert can be typed."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from momalisa.db.session import transaction
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT

ALERTS = (ROOT / "docs" / "operations.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", ALERTS, re.MULTILINE | re.DOTALL)
COMPOSE, GKE, COMMON, *COMMANDS = BLOCKS
QUERIES = re.findall(r'^sql "(.*?)"', ALERTS, re.MULTILINE)
FILTERS = {word for found in re.findall(r"grep -c?E? ?'([^']*)'", ALERTS) for word in found.split("|")}
SOURCES = [path for room in ("api", "momalisa", "worker") for path in (ROOT / room).rglob("*.py")]


def functions(block: str) -> set[str]:
    return set(re.findall(r"^(\w+)\(\)", block, re.MULTILINE))


def test_both_deployments_have_the_same_functions() -> None:
    assert functions(COMPOSE) == functions(GKE) != set()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_a_block_is_made_of_functions_and_is_valid_shell(block: str) -> None:
    assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0
    if block in COMMANDS:
        for line in block.splitlines():
            assert line.split()[0] in functions(COMPOSE) | functions(COMMON), line


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_a_query_fits_the_database(services: LocalStack, query: str) -> None:
    with transaction() as session:
        session.execute(text(query)).all()


@pytest.mark.parametrize("words", sorted(word for word in FILTERS if re.fullmatch("[a-z ]+", word)))
def test_what_is_looked_for_in_a_log_is_written_to_it(words: str) -> None:
    assert any(re.search(rf'log\.\w+\(\s*"[^"]*{words}', path.read_text()) for path in SOURCES)


def test_the_functions_reach_the_database_and_the_command(services: LocalStack, tmp_path: Path) -> None:
    lines = [
        'in_part() { shift; "$@"; }',
        COMMON,
        'sql "SELECT 7, 8"',
        "queue pause",
        'sql "SELECT count(*) FROM pauses"',
    ]
    script = "\n".join(lines)
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, **services.variables, "PATH": path, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "-ec", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    first, *_, last = ran.stdout.splitlines()
    assert (first, last) == ("(7, 8)", "(1,)")
