"""PgBouncer in transaction mode, between PostgreSQL and everything that is started after it."""

import shutil
import subprocess

import psycopg

from momalisa.errors import LocalSystemError
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack, Tell
from momalisa.settings import ROOT

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=str(ROOT / ".venv" / "bin"))

WAITS = "server_login_retry = 1\nquery_wait_timeout = 5\n"
"""In seconds, as recommended in docs/scaling.md. By default a client waits two minutes while PostgreSQL is down."""


def runs() -> bool:
    """Return whether PgBouncer is installed, with its libraries."""
    return (
        bool(PROGRAM)
        and not subprocess.run([str(PROGRAM), "--version"], capture_output=True, check=False).returncode
    )


class Pooled(LocalStack):
    """The system behind a pooler that reassigns connections after each transaction."""

    direct_url = ""
    """SQLAlchemy URL of PostgreSQL itself; DATABASE_URL is that of the pooler."""

    def _start_postgres(self, tell: Tell) -> None:
        """Start PostgreSQL, and PgBouncer in front of it.

        Raises:
            LocalSystemError: if either cannot be started.
        """
        super()._start_postgres(tell)
        if not runs():
            raise LocalSystemError("PgBouncer does not run here; install Debian's package pgbouncer.")
        self.direct_url = self._variables["DATABASE_URL"]
        port, user = free_port(), self.children["postgres"].user
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={self._sockets} user=momalisa\n"
            f"[pgbouncer]\npool_mode = transaction\ndefault_pool_size = 5\n{WAITS}auth_type = any\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        )
        self._start("pgbouncer", [str(PROGRAM), *(["-u", user] if user else []), str(file)])
        self._variables["DATABASE_URL"] = f"postgresql+psycopg://momalisa@127.0.0.1:{port}/postgres"
        self._until_ready(
            "pgbouncer",
            lambda: psycopg.connect(host="127.0.0.1", port=port, user="momalisa", dbname="postgres").close(),
        )

    def stop(self) -> None:
        """Stop PgBouncer after its clients."""
        pooler = self.children.pop("pgbouncer", None)
        super().stop()
        if pooler:
            pooler.wait_stopped(0)
