"""PgBouncer in transaction mode between PostgreSQL and everything else."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from momalisa import local
from momalisa.local import System, Tell
from momalisa.processes import free_port
from momalisa.settings import ROOT
from tests.conftest import until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=str(ROOT / ".venv" / "bin"))


class Pooled(System):
    """The system behind a pooler that hands its few connections on after each transaction."""

    def _start_postgres(self, tell: Tell) -> None:
        super()._start_postgres(tell)
        port, user = free_port(), self.children["postgres"].user
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={self._sockets} user=momalisa\n"
            "[pgbouncer]\npool_mode = transaction\ndefault_pool_size = 5\nauth_type = any\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        )
        as_user = ["-u", user] if user else []
        self._start("pgbouncer", [str(PROGRAM), *as_user, str(settings)])
        self._variables["DATABASE_URL"] = f"postgresql+psycopg://momalisa@127.0.0.1:{port}/postgres"
        self._until_ready(
            "pgbouncer",
            lambda: psycopg.connect(host="127.0.0.1", port=port, user="momalisa", dbname="postgres").close(),
        )

    def stop(self) -> None:
        """Stop PgBouncer after those who work through it."""
        pooler = self.children.pop("pgbouncer", None)
        super().stop()
        if pooler:
            pooler.wait_stopped(0)


@pytest.fixture
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooled]:
    if not PROGRAM or subprocess.run([PROGRAM, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("PgBouncer does not run here; install Debian's package pgbouncer.")
    system = Pooled(tmp_path_factory.mktemp("pooled"), port=free_port(), workers=1)
    with local.started(system):
        yield system


def test_everything_works_through_a_pooler_that_hands_connections_on(pooled: Pooled) -> None:
    log = pooled.children["api"].log
    until(lambda: "hands connections on after each transaction" in log.read_text())
    with httpx.Client(base_url=pooled.url, timeout=60) as http:
        order = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "steps": 2}
        walk = http.post("/v1/walks", json=order).raise_for_status().json()
        with http.stream("GET", f"/v1/walks/{walk['id']}/events") as stream:
            told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    assert (told[-1]["done"], told[-1]["status"]) == (True, "succeeded")
    for name in ("api", "render-1", "assemble-1", "reconciler"):
        assert "database failed" not in pooled.children[name].log.read_text(), name
