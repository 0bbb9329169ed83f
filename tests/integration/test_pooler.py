"""PgBouncer in transaction mode between PostgreSQL and everything else."""

import json
from collections.abc import Iterator

import httpx
import pytest

from momalisa.local import stack
from momalisa.local.processes import free_port
from tests import pooler
from tests.conftest import until
from tests.pooler import Pooled


@pytest.fixture
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooled]:
    if not pooler.runs():
        pytest.skip("PgBouncer does not run here; install Debian's package pgbouncer.")
    system = Pooled(tmp_path_factory.mktemp("pooled"), port=free_port(), workers=1)
    with stack.started(system):
        yield system


def test_everything_works_through_a_transaction_pooler(pooled: Pooled) -> None:
    log = pooled.children["api"].log
    until(lambda: "reassigns connections after each transaction" in log.read_text())
    with httpx.Client(base_url=pooled.url, timeout=60) as http:
        order = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "steps": 2}
        walk = http.post("/v1/walks", json=order).raise_for_status().json()
        with http.stream("GET", f"/v1/walks/{walk['id']}/events") as stream:
            updates = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    assert (updates[-1]["done"], updates[-1]["status"]) == (True, "succeeded")
    for name in ("api", "render-1", "assemble-1", "reconciler"):
        assert "database failed" not in pooled.children[name].log.read_text(), name
