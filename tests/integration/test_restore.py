"""Backup and restore, by the commands in docs/operations.md."""

import os
import subprocess
from pathlib import Path

from momalisa.client import Client
from momalisa.local import postgres, stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import environment
from tests.operations import commands


def run(heading: str, system: LocalStack, backup: Path) -> None:
    variables = {
        "PATH": f"{postgres.BIN}{os.pathsep}{os.environ['PATH']}",
        "DATABASE": system.variables["DATABASE_URL"].replace("+psycopg", ""),
        "BUCKET_FOLDER": str(system.folder / "bucket"),
        "BACKUP": str(backup),
    }
    subprocess.run(["bash", "-euc", commands(heading)], env=environment(**variables), check=True)


def test_a_backup_of_a_running_system_restores_finished_walks_and_continues_others(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    prompts = ["a giraffe", "a battleship"]
    with (
        stack.started(LocalStack(tmp_path / "before", port=free_port(), workers=1)) as before,
        Client(before.url) as client,
    ):
        *_, finished = client.watch(client.submit(prompts, frames=8, seed=7, steps=2))
        gif = client.download(finished["artifacts"]["gif"]["url"])
        for unfinished in client.watch(client.submit(prompts, frames=64, seed=8, steps=4)):
            if unfinished["progress"]["frames_done"]:
                break
        run("Back up", before, backup)
        assert not client.get(unfinished["id"])["done"]

    services = LocalStack(tmp_path / "after")
    try:
        services.start_services()
        run("Restore", services, backup)
    finally:
        services.stop()
    variables = {"LEASE_SECONDS": "3"}
    with (
        stack.started(LocalStack(tmp_path / "after", port=free_port(), workers=1, variables=variables)) as after,
        Client(after.url) as client,
    ):
        again = client.get(finished["id"])
        assert again["status"] == "succeeded"
        assert client.download(again["artifacts"]["gif"]["url"]) == gif
        assert [frame["position"] for frame in again["frames"]] == [
            frame["position"] for frame in finished["frames"]
        ]
        for frame in again["frames"]:
            assert client.download(frame["url"] or "").startswith(b"\x89PNG")
        *_, gone_on = client.watch(client.get(unfinished["id"]))
        assert gone_on["status"] == "succeeded"
